# SPDX-License-Identifier: Apache-2.0
"""A gap at the number, or at the time, where a span begins or ends: `events` and `history` tell it, or neither does."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from agent.errors import NoSuchRootError, UsageError
from agent.recorder import answers
from agent.recorder.past import Enquirer
from agent.recorder.recording import Recording
from tests.support.taped import Taped

_SECOND_NS: Final = 1_000_000_000
_HOUR_NS: Final = 3600 * _SECOND_NS
_NOBODY: Final = 4_000_000
_FIRST, _SECOND, _THIRD = "the writer ended", "the writer ended again", "the writer fell behind"


def told(recording: Recording, since: dict[str, int] | None, until: dict[str, int] | None) -> list[str]:
    """Return why there are the gaps of a span, which each verb tells alike: of all tasks, of a root, and of a number."""
    ends = {key: end for key, end in (("since", since), ("until", until)) if end is not None}
    found: list[list[dict[str, Any]]] = []
    for wanted in ({}, {"root": _NOBODY}):
        try:
            batches = answers.events(recording, {**wanted, **ends}, Enquirer())
            found.append([each for batch in batches for each in batch])
        except NoSuchRootError:
            found.append([])
    try:
        found.append(answers.history(recording, {"pid": _NOBODY, **ends}, Enquirer())[1])
    except NoSuchRootError:
        found.append([])
    every, of_root, of_number = [[each["why"] for each in events if each["event"] == "gap"] for events in found]
    assert every == of_root == of_number
    return every


class Made:
    """A recording with two gaps at one number, in which nothing is missing, and a third one in which records are.

    Attributes:
        recording: the recording.
        order: the number of the first two.
        behind: the first number behind the third one.
        times_ns: CLOCK_REALTIME before the first, between the two, behind the second, and within each of the first two.
    """

    def __init__(self, place: Path, *, steps: bool, set_back_ns: int = 0) -> None:
        taped = Taped(place, 4)
        taped.mark(continues=False, why="the daemon began")
        if steps:
            taped.step()
            taped.hear()
        self.order = taped.next
        self.times_ns: list[int] = []
        within_ns = []
        self._rest(taped)
        for why in (_FIRST, _SECOND):
            taped.rest(_SECOND_NS // 2)
            within_ns.append(taped.time_ns)
            taped.rest(_SECOND_NS // 2)
            if set_back_ns and why == _SECOND:
                taped.ahead_ns -= set_back_ns
            taped.mark(continues=False, why=why)
            self._rest(taped)
        taped.kernel.exec(taped.kernel.init)
        taped.hear()
        while taped.next == self.order + 1:
            taped.step(heard=False)
        taped.mark(continues=False, why=_THIRD)
        self.behind = taped.next
        taped.kernel.exec(taped.kernel.init)
        taped.hear()
        taped.end()
        self.times_ns += within_ns
        self.recording = Recording(place)

    def _rest(self, taped: Taped) -> None:
        taped.rest(_SECOND_NS)
        taped.clock()
        taped.flush()
        self.times_ns.append(taped.time_ns - _SECOND_NS // 4)


@pytest.fixture(params=[True, False], ids=["behind records", "at the beginning"])
def made(tmp_path: Path, request: pytest.FixtureRequest) -> Made:
    """A recording with gaps at one number."""
    return Made(tmp_path, steps=request.param)


def test_a_number_is_behind_the_gaps_in_which_nothing_is_missing(made: Made) -> None:
    """And in front of the one in which its record is."""
    order, gapped = {"order": made.order}, {"order": made.order + 1}

    assert told(made.recording, None, order) == [_FIRST, _SECOND]
    assert told(made.recording, order, order) == []
    assert told(made.recording, order, None) == [_THIRD]
    assert told(made.recording, None, gapped) == [_FIRST, _SECOND]
    assert told(made.recording, gapped, None) == [_THIRD]
    assert told(made.recording, None, {"order": made.behind}) == [_FIRST, _SECOND, _THIRD]
    assert told(made.recording, {"order": made.behind}, None) == []
    assert told(made.recording, None, None) == [_FIRST, _SECOND, _THIRD]


def test_a_time_is_on_the_side_of_a_gap_where_it_was(made: Made) -> None:
    """Within a gap, that gap is told: it goes on behind the time, and has begun before it."""
    before, between, behind, in_first, in_second = [{"time_ns": each} for each in made.times_ns]

    assert told(made.recording, before, None) == [_FIRST, _SECOND, _THIRD]
    assert told(made.recording, before, before) == []
    assert told(made.recording, before, between) == [_FIRST]
    assert told(made.recording, between, between) == []
    assert told(made.recording, between, None) == [_SECOND, _THIRD]
    assert told(made.recording, between, behind) == [_SECOND]
    assert told(made.recording, behind, {"order": made.order}) == []
    assert told(made.recording, between, {"order": made.order}) == [_SECOND]
    assert told(made.recording, in_first, between) == [_FIRST]
    assert told(made.recording, before, in_first) == [_FIRST]
    assert told(made.recording, in_first, in_second) == [_FIRST, _SECOND]
    assert told(made.recording, in_second, None) == [_SECOND, _THIRD]
    with pytest.raises(UsageError):
        told(made.recording, {"order": made.order}, between)


def test_a_clock_that_was_set_back_in_a_gap_hides_it_not(tmp_path: Path) -> None:
    """CLOCK_REALTIME at the end of the span is before that of the gap."""
    made = Made(tmp_path, steps=True, set_back_ns=3600 * _SECOND_NS)
    before, between, behind, *_ = [{"time_ns": each} for each in made.times_ns]

    assert behind["time_ns"] < before["time_ns"]
    assert told(made.recording, between, behind) == [_SECOND]
    assert told(made.recording, None, behind) == [_FIRST, _SECOND]
    assert told(made.recording, behind, None) == [_THIRD]


def test_a_gap_behind_an_idle_time_begins_where_the_recording_last_stated_that_it_has_everything(
    tmp_path: Path,
) -> None:
    """All events, those of a root, and a history have one time of it: not that of the last record, an hour before."""
    taped = Taped(tmp_path, 3)
    taped.mark(continues=False, why="the daemon began")
    for _ in range(4):
        taped.step()
    taped.rest(_HOUR_NS)
    taped.clock(by_ns=_HOUR_NS)
    stated_ns = taped.time_ns
    taped.rest(_HOUR_NS)
    taped.mark(continues=False, why="the writer fell behind")
    taped.step()
    taped.end()
    recording = Recording(tmp_path)

    def gaps(events: Iterable[Mapping[str, Any]]) -> list[tuple[int, int]]:
        return [(each["time_ns"], each["until_ns"]) for each in events if each["event"] == "gap"]

    expected = [(stated_ns, recording.gaps[0].until_ns)]
    questions: tuple[dict[str, Any], ...] = ({}, {"root": "1"})
    for question in questions:
        assert gaps(each for batch in answers.events(recording, question, Enquirer()) for each in batch) == expected
    for number in (1, 4_000_000):
        lives, apart = answers.history(recording, {"pid": number}, Enquirer())
        assert gaps(each for life in [*lives, apart] for each in life) == expected
