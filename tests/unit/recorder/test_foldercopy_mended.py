# SPDX-License-Identifier: Apache-2.0
"""A copy of a recording that lacks something, and to which its stream comes again from the beginning."""

import os
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from agent.recorder import folder, segment
from agent.recorder.foldercopy import FolderCopy
from agent.recorder.foldertail import Piece
from agent.recorder.held import HeldTable
from tests.support.taped import Taped

_MOST = 1 << 30
_STREAM = "a stream"
_SMALL = 2048  # bytes of a piece


def contents(place: Path) -> dict[str, bytes]:
    """Return the segments of a folder."""
    return {each.path.name: each.path.read_bytes() for each in folder.stored(place)}


def two_boots(place: Path) -> list[Piece]:
    """Return a stream of two segments of a boot, and two of the next one."""
    stream = []
    for run, boot in enumerate("ab"):
        original = place / boot
        original.mkdir()
        taped = Taped(original, 20 + run, run)
        taped.mark(continues=False, why="the daemon began")
        for number in range(40):
            taped.step()
            if number % 4 == 0:
                taped.flush()
            if number == 20:
                taped.mark(continues=True)
        taped.end(orderly=False)
        for each in folder.stored(original):
            data = each.path.read_bytes()
            facts, length = segment.read_head(data)
            head = segment.head(replace(facts, boot_id=boot * 36, sequence=facts.sequence + 2 * run))
            bytes_ = head + data[length:]
            stream += [
                Piece(segment.identity(head), at, bytes_[at : at + _SMALL]) for at in range(0, len(bytes_), _SMALL)
            ]
    return stream


def received(stream: list[Piece], place: Path, last: int) -> None:
    """Take a stream as a stand-by does that is started now, up to a message."""
    with closing(FolderCopy(place, _MOST, 0)) as copy:
        held, at = HeldTable(place), copy.enter(_STREAM, last)
        held.refresh()
        if held.lacks_from >= 0 and held.name == copy.newest:
            copy.mend(held.lacks_from)
            at = 0
        for number in range(at, last):
            copy.add(stream[number], number + 1)
            copy.sync(_STREAM, number + 1)


def heads_of(place: Path) -> list[tuple[str, int]]:
    """Return boot and number of each segment whose head is whole, in the order of the folder."""
    found = []
    for data in contents(place).values():
        with suppress(segment.DamagedError):
            facts, _ = segment.read_head(data)
            found.append((facts.boot_id[0], facts.sequence))
    return found


def damage_newest(place: Path) -> None:
    """Change bytes near the end of the newest segment."""
    with folder.stored(place)[-1].path.open("r+b") as file:
        file.seek(-2500, os.SEEK_END)
        file.write(b"\xff" * 8)


def cut_newest(place: Path) -> None:
    """Take the end of the newest segment away."""
    newest = folder.stored(place)[-1].path
    os.truncate(newest, newest.stat().st_size - 300)


def remove_newest(place: Path) -> None:
    """Remove the newest segment."""
    folder.stored(place)[-1].path.unlink()


def remove_oldest(place: Path) -> None:
    """Remove the oldest segment, as the bounds of the copy do."""
    folder.stored(place)[0].path.unlink()


def damage_oldest(place: Path) -> None:
    """Damage the head of the oldest segment."""
    with folder.stored(place)[0].path.open("r+b") as file:
        file.write(b"x")


@pytest.mark.parametrize("hurt", [damage_newest, cut_newest, remove_newest])
@pytest.mark.parametrize("lose", [remove_oldest, damage_oldest])
@pytest.mark.parametrize("is_killed", [False, True])
def test_an_older_boots_segment_does_not_come_back_behind_the_newest(
    tmp_path: Path, hurt: Callable[[Path], None], lose: Callable[[Path], None], *, is_killed: bool
) -> None:
    """The stream is read from its beginning, for the newest segment is to be mended; the older ones are not wanted."""
    stream, place, whole = two_boots(tmp_path), tmp_path / "copy", tmp_path / "whole"
    received(stream, whole, len(stream))
    received(stream, place, len(stream) - 1)
    lose(place)
    hurt(place)
    if is_killed:
        received(stream, place, 2)
        received(stream, place, len(stream) - 1)
    received(stream, place, len(stream))
    held, right = HeldTable(place), HeldTable(whole)
    held.refresh()
    right.refresh()

    assert heads_of(place) == [("a", 2), ("b", 3), ("b", 4)]
    assert list(contents(place).values())[-1] == list(contents(whole).values())[-1]
    assert (held.facts.boot_id, held.order, held.gap) == ("b" * 36, right.order, "")


