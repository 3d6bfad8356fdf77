# SPDX-License-Identifier: Apache-2.0
"""The tail of a recording that is written: the bytes of its segments in their order, to be copied elsewhere.

Theory
------
A segment is only appended to, and a block of it is either all there or, where its writer could not write it, taken back. So
the whole blocks of the newest segment are final. Of an older segment everything is, whatever it holds. A copy is the same
bytes at the same offsets, so it is as good as the original for every reader. It is known by its head (`segment.identity`).
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agent.errors import HostError
from agent.record import NamedTuple
from agent.recorder import folder, segment
from agent.recorder.folder import SegmentFile

PIECE: Final = 256 << 10
"""Bytes of a piece, at most."""


class CopyPlace(NamedTuple):
    """A point in a recording, as its copies name it.

    Attributes:
        segment: identity of the segment.
        offset: in bytes.
    """

    segment: bytes
    offset: int


class Piece(NamedTuple):
    """Bytes of a segment.

    Attributes:
        segment: identity of the segment.
        offset: of the bytes in it.
        data: the bytes. Those at offset 0 have the whole head.
    """

    segment: bytes
    offset: int
    data: bytes

    @property
    def end(self) -> CopyPlace:
        """The point behind it."""
        return CopyPlace(self.segment, self.offset + len(self.data))


class _OpenSegment:
    """A segment that is read.

    Args:
        of: its file.

    Attributes:
        of, identity: its file and its identity.
        final: offset up to which its bytes do not change any more.
        is_old: True once a later segment was there.

    Raises:
        OSError: it is gone, or cannot be opened.
        HostError: this user may not read it.
        DamagedError: its head is damaged, or not all there yet.
    """

    def __init__(self, of: SegmentFile) -> None:
        self.of = of
        try:
            self._file = of.path.open("rb", buffering=0)
        except PermissionError as error:
            raise HostError(f"{of.path}: cannot be read: {error.strerror}") from error
        self.is_old = False
        try:
            data = os.pread(self._file.fileno(), segment.MOST_HEAD, 0)
            _, self.final = segment.read_head(data)
        except BaseException:
            self.close()
            raise
        self.identity = segment.identity(data[: self.final])

    def close(self) -> None:
        self._file.close()

    def look(self) -> int:
        """Return how far its bytes are final."""
        size = os.fstat(self._file.fileno()).st_size
        while (found := self._block(size)) is not None:
            self.final += found.end
        return max(self.final, size) if self.is_old else self.final

    @property
    def has_keyframe(self) -> bool:
        """True where a whole keyframe is among the blocks that were not looked at yet; it looks at all of them."""
        size = os.fstat(self._file.fileno()).st_size
        keyed = False
        while (found := self._block(size)) is not None:
            keyed |= found.kind == segment.KEYFRAME
            self.final += found.end
        return keyed

    def _block(self, size: int) -> segment.Block | None:
        """Return the block at `final`, with its offsets from there; None where it is not all there."""
        found = segment.block_at(os.pread(self._file.fileno(), segment.BLOCK_HEAD, self.final), 0)
        return found if found is not None and self.final + found.end <= size else None

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._file.fileno(), length, offset)


class FolderTail:
    """A reader of a folder that is written meanwhile. Nothing waits.

    Args:
        place: the folder.
        last: the end of what was read before, by another process perhaps; None: nothing was.
        most_bytes: where more than so many bytes have come since, or the place is not there any more, it begins with the
            newest segment that has a keyframe.
    """

    def __init__(self, place: Path, last: CopyPlace | None, most_bytes: int) -> None:
        self._place = place
        self._last = last
        self._most_bytes = most_bytes
        self._open: _OpenSegment | None = None
        self._at = 0

    def next(self) -> Piece | None:
        """Return the next bytes that are final; None where there are none yet.

        Raises:
            HostError: the folder cannot be read.
        """
        if self._open is None and not self._begin():
            return None
        while (opened := self._open) is not None:
            if (end := opened.look()) > self._at:
                data = opened.read(self._at, min(PIECE, end - self._at))
                if data:
                    piece = Piece(opened.identity, self._at, data)
                    self._at += len(data)
                    return piece
            if not self._go_on(opened):
                return None
        return None

    def end(self) -> CopyPlace | None:
        """Return the end of the final bytes of the present segment; None where there is none."""
        return None if self._open is None else CopyPlace(self._open.identity, self._open.look())

    def close(self) -> None:
        """Close what is open."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _enter(self, opened: _OpenSegment, at: int) -> None:
        self.close()
        self._open, self._at = opened, at

    def _go_on(self, opened: _OpenSegment) -> bool:
        """Turn to what follows the bytes that were read; return False where nothing does yet."""
        stored = folder.stored(self._place)
        later = [each for each in stored if each.sequence > opened.of.sequence]
        if not later and stored and opened.of not in stored:  # the folder was emptied, and its numbers began anew
            self.close()
            self._last = None
            return self._begin()
        if later and not opened.is_old:
            opened.is_old = True
            return True
        for each in later:
            try:
                self._enter(_OpenSegment(each), 0)
            except (OSError, segment.DamagedError):
                continue  # dropped meanwhile, or damaged, or begun this moment: the last one is tried again
            return True
        return False

    def _begin(self) -> bool:
        """Open the segment to begin with; return False where there is none."""
        behind = 0
        for opened in _newest_first(self._place):
            end = opened.look()
            if self._last is not None and opened.identity == self._last.segment:
                self._enter(opened, min(self._last.offset, end))
                return True
            behind += end
            opened.close()
            if self._last is None or behind > self._most_bytes:
                break
        newest: _OpenSegment | None = None
        for opened in _newest_first(self._place):
            if opened.has_keyframe:
                if newest is not None:
                    newest.close()
                self._enter(opened, 0)
                return True
            if newest is None:
                newest = opened
            else:
                opened.close()
        if newest is None:
            return False
        self._enter(newest, 0)
        return True


def _newest_first(place: Path) -> Iterator[_OpenSegment]:
    for each in reversed(folder.stored(place)):
        try:
            yield _OpenSegment(each)
        except (OSError, segment.DamagedError):
            continue
