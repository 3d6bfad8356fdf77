# SPDX-License-Identifier: Apache-2.0
"""A short form of ``make torture``: fork storms, and captures of them that the storms' own logs are asked about."""

import pytest

from tests.bench import following, recorded, torture

_SHORT = "--snapshots 20 --iterator 3 --proc 1 --psutil 1 --ps 1 --idle 50 --pid-max 500"


def test_no_snapshot_of_a_storm_is_torn_stale_or_failed(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither where numbers are free nor where each is used again at once."""
    code = torture.main(_SHORT.split())
    said = capsys.readouterr()

    assert code == 0, said.err
    assert said.out.count("| ckptree") == 2


def test_who_applies_nothing_but_events_has_what_snapshots_show(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where numbers are used again at once, and where records are lost."""
    code = following.main(["--events", "4000", "--idle", "20", "--pid-max", "500", "--pause-ms", "50"])
    said = capsys.readouterr()

    assert code == 0, said.err
    assert said.out.count("\n") == 5


def test_no_instant_of_a_recording_differs_from_what_a_snapshot_has_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where numbers are used again at once, and where records are lost."""
    code = recorded.main(["--snapshots", "15", "--idle", "50", "--pid-max", "500", "--max-bytes", "16000000"])
    said = capsys.readouterr()

    assert code == 0, said.err
    assert said.out.count("\n") == 5
