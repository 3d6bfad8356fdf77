# SPDX-License-Identifier: Apache-2.0
"""The channel from the daemon's loop to the writer: entries of a tape in memory that both map.

Putting an entry copies it once and waits for nobody: where there is no room it is refused. The writer copies all that
waits out at once (agent.recorder.openblock). Positions only grow. An entry does not wrap around: what is left behind the
last one is passed over. An empty channel begins anew at its start, so that mostly the same few pages are used; what is
passed over then counts as read, and all of the channel is free.

The writer learns of entries by a counter (eventfd(2)), whose system calls also order the accesses to the memory on both
sides.
"""

import contextlib
import mmap
import os
from typing import Final, Self

from agent.recorder.marks import SKIP
from agent.recorder.tape import ENTRY, Data, padded

_REWIND: Final = 1 << 20  # bytes
_RING_AT: Final = 1 << 18  # bytes after which the writer is told at once


class Channel:
    """One end of a channel.

    Args:
        memory: descriptor of the memory.
        bell: descriptor of the counter.
    """

    def __init__(self, memory: int, bell: int) -> None:
        self.memory, self.bell = memory, bell
        total = os.fstat(memory).st_size
        self.size = total - mmap.PAGESIZE
        self._map = mmap.mmap(memory, total)
        self._positions = memoryview(self._map)[:24].cast("Q")  # written, read, where it last began anew
        self._data = memoryview(self._map)[mmap.PAGESIZE :]
        self._told = 0
        self._read = 0

    @classmethod
    def create(cls, size: int) -> Self:
        """Make a channel of so many bytes, a multiple of the page size."""
        memory = os.memfd_create("ckptree-tape")
        os.ftruncate(memory, mmap.PAGESIZE + size)
        return cls(memory, os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))

    @property
    def pending(self) -> int:
        """Bytes that are written and not read."""
        return self._positions[0] - max(self._positions[1], self._positions[2])

    # ---- the loop's end --------------------------------------------------------------------------------------------

    def put(self, kind: int, value: int, ns: int = 0, payload: Data = b"") -> bool:
        """Append an entry; return False if there is no room."""
        length = len(payload)
        whole = ENTRY.size + padded(length)
        position, read, begun = self._positions
        free = self.size - position + max(read, begun)
        at = position % self.size
        if at > _REWIND and free == self.size:  # what is passed over takes no room: the reader is told where to go on
            position += self.size - at
            self._positions[2] = position
            at = 0
        elif at and self.size - at < whole:
            if self.size - at >= ENTRY.size:
                ENTRY.pack_into(self._data, at, SKIP, 0, 0, 0)
            free -= self.size - at
            position += self.size - at
            at = 0
        if free < whole:
            return False
        ENTRY.pack_into(self._data, at, kind, length, value, ns)
        at += ENTRY.size
        self._data[at : at + length] = payload
        if length & 7:
            self._data[at + length : at + padded(length)] = bytes(-length & 7)
        position += whole
        self._positions[0] = position
        if position - self._told > _RING_AT:
            self.ring()
        return True

    def ring(self) -> None:
        """Tell the writer of new entries."""
        if self._told != self._positions[0]:
            self._told = self._positions[0]
            with contextlib.suppress(BlockingIOError):
                os.eventfd_write(self.bell, 1)

    # ---- the writer's end ------------------------------------------------------------------------------------------

    def hush(self) -> None:
        """Reset the counter, before reading."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.bell)

    def waiting(self) -> memoryview:
        """Return entries that have been written and not taken, as far as they are in one piece; empty: none."""
        written = self._positions[0]
        if self._read == written:
            return self._data[:0]
        self._read = read = max(self._read, self._positions[2])
        at = read % self.size
        if self.size - at < ENTRY.size or ENTRY.unpack_from(self._data, at)[0] == SKIP:
            self._read = read = read + self.size - at
            at = 0
        return self._data[at : at + min(written - read, self.size - at)]

    @property
    def unread(self) -> int:
        """Bytes that are written and not taken."""
        return self._positions[0] - max(self._read, self._positions[2])

    def took(self, count: int) -> None:
        """Mark so many bytes as read: the loop may write over them once `free` is called."""
        self._read += count

    def free(self) -> None:
        """Let the loop write over all that was taken."""
        self._positions[1] = self._read

    def close(self) -> None:
        """Unmap and close."""
        self._positions.release()
        self._data.release()
        self._map.close()
        os.close(self.memory)
        os.close(self.bell)
