# SPDX-License-Identifier: Apache-2.0
"""A storm for an emulated machine, and snapshots of it. It runs only by its name and is no part of the suite."""

import json

import pytest

from tests.bench import loss, torture

pytestmark = pytest.mark.live

_SLOW = "--rate 200 --workers 2 --snapshots 12 --iterator 0 --proc 0 --psutil 0 --ps 0 --idle 20 --pid-max 500 --json"
_MADE, _INCOMPLETE = 0, 3


def test_no_snapshot_of_a_slow_storm_is_torn_stale_or_failed(capsys: pytest.CaptureFixture[str]) -> None:
    """At least half of the snapshots are complete in time."""
    code = torture.main(_SLOW.split())
    said = capsys.readouterr()

    assert code == 0, said.err
    for kind in json.loads(said.out):
        figures = kind["ckptree"]
        assert int(figures[_INCOMPLETE]) <= int(figures[_MADE]) / 2, figures


def test_loss_in_a_slow_storm_is_told_of_exactly_those_it_concerns_and_repaired() -> None:
    """The ring has room for some dozen records."""
    out = loss.suffer(loss.stopped, "ring_bytes = 4096\nsweep_interval_s = 3600\n", 0.1)

    assert out.wrong == []
    assert out.snapshots
    assert out.lost
