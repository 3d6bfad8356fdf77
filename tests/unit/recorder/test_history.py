# SPDX-License-Identifier: Apache-2.0
"""A history is what the events of all tasks tell of its number: kinds, numbers, times and marks, in their order."""

import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from agent.capture import memoryreader
from agent.errors import NoSuchRootError
from agent.recorder import answers
from agent.recorder.past import Enquirer
from agent.recorder.recording import Recording
from tests.bench import longrecording
from tests.support.examples import examples
from tests.support.histories import unlike
from tests.support.taped import Taped, a_recording

_GAPS = 30
_NUMBERS = range(1, 60)
_SEED = int(os.environ.get("CKPTREE_SEED", "1"))


@pytest.mark.parametrize("seed", range(_SEED, _SEED + examples(5)))
def test_a_history_has_the_events_of_its_number(tmp_path: Path, seed: int) -> None:
    """Of each number, over segments, gaps, losses, swapped records, and clocks that are set."""
    a_recording(tmp_path, seed, runs=1, steps=80, marks=0.15, clocks=0.1)
    recording = Recording(tmp_path)

    assert unlike(recording) == {}


@pytest.mark.parametrize("seed", range(_SEED, _SEED + examples(3)))
def test_a_history_of_a_span_has_the_events_of_the_span(tmp_path: Path, seed: int) -> None:
    """From one number to another one, in whatever segments these are."""
    a_recording(tmp_path, seed, runs=1, marks=0.15, steps=40)
    recording = Recording(tmp_path)
    first, last = recording.runs[0].first.order, recording.runs[0].last.order
    ends = [first + (last - first) * part // 7 for part in (2, 3, 6)]
    for since, until in ((ends[0], ends[2]), (ends[1], ends[2]), (ends[0], ends[1])):
        span = {"since": {"order": since}, "until": {"order": until}}

        assert unlike(recording, range(1, 62), span) == {}, (since, until)


def test_a_history_over_boots_has_the_events_of_its_number(tmp_path: Path) -> None:
    """Of tasks that stay, and of those that come and go, each ending with its boot."""
    longrecording.make(tmp_path, 3000, 100, pid_max=1000, interval=700)
    longrecording.repeat(tmp_path, 3)
    recording = Recording(tmp_path)

    assert len(recording.runs) == 3
    assert unlike(recording, range(1, 200, 4)) == {}


def test_a_gap_costs_no_whole_keyframe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: most numbers need few, for nothing has happened to them there."""
    taped = Taped(tmp_path, 3)
    taped.mark(continues=False, why="the daemon began")
    for _ in range(_GAPS):
        taped.step()
        taped.step(heard=False)
        taped.mark(continues=False, why="the writer fell behind")
    taped.step()
    taped.end()
    load = Mock(wraps=memoryreader.load)
    monkeypatch.setattr(memoryreader, "load", load)
    spared = 0
    for number in _NUMBERS:
        load.reset_mock()
        recording = Recording(tmp_path)
        lives, gaps = answers.history(recording, {"pid": number}, Enquirer())
        events = [event for life in [*lives, gaps] for event in life]
        assert sum(event["event"] == "gap" for event in events) >= _GAPS
        spared += load.call_count < _GAPS // 2
    assert spared > len(_NUMBERS) // 2


def test_a_number_that_nobody_had_is_not_denied_where_records_were_lost(tmp_path: Path) -> None:
    """A whole life may be among them, however many segments that lost none are around."""
    taped = Taped(tmp_path, 3)
    taped.mark(continues=False, why="the daemon began")
    for lost in (False, False, True, False, False):
        taped.step()
        taped.step(lost=lost)
        taped.step()
        taped.mark(continues=True)
    taped.end()
    recording = Recording(tmp_path)
    events = (each for batch in answers.events(recording, {}, Enquirer()) for each in batch)
    (loss,) = (each for each in events if each["event"] == "loss")

    lives, gaps = answers.history(recording, {"pid": 4_000_000}, Enquirer())

    assert (lives, [(each["event"], each["order"], each["count"]) for each in gaps]) == (
        [],
        [("loss", loss["order"], 1)],
    )


def test_a_loss_outside_of_the_span_leaves_a_number_denied(tmp_path: Path) -> None:
    """Before it, or behind it."""
    taped = Taped(tmp_path, 3)
    taped.mark(continues=False, why="the daemon began")
    taped.step()
    before = taped.next
    taped.step(lost=True)
    taped.step()
    taped.step()
    behind = taped.next
    taped.step()
    taped.end()
    recording = Recording(tmp_path)

    for span in ({"until": {"order": before}}, {"since": {"order": behind}}):
        with pytest.raises(NoSuchRootError):
            answers.history(recording, {"pid": 4_000_000, **span}, Enquirer())
    assert answers.history(recording, {"pid": 4_000_000}, Enquirer())[1]
