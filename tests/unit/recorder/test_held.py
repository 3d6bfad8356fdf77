# SPDX-License-Identifier: Apache-2.0
"""A table that is held names what its recording lacks, and goes on once that has come."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent import rootname
from agent.recorder import folder, segment
from agent.recorder.foldercopy import FolderCopy
from agent.recorder.foldertail import FolderTail, Piece
from agent.recorder.held import HeldTable
from agent.recorder.past import WantedTree
from tests.support.taped import Taped, state_of

_MOST = 1 << 30
_SECOND_NS = 1_000_000_000
_STREAM = "a stream"
_INIT = WantedTree(rootname.parse("1"), "subtree")


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """The folder of the original."""
    place = tmp_path / "original"
    place.mkdir()
    return place


@pytest.fixture
def taped(original: Path) -> Iterator[Taped]:
    """A recording whose second segment has a look at the clocks in a block of its own, between blocks with records."""
    made = Taped(original, 9)
    for number in range(2):
        made.mark(continues=number > 0)
        for _ in range(3):
            made.step()
            made.flush()
            made.rest(_SECOND_NS)
            made.clock(by_ns=_SECOND_NS)
            made.flush()
    yield made
    made.end()


def blocks_of(data: bytes) -> list[segment.Block]:
    """Return the blocks of a segment."""
    _, begin = segment.read_head(data)
    return [block for block in segment.blocks(data, begin) if block is not None]


def without_a_quiet_block(data: bytes) -> bytes:
    """Cut out a block without records, which others follow."""
    quiet = [each for each in blocks_of(data) if each.kind == segment.TAPE and each.next == each.first][1]
    return data[: quiet.begin] + data[quiet.end :]


def with_a_double(data: bytes) -> bytes:
    """Double a block without records."""
    quiet = [each for each in blocks_of(data) if each.kind == segment.TAPE and each.next == each.first][1]
    return data[: quiet.end] + data[quiet.begin :]


def without_records(data: bytes) -> bytes:
    """Cut out a block with records, which others follow."""
    own = [each for each in blocks_of(data) if each.next > each.first][1]
    return data[: own.begin] + data[own.end :]


def with_a_damaged_block(data: bytes) -> bytes:
    """Flip a bit of a block's content."""
    own = [each for each in blocks_of(data) if each.next > each.first][1]
    return flipped(data, own.at + 3)


def with_a_damaged_end(data: bytes) -> bytes:
    """Flip a bit in the head of the last block."""
    return flipped(data, blocks_of(data)[-1].begin + 20)


def with_a_damaged_head(data: bytes) -> bytes:
    """Flip a bit in the facts."""
    return flipped(data, 40)


