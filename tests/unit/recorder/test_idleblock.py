# SPDX-License-Identifier: Apache-2.0
"""A recording of an idle host grows by a block a minute, and states each second that nothing has happened."""

import errno
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.recorder import answers, folder, folderrights, idleblock, segment, tape
from agent.recorder.past import Enquirer
from agent.recorder.recording import NoSuchInstantError, Recording
from agent.table.inputs import Input
from tests.support.taped import Taped

_SECOND_NS = 1_000_000_000
_MOST_A_MINUTE = 130  # bytes: a block of one look at the clocks


@pytest.fixture
def taped(tmp_path: Path) -> Iterator[Taped]:
    """A host on which something has happened."""
    made = Taped(tmp_path, 3)
    made.mark(continues=False, why="the daemon began")
    made.step()
    made.flush()
    yield made
    made._tap.close()
    made._control.close()
    made._writer.run()
    made._channel.close()


def idle(taped: Taped, seconds: int) -> None:
    """Let time go by in which nothing happens."""
    for _ in range(seconds):
        taped.rest(_SECOND_NS)
        taped.clock()
        taped.flush()


def size_of(place: Path) -> int:
    """Return the bytes of the segments."""
    return sum(each.path.stat().st_size for each in folder.stored(place))


def test_an_idle_host_writes_a_block_a_minute(tmp_path: Path, taped: Taped) -> None:
    """Each second of it is known once it is stated, and none behind the last one."""
    idle(taped, 2)
    before = size_of(tmp_path)
    for minute in range(1, 4):
        for _ in range(60):
            idle(taped, 1)
            recording = Recording(tmp_path)
            assert recording.until_ns == taped.time_ns
            assert not recording.table_at(recording.at_time(taped.time_ns)).reasons
            with pytest.raises(NoSuchInstantError):
                recording.at_time(taped.time_ns + 1)
        assert size_of(tmp_path) - before <= minute * _MOST_A_MINUTE


def test_whatever_comes_next_is_behind_the_block_that_waited(tmp_path: Path, taped: Taped) -> None:
    """Records, a clock that was set, a suspend, another segment, the end: the recording has no gap, and each its block."""
    for what in range(5):
        idle(taped, 5)
        waiting = idleblock.read(tmp_path)
        assert waiting is not None
        stated_ns = taped.time_ns
        if what == 0:
            taped.step()
        elif what < 3:
            taped.rest(_SECOND_NS)
            taped.clock(by_ns=_SECOND_NS * (what == 1), slept_ns=_SECOND_NS * (what == 2))
        elif what == 3:
            taped.mark(continues=True)
        taped.flush()
        of = folder.stored(tmp_path)[0 if what == 3 else -1]
        if what < 4:
            assert of.path.read_bytes()[waiting.offset :].startswith(waiting.data)
            assert Recording(tmp_path).until_ns >= stated_ns
    found = [each["event"] for batch in answers.events(Recording(tmp_path), {}, Enquirer()) for each in batch]

    assert ("gap" in found, found.count("clock"), found.count("suspend")) == (False, 1, 1)


def test_an_orderly_end_has_all_that_waited(tmp_path: Path) -> None:
    """The segment is sealed behind it, and its index has it."""
    taped = Taped(tmp_path, 3)
    taped.mark(continues=False)
    taped.step()
    idle(taped, 5)
    taped.end(orderly=False)
    (tmp_path / idleblock.NAME).unlink()
    recording = Recording(tmp_path)

    assert recording.until_ns == taped.time_ns
    assert all(each.is_sound and len(each.index() or ()) == len(each.tapes) for each in recording.segments)


def test_a_block_that_is_damaged_or_of_another_segment_does_not_count(tmp_path: Path, taped: Taped) -> None:
    """Nor one whose segment has grown: less is stated, and nothing is a gap. Bytes that the segment lost are one."""
    idle(taped, 1)
    appended_ns = Recording(tmp_path).until_ns
    idle(taped, 5)
    place = tmp_path / idleblock.NAME
    data = place.read_bytes()
    for at in range(len(data)):
        place.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        recording = Recording(tmp_path)
        assert recording.until_ns == appended_ns
        assert not recording.runs[-1].last.missing
    for size in range(len(data)):
        place.write_bytes(data[:size])
        assert Recording(tmp_path).until_ns == appended_ns
    place.unlink()
    os.mkfifo(place)
    assert Recording(tmp_path).until_ns == appended_ns
    place.unlink()
    place.write_bytes(data)
    newest = folder.stored(tmp_path)[-1].path
    with newest.open("r+b") as file:
        file.truncate(newest.stat().st_size - 1)
    assert Recording(tmp_path).until_ns < appended_ns
    last = Recording(tmp_path).segments[-1].tapes[-1]
    for size in (last.end, last.begin):  # between two blocks
        os.truncate(newest, size)
        recording = Recording(tmp_path)
        events = [each["event"] for batch in answers.events(recording, {}, Enquirer()) for each in batch]
        assert recording.runs[-1].last.missing
        assert events[-1] == "gap"
        assert answers.history(recording, {"pid": 4_000_000}, Enquirer())[1]


def test_a_folder_without_its_last_block_is_byte_for_byte_that_of_a_writer_that_was_killed_before_it(
    tmp_path: Path, taped: Taped
) -> None:
    """So nothing tells of the block that is missing, and no answer can: the recording ends sooner, and says when."""
    idle(taped, 3)
    taped.step()
    taped.flush()
    killed = {each.name: each.read_bytes() for each in tmp_path.iterdir() if each.is_file()}
    ended = Recording(tmp_path).runs[-1].last
    taped.rest(_SECOND_NS)
    taped.step()
    taped.flush()
    assert Recording(tmp_path).runs[-1].last.time_ns > ended.time_ns
    (of,) = Recording(tmp_path).segments
    (row,) = [each for each in of.tapes if each.next > ended.order]
    os.truncate(of.path, row.begin)

    assert idleblock.read(tmp_path) is not None
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir() if each.is_file()} == killed
    assert Recording(tmp_path).runs[-1].last == ended


