# SPDX-License-Identifier: Apache-2.0
"""Retention: which segments go, and by which clock."""

import os
from pathlib import Path

import pytest

from agent.recorder import folder
from agent.recorder.retention import Clocks, Retention

_DAY_S = 86_400.0
_WEEK_S = 604_800
_BEGAN = Clocks(1_800_000_000.0, 5_000.0)
_MANY = 1 << 40


def at(after_s: float, ahead_s: float = 0.0) -> Clocks:
    """Return the clocks so long after the beginning, with CLOCK_REALTIME set forward."""
    return Clocks(_BEGAN.realtime_s + after_s + ahead_s, _BEGAN.boottime_s + after_s)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Five segments, written a day apart, the newest now."""
    for number in range(1, 6):
        path = tmp_path / folder.name_of(number, number)
        path.write_bytes(bytes(1000))
        written_s = _BEGAN.realtime_s - (5 - number) * _DAY_S
        os.utime(path, (written_s, written_s))
    return tmp_path


def numbers(place: Path) -> list[int]:
    """Return the numbers of the segments that are there."""
    return [each.sequence for each in folder.stored(place)]


@pytest.mark.parametrize("ahead_s", [8 * _DAY_S, -8 * _DAY_S])
def test_a_clock_that_is_wrong_for_a_moment_drops_nothing(place: Path, ahead_s: float) -> None:
    """Set forward by a week and more, or back, while something is written."""
    kept = Retention(place, _MANY, _WEEK_S)
    path = folder.stored(place)[-1].path
    for now in (at(0), at(60, ahead_s), at(660 - 1, ahead_s), at(700), at(701), at(1400)):
        kept.grew(path, 1000, now)
        kept.trim(now)

    assert (numbers(place), kept.dropped) == ([1, 2, 3, 4, 5], 0)


def test_a_clock_that_is_set_while_the_writer_runs_ages_nothing_that_it_has_judged(place: Path) -> None:
    """Nor what it has written; what is old by then goes when its time has come."""
    kept = Retention(place, _MANY, _WEEK_S)
    kept.trim(at(0))
    kept.trim(at(601))
    kept.trim(at(700, 300 * _DAY_S))
    kept.trim(at(2000, 300 * _DAY_S))
    assert kept.dropped == 0
    kept.trim(at(3 * _DAY_S + 10, 300 * _DAY_S))
    assert numbers(place) == [2, 3, 4, 5]


def test_what_is_too_old_goes_once_the_clock_has_stood(place: Path) -> None:
    """Ten minutes after the writer has begun, or the bound of age where it is shorter; never the newest."""
    kept = Retention(place, _MANY, int(2.5 * _DAY_S))
    kept.trim(at(0))
    kept.trim(at(599))
    assert numbers(place) == [1, 2, 3, 4, 5]
    kept.trim(at(601))
    assert numbers(place) == [3, 4, 5]
    short = Retention(place, _MANY, 60)
    short.trim(at(0))
    short.trim(at(61))
    assert numbers(place) == [5]
    assert short.dropped == 2


def test_a_segment_of_the_future_is_as_old_as_the_first_look(place: Path) -> None:
    """It was written while the clock was wrong, and holds back those behind it no longer than its age allows."""
    future_s = _BEGAN.realtime_s + 1000 * _DAY_S
    os.utime(folder.stored(place)[0].path, (future_s, future_s))
    kept = Retention(place, _MANY, _WEEK_S)
    kept.trim(at(0))
    kept.trim(at(601))
    assert kept.dropped == 0
    kept.trim(at(700 + _WEEK_S))
    assert numbers(place) == [5]


def test_bytes_have_their_bound_whatever_the_clocks_say(place: Path) -> None:
    """The oldest go, and the bound of age has no part in it."""
    kept = Retention(place, 2500, 0)
    kept.trim(at(0))
    assert (numbers(place), kept.bytes, kept.count) == ([4, 5], 2000, 2)
