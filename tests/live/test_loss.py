# SPDX-License-Identifier: Apache-2.0
"""Short forms of the loss and soak runs: what is lost is noticed, told, and repaired; what runs on stays right."""

import pytest

from tests.bench import loss, soak


@pytest.mark.parametrize("way", loss.ways())
def test_loss_is_told_of_exactly_those_it_concerns_and_repaired(way: str) -> None:
    """However it comes about."""
    out = loss.ways()[way](0.1)

    assert out.wrong == []
    assert out.snapshots
    assert out.lost


def test_a_table_under_a_storm_says_what_iterator_and_proc_say(capsys: pytest.CaptureFixture[str]) -> None:
    """In every field of every task that stands still."""
    code = soak.main(["--duration", "0.8", "--idle", "40"])

    assert code == 0, capsys.readouterr().err
