# SPDX-License-Identifier: Apache-2.0
"""How long the loop waits for nothing."""

from agent.daemon.backoff import IDLE_S, Pace


def _waits(pace: Pace, *records: int, listened_to: bool = False) -> list[float]:
    return [pace.wait_s(total, listened_to=listened_to) for total in records]


def test_it_waits_longer_and_longer_while_little_happens() -> None:
    """Up to a second, and not beyond."""
    waits = _waits(Pace(0.05, 1 << 22), *range(0, 1000, 100))

    assert waits[:3] == [0.1, 0.2, 0.4]
    assert waits[-1] == IDLE_S


def test_it_is_quick_again_once_something_happens() -> None:
    """Some hundred records in one wait."""
    pace = Pace(0.05, 1 << 22)
    _waits(pace, *[0] * 10)

    assert _waits(pace, 1000, 1000) == [0.05, 0.1]


def test_it_is_quick_while_somebody_listens() -> None:
    """They want to hear of each event."""
    pace = Pace(0.05, 1 << 22)
    _waits(pace, *[0] * 10)

    assert _waits(pace, 0, 0, 0, listened_to=True) == [0.05] * 3


def test_a_ring_that_could_fill_before_anybody_is_woken_is_looked_at_as_configured() -> None:
    """One record in 4096 wakes the loop: that many have to fit."""
    assert _waits(Pace(0.05, 1 << 16), *[0] * 5) == [0.05] * 5


def test_an_interval_above_a_second_stays() -> None:
    """Whoever configures that means it."""
    assert _waits(Pace(5.0, 1 << 22), *[0] * 3) == [5.0] * 3
