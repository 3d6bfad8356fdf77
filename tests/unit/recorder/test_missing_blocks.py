# SPDX-License-Identifier: Apache-2.0
"""Each block of a segment that is missing, doubled or not in its place is noticed, also one without records."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.errors import CkptreeError
from agent.recorder import folder, segment
from agent.recorder.history import NumberHistory
from agent.recorder.past import Enquirer
from agent.recorder.recording import Recording
from agent.recorder.retelling import EventSpan, Retelling
from tests.support.taped import Taped

_SECOND_NS = 1_000_000_000
_COUNTED = (segment.TAPE, segment.KEYFRAME)
_INIT = 1


def a_quiet_recording(place: Path) -> None:
    """Make a recording of three segments, with blocks that have nothing but a clock that was set."""
    taped = Taped(place, 7)
    for number in range(3):
        taped.mark(continues=number > 0, why="" if number else "the daemon began")
        for by_s in (-5, 7, 0):
            for _ in range(3):
                taped.step()
            taped.flush()
            taped.rest(_SECOND_NS)
            taped.clock(by_ns=by_s * _SECOND_NS)
            taped.flush()
        if number == 1:
            taped.rest(_SECOND_NS)
            taped.clock(by_ns=90 * _SECOND_NS)
            taped.flush()
    taped.end()


def blocks_of(data: bytes) -> list[segment.Block]:
    """Return the blocks of a whole segment that have a number."""
    _, begin = segment.read_head(data)
    return [block for block in segment.blocks(data, begin) if block is not None and block.kind in _COUNTED]


def events_of(recording: Recording) -> list[dict[str, Any]] | None:
    """Return all events; None where they name a gap, or nothing can be told."""
    span = EventSpan(recording.runs[0].first, recording.runs[-1].last)
    try:
        found = [event for batch in Retelling(recording, span, Enquirer()).batches() for event in batch]
    except CkptreeError:
        return None
    return None if any(event["event"] == "gap" for event in found) else found


def lives_of(recording: Recording, number: int) -> list[list[dict[str, Any]]] | None:
    """Return the lives of a number; None where they name a gap, or nothing can be told."""
    span = recording.runs[0].first, recording.runs[-1].last
    history = NumberHistory(recording, span, number, Enquirer())
    try:
        lives = history.lives()
    except CkptreeError:
        return None
    return None if history.gaps or any(event["event"] == "gap" for life in lives for event in life) else lives


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording that is whole."""
    place = tmp_path_factory.mktemp("recording")
    a_quiet_recording(place)
    return place


def changes(data: bytes, *, is_last: bool) -> Iterator[tuple[str, bytes]]:
    """Yield what each change makes of a segment.

    Args:
        data: the segment.
        is_last: True where none follows: cut short there, it ends as where power was cut.
    """
    blocks = blocks_of(data)
    for at, block in enumerate(blocks):
        begin, own, rest = data[: block.begin], data[block.begin : block.end], data[block.end :]
        yield f"block {at} is cut out", begin + rest
        yield f"block {at} is doubled", begin + own + own + rest
        yield f"block {at} comes last", begin + rest + own
        if not is_last:
            yield f"it is cut short in front of block {at}", begin


def test_each_block_of_a_segment_has_a_number(made: Path) -> None:
    """They begin anew with each segment, which tells how many the one before has."""
    counts: list[int] = []
    for each in folder.stored(made):
        data = each.path.read_bytes()
        _, begin = segment.read_head(data)
        numbers = [block.number for block in segment.blocks(data, begin) if block is not None]
        assert numbers == [*range(1, len(numbers)), 0]  # the place of the index has none
        assert segment.blocks_before(data) == (counts[-1] if counts else 0)
        counts.append(len(numbers) - 2)

    assert min(counts) > 6


def test_a_daemon_that_goes_on_from_another_tells_how_many_blocks_that_has(tmp_path: Path) -> None:
    """Its writer is another process, which looks into the folder."""
    for run in range(2):
        taped = Taped(tmp_path, 7, run)
        taped.mark(continues=run > 0)
        taped.step()
        taped.flush()
        taped.end()
    one, other = (each.path.read_bytes() for each in folder.stored(tmp_path))

    assert segment.blocks_before(other) == len(blocks_of(one)) > 1