def test_a_standby_that_is_killed_while_it_mends_begins_with_that_again(tmp_path: Path) -> None:
    """The end is lost; the stream has come up to a message in front of older segments, which the copy has dropped."""
    stream, place = two_boots(tmp_path), tmp_path / "copy"
    received(stream, place, len(stream))
    remove_oldest(place)
    remove_oldest(place)
    before = contents(place)
    cut_newest(place)
    with closing(FolderCopy(place, _MOST, 0)) as copy:
        assert copy.enter(_STREAM, len(stream)) == 0
        copy.add(stream[0], 1)
        copy.sync(_STREAM, 1)
        assert copy.enter(_STREAM, len(stream)) == 1  # after the connection was cut
    received(stream, place, len(stream))

    assert contents(place) == before


def test_a_copy_without_segments_is_filled_again(tmp_path: Path) -> None:
    """All that the stream has is wanted."""
    stream, place = two_boots(tmp_path), tmp_path / "copy"
    received(stream, place, len(stream) - 1)
    before = contents(place)
    for each in folder.stored(place):
        each.path.unlink()
    received(stream, place, len(stream) - 1)

    assert list(contents(place).values()) == list(before.values())


def test_messages_that_have_the_numbers_of_lost_ones_are_taken(tmp_path: Path) -> None:
    """The server has lost the end of its stream; what comes instead is behind the newest segment, or of a new stream."""
    stream, place = two_boots(tmp_path), tmp_path / "copy"
    ends = [at for at, each in enumerate(stream) if not each.offset] + [len(stream)]
    received(stream, place, ends[3])
    first, *_ = folder.stored(place)
    first.path.unlink()
    begin = ends[2]
    left = [*stream[: begin + 1], *stream[ends[3] :]][-ends[3] + 1 :]  # shorter than what was read
    assert len(left) < ends[3]
    received(left, place, len(left))
    assert heads_of(place) == [("a", 2), ("b", 3), ("b", 4)]
    with closing(FolderCopy(place, _MOST, 0)) as copy:
        assert copy.enter(_STREAM, len(left)) == len(left)
        copy.mend(0)
        assert copy.enter("another stream", 5) == 0
        assert not copy.add(stream[begin], 1)
        copy.sync("another stream", 1)
        assert copy.enter("another stream", 5) == 1


@pytest.mark.parametrize("has_more", [False, True])
def test_a_removed_segment_that_the_stream_has_no_more_costs_no_other(tmp_path: Path, *, has_more: bool) -> None:
    """The copy keeps what is left of it, and goes on with the next segment."""
    stream, place = two_boots(tmp_path), tmp_path / "copy"
    begin = max(at for at, each in enumerate(stream) if not each.offset)
    received(stream, place, begin)
    remove_newest(place)
    before = contents(place)
    for _ in range(3):
        with closing(FolderCopy(place, _MOST, 0)) as copy:
            copy.enter(_STREAM, begin)
            copy.sync(_STREAM, begin)  # all in front of it has been dropped
        assert contents(place) == before
    if has_more:
        received([*[Piece(bytes(16), 1, b"x")] * begin, *stream[begin:]], place, len(stream))
        assert heads_of(place) == [("a", 1), ("a", 2), ("b", 4)]


def test_a_copy_that_is_filled_again_and_killed_meanwhile_has_all(tmp_path: Path) -> None:
    """Each time it goes on where it was."""
    stream, place = two_boots(tmp_path), tmp_path / "copy"
    received(stream, place, len(stream))
    before = contents(place)
    for each in folder.stored(place):
        each.path.unlink()
    with closing(FolderCopy(place, _MOST, 0)) as copy:
        assert copy.enter(_STREAM, len(stream)) == 0
        copy.add(stream[0], 1)
        copy.sync(_STREAM, 1)
        copy.add(stream[1], 2)
    received(stream, place, len(stream))

    assert list(contents(place).values()) == list(before.values())
