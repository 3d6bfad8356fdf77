# SPDX-License-Identifier: Apache-2.0
"""A recording whose newest segment cannot be read names it: it has not ended in front of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from agent.recorder import answers, folder, segment
from agent.recorder.instant import written
from agent.recorder.past import Enquirer
from agent.recorder.recording import NoRecordingError, NoSuchInstantError, Recording
from tests.support.commandline import here
from tests.support.taped import Taped

_SECOND_NS = 1_000_000_000
_INIT = 1


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A recording of three segments, and a time in the last one."""
    place = tmp_path_factory.mktemp("recording")
    taped = Taped(place, 3)
    for number in range(3):
        taped.mark(continues=number > 0, why="" if number else "the daemon began")
        for _ in range(6):
            taped.step()
        taped.rest(_SECOND_NS)
        taped.clock()
        taped.flush()
    time_ns = taped.time_ns
    taped.end()
    return place, time_ns


def damaged(made: Path, target: Path, *, at: int = 30, size: int | None = None) -> Recording:
    """Return a copy of a recording in whose newest segment a byte of the head is changed.

    Args:
        made: the recording.
        target: the folder of the copy.
        at: offset of the byte; negative: none.
        size: bytes to which the segment is cut; None: it is not.
    """
    shutil.copytree(made, target)
    newest = folder.stored(target)[-1].path
    data = bytearray(newest.read_bytes())
    if at >= 0:
        data[at] ^= 0x20
    newest.write_bytes(data[:size])
    return Recording(target)


def events_of(recording: Recording, **question: Any) -> list[dict[str, Any]]:
    """Return the answer to a question about events."""
    return [event for batch in answers.events(recording, question, Enquirer()) for event in batch]


@pytest.mark.parametrize("at", [0, 9, 12, 17, 30])
def test_all_events_end_with_a_gap_that_names_the_segment(tmp_path: Path, made: tuple[Path, int], at: int) -> None:
    """Magic, version, length, check sum or facts of its head: its blocks tell up to where the gap reaches."""
    place, _ = made
    whole = Recording(place)
    found = events_of(damaged(place, tmp_path / "copy", at=at))

    name = folder.stored(place)[-1].path.name
    assert [each["event"] for each in found].count("gap") == 1
    assert found[-1]["event"] == "gap"
    assert name in found[-1]["why"]
    assert (found[-1]["order"], found[-1]["next"]) == (whole.segments[-1].facts.first, whole.runs[-1].last.order)
    assert whole.segments[-1].facts.realtime_ns < found[-1]["until_ns"] <= whole.until_ns
    assert found[:-1] == events_of(whole)[: len(found) - 1]


def test_a_history_ends_with_the_gap(tmp_path: Path, made: tuple[Path, int]) -> None:
    """In a life that goes on, and beside the lives of a number that none has, for a life may be in it."""
    recording = damaged(made[0], tmp_path / "copy")
    (life,), gaps = answers.history(recording, {"pid": _INIT}, Enquirer())
    assert life[-1]["event"] == "gap"
    assert not gaps
    lives, (gap,) = answers.history(recording, {"pid": 4_000_000}, Enquirer())
    assert not lives
    assert gap["event"] == "gap"


def test_a_time_in_it_is_refused_with_its_name(tmp_path: Path, made: tuple[Path, int]) -> None:
    """The recording does not have the time, and says what is behind those it has."""
    place, time_ns = made
    with pytest.raises(NoSuchInstantError, match=f"{folder.stored(place)[-1].path.name} cannot be read: the check sum"):
        damaged(place, tmp_path / "copy").at_time(time_ns)


def test_a_span_that_ends_before_it_has_no_gap(tmp_path: Path, made: tuple[Path, int]) -> None:
    """Up to the last time that is known, and up to the last number."""
    recording = damaged(made[0], tmp_path / "copy")
    for until in ({"time_ns": recording.until_ns}, {"order": recording.runs[-1].last.order}):
        assert "gap" not in {each["event"] for each in events_of(recording, until=until)}


@pytest.mark.parametrize("size", [0, 5, 24, 100])
def test_a_segment_that_has_just_begun_is_no_gap(tmp_path: Path, made: tuple[Path, int], size: int) -> None:
    """Its head is not all there: its writer is at it this moment, or was broken off before it had a block."""
    recording = damaged(made[0], tmp_path / "copy", at=-1, size=size)

    assert len(recording.segments) == 2
    assert "gap" not in {each["event"] for each in events_of(recording)}


def test_a_segment_of_another_version_is_named(tmp_path: Path, made: tuple[Path, int]) -> None:
    """This program cannot know what it has."""
    place = tmp_path / "copy"
    shutil.copytree(made[0], place)
    newest = folder.stored(place)[-1].path
    data = bytearray(newest.read_bytes())
    data[8] = segment.VERSION + 1
    newest.write_bytes(data)

    assert "it is of version 2" in events_of(Recording(place))[-1]["why"]