def test_a_block_that_is_missing_or_doubled_is_named(tmp_path: Path, made: Path) -> None:
    """In all events, and in the lives of init, also where it has no records, or its segment lost its end."""
    whole, stored = Recording(made), folder.stored(made)
    told, lives = events_of(whole), lives_of(whole, _INIT)
    assert told is not None
    assert lives is not None
    for place, each in enumerate(stored):
        for what, data in changes(each.path.read_bytes(), is_last=each == stored[-1]):
            target = tmp_path / "copy"
            shutil.copytree(made, target)
            (target / each.path.name).write_bytes(data)
            damaged = Recording(target)
            if "comes last" not in what:  # a keyframe that comes late is as good
                assert events_of(damaged) is None, (place, what)
            assert events_of(damaged) in (None, told), (place, what)
            assert lives_of(damaged, _INIT) in (None, lives), (place, what)
            shutil.rmtree(target)


def test_a_time_that_a_missing_look_at_the_clocks_has_moved_is_named(tmp_path: Path, made: Path) -> None:
    """Each time of an event is found at it in the damaged recording, or it is named that something is missing."""
    whole = Recording(made)
    times = sorted({each["time_ns"] for each in events_of(whole) or ()})
    expected = {each: answer(whole, each) for each in times}
    named = 0
    for each in folder.stored(made):
        data = each.path.read_bytes()
        for block in blocks_of(data):
            if block.next > block.first or block.kind != segment.TAPE:
                continue
            target = tmp_path / "copy"
            shutil.copytree(made, target)
            (target / each.path.name).write_bytes(data[: block.begin] + data[block.end :])
            damaged = Recording(target)
            for time_ns, truth in expected.items():
                found = answer(damaged, time_ns)
                named += found is None and truth is not None
                if truth is not None:
                    assert found in (None, truth), (each.path.name, block.number, time_ns)
            shutil.rmtree(target)

    assert named


def answer(recording: Recording, time_ns: int) -> int | None:
    """Return the number of a time; None where it is refused, or something is said to be missing."""
    try:
        found = recording.table_at(recording.at_time(time_ns))
    except CkptreeError:
        return None
    return None if found.reasons else found.instant.order


def test_a_recording_of_an_older_program_is_read_as_before(tmp_path: Path, made: Path) -> None:
    """Its blocks have no numbers, and its heads tell of none before."""
    for each in folder.stored(made):
        data = each.path.read_bytes()
        facts, begin = segment.read_head(data)
        out = segment.head(facts)
        for block in segment.blocks(data, begin):
            assert block is not None
            times = block.first_ns, block.last_ns, block.ahead_ns
            stored = data[block.at : block.end]
            out += b"".join(
                segment.block(block.kind, stored, block.size, (block.first, block.next), times, block.codec)
            )
        (tmp_path / each.path.name).write_bytes(out)
    older, newer = Recording(tmp_path), Recording(made)

    assert events_of(older) == events_of(newer) is not None
    assert lives_of(older, _INIT) == lives_of(newer, _INIT)
    assert all(each.index() is not None for each in older.segments)


def test_a_segment_that_is_there_twice_is_in_no_place_a_second_time(tmp_path: Path) -> None:
    """Behind the others, where a gap separates it from them, its time has been, and its boot."""
    taped = Taped(tmp_path, 3)
    for why in ("the daemon began", "the writer fell behind"):
        taped.mark(continues=False, why=why)
        for _ in range(10):
            taped.step()
    taped.end()
    named = EventSpan(Recording(tmp_path).runs[0].first, Recording(tmp_path).runs[-1].last)
    expected = told_in(Recording(tmp_path), named)
    for each in folder.stored(tmp_path):
        copied = tmp_path / folder.name_of(9, each.first)
        shutil.copy(each.path, copied)
        doubled = Recording(tmp_path)
        span = EventSpan(doubled.runs[0].first, doubled.runs[-1].last)
        *found, last = told_in(doubled, span)
        assert found == expected
        assert last["event"] == "gap"
        assert copied.name in last["why"]
        copied.unlink()


def told_in(recording: Recording, span: EventSpan) -> list[dict[str, Any]]:
    """Return the events of a span."""
    return [event for batch in Retelling(recording, span, Enquirer()).batches() for event in batch]


def test_a_keyframe_of_another_segment_is_none(tmp_path: Path, made: Path) -> None:
    """Whole as it is, with the number that a keyframe has."""
    first, second = (each.path for each in folder.stored(made)[:2])
    keyframes = []
    for path in (first, second):
        data = path.read_bytes()
        keyframes.append(next(block for block in blocks_of(data) if block.kind == segment.KEYFRAME))
    shutil.copytree(made, tmp_path / "copy")
    data, own, other = first.read_bytes(), *keyframes
    strange = second.read_bytes()[other.begin : other.end]
    (tmp_path / "copy" / first.name).write_bytes(data[: own.begin] + strange + data[own.end :])
    damaged = Recording(tmp_path / "copy")

    assert damaged.segments[0].keyframe() is None
    assert events_of(damaged) is None
