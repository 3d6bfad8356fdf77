# SPDX-License-Identifier: Apache-2.0
"""The copy of another host's recording: a folder of the same format, to which pieces are appended as they come.

Theory
------
A piece names its segment and its offset there, so one that comes twice changes nothing, and one that is missing is noticed:
the rest of its segment is left out, and the recording goes on with the next segment. A reader then names the gap, as
it does in the original. Pieces may come again, from any of them on, to mend the newest segment: what was left out is
appended, and from a point on, where bytes of the copy are damaged, they are written over. A stream is in order, so what
comes again in front of that segment is older than it, and begins no segment: it was kept once, and dropped. Its clocks
and numbers could not tell that, for it may be of another boot. The position stays where it was meanwhile.

What counts as kept is what `sync` has written: bytes first, then how far they reach and where that is in the stream that
brought them. Both lie in the file ``position``, in two slots that are written in turn, so that one of them is whole
whatever happens. Bytes behind that position are taken back when the folder is opened: they come again.

    position := slot, slot
    slot     := u64 generation, u64 sequence in the stream, u64 size of the segment, segment (16 bytes), stream (16 bytes),
                u32 CRC-32 of the slot so far, u32 0                                                  little endian

Whoever sends the pieces may be hostile. The bytes kept are bounded, and so is the count of files: each counts as a page
at least. Of a segment no more than half of the bound is kept.
"""

import contextlib
import hashlib
import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from agent.errors import HostError
from agent.record import NamedTuple
from agent.recorder import folder, folderlock, folderrights, segment
from agent.recorder.folder import SegmentFile
from agent.recorder.foldertail import Piece
from agent.recorder.retention import Clocks, Retention

_POSITION: Final = "position"
_SLOT: Final = struct.Struct("<QQQ16s16sII")
_BEFORE_CHECK: Final = _SLOT.size - 8
_LEAST_BYTES: Final = 4096  # what a file takes, however small
_LAST_NUMBER: Final = 2**63


class CopyPosition(NamedTuple):
    """The position up to which everything is kept.

    Attributes:
        generation: count of positions written.
        sequence: of the last message of the stream that is kept, or needed no keeping.
        size: bytes of the newest segment.
        segment, stream: identities of the newest segment, and of the stream.
    """

    generation: int
    sequence: int
    size: int
    segment: bytes
    stream: bytes


_NOTHING: Final = CopyPosition(0, 0, 0, bytes(16), bytes(16))


