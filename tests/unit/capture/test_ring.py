# SPDX-License-Identifier: Apache-2.0
"""The ring and the page of counters, in files laid out as the kernel maps them."""

import mmap
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.capture.ring import Page, Ring
from agent.table import wire

PAGE = mmap.PAGESIZE
SMAPS = Path("/proc/self/smaps")
SIZE = PAGE
BUSY, DISCARD = 1 << 31, 1 << 30


class FakeRing:
    """The kernel's end: consumer's page, producer's page, and the data twice.

    A file has no second mapping, so every write goes to both places.
    """

    def __init__(self, start: int = 0) -> None:
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * PAGE + 2 * SIZE)
        self.position = start
        self.put(0, struct.pack("=Q", start))
        self.put(PAGE, struct.pack("=Q", start))

    def put(self, at: int, data: bytes) -> None:
        """Write into the file."""
        os.pwrite(self.fd, data, at)

    def produce(self, data: bytes, flags: int = 0) -> int:
        """Reserve and write a record; return the position of its header."""
        start = self.position
        record = struct.pack("=II", len(data) | flags, 0) + data
        for i, byte in enumerate(record):
            place = (start + i) % SIZE
            self.put(2 * PAGE + place, bytes((byte,)))
            self.put(2 * PAGE + SIZE + place, bytes((byte,)))
        self.position += (len(record) + 7) & ~7
        self.put(PAGE, struct.pack("=Q", self.position))
        return start

    def submit(self, start: int, length: int) -> None:
        """Clear BUSY."""
        for half in (0, SIZE):
            self.put(2 * PAGE + half + start % SIZE, struct.pack("=I", length))

    @property
    def consumed(self) -> int:
        """Return the position that the consumer has written."""
        number: int = struct.unpack("=Q", os.pread(self.fd, 8, 0))[0]
        return number


class Consumer:
    """A Ring on a fake kernel, and the records that it has read."""

    def __init__(self, kernel: FakeRing) -> None:
        self.ring = Ring(kernel.fd, SIZE)
        self.got: list[bytes] = []

    def feed(self, data: memoryview, at: int) -> None:
        """Keep eight bytes, enough to recognise a record."""
        self.got.append(bytes(data[at : at + 8]))

    def drain(self) -> int:
        """Read the ring."""
        return self.ring.drain(self.feed)


@pytest.fixture
def kernel() -> Iterator[FakeRing]:
    """Yield an empty ring whose positions have passed the end of the data before."""
    ring = FakeRing(5 * SIZE)
    yield ring
    os.close(ring.fd)


@pytest.fixture
def consumer(kernel: FakeRing) -> Iterator[Consumer]:
    """Yield the reader of the ring."""
    consumer = Consumer(kernel)
    yield consumer
    consumer.ring.close()


def test_records_of_any_length_are_fed_in_order_and_their_room_given_back(kernel: FakeRing, consumer: Consumer) -> None:
    """Lengths are padded to 8 bytes."""
    for index, length in enumerate((8, 9, 15, 16, 17)):
        kernel.produce(bytes((index,)) * length)

    assert consumer.ring.pending == 16 + 24 + 24 + 24 + 32
    assert consumer.drain() == 120
    assert consumer.got == [bytes((index,)) * 8 for index in range(5)]
    assert kernel.consumed == kernel.position
    assert consumer.ring.pending == 0
    assert consumer.drain() == 0


def test_a_fork_has_the_position_and_none_of_the_data(consumer: Consumer) -> None:
    """The flag "dc" of smaps, "do not copy on fork" (fs/proc/task_mmu.c), is that of the larger mapping."""
    assert consumer.ring.position == 5 * SIZE
    mappings = re.findall(
        r"^([0-9a-f]+)-([0-9a-f]+) [^\n]*/memfd:ring .*?^VmFlags: ([^\n]*)$",
        SMAPS.read_text(),
        re.MULTILINE | re.DOTALL,
    )
    assert {int(end, 16) - int(begin, 16): "dc" in flags.split() for begin, end, flags in mappings} == {
        PAGE: False,
        PAGE + 2 * SIZE: True,
    }


def test_a_busy_record_holds_up_everything_behind_it(kernel: FakeRing, consumer: Consumer) -> None:
    """They wait until it is submitted."""
    kernel.produce(b"a" * 8)
    busy = kernel.produce(b"b" * 8, BUSY)
    kernel.produce(b"c" * 8)

    assert consumer.drain() == 16
    assert consumer.drain() == 0
    assert consumer.got == [b"a" * 8]
    assert consumer.ring.pending == 32

    kernel.submit(busy, 8)

    assert consumer.drain() == 32
    assert consumer.got == [b"a" * 8, b"b" * 8, b"c" * 8]


def test_a_discarded_record_is_passed_over(kernel: FakeRing, consumer: Consumer) -> None:
    """Its room is given back."""
    kernel.produce(b"a" * 20, DISCARD)
    kernel.produce(b"b" * 8)

    assert consumer.drain() == 48
    assert consumer.got == [b"b" * 8]