def flipped(data: bytes, at: int) -> bytes:
    """Flip a bit of a byte."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


CHANGES = (
    without_a_quiet_block,
    with_a_double,
    without_records,
    with_a_damaged_block,
    with_a_damaged_end,
    with_a_damaged_head,
)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("is_read", [False, True])
def test_each_damage_of_the_newest_segment_is_named(
    tmp_path: Path, original: Path, taped: Taped, change: Callable[[bytes], bytes], *, is_read: bool
) -> None:
    """Also where the table stands in front of it already; the tree that is taken over is incomplete, and says why."""
    place = tmp_path / "copy"
    shutil.copytree(original, place)
    _, newest = folder.stored(place)
    whole = newest.path.read_bytes()
    held = HeldTable(place)
    if is_read:
        newest.path.write_bytes(whole[: blocks_of(whole)[0].end])
        held.refresh()
        assert held.gap == ""
    newest.path.write_bytes(change(whole))
    held.refresh()

    assert held.gap
    assert held.gap in held.snapshot(_INIT).completeness.reasons
    newest.path.write_bytes(whole)
    held.refresh()
    if held.lacks_from < 0 and held.gap:  # the damaged head was behind the table's segment
        return
    assert held.gap == ""
    assert state_of(held.standing.table, held.standing.stream) == taped.truths[-1].state


def pieces(place: Path, last: int | None = None) -> list[Piece]:
    """Return the pieces of a folder, from its newest keyframe on."""
    with closing(FolderTail(place, None, _MOST)) as tail:
        found = []
        while (piece := tail.next()) is not None:
            found.append(piece)
        return found[:last]


@pytest.mark.parametrize("change", [with_a_damaged_block, with_a_damaged_end, with_a_damaged_head])
@pytest.mark.parametrize("has_all", [False, True])
def test_a_copy_is_mended_by_the_pieces_that_come_again(
    tmp_path: Path, original: Path, taped: Taped, change: Callable[[bytes], bytes], *, has_all: bool
) -> None:
    """Where they do not come, it stays as it is; either way it goes on."""
    place = tmp_path / "copy"
    copy = FolderCopy(place, _MOST, 0)
    came = pieces(original)
    for piece in came:
        copy.add(piece)
    (newest,) = folder.stored(place)
    whole = newest.path.read_bytes()
    with newest.path.open("r+b") as file:
        file.write(change(whole))
    held = HeldTable(place)
    held.refresh()
    at = held.lacks_from if held.is_there else 0
    copy.mend(at)
    if has_all:
        for piece in came:
            copy.add(piece)
    copy.sync(_STREAM, len(came))
    taped.step()
    taped.flush()
    for piece in pieces(original):
        if piece.offset:
            copy.add(piece)
    for piece in pieces_behind(original, whole):
        copy.add(piece)
    held.refresh()
    copy.close()

    expected = newest_of(original)
    data = newest.path.read_bytes()
    assert len(data) == len(expected)
    if has_all:
        assert data == expected
        assert held.gap == ""
        assert state_of(held.standing.table, held.standing.stream) == taped.truths[-1].state
    elif held.is_there:
        assert held.gap
        assert data[len(whole) :] == expected[len(whole) :]


def newest_of(place: Path) -> bytes:
    """Return the bytes of the newest segment."""
    return folder.stored(place)[-1].path.read_bytes()


def pieces_behind(place: Path, whole: bytes) -> list[Piece]:
    """Return what the newest segment has behind some bytes, as a piece."""
    data = newest_of(place)
    identity = segment.identity(data[: segment.read_head(data)[1]])
    return [Piece(identity, len(whole), data[len(whole) :])]


def test_a_piece_that_was_missing_and_comes_again_is_no_gap(tmp_path: Path, original: Path, taped: Taped) -> None:
    """Pieces behind it are left out until it comes."""
    first, *_ = pieces(original)
    (whole,) = [first.data]
    cut = blocks_of(whole)[2].end
    copy = FolderCopy(tmp_path / "copy", _MOST, 0)
    three = [
        Piece(first.segment, 0, whole[:100_000][:cut]),
        Piece(first.segment, cut, whole[cut : cut + 50]),
        Piece(first.segment, cut + 50, whole[cut + 50 :]),
    ]
    copy.add(three[0])
    assert not copy.add(three[2])
    assert (copy.lacks_from, copy.gaps) == (cut, 1)
    copy.mend(copy.lacks_from)
    for piece in three:
        copy.add(piece)
    assert (copy.lacks_from, copy.gaps) == (-1, 0)
    copy.close()

    (newest,) = folder.stored(tmp_path / "copy")
    assert newest.path.read_bytes() == whole


def test_a_copy_that_lost_its_end_asks_for_the_stream_again(tmp_path: Path, original: Path, taped: Taped) -> None:
    """A file that is shorter than it was kept."""
    copy = FolderCopy(tmp_path / "copy", _MOST, 0)
    came = pieces(original)
    for piece in came:
        copy.add(piece)
    copy.sync(_STREAM, 7)
    copy.close()
    (newest,) = folder.stored(tmp_path / "copy")
    whole = newest.path.read_bytes()
    newest.path.write_bytes(whole[:-30])
    copy = FolderCopy(tmp_path / "copy", _MOST, 0)
    assert copy.enter(_STREAM) == 0
    for piece in came:
        copy.add(piece)
    copy.sync(_STREAM, 7)
    assert copy.enter(_STREAM) == 7
    copy.close()

    assert newest.path.read_bytes() == whole


def test_a_segment_that_is_not_in_its_place_is_not_the_newest(original: Path, taped: Taped) -> None:
    """The first one, laid behind the last: it is no state of now, whether the table begins behind it or meets it."""
    taped.flush()
    first, last = folder.stored(original)
    before = HeldTable(original)
    before.refresh()
    truth, name = (before.order, before.time_ns), before.name
    misplaced = original / folder.name_of(last.sequence + 7, first.first)
    shutil.copy(first.path, misplaced)
    found = HeldTable(original)
    for held in (found, before):
        held.refresh()
        assert (held.order, held.time_ns) == truth
        assert held.name == name == last.path.name
        assert held.gap
