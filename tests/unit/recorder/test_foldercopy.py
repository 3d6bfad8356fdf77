# SPDX-License-Identifier: Apache-2.0
"""A copy of a recording that is made while the original is written: the same bytes, and the same table at its end."""

import os
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.errors import CkptreeError, HostError
from agent.recorder import folder, past, segment
from agent.recorder.foldercopy import FolderCopy
from agent.recorder.foldertail import CopyPlace, FolderTail, Piece
from agent.recorder.held import HeldTable, NothingHeldError
from agent.recorder.recording import Recording
from tests.support.taped import Taped, a_recording, state_of

_MOST = 1 << 30
_STREAM = "a stream"


def pieces(tail: FolderTail) -> Iterator[Piece]:
    """Yield what is final now."""
    while (piece := tail.next()) is not None:
        yield piece


def final(place: Path, last: CopyPlace | None, most: int = _MOST) -> list[Piece]:
    """Return what is final in a folder behind a point."""
    with closing(FolderTail(place, last, most)) as tail:
        return list(pieces(tail))


def oldest(place: Path) -> CopyPlace:
    """Return the beginning of the oldest segment."""
    data = folder.stored(place)[0].path.read_bytes()
    return CopyPlace(segment.identity(data[: segment.read_head(data)[1]]), 0)


def contents(place: Path) -> dict[str, bytes]:
    """Return the segments of a folder."""
    return {each.path.name: each.path.read_bytes() for each in folder.stored(place)}


class Link:
    """An original, and a copy of it that is kept up to date.

    Args:
        original, copy: the folders.
    """

    def __init__(self, original: Path, copy: Path) -> None:
        self.original, self.place = original, copy
        self.tail = FolderTail(original, None, _MOST)
        self.copy = FolderCopy(copy, _MOST, 0)
        self.sent = 0

    def carry(self) -> None:
        """Carry what is final."""
        for piece in pieces(self.tail):
            self.sent += 1
            self.copy.add(piece)
        self.copy.sync(_STREAM, self.sent)

    def close(self) -> None:
        """Close both."""
        self.tail.close()
        self.copy.close()


@pytest.mark.parametrize("seed", range(6))
def test_the_table_that_is_held_is_the_hosts_own(tmp_path: Path, seed: int) -> None:
    """At every point at which the writer has written all, over segments, gaps, losses and a second run."""
    chance = random.Random(seed)
    compared = 0
    original = tmp_path / "original"
    original.mkdir()
    link, held = Link(original, tmp_path / "copy"), HeldTable(tmp_path / "copy")
    for run in range(2):
        taped = Taped(original, seed, run)
        taped.mark(continues=False, why="the daemon began")
        for _ in range(60):
            what = chance.random()
            if what < 0.1:
                taped.mark(continues=True, keyframe=chance.random() < 0.8)
            elif what < 0.13:
                taped.step(heard=False)
                taped.mark(continues=False, why="the writer fell behind", keyframe=chance.random() < 0.6)
            else:
                taped.step(lost=chance.random() < 0.1)
            if chance.random() < 0.5:
                taped.flush()
                link.carry()
                held.refresh()
                truth = taped.truths[-1]
                if not held.gap and held.is_there:
                    compared += 1
                    assert (held.facts.ring, held.order) == (f"ring {run}", truth.order)
                    assert state_of(held.standing.table, held.standing.stream) == truth.state, truth.order
        taped.end(orderly=chance.random() < 0.5)
        link.carry()

    link.close()
    copied, whole = contents(tmp_path / "copy"), contents(original)
    assert copied == {name: whole[name] for name in list(whole)[-len(copied) :]}  # it begins at a keyframe
    assert compared > 20


