# SPDX-License-Identifier: Apache-2.0
"""The mapped BPF ring buffer, read in batches, and the counters beside it.

Layout (kernel/bpf/ringbuf.c): one page that holds the consumer's position and that we may write; then, read-only, one
page with the producer's position and the data, mapped twice in a row so that no record is ever split. Positions only
grow. A record is ``u32 length | BUSY | DISCARD, u32 offset of its page``, then the bytes, padded to 8.

The kernel's side publishes a record by clearing BUSY; nothing behind a busy record may be looked at, so headers are read
in place, one aligned word each, never copied first. Nobody wakes us for a record: epoll would not even tell, so ask
`pending` on a timer.
"""

import mmap
import sys
from collections.abc import Callable
from typing import NamedTuple

from agent import wire

_BUSY = 1 << 31
_DISCARD = 1 << 30
_LENGTH = _DISCARD - 1
_PAGE = mmap.PAGESIZE


class Ring:
    """A BPF_MAP_TYPE_RINGBUF, consumed by this process alone.

    Args:
        fd: of the map; stays the caller's.
        size: bytes of its data area.

    Attributes:
        most_pending: the most that `drain` has found waiting, bytes.
    """

    def __init__(self, fd: int, size: int) -> None:
        self.size = size
        self.most_pending = 0
        self._mask = size - 1
        self._consumer_map = mmap.mmap(fd, _PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._producer_map = mmap.mmap(fd, _PAGE + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=_PAGE)
        self._consumer = memoryview(self._consumer_map).cast("Q")
        producer = memoryview(self._producer_map)
        self._producer = producer[:8].cast("Q")
        self._data = producer[_PAGE:]
        self._words = self._data.cast("I")

    @property
    def position(self) -> int:
        """Bytes consumed since the ring was made, by whomever: it stays with the ring, and only grows."""
        return self._consumer[0]

    @property
    def pending(self) -> int:
        """Bytes that producers have reserved and nobody has consumed."""
        return self._producer[0] - self._consumer[0]

    def first(self) -> int | None:
        """The number of the record that is to be consumed next; None where there is none, or not yet."""
        at = self._consumer[0] & self._mask
        if not self.pending or self._words[at >> 2] & (_BUSY | _DISCARD):
            return None
        seq: int = wire.HEAD.unpack_from(self._data, at + 8)[0]
        return seq

    def drain(self, feed: Callable[[memoryview, int], None], limit: int = sys.maxsize) -> int:
        """Hand every finished record to `feed(data, at)`, then give the room back.

        Should `feed` raise, the batch is not consumed: it comes again.

        Args:
            feed: takes each record.
            limit: look at no record that begins so many bytes behind the first one.

        Returns:
            Bytes consumed; 0 when there was nothing, or the next record is still being written.
        """
        position = start = self._consumer[0]
        end = self._producer[0]
        if end - start > self.most_pending:
            self.most_pending = end - start
        if end - start > limit:
            end = start + limit
        data, words, mask = self._data, self._words, self._mask
        while position < end:
            at = position & mask
            header = words[at >> 2]
            if header & _BUSY:
                break
            if not header & _DISCARD:
                feed(data, at + 8)
            position += (header & _LENGTH) + 15 & ~7
        self._consumer[0] = position
        return position - start

    def close(self) -> None:
        """Unmap."""
        for view in (self._words, self._data, self._producer, self._consumer):
            view.release()
        self._producer_map.close()
        self._consumer_map.close()


class LostNumbers(NamedTuple):
    """How far the numbers of lost records have been read.

    Attributes:
        read: how many.
        slots: what struct page held of them then.
    """

    read: int
    slots: tuple[int, ...]


class Page:
    """The counters of the kernel side: struct page of bpf/events.h.

    Args:
        fd: of the array map that holds it, mappable.

    Attributes:
        known: how far it has been read.
    """

    def __init__(self, fd: int) -> None:
        size = -(-wire.reader(wire.PAGE).size // _PAGE) * _PAGE
        self._map = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ)
        self._words = memoryview(self._map).cast("Q")
        self.known = LostNumbers(0, (0,) * wire.LOST_NUMBERS)

    @property
    def issued(self) -> int:
        """Numbers taken so far: every record that exists has a smaller one."""
        return self._words[0]

    @property
    def lost(self) -> int:
        """Numbers whose records found no room in the ring."""
        return self._words[1]

    @property
    def nested(self) -> int:
        """Program runs skipped for want of a scratch buffer."""
        return self._words[2]

    @property
    def withheld(self) -> int:
        """Changes of groups and subreaper flags that were not announced, for their users' allowances were used up."""
        return self._words[3]

    def lost_numbers(self) -> tuple[set[int], bool]:
        """Which numbers were lost since the last call.

        Returns:
            The numbers, and whether there were so many that some may have been overwritten.
        """
        before, words = self.known, self._words
        count = words[1]
        # The kernel side counts first and writes then, at any time, also while this copies. A place that has changed tells
        # of one more number, whatever the count was; one that is counted and not yet written is told the next time.
        slots = tuple(words[8 : 8 + wire.LOST_NUMBERS].tolist())
        found = {number for number, old in zip(slots, before.slots, strict=True) if number != old}
        self.known = LostNumbers(count, slots)
        return found, words[1] - before.read > wire.LOST_NUMBERS

    def pass_over(self) -> None:
        """Take all that have been lost so far for known; each of them is smaller than what is `issued` afterwards.

        The slots are read first: one that is filled behind the count must not look as if it had been before.
        """
        slots = tuple(self._words[8 : 8 + wire.LOST_NUMBERS])
        self.known = LostNumbers(self._words[1], slots)

    def close(self) -> None:
        """Unmap."""
        self._words.release()
        self._map.close()
