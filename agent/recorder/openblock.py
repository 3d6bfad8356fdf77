# SPDX-License-Identifier: Apache-2.0
"""The open block of a tape: the entries that a writer has taken from the channel and not written yet. Pure.

The bytes are copied once, into memory that is used for each block again. So the channel is empty again soon, and the index
and the compression find the bytes in a processor's cache.
"""

from array import array
from typing import Final

from agent.recorder import tape
from agent.recorder.marks import MARK, SKIP
from agent.table.inputs import Input

_NO_ENTRIES: Final = (SKIP, MARK)


class OpenBlock:
    """The open block of a writer.

    Args:
        room: bytes for which there is room at once, a multiple of 8; for more it is made.

    Attributes:
        words: the entries, as words, and behind `size` bytes of them what earlier blocks have left.
        size: bytes of the entries.
        first, next: numbers of the records expected before and behind it.
        first_ns, last_ns: CLOCK_BOOTTIME of its first and its last part, ns; 0: it has none.
        ahead_ns: by how much CLOCK_REALTIME is ahead of CLOCK_BOOTTIME at its end.
        since_s: time.monotonic() when it was begun.
    """

    def __init__(self, room: int) -> None:
        self.words = array("I", bytes(room))
        self._bytes = memoryview(self.words).cast("B")
        self.size = 0
        self.first = self.next = 0
        self.first_ns = self.last_ns = 0
        self.ahead_ns = 0
        self.since_s = 0.0

    @property
    def entries(self) -> memoryview:
        """The entries, which `clear` gives up."""
        return self._bytes[: self.size]

    def clear(self) -> None:
        """Begin the next block, behind this one."""
        self.size = self.first_ns = self.last_ns = 0
        self.first = self.next

    def take(self, waiting: memoryview, most: int) -> int:
        """Take entries up to a mark, or until the block has so many bytes, or as far as they are in one piece.

        Args:
            waiting: what the channel has; it begins with an entry that is no mark.
            most: bytes of the block.

        Returns:
            The count of bytes that it took.
        """
        unpack, head = tape.ENTRY.unpack_from, tape.ENTRY.size
        at, room, last = 0, most - self.size, len(waiting) - head
        while at < room and at <= last:
            kind, length, value, ns = unpack(waiting, at)
            if kind == tape.PART:
                if value > self.next:
                    self.next = value
            elif kind in _NO_ENTRIES:
                break
            else:
                self._note(kind, value, ns)
            if ns:
                self.first_ns, self.last_ns = self.first_ns or ns, ns
            at += head + tape.padded(length)
        self._add(waiting[:at])
        return at

    def _note(self, kind: int, value: int, ns: int) -> None:
        """Note what an entry other than a part changes."""
        if kind == tape.CLOCK:
            self.ahead_ns = value - ns
        elif kind == Input.GIVE_UP:
            self.next = max(self.next, value + 1)
        elif kind in (tape.END, Input.GIVE_UP_BELOW):
            self.next = max(self.next, value)

    def _add(self, entries: memoryview) -> None:
        size = self.size + len(entries)
        if size > len(self._bytes):
            more = array("I", bytes(size))
            memoryview(more).cast("B")[: self.size] = self.entries
            self._bytes.release()
            self.words, self._bytes = more, memoryview(more).cast("B")
        self._bytes[self.size : size] = entries
        self.size = size