def test_a_copy_that_was_broken_off_anywhere_goes_on(tmp_path: Path) -> None:
    """By the sender, who sends pieces twice, and by the receiver, who finds bytes that were not synced."""
    original = tmp_path / "original"
    original.mkdir()
    a_recording(original, 3)
    chance = random.Random(1)
    all_pieces = [each for piece in final(original, oldest(original)) for each in halves(piece)]
    at = 0
    while at < len(all_pieces):
        copy = FolderCopy(tmp_path / "copy", _MOST, 0)
        at = copy.enter(_STREAM)
        for _ in range(chance.randrange(1, 8)):
            if at < len(all_pieces):
                copy.add(all_pieces[at])
                copy.add(all_pieces[max(0, at - 1)])
                at += 1
                if chance.random() < 0.5:
                    copy.sync(_STREAM, at)
        copy.close()
    copy = FolderCopy(tmp_path / "copy", _MOST, 0)
    for each in all_pieces[copy.enter(_STREAM) :]:
        copy.add(each)
    copy.sync(_STREAM, len(all_pieces))

    copy.close()
    assert contents(tmp_path / "copy") == contents(original)
    assert copy.gaps == 0


def halves(piece: Piece) -> list[Piece]:
    """Return a piece as two; the head of a segment stays whole."""
    middle = len(piece.data) // 2
    if not piece.offset or middle < 1:
        return [piece]
    return [piece._replace(data=piece.data[:middle]), Piece(piece.segment, piece.offset + middle, piece.data[middle:])]


def test_a_sender_goes_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    """And where that is not in the folder any more, at the newest segment with a keyframe."""
    original = tmp_path / "original"
    original.mkdir()
    taped = Taped(original, 5)
    taped.mark(continues=False)
    for _ in range(30):
        taped.step()
    taped.flush()
    tail = FolderTail(original, None, _MOST)
    begun = list(pieces(tail))
    tail.close()
    for _ in range(30):
        taped.step()
    taped.mark(continues=True)
    taped.step()
    taped.end()

    again = final(original, begun[-1].end)
    assert again[0].offset == begun[-1].end.offset
    assert b"".join(each.data for each in begun + again) == b"".join(contents(original).values())
    new = final(original, CopyPlace(b"x" * 16, 7))
    newest = folder.stored(original)[-1].path.read_bytes()
    assert b"".join(each.data for each in new) == newest
    assert b"".join(each.data for each in final(original, begun[-1].end, 10)) == newest


def test_a_folder_that_was_emptied_begins_anew(tmp_path: Path) -> None:
    """Its numbers are small again; those of the copy go on."""
    original = tmp_path / "original"
    original.mkdir()
    for run in range(2):
        taped = Taped(original, 7, run)
        taped.mark(continues=False)
        taped.step()
        taped.end()
    link = Link(original, tmp_path / "copy")
    link.carry()
    for each in folder.stored(original):
        each.path.unlink()
    taped = Taped(original, 8, 2)
    taped.mark(continues=False, why="the daemon began")
    taped.step()
    taped.end()
    link.carry()
    link.close()
    held = HeldTable(tmp_path / "copy")
    held.refresh()

    assert [each.sequence for each in folder.stored(tmp_path / "copy")] == [2, 3]
    assert (held.facts.ring, held.facts.sequence) == ("ring 2", 1)


def test_a_missing_piece_is_a_gap_that_readers_name(tmp_path: Path) -> None:
    """The rest of its segment is left out; the table stands before the gap until a keyframe comes."""
    original = tmp_path / "original"
    original.mkdir()
    taped = Taped(original, 9)
    taped.mark(continues=False)
    tail, copy = FolderTail(original, None, _MOST), FolderCopy(tmp_path / "copy", _MOST, 0)
    held = HeldTable(tmp_path / "copy")
    sizes = []
    for number in range(4):
        for _ in range(10):
            taped.step()
        taped.flush()
        for piece in pieces(tail):
            if number != 1:
                copy.add(piece)
        copy.sync(_STREAM, number + 1)
        held.refresh()
        sizes.append(held.order)
    assert copy.gaps == 1
    assert sizes[0] == sizes[3]
    taped.mark(continues=True, keyframe=False)
    taped.step()
    taped.flush()
    for piece in pieces(tail):
        copy.add(piece)
    held.refresh()
    assert "the recording has a gap from" in held.gap
    taped.mark(continues=True)
    for piece in pieces(tail):
        copy.add(piece)
    held.refresh()
    taped.end()
    tail.close()
    copy.close()

    assert held.gap == ""
    assert len(Recording(tmp_path / "copy").gaps) == 1


