# SPDX-License-Identifier: Apache-2.0
"""The time that the daemon's loop waits."""

from agent.daemon.backoff import IDLE_S, Pace


def _waits(pace: Pace, *records: int, listened_to: bool = False) -> list[float]:
    return [pace.wait_s(total, listened_to=listened_to) for total in records]


def test_it_waits_longer_and_longer_while_little_happens() -> None:
    """The longest wait is a second."""
    waits = _waits(Pace(0.05, 1 << 22), *range(0, 1000, 100))

    assert waits[:3] == [0.1, 0.2, 0.4]
    assert waits[-1] == IDLE_S


def test_it_is_quick_again_once_something_happens() -> None:
    """Some hundred records in one wait are enough."""
    pace = Pace(0.05, 1 << 22)
    _waits(pace, *[0] * 10)

    assert _waits(pace, 1000, 1000) == [0.05, 0.1]


def test_it_is_quick_while_somebody_listens() -> None:
    """Subscribers want each event soon."""
    pace = Pace(0.05, 1 << 22)
    _waits(pace, *[0] * 10)

    assert _waits(pace, 0, 0, 0, listened_to=True) == [0.05] * 3


def test_a_ring_that_could_fill_before_anybody_is_woken_is_looked_at_as_configured() -> None:
    """One record in 4096 wakes the loop, so the ring must have room for that many."""
    assert _waits(Pace(0.05, 1 << 16), *[0] * 5) == [0.05] * 5


def test_an_interval_above_a_second_stays() -> None:
    """Such a configuration is intended."""
    assert _waits(Pace(5.0, 1 << 22), *[0] * 3) == [5.0] * 3