def test_the_next_writer_appends_what_a_killed_one_left(tmp_path: Path, taped: Taped) -> None:
    """Once, and only to its own segment."""
    idle(taped, 5)
    waiting = idleblock.read(tmp_path)
    assert waiting is not None
    newest = folder.stored(tmp_path)[-1].path
    before = newest.read_bytes()
    for _ in range(2):
        idleblock.adopt(tmp_path)
        assert newest.read_bytes() == before + waiting.data
    assert Recording(tmp_path).until_ns == taped.time_ns
    newest.write_bytes(before)
    other = newest.with_name(folder.name_of(9, 0))
    facts, _ = segment.read_head(before)
    other.write_bytes(segment.head(facts))
    idleblock.adopt(tmp_path)
    assert other.read_bytes() == segment.head(facts)
    other.unlink()


def test_the_file_is_the_recordings_own(tmp_path: Path, taped: Taped) -> None:
    """For its user alone, and no file of others."""
    idle(taped, 5)

    assert (tmp_path / idleblock.NAME).stat().st_mode & 0o777 == 0o600
    assert folderrights.foreign_names(tmp_path) == []


@pytest.mark.parametrize("moved", [{"by_ns": -_SECOND_NS}, {"slept_ns": _SECOND_NS}, {}])
def test_a_clock_that_was_set_or_a_suspend_is_synced_and_a_mere_statement_is_not(
    taped: Taped, moved: dict[str, int]
) -> None:
    """Power may be cut on an idle host, too."""
    idle(taped, 3)
    taped._writer._sync(0.0)
    for _ in range(61):  # a statement is appended each minute
        taped.rest(_SECOND_NS)
        taped.clock(**moved)
        taped.flush()
        if taped._writer._output.unsynced:
            break

    assert taped._writer._output.unsynced == bool(moved)


def a_file(waiting: idleblock.IdleBlock, content: bytes, **told: int) -> bytes:
    """Return a file whose check sums are right, with a block of some content in place of the one that waits."""
    was = segment.block_at(waiting.data, 0)
    assert was is not None
    told = {"kind": segment.TAPE, "codec": segment.PLAIN, "size": len(content), "next": was.next} | told
    numbers, times_ns = (was.first, told["next"]), (was.first_ns, was.last_ns, was.ahead_ns)
    block = b"".join(
        segment.block(told["kind"], content, told["size"], numbers, times_ns, told["codec"], number=was.number)
    )
    facts = (b"ckptidl\0", waiting.facts_check, len(block), waiting.offset, zlib.crc32(block))
    head = struct.pack("<8sIIQI", *facts)
    return head + struct.pack("<I", zlib.crc32(head)) + block


def test_a_file_that_has_anything_but_a_look_at_the_clocks_does_not_count(tmp_path: Path, taped: Taped) -> None:
    """Whatever its check sums say: each question is answered as without it, and the next writer appends nothing."""
    idle(taped, 1)
    appended_ns = Recording(tmp_path).until_ns
    idle(taped, 5)
    waiting = idleblock.read(tmp_path)
    assert waiting is not None
    place, newest = tmp_path / idleblock.NAME, folder.stored(tmp_path)[-1].path
    before = newest.read_bytes()
    look = tape.pack(tape.CLOCK, taped.time_ns, taped.time_ns - taped.ahead_ns, tape.CLOCKS.pack(1, 1))
    place.write_bytes(a_file(waiting, look))
    assert idleblock.read(tmp_path) is not None
    for content, told in (
        (b"torn", {}),
        (b"", {}),
        (look[:-8], {}),
        (tape.pack(tape.CLOCK, 1, 1), {}),
        (look + look, {}),
        (tape.pack(tape.END, 3, 0, b"\1"), {}),
        (tape.pack(Input.QUESTION, 1), {}),
        (look, {"kind": segment.PLACE}),
        (look, {"kind": segment.KEYFRAME}),
        (look, {"codec": segment.ZSTD}),
        (look, {"size": 1 << 30}),
        (look, {"next": 1 << 40}),
    ):
        place.write_bytes(a_file(waiting, content, **told))
        recording = Recording(tmp_path)
        assert (recording.until_ns, recording.runs[-1].last.missing) == (appended_ns, "")
        assert all(event["event"] != "gap" for batch in answers.events(recording, {}, Enquirer()) for event in batch)
        idleblock.adopt(tmp_path)
        assert newest.read_bytes() == before


def test_a_block_that_is_adopted_is_appended_whole_or_not_at_all(
    tmp_path: Path, taped: Taped, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system may take a part of it, and no more where it is full."""
    idle(taped, 5)
    waiting = idleblock.read(tmp_path)
    assert waiting is not None
    newest = folder.stored(tmp_path)[-1].path
    before = newest.read_bytes()
    write = os.pwrite
    room = 0

    def in_parts(file: int, data: bytes, at: int) -> int:
        if at >= len(before) + room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data[:7], at)

    monkeypatch.setattr(os, "pwrite", in_parts)
    for room in (0, 8, len(waiting.data) - 1):
        idleblock.adopt(tmp_path)
        assert newest.read_bytes() == (before if room < len(waiting.data) - 1 else before + waiting.data)