def test_a_record_across_the_end_is_read_whole(kernel: FakeRing) -> None:
    """The data is mapped twice in a row."""
    whole: list[bytes] = []
    ring = Ring(kernel.fd, SIZE)
    for length in (SIZE - 40, 60, 100):
        data = os.urandom(length)
        kernel.produce(data)
        ring.drain(lambda view, at, length=length: whole.append(bytes(view[at : at + length])))  # type: ignore[misc]

        assert whole.pop() == data

    ring.close()


def test_many_rounds_lose_nothing(kernel: FakeRing, consumer: Consumer) -> None:
    """The lengths never fit evenly."""
    for number in range(300):
        kernel.produce(struct.pack("=Q", number) + b"x" * (number % 53))
        if number % 7 == 0:
            consumer.drain()
    consumer.drain()

    assert consumer.got == [struct.pack("=Q", number) for number in range(300)]


def test_a_batch_whose_handling_fails_comes_again(kernel: FakeRing, consumer: Consumer) -> None:
    """The position of the consumer does not change."""
    kernel.produce(b"a" * 8)

    def fail(_data: memoryview, _at: int) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        consumer.ring.drain(fail)

    assert consumer.drain() == 16
    assert consumer.got == [b"a" * 8]


# ---- the counters --------------------------------------------------------------------------------------------------


class FakePage:
    """struct page in a file."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("page")
        os.ftruncate(self.fd, 2 * PAGE)
        self.count = 0

    def put(self, word: int, value: int) -> None:
        """Set one of its words."""
        os.pwrite(self.fd, struct.pack("=Q", value), 8 * word)

    def lose(self, number: int, *, late: bool = False) -> None:
        """Count a lost number; late: the number is not written yet."""
        if not late:
            self.put(8 + self.count % wire.LOST_NUMBERS, number)
        self.count += 1
        self.put(1, self.count)


@pytest.fixture
def counters() -> Iterator[FakePage]:
    """Yield the kernel's end."""
    page = FakePage()
    yield page
    os.close(page.fd)


@pytest.fixture
def page(counters: FakePage) -> Iterator[Page]:
    """Yield the reader's end."""
    page = Page(counters.fd)
    yield page
    page.close()


def test_the_counters_are_read_as_they_are_now(counters: FakePage, page: Page) -> None:
    """The counters are those of issued numbers and skipped runs."""
    counters.put(0, 1000)
    counters.put(2, 3)

    assert (page.issued, page.nested) == (1000, 3)


def test_each_lost_number_is_told_once(counters: FakePage, page: Page) -> None:
    """This holds for a number that is smaller than earlier ones."""
    counters.lose(7)
    counters.lose(9)

    assert page.lost_numbers() == ({7, 9}, False)
    assert page.lost_numbers() == (set(), False)

    counters.lose(8)

    assert page.lost_numbers() == ({8}, False)


def test_more_lost_numbers_than_there_is_room_for_are_an_overflow(counters: FakePage, page: Page) -> None:
    """Exactly as many as the page has room for are no overflow."""
    for number in range(1, wire.LOST_NUMBERS + 1):
        counters.lose(number)

    assert page.lost_numbers() == (set(range(1, wire.LOST_NUMBERS + 1)), False)

    for number in range(2000, 2001 + wire.LOST_NUMBERS):
        counters.lose(number)

    assert page.lost_numbers() == (set(range(2001, 2001 + wire.LOST_NUMBERS)), True)

    counters.lose(4000)

    assert page.lost_numbers() == ({4000}, False)


@pytest.mark.parametrize("before", [0, 3, wire.LOST_NUMBERS + 3, 2 * wire.LOST_NUMBERS + 5])
def test_a_number_that_is_counted_and_not_yet_written_is_told_later(
    counters: FakePage, page: Page, before: int
) -> None:
    """The old value at its place is never told, whether it was told before or lost in an overflow."""
    for number in range(1, before + 1):
        counters.lose(number)
    page.lost_numbers()
    counters.lose(9000, late=True)

    assert page.lost_numbers() == (set(), False)

    counters.put(8 + (counters.count - 1) % wire.LOST_NUMBERS, 9000)

    assert page.lost_numbers() == ({9000}, False)


@pytest.mark.parametrize("before", [5, wire.LOST_NUMBERS + 5])
def test_a_number_that_is_written_while_the_others_are_read_holds_up_none_that_follow(
    counters: FakePage, page: Page, before: int
) -> None:
    """The reader saw neither its count nor the number that it overwrote."""
    for number in range(1, before + 1):
        counters.lose(number)
    counters.put(8 + counters.count % wire.LOST_NUMBERS, 9000)
    first, _ = page.lost_numbers()
    counters.lose(9000)
    counters.lose(9001)
    second, overflow = page.lost_numbers()

    assert 9000 in first
    assert (second, overflow) == ({9001}, False)
