# SPDX-License-Identifier: Apache-2.0
"""The end of a segment to which nothing happens: a block of its tape that waits in a file of its own.

Theory
------
A daemon states each second up to when the tape has everything. While nothing else happens, each statement is a block of
some 120 bytes, ten megabytes a day, of which the last one alone counts. So it is not appended to the segment: it is written
over the one before it, in the file ``idle`` beside the segments, for a minute at most. Then, and in front of all else that
comes, it is appended. A reader takes it for the last block of the segment, if the segment ends where the block begins.

A file that was written half, that has anything but such a block, or that belongs to a segment that has grown meanwhile,
is as none: then less is stated. Where power
is cut, it may be lost. The copy of a recording that a stand-by keeps has none.

Grammar (little endian)::

    idle := "ckptidl\\0", u32 CRC-32 of the facts in the segment's head, u32 bytes of the block, u64 offset of the block
            in the segment, u32 CRC-32 of the block, u32 CRC-32 of the file so far, block (agent.recorder.segment)
"""

import contextlib
import os
import stat
import struct
import zlib
from pathlib import Path
from typing import Final

from agent.record import NamedTuple
from agent.recorder import compression, folder, folderrights, segment, tape
from agent.recorder.tape import Data

NAME: Final = "idle"
LONGEST_NS: Final = 60_000_000_000
"""The longest time by which the statements in a segment are behind that in the file, ns."""
_MAGIC: Final = b"ckptidl\0"
_HEAD: Final = struct.Struct("<8sIIQII")
_BEFORE_CHECK: Final = _HEAD.size - 4
_MOST: Final = 1 << 12  # bytes of the file that are looked at
_LOOK_BYTES: Final = tape.ENTRY.size + tape.CLOCKS.size
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class IdleBlock(NamedTuple):
    """A block that waits.

    Attributes:
        facts_check: CRC-32 of the facts in the head of its segment.
        offset: of its head in the segment.
        data: its head, and its stored bytes.
    """

    facts_check: int
    offset: int
    data: bytes


def read(place: Path) -> IdleBlock | None:
    """Return the block that waits in a folder, which may come from anywhere; None: none is whole, or as a writer's."""
    data = b""
    with contextlib.suppress(OSError):
        file = os.open(place / NAME, _READ)
        try:
            if stat.S_ISREG(os.fstat(file).st_mode):
                data = os.pread(file, _MOST, 0)
        finally:
            os.close(file)
    if len(data) < _HEAD.size:
        return None
    magic, facts_check, size, offset, check, own = _HEAD.unpack_from(data)
    block = data[_HEAD.size : _HEAD.size + size]
    is_whole = magic == _MAGIC and zlib.crc32(data[:_BEFORE_CHECK]) == own and zlib.crc32(block) == check
    return IdleBlock(facts_check, offset, block) if is_whole and _is_statement(block) else None


def adopt(place: Path) -> None:
    """Append the block that waits to its segment, which no process writes any more: the file is needed for another one.

    Raises:
        HostError: the folder cannot be read.
    """
    waiting, stored = read(place), folder.stored(place)
    if waiting is None or not stored:
        return
    with contextlib.suppress(OSError, segment.DamagedError), stored[-1].path.open("r+b", buffering=0) as file:
        begun = file.read(segment.MOST_HEAD)
        segment.read_head(begun)
        if segment.facts_check(begun) == waiting.facts_check and os.fstat(file.fileno()).st_size == waiting.offset:
            _append(file.fileno(), waiting)


def _append(file: int, waiting: IdleBlock) -> None:
    """Append a block to its segment, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    done = 0
    try:
        while done < len(waiting.data):
            done += os.pwrite(file, waiting.data[done:], waiting.offset + done)
    except OSError:
        os.ftruncate(file, waiting.offset)
        raise


class IdleFile:
    """The file, as the writer of a recording has it.

    Args:
        place: the folder.
        group: number of the group that may read; None: none may.
    """

    def __init__(self, place: Path, group: int | None) -> None:
        self._path, self._group = place / NAME, group
        self._file = -1
        self._facts_check = 0
        self._clocks: tuple[int, int] | None = None  # of the look that is the last block of the segment
        self._looked_ns = 0
        self._waiting = b""

    def begin(self, facts_check: int) -> None:
        """Begin a segment.

        Args:
            facts_check: CRC-32 of the facts in its head.
        """
        self.close()
        self._facts_check = facts_check
        with contextlib.suppress(OSError):  # each statement is appended then
            self._file = os.open(self._path, _WRITE, 0o600)
            folderrights.permit(self._file, self._group, 0o600 if self._group is None else 0o640)

    def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._waiting, self._clocks = b"", None

    def is_idle(self, entry: Data) -> bool:
        """Return True if an entry is a look at clocks that have not moved since the last block of the segment."""
        looked = _look(entry)
        return looked is not None and looked[1:] == self._clocks

    def keep(self, entry: Data, offset: int, block: bytes) -> bool:
        """Have a block wait; return False where it is to be appended.

        Args:
            entry: the only entry of the block.
            offset: at which it would be appended.
            block: its head, and its stored bytes.
        """
        looked = _look(entry)
        if looked is None or self._clocks is None or looked[1:] != self._clocks or self._file < 0:
            return False
        if looked[0] - self._looked_ns >= LONGEST_NS:
            self._waiting = b""  # the next block states more
            return False
        head = _HEAD.pack(_MAGIC, self._facts_check, len(block), offset, zlib.crc32(block), 0)[:_BEFORE_CHECK]
        data = b"".join((head, struct.pack("<I", zlib.crc32(head)), block))
        try:
            is_kept = os.pwrite(self._file, data, 0) == len(data)
        except OSError:
            is_kept = False
        self._waiting = block if is_kept else b""
        return is_kept

    def take(self) -> bytes:
        """Return the block that waits, which is to be appended in front of another one; empty: none waits."""
        waiting, self._waiting, self._clocks = self._waiting, b"", None
        return waiting

    def appended(self, entry: Data) -> None:
        """Note that a block of one entry was appended."""
        looked = _look(entry)
        if looked is not None:
            self._looked_ns, *clocks = looked
            self._clocks = clocks[0], clocks[1]


def _is_statement(block: bytes) -> bool:
    """Return True if a block has one look at the clocks and nothing else."""
    head = segment.block_at(block, 0)
    if head is None or (head.kind, head.end) != (segment.TAPE, len(block)) or head.size > _LOOK_BYTES:
        return False
    found = compression.content(block[head.at :], head)
    return found is not None and len(found) == _LOOK_BYTES and _look(found) is not None and head.first == head.next


def _look(entry: Data) -> tuple[int, int, int] | None:
    """Return CLOCK_BOOTTIME of a look at the clocks, and by how much the others are ahead of it; None: it is none."""
    kind, length, value, ns = tape.ENTRY.unpack_from(entry)
    if kind != tape.CLOCK or length != tape.CLOCKS.size or len(entry) != tape.ENTRY.size + length:
        return None
    (monotonic_ns,) = tape.MONOTONIC.unpack_from(entry, tape.ENTRY.size)
    return ns, value - ns, monotonic_ns - ns