def test_a_hostile_sender_fills_no_disk_and_replaces_nothing(tmp_path: Path) -> None:
    """Bytes and files have bounds; what was kept once does not come back behind what is newer."""
    original = tmp_path / "original"
    original.mkdir()
    for run in range(40):
        taped = Taped(original, 11, run)
        taped.mark(continues=False)
        taped.step()
        taped.end()
    whole = final(original, oldest(original))
    copy = FolderCopy(tmp_path / "copy", 100_000, 0)
    for piece in whole:
        copy.add(piece)
        copy.trim()
    assert copy.kept_bytes <= 100_000
    assert copy.segments <= 25
    before = contents(tmp_path / "copy")
    for piece in whole:
        copy.add(piece)
    assert contents(tmp_path / "copy") == before
    last = whole[-1]
    for number in range(100):
        copy.add(Piece(last.segment, last.end.offset + 1000 * number, bytes(1000)))
    assert max(map(len, contents(tmp_path / "copy").values())) <= 50_000
    for bad in (Piece(b"a" * 16, 0, b"no head"), Piece(b"b" * 16, 0, last.data), Piece(b"c" * 16, 5, b"x")):
        assert not copy.add(bad)
    copy.close()


def test_a_recording_that_is_no_copy_is_left_alone(tmp_path: Path) -> None:
    """Also where its writer has ended. A folder has one process that writes."""
    a_recording(tmp_path, 2)
    before = contents(tmp_path)
    with pytest.raises(HostError, match="is no copy"):
        FolderCopy(tmp_path, _MOST, 0)
    assert contents(tmp_path) == before
    copy = FolderCopy(tmp_path / "copy", _MOST, 0)
    with pytest.raises(HostError, match="another process"):
        FolderCopy(tmp_path / "copy", _MOST, 0)
    copy.close()
    FolderCopy(tmp_path / "copy", _MOST, 0).close()


def test_without_a_keyframe_nothing_is_held(tmp_path: Path) -> None:
    """The message says so."""
    held = HeldTable(tmp_path)
    held.refresh()

    assert not held.is_there
    with pytest.raises(NothingHeldError, match="no recording with a whole keyframe"):
        _ = held.order


def test_a_full_disk_leaves_the_copy_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The piece comes again when there is room."""
    original = tmp_path / "original"
    original.mkdir()
    taped = Taped(original, 13)
    taped.mark(continues=False)
    tail, copy = FolderTail(original, None, _MOST), FolderCopy(tmp_path / "copy", _MOST, 0)
    for piece in pieces(tail):
        copy.add(piece)
    copy.sync(_STREAM, 1)
    for _ in range(20):
        taped.step()
    taped.end()
    came = list(pieces(tail))
    real = os.write
    with monkeypatch.context() as patched:
        room = [100]

        def write(descriptor: int, data: bytes) -> int:
            if not room[0]:
                raise OSError(28, "No space left on device")
            done = real(descriptor, data[: room[0]])
            room[0] -= done
            return done

        patched.setattr(os, "write", write)
        with pytest.raises(OSError, match="No space"):
            copy.add(came[0])
    for piece in came:
        copy.add(piece)
    copy.sync(_STREAM, 2)
    tail.close()
    copy.close()

    assert contents(tmp_path / "copy") == contents(original)


@pytest.mark.parametrize("host", [{"strange": 1}, {"constants": 5}, {"kernel_version": None}])
def test_a_host_that_is_none_is_an_error_of_ours(host: dict[str, object]) -> None:
    """A check sum does not keep an author from writing it."""
    with pytest.raises(CkptreeError, match="what no host is"):
        past.header(host)
