# SPDX-License-Identifier: Apache-2.0
"""The mapped BPF ring buffer, read in batches, and the counters beside it.

Layout (kernel/bpf/ringbuf.c): one writable page that holds the consumer's position; then, read-only, one page with the
producer's position and the data, mapped twice in a row so that no record is ever split. Positions only grow. A record
is ``u32 length | BUSY | DISCARD, u32 offset of its page``, then the bytes, padded to 8.

The kernel side publishes a record by clearing BUSY, and a reader must not look behind a busy record. So headers are
read in place, one aligned word each, and never copied first. The hooks wake the reader only once in many records
(agent.daemon.backoff), so the reader checks `pending` on a timer.
"""

import mmap
import sys
from collections.abc import Callable

from agent.record import NamedTuple
from agent.table import wire

_BUSY = 1 << 31
_DISCARD = 1 << 30
_LENGTH = _DISCARD - 1
_HEADER_BYTES = 8
_PADDED = _HEADER_BYTES + 7  # added to a length and rounded down to 8: header and padding
_PAGE = mmap.PAGESIZE

# struct page, in words of 8 bytes.
_ISSUED, _LOST, _NESTED, _WITHHELD = range(4)
_SLOTS_AT = wire.reader(wire.PAGE[:-1]).size // 8
_SLOTS = slice(_SLOTS_AT, _SLOTS_AT + wire.LOST_NUMBERS)


class Ring:
    """A BPF_MAP_TYPE_RINGBUF, consumed by this process alone.

    Args:
        fd: of the map; the caller closes it.
        size: bytes of its data area.

    Attributes:
        most_pending: the largest amount that `drain` has found waiting, bytes.
        tap: called with the bytes of each batch, headers and all, before they are consumed; None: nobody keeps them.
    """

    def __init__(self, fd: int, size: int) -> None:
        self.size = size
        self.most_pending = 0
        self.tap: Callable[[memoryview], None] | None = None
        self._mask = size - 1
        self._consumer_map = mmap.mmap(fd, _PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._producer_map = mmap.mmap(fd, _PAGE + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=_PAGE)
        # The kernel maps a ring's pages for a fork one by one (mm/memory.c, vma_needs_copy), and no fork reads them.
        self._producer_map.madvise(mmap.MADV_DONTFORK)
        self._consumer = memoryview(self._consumer_map).cast("Q")
        producer = memoryview(self._producer_map)
        self._producer = producer[:_HEADER_BYTES].cast("Q")
        self._data = producer[_PAGE:]
        self._words = self._data.cast("I")

    @property
    def position(self) -> int:
        """Bytes consumed since the ring was made, by all readers: the ring keeps it, and it only grows."""
        return self._consumer[0]

    @property
    def pending(self) -> int:
        """Bytes that producers have reserved and no reader has consumed."""
        return self._producer[0] - self._consumer[0]

    def first(self) -> int | None:
        """Return the number of the record that is to be consumed next; None where there is none, or it is still being
        written.
        """
        at = self._consumer[0] & self._mask
        if not self.pending or self._words[at >> 2] & (_BUSY | _DISCARD):
            return None
        seq: int = wire.HEAD.unpack_from(self._data, at + _HEADER_BYTES)[0]
        return seq

    def drain(self, feed: Callable[[memoryview, int], None], limit: int = sys.maxsize) -> int:
        """Pass every finished record to `feed(data, at)`, then mark them all as consumed.

        If `feed` raises, the batch is not consumed: the next call passes it again.

        Args:
            feed: takes each record.
            limit: take no record that begins `limit` bytes or more behind the first one.

        Returns:
            Bytes consumed; 0 where the ring is empty, or its next record is still being written.
        """
        position = start = self._consumer[0]
        end = self._producer[0]
        if end - start > self.most_pending:
            self.most_pending = end - start
        if end - start > limit:
            end = start + limit
        data, words, mask = self._data, self._words, self._mask
        begin, padded = _HEADER_BYTES, _PADDED
        while position < end:
            at = position & mask
            header = words[at >> 2]
            if header & _BUSY:
                break
            if not header & _DISCARD:
                feed(data, at + begin)
            position += (header & _LENGTH) + padded & ~7
        if self.tap is not None and position > start:
            at = start & mask
            self.tap(data[at : at + position - start])
        self._consumer[0] = position
        return position - start

    def close(self) -> None:
        """Unmap."""
        for view in (self._words, self._data, self._producer, self._consumer):
            view.release()
        self._producer_map.close()
        self._consumer_map.close()


class LostNumbers(NamedTuple):
    """The progress of reading the numbers of lost records.

    Attributes:
        read: count of lost records at the last look.
        slots: ``lost_seq`` of bpf/events.h at the last look.
    """

    read: int
    slots: tuple[int, ...]


class Page:
    """The counters of the kernel side: struct page of bpf/events.h.

    Args:
        fd: of the mappable array map that holds the struct.

    Attributes:
        known: progress of reading the lost numbers.
    """

    def __init__(self, fd: int) -> None:
        size = -(-wire.reader(wire.PAGE).size // _PAGE) * _PAGE
        self._map = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ)
        self._words = memoryview(self._map).cast("Q")
        self.known = LostNumbers(0, (0,) * wire.LOST_NUMBERS)

    @property
    def issued(self) -> int:
        """Count of numbers taken so far: every existing record has a smaller one."""
        return self._words[_ISSUED]

    @property
    def lost(self) -> int:
        """Count of numbers whose records found no room in the ring."""
        return self._words[_LOST]

    @property
    def nested(self) -> int:
        """Count of program runs skipped because no scratch buffer was free."""
        return self._words[_NESTED]

    @property
    def withheld(self) -> int:
        """Count of changes of groups and subreaper flags that were not announced, because their users' allowances were
        used up.
        """
        return self._words[_WITHHELD]

    def lost_numbers(self) -> tuple[set[int], bool]:
        """Read the numbers that were lost since the last call.

        Returns:
            The numbers, and True if there were so many that some may have been overwritten.
        """
        before, words = self.known, self._words
        count = words[_LOST]
        # The kernel side counts a number before it writes it, at any time, also during this copy. A slot that has
        # changed holds one more number, whatever the count was; the next call finds one that is counted and not yet
        # written.
        slots = tuple(words[_SLOTS].tolist())
        found = {number for number, old in zip(slots, before.slots, strict=True) if number != old}
        if found or count != before.read:
            self.known = LostNumbers(count, slots)
        return found, words[_LOST] - before.read > wire.LOST_NUMBERS

    def pass_over(self) -> None:
        """Mark all numbers lost so far as known; each of them is smaller than `issued` afterwards.

        The slots are read before the count: a slot that is filled after that must count as new at the next call.
        """
        slots = tuple(self._words[_SLOTS])
        self.known = LostNumbers(self._words[_LOST], slots)

    def close(self) -> None:
        """Unmap."""
        self._words.release()
        self._map.close()