def test_a_segment_that_is_not_in_its_place_is_named(tmp_path: Path, made: tuple[Path, int]) -> None:
    """As one that is missing, also where it is the last one."""
    place = tmp_path / "copy"
    shutil.copytree(made[0], place)
    first, *_, last = folder.stored(place)
    shutil.copy(first.path, last.path)

    assert "not in the place where it was written" in events_of(Recording(place))[-1]["why"]


def test_a_first_segment_that_cannot_be_read_is_named(tmp_path: Path, made: tuple[Path, int]) -> None:
    """In front of all events and beside all lives, unless the span begins later; and where a time in it is asked for."""
    place = tmp_path / "copy"
    shutil.copytree(made[0], place)
    first = folder.stored(place)[0].path
    data = bytearray(first.read_bytes())
    data[30] ^= 1
    first.write_bytes(data)
    recording = Recording(place)
    begin = recording.runs[0].first

    for question in ({}, {"root": "1"}):
        gap, resync, *_ = events_of(recording, **question)
        assert (gap["event"], first.name in gap["why"], resync["event"]) == ("gap", True, "resync")
    assert "gap" not in {each["event"] for each in events_of(recording, since={"order": begin.order})}
    _, (gap,) = answers.history(recording, {"pid": _INIT}, Enquirer())
    assert gap["event"] == "gap"
    with pytest.raises(NoSuchInstantError, match=first.name):
        recording.at_time(begin.time_ns - 1)


def test_a_folder_of_nothing_else_says_so(tmp_path: Path, made: tuple[Path, int]) -> None:
    """The error names the files."""
    place = tmp_path / "copy"
    shutil.copytree(made[0], place)
    for each in folder.stored(place):
        each.path.write_bytes(b"nothing" * 100)
    with pytest.raises(NoRecordingError, match=r"that can be read: \S+\.tape cannot be read: it does not begin as a"):
        Recording(place)


def test_the_commands_exit_as_for_any_damage(tmp_path: Path, made: tuple[Path, int]) -> None:
    """With 6, and the name of the segment in lines and in JSON; a time in it is refused with 4."""
    place = tmp_path / "copy"
    damaged(made[0], place)
    time = written(made[1])
    told = here("events", "--json", "--record", place)
    assert (told.returncode, json.loads(told.stdout.splitlines()[-1])["event"]) == (6, "gap")
    for words in (("events",), ("history", "1"), ("events", "1")):
        told = here(*words, "--record", place)
        assert (told.returncode, b"cannot be read" in told.stdout) == (6, True), words
    assert here("events", "--allow-incomplete", "--record", place).returncode == 0
    for asked in (
        ("tree", "1", "--at", time),
        ("snapshot", "1", "--at", time),
        ("diff", "1", "--from", "#3", "--to", time),
        ("events", "--until", time),
        ("history", "1", "--until", time),
    ):
        told = here(*asked, "--record", place)
        assert (told.returncode, b"cannot be read" in told.stderr) == (4, True), asked


@pytest.mark.parametrize(
    ("places", "text"),
    [
        ((1,), "the file 00000002-*.tape is missing"),
        ((1, 2), "the files 00000002-*.tape to 00000003-*.tape are missing"),
    ],
)
def test_a_segment_that_is_missing_between_others_is_named(tmp_path: Path, places: tuple[int, ...], text: str) -> None:
    """In the gap of events and histories, and in the reason of a snapshot within it."""
    whole = _four(tmp_path)
    stored = folder.stored(tmp_path)
    for place in places:
        stored[place].path.unlink()
    recording = Recording(tmp_path)

    assert _whys(recording) == [text]
    (reason,) = recording.table_at(recording.at_time(whole.segments[1].facts.realtime_ns + 1)).reasons
    assert text in reason


def test_a_segment_between_others_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Beside one that is missing; of these one of two is."""
    _four(tmp_path)
    stored = folder.stored(tmp_path)
    data = bytearray(stored[1].path.read_bytes())
    data[30] ^= 0x20
    stored[1].path.write_bytes(data)
    name = stored[1].path.name
    (why,) = _whys(Recording(tmp_path))
    assert why.startswith(f"{name} cannot be read: ")
    assert "missing" not in why

    stored[2].path.unlink()
    (why,) = _whys(Recording(tmp_path))
    assert why.startswith(f"{name} cannot be read: ")
    assert why.endswith("; of the files 00000002-*.tape to 00000003-*.tape 1 cannot be found")


def _four(place: Path) -> Recording:
    taped = Taped(place, 3)
    for number in range(4):
        taped.mark(continues=number > 0, why="" if number else "the daemon began")
        taped.step()
        taped.rest(_SECOND_NS)
        taped.clock()
        taped.flush()
    taped.end()
    return Recording(place)


def _whys(recording: Recording) -> list[str]:
    (gap,) = [each for each in events_of(recording) if each["event"] == "gap"]
    _, (apart,) = answers.history(recording, {"pid": 4_000_000}, Enquirer())
    assert [each.why for each in recording.gaps] == [gap["why"]] == [apart["why"]]
    return [gap["why"]]
