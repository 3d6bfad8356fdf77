# SPDX-License-Identifier: Apache-2.0
"""A history over many gaps reads little of each keyframe, and tells what a replay of each would."""

from pathlib import Path
from unittest.mock import Mock

import pytest

from agent.capture import memoryreader
from agent.errors import CkptreeError
from agent.recorder import answers, firsttask
from agent.recorder.facts import Gap
from agent.recorder.past import Enquirer
from agent.recorder.recording import Recording
from tests.support.taped import Taped, a_recording

_NUMBERS = range(1, 60)
_GAPS = 30
_AT_ENDS = 4  # keyframes that are loaded for the first and the last table


def with_gaps(place: Path, seed: int = 3) -> None:
    """Make a recording with many gaps."""
    taped = Taped(place, seed)
    taped.mark(continues=False, why="the daemon began")
    for _ in range(_GAPS):
        taped.step()
        taped.step(heard=False)
        taped.mark(continues=False, why="the writer fell behind")
    taped.step()
    taped.end()


@pytest.mark.parametrize("seed", range(4))
def test_the_first_state_behind_a_gap_is_that_of_a_replay(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each number, with losses, calls of the watch in front of the first record, and clocks that are set."""
    a_recording(tmp_path, seed, marks=0.3, clocks=0.2)
    (tmp_path / "gaps").mkdir()
    with_gaps(tmp_path / "gaps", seed)
    for place in (tmp_path, tmp_path / "gaps"):
        told = {each: lives(place, each) for each in _NUMBERS}
        with monkeypatch.context() as patched:
            patched.setattr(firsttask, "_of_keyframe", lambda *_: None)
            assert told == {each: lives(place, each) for each in _NUMBERS}


def lives(place: Path, number: int) -> object:
    """Return the lives of a number and the gaps beside them, or the error."""
    try:
        return answers.history(Recording(place), {"pid": number}, Enquirer())
    except CkptreeError as error:
        return str(error)


def test_a_gap_costs_no_whole_keyframe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are."""
    with_gaps(tmp_path)
    load = Mock(wraps=memoryreader.load)
    monkeypatch.setattr(memoryreader, "load", load)
    found, gaps = answers.history(Recording(tmp_path), {"pid": 1}, Enquirer())

    assert sum(event["event"] == "gap" for life in [*found, gaps] for event in life) >= _GAPS
    assert load.call_count <= _AT_ENDS


def test_a_point_behind_a_gap_that_cannot_be_replayed_has_no_state(tmp_path: Path) -> None:
    """It is behind the end."""
    with_gaps(tmp_path)
    recording = Recording(tmp_path)
    end = recording.runs[-1].last
    behind = Gap(end.run, end.order, end.run, end.order + 5, end.time_ns, end.time_ns, "no daemon ran")

    assert firsttask.first_state(recording, behind, 1, ()) is None
