# SPDX-License-Identifier: Apache-2.0
"""The ring and the page of counters, in files laid out as the kernel maps them."""

import mmap
import os
import struct
from collections.abc import Iterator

import pytest

from agent.capture.ring import Page, Ring
from agent.table import wire

PAGE = mmap.PAGESIZE
SIZE = PAGE
BUSY, DISCARD = 1 << 31, 1 << 30


class FakeRing:
    """The kernel's end: consumer's page, producer's page, data, and the data's second appearance.

    A file shows nothing twice, so every write goes to both places.
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
        """Reserve and write a record; returns where its header is."""
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
        """The position that the consumer has written."""
        number: int = struct.unpack("=Q", os.pread(self.fd, 8, 0))[0]
        return number


class Consumer:
    """A Ring on a fake one, and what it was fed."""

    def __init__(self, kernel: FakeRing) -> None:
        self.ring = Ring(kernel.fd, SIZE)
        self.got: list[bytes] = []

    def feed(self, data: memoryview, at: int) -> None:
        """Eight bytes, enough to know a record again."""
        self.got.append(bytes(data[at : at + 8]))

    def drain(self) -> int:
        """Consume."""
        return self.ring.drain(self.feed)


@pytest.fixture
def kernel() -> Iterator[FakeRing]:
    """An empty ring whose positions have been round before."""
    ring = FakeRing(5 * SIZE)
    yield ring
    os.close(ring.fd)


@pytest.fixture
def consumer(kernel: FakeRing) -> Iterator[Consumer]:
    """Its reader."""
    consumer = Consumer(kernel)
    yield consumer
    consumer.ring.close()


def test_records_of_any_length_are_fed_in_order_and_their_room_given_back(kernel: FakeRing, consumer: Consumer) -> None:
    """Padded to 8."""
    for index, length in enumerate((8, 9, 15, 16, 17)):
        kernel.produce(bytes((index,)) * length)

    assert consumer.ring.pending == 16 + 24 + 24 + 24 + 32
    assert consumer.drain() == 120
    assert consumer.got == [bytes((index,)) * 8 for index in range(5)]
    assert kernel.consumed == kernel.position
    assert consumer.ring.pending == 0
    assert consumer.drain() == 0


def test_a_busy_record_holds_up_everything_behind_it(kernel: FakeRing, consumer: Consumer) -> None:
    """Until it is submitted."""
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
    """Lengths that never fit evenly."""
    for number in range(300):
        kernel.produce(struct.pack("=Q", number) + b"x" * (number % 53))
        if number % 7 == 0:
            consumer.drain()
    consumer.drain()

    assert consumer.got == [struct.pack("=Q", number) for number in range(300)]


def test_a_batch_whose_handling_fails_comes_again(kernel: FakeRing, consumer: Consumer) -> None:
    """Nothing was consumed."""
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
        """Count a lost number; late: it is not written yet."""
        if not late:
            self.put(8 + self.count % wire.LOST_NUMBERS, number)
        self.count += 1
        self.put(1, self.count)


@pytest.fixture
def counters() -> Iterator[FakePage]:
    """The kernel's end."""
    page = FakePage()
    yield page
    os.close(page.fd)


@pytest.fixture
def page(counters: FakePage) -> Iterator[Page]:
    """The reader's."""
    page = Page(counters.fd)
    yield page
    page.close()


def test_the_counters_are_read_as_they_are_now(counters: FakePage, page: Page) -> None:
    """Issued numbers, skipped runs."""
    counters.put(0, 1000)
    counters.put(2, 3)

    assert (page.issued, page.nested) == (1000, 3)


def test_each_lost_number_is_told_once(counters: FakePage, page: Page) -> None:
    """Also one that is smaller than others told before."""
    counters.lose(7)
    counters.lose(9)

    assert page.lost_numbers() == ({7, 9}, False)
    assert page.lost_numbers() == (set(), False)

    counters.lose(8)

    assert page.lost_numbers() == ({8}, False)


def test_more_lost_numbers_than_there_is_room_for_are_an_overflow(counters: FakePage, page: Page) -> None:
    """Exactly as many as there is room for are not."""
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
    """Never what stood in its place before, whether that was told or went by in an overflow."""
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
    """Its count was not seen yet, what it was written over was not either."""
    for number in range(1, before + 1):
        counters.lose(number)
    counters.put(8 + counters.count % wire.LOST_NUMBERS, 9000)
    first, _ = page.lost_numbers()
    counters.lose(9000)
    counters.lose(9001)
    second, overflow = page.lost_numbers()

    assert 9000 in first
    assert (second, overflow) == ({9001}, False)