class FolderCopy:
    """A folder to which pieces are appended, by one process.

    Args:
        place: the folder; it is made where it is not there.
        max_bytes, max_age_s: bounds of what is kept, as of `Retention`.

    Attributes:
        gaps: how often the rest of a segment was left out, for a piece was missing.

    Raises:
        HostError: it cannot be written, or another process has it.
    """

    def __init__(self, place: Path, max_bytes: int, max_age_s: int) -> None:
        self._place = place
        self._max_segment = max_bytes // 2
        folder.make(place)
        folderrights.refuse_writers(place)
        self._lock = folderlock.lock(place)
        self._file = self._slots = -1
        self._path, self._segment, self._size, self._broken = place, b"", 0, False
        self._facts: segment.SegmentFacts | None = None
        self._again = -1  # number of the last message that came again; negative: none does
        self._in_front = b""  # the segment in front of which they come; empty: they are not in front of it
        try:
            self._hold()
            folderrights.admit(place, None)
            self._slots = os.open(place / _POSITION, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            self._kept = _read(os.pread(self._slots, 2 * _SLOT.size, 0))
            self._names = _identities(place)
            self._take_back()
            self._files = Retention(place, max_bytes, max_age_s)
        except OSError as error:
            self.close()
            raise HostError(f"{place}: the copy cannot be written: {error.strerror}") from error
        except BaseException:
            self.close()
            raise
        self._unsynced = self._renamed = False
        self._mended_to = 0  # size of the newest segment while it is written over
        self.gaps = 0

    @property
    def kept_bytes(self) -> int:
        """Bytes of all segments."""
        return self._files.bytes

    @property
    def segments(self) -> int:
        """Count of segments."""
        return self._files.count

    @property
    def newest(self) -> str:
        """Name of the newest segment's file; empty where there is none."""
        return self._path.name if self._file >= 0 else ""

    @property
    def identity(self) -> bytes:
        """Identity of the newest segment; empty where there is none."""
        return self._segment

    def enter(self, stream: str, last: int = _LAST_NUMBER) -> int:
        """Turn to a stream; return the number of the message behind which it is to be read; 0: from its beginning on.

        Args:
            stream: a text by which the stream is known.
            last: number of its last message. A server that has lost some gives their numbers to others.
        """
        kept = self._kept
        if kept.stream != _known_by(stream):
            self._kept = kept._replace(sequence=0, stream=_known_by(stream))
            self._again, self._in_front = -1, b""
        elif kept.sequence > last:
            self._kept = kept._replace(sequence=last)
            self._come_again()
        return self._kept.sequence if self._again < 0 else self._again

    def _come_again(self) -> None:
        """Expect the stream from its beginning on."""
        self._again = 0
        self._in_front = self._segment

    @property
    def lacks_from(self) -> int:
        """Offset of the newest segment at which a piece is missing; negative: none is."""
        return self._size if self._broken else -1

    def mend(self, at: int) -> None:
        """Have pieces written over the newest segment, or appended to it, that come again from an offset on.

        The stream comes from its beginning on. Where they do not come, the segment stays as it is.

        Args:
            at: the offset.
        """
        self.gaps -= self._broken
        self._broken = False
        self._come_again()
        if self._file >= 0 and at < self._size:
            self._mended_to = max(self._mended_to, self._size)
            self._stand_at(at)

    def _stand_at(self, size: int) -> None:
        self._size = size
        os.lseek(self._file, size, os.SEEK_SET)

    # ---- pieces ----------------------------------------------------------------------------------------------------

    def add(self, piece: Piece, sequence: int = 0) -> bool:
        """Append a piece; return False where it is left out.

        Args:
            piece: the piece.
            sequence: number of its message in the stream; 0: not known, and no larger than that of the position.

        Raises:
            OSError: it cannot be written. The folder is as before.
        """
        if piece.segment == self._in_front or sequence > self._kept.sequence:
            self._in_front = b""
        if self._file >= 0 and piece.segment == self._segment:
            if piece.offset > self._size:
                self._leave_as_it_is()
            new = piece.offset + len(piece.data) - self._size
            if piece.offset > self._size or self._size + new > self._max_segment:
                self._break()
            if self._broken or new <= 0:
                return False
            self._write(piece.data[-new:])
            return True
        if piece.offset or piece.segment in self._names or self._is_dropped(piece):
            return False
        try:
            facts, length = segment.read_head(piece.data)
        except segment.DamagedError:
            return False
        if segment.identity(piece.data[:length]) != piece.segment or facts.first >= 2 * _LAST_NUMBER:
            return False
        newest = self._facts
        if newest is not None and facts.boot_id == newest.boot_id and facts.boottime_ns < newest.boottime_ns:
            return False  # it was kept once, and dropped
        self._leave_as_it_is()
        self._begin(piece, facts)
        return True

    def _is_dropped(self, piece: Piece) -> bool:
        """Return True if a piece comes again in front of the newest segment, of one that the copy has no more.

        The newest one itself is not in the copy where somebody has removed it; it comes in front of itself then.
        """
        return bool(self._in_front) and piece.segment != self._kept.segment

    def _leave_as_it_is(self) -> None:
        """Mend the newest segment no more: what it was to be mended with has not come."""
        if self._mended_to:
            self._stand_at(self._mended_to)
            self._mended_to = 0

    def _break(self) -> None:
        if not self._broken:
            self._broken = True
            self.gaps += 1

    def _begin(self, piece: Piece, facts: segment.SegmentFacts) -> None:
        """Begin a segment. It keeps its number, if the copy has none that is as large: after the original was emptied."""
        self._sync_file()
        last = max((each.sequence for each in folder.stored(self._place)), default=0)
        sequence = facts.sequence if last < facts.sequence < _LAST_NUMBER else last + 1
        path = self._place / folder.name_of(sequence, facts.first)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.open(path, flags, 0o600)
        try:
            _write_all(file, piece.data)
        except OSError:
            os.close(file)
            path.unlink(missing_ok=True)
            raise
        if self._file >= 0:
            os.close(self._file)
        self._file, self._path, self._segment, self._size = file, path, piece.segment, len(piece.data)
        self._names[piece.segment] = path
        self._facts = facts
        self._in_front = b""
        self._broken = False
        self._unsynced = self._renamed = True
        self._files.grew(path, max(_LEAST_BYTES, self._size), Clocks.now())

    def _write(self, data: bytes) -> None:
        try:
            _write_all(self._file, data)
        except OSError:
            with contextlib.suppress(OSError):
                if not self._mended_to:
                    os.ftruncate(self._file, self._size)
                os.lseek(self._file, self._size, os.SEEK_SET)
            raise
        self._size += len(data)
        if self._size >= self._mended_to:
            self._mended_to = 0
        self._unsynced = True
        self._files.grew(self._path, max(_LEAST_BYTES, self._size, self._mended_to), Clocks.now())

    def sync(self, stream: str, sequence: int) -> None:
        """Have everything so far survive a power cut, and note the position in the stream, if it is behind the last one.

        Args:
            stream: a text by which the stream is known.
            sequence: of the last message that was added, or left out.

        Raises:
            OSError: it cannot be written.
        """
        self._sync_file()
        if self._again >= 0 and self._kept.stream == _known_by(stream) and sequence < self._kept.sequence:
            self._again = sequence
            if self._in_front or self._kept.segment == self._segment:
                return  # all of them come again after a crash, too
        self._again = -1
        self._note(stream, sequence)

    def _note(self, stream: str, sequence: int) -> None:
        """Write a position."""
        size, of = (max(self._size, self._mended_to), self._segment) if self._file >= 0 else (0, bytes(16))
        kept = CopyPosition(self._kept.generation + 1, sequence, size, of, _known_by(stream))
        slot = _SLOT.pack(*kept, 0, 0)[:_BEFORE_CHECK]
        slot += struct.pack("<II", zlib.crc32(slot), 0)
        if os.pwrite(self._slots, slot, kept.generation % 2 * _SLOT.size) != len(slot):
            raise OSError(f"{self._place}: the position could not be written")
        os.fdatasync(self._slots)
        self._kept = kept

    def _sync_file(self) -> None:
        if self._unsynced:
            os.fdatasync(self._file)
            self._unsynced = False
        if self._renamed:
            folder.sync(self._place)
            self._renamed = False

    def trim(self) -> None:
        """Remove the oldest segments beyond the bounds. The newest segment must have its keyframe."""
        dropped = self._files.dropped
        self._files.trim(Clocks.now())
        if self._files.dropped > dropped:
            self._names = {key: value for key, value in self._names.items() if value.exists()}

    def close(self) -> None:
        """Let go of the folder."""
        for descriptor in (self._file, self._slots, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._slots = self._lock = -1

    # ---- the beginning ---------------------------------------------------------------------------------------------

    def _hold(self) -> None:
        if not folderlock.hold(self._lock):
            raise HostError(f"{self._place}: another process keeps a copy, or a recording, there")

    def _take_back(self) -> None:
        """Open the newest segment that is kept, without what came behind the position."""
        stored = folder.stored(self._place)
        if self._kept is _NOTHING:
            if stored:
                raise HostError(f"{self._place}: there is a recording that is no copy: name another folder")
            self._note("", 0)
        kept = self._kept
        if not any(kept.segment):
            _remove(stored)
            self._names.clear()
        elif (path := self._names.get(kept.segment)) is not None:
            number = next(each.sequence for each in stored if each.path == path)
            _remove([each for each in stored if each.sequence > number])
            self._names = {key: value for key, value in self._names.items() if value.exists()}
            self._open(kept.segment, path)
            self._stand_at(min(kept.size, self._size))
            os.ftruncate(self._file, self._size)
            if self._size < kept.size:  # its end is lost: the stream may still have it
                self._come_again()
        else:  # somebody has removed it: the newest one that is left goes on
            if self._names:
                self._open(*next(reversed(self._names.items())))
            self._come_again()

    def _open(self, identity: bytes, path: Path) -> None:
        """Open a segment as the newest one, at its end."""
        self._file = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._path, self._segment = path, identity
        self._stand_at(os.fstat(self._file).st_size)
        with path.open("rb") as file:
            self._facts, _ = segment.read_head(file.read(segment.MOST_HEAD))


def _remove(files: Iterable[SegmentFile]) -> None:
    for each in files:
        each.path.unlink(missing_ok=True)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _known_by(stream: str) -> bytes:
    return hashlib.sha256(stream.encode()).digest()[:16]


def _read(data: bytes) -> CopyPosition:
    """Return the newest position that is whole, or `_NOTHING`."""
    found = []
    for at in (0, _SLOT.size):
        slot = data[at : at + _SLOT.size]
        if len(slot) == _SLOT.size:
            *told, check, _ = _SLOT.unpack(slot)
            if zlib.crc32(slot[:_BEFORE_CHECK]) == check:
                found.append(CopyPosition(*told))
    return max(found, default=_NOTHING)


def _identities(place: Path) -> dict[bytes, Path]:
    found = {}
    for each in folder.stored(place):
        try:
            with each.path.open("rb") as file:
                data = file.read(segment.MOST_HEAD)
            _, length = segment.read_head(data)
        except segment.DamagedError:
            continue
        found[segment.identity(data[:length])] = each.path
    return found
