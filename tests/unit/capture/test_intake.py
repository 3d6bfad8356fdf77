# SPDX-License-Identifier: Apache-2.0
"""The intake from ring to stream, for a daemon that takes over a ring from another reader."""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from agent.capture.intake import Intake
from agent.capture.ring import LostNumbers
from agent.table import wire
from agent.table.stream import Stream
from agent.table.wire import Kind
from tests.support.records import RecordWriter

NOTHING_LOST = LostNumbers(0, (0,) * wire.LOST_NUMBERS)


@dataclass
class FakeRing:
    """A ring with ready records; `position` counts the records read."""

    records: list[bytes]
    position: int = 0
    more: Callable[[], bytes] | None = None  # records that come while one is read

    @property
    def pending(self) -> int:
        """Return the waiting bytes, as the ring does."""
        return sum(map(len, self.records))

    def first(self) -> int | None:
        """Return the first number, as the ring does."""
        return wire.HEAD.unpack_from(self.records[0])[0] if self.records else None

    def drain(self, feed: Callable[[bytes, int], None], limit: int) -> int:
        """Read records up to this many bytes, and the one that exceeds the limit."""
        taken = 0
        while self.records and taken < limit:
            record = self.records.pop(0)
            feed(record, 0)
            taken += len(record)
            if self.more:
                self.records.append(self.more())
        self.position += taken
        return taken


@dataclass
class FakePage:
    """The kernel side's page of counters."""

    issued: int
    lost: int = 0
    known: LostNumbers = NOTHING_LOST
    passed_over: bool = False
    lost_now: set[int] = field(default_factory=set)

    def lost_numbers(self) -> tuple[set[int], bool]:
        """Return the lost numbers, as the page does."""
        return self.lost_now, False

    def pass_over(self) -> None:
        """Mark earlier losses as known."""
        self.passed_over = True
        self.lost_now = set()


@dataclass
class FakeProbes:
    """The ring, the page, and a name."""

    ring: FakeRing
    page: FakePage
    ring_name: str = "bpf-map:1"
    allowed: list[int] = field(default_factory=list)

    def allow(self, per_second: int) -> None:
        """Note the allowance of each user."""
        self.allowed.append(per_second)


class Heard:
    """An intake over markers, and the numbers that it has handled."""

    def __init__(self, numbers: list[int], issued: int) -> None:
        self.numbers: list[int] = []
        self.page = FakePage(issued)
        self.ring = FakeRing([RecordWriter(number).marker() for number in numbers])
        self.stream = Stream({Kind.MARKER: self.note})
        self.probes = FakeProbes(self.ring, self.page)
        probes: Any = self.probes
        self.intake = Intake(probes, self.stream)

    def note(self, data: memoryview | bytes, at: int) -> None:
        """Note a number, as a handler."""
        self.numbers.append(wire.HEAD.unpack_from(data, at)[0])


@pytest.mark.parametrize(
    ("numbers", "issued", "handled"),
    [
        ([5000, 5001, 5002], 5003, [5000, 5001, 5002]),
        ([], 5003, []),
        ([5001, 5000, 5002], 5003, [5001, 5000, 5002]),  # the first record gives the number to begin with; it was early
        ([5000, 5002], 5003, [5000, 5002]),  # 5001 was early, and was read before
        ([5000, 9000], 9001, [5000, 9000]),  # the ring was full
        ([5000, 5002], 5002, [5000, 5002]),  # 5001 is still being written
    ],
)
def test_who_joins_begins_with_what_the_ring_holds(numbers: list[int], issued: int, handled: list[int]) -> None:
    """Earlier records count neither as missing nor as lost."""
    heard = Heard(numbers, issued)
    heard.page.lost_now = {3, 5001}
    heard.intake.join()

    assert heard.page.passed_over
    assert heard.stream.lost == 0
    assert heard.stream.next >= issued
    assert heard.numbers == handled


def test_a_number_that_comes_after_it_was_passed_over_has_a_sweep_made() -> None:
    """Such a record may be older than the table's state."""
    heard = Heard([5000], 5002)
    heard.intake.join()
    heard.stream.suspect = False
    heard.ring.records = [RecordWriter(5001).marker()]
    heard.intake.drain()

    assert heard.numbers == [5000, 5001]
    assert heard.stream.suspect
    assert heard.stream.lost == 0


def test_amid_loss_nobody_waits_long_for_a_number() -> None:
    """More numbers were lost than are listed, because numbers overwrite each other in the list; this one may be among
    them.
    """
    heard = Heard([0, 2], 3)
    heard.page.lost = 1
    begin = time.monotonic()
    heard.intake.catch_up()

    assert time.monotonic() - begin < 0.5
    assert (heard.numbers, heard.stream.lost, heard.stream.suspect) == ([0, 2], 1, True)


def test_a_number_given_up_that_comes_after_all_was_not_lost() -> None:
    """It still starts a sweep."""
    heard = Heard([0, 2], 3)
    heard.page.lost = 1
    heard.intake.catch_up()
    heard.stream.suspect = False
    heard.ring.records = [RecordWriter(1).marker()]
    heard.intake.drain()

    assert (heard.numbers, heard.stream.lost, heard.stream.suspect) == ([0, 2, 1], 0, True)


def test_numbers_lost_too_many_to_be_told_are_given_up_up_to_the_last_one_taken() -> None:
    """Some of them were taken after the ring was read; no list would ever name those."""
    heard = Heard([0, 1, 12], 10)

    def overflow() -> tuple[set[int], bool]:
        heard.page.issued = 14
        heard.ring.records = [RecordWriter(13).marker()]
        return set(), True

    heard.page.lost_numbers = overflow  # type: ignore[method-assign]
    heard.intake.drain()

    assert heard.numbers == [0, 1, 12, 13]
    assert (heard.stream.next, heard.stream.lost, heard.stream.waiting) == (14, 10, False)


def test_a_place_fits_as_long_as_nobody_has_read_on() -> None:
    """The place is in the same ring."""
    heard = Heard([0, 1], 2)
    heard.intake.drain()
    place = heard.intake.place
    assert heard.intake.misfit(place) == ""

    assert "another ring" in heard.intake.misfit(place._replace(ring="bpf-map:2"))
    assert "records that there are none of" in heard.intake.misfit(place._replace(lost_known=(1, (0,) * 512)))
    heard.page.issued = 1
    assert "records that there are none of" in heard.intake.misfit(place)
    heard.page.issued = 3
    heard.ring.records = [RecordWriter(2).marker()]
    heard.intake.drain()
    assert "stale" in heard.intake.misfit(place)


def test_who_goes_on_knows_what_was_lost_and_waited_for() -> None:
    """A place has the lost numbers, the awaited ones, and the position in their list."""
    heard = Heard([0, 2], 7)
    heard.page.lost_now = {5}
    heard.intake.drain()
    place = heard.intake.place._replace(lost_known=(3, (7,) * wire.LOST_NUMBERS))
    assert place.lost == (5,)

    other = Heard([1, 3, 4, 6], 7)
    other.stream.resume(heard.stream.next, heard.stream.early)
    other.intake.resume(place)
    assert other.page.known == LostNumbers(3, (7,) * wire.LOST_NUMBERS)
    other.intake.drain()
    assert other.numbers == [1, 2, 3, 4, 6]
    assert other.stream.lost == 1


@pytest.mark.slow
def test_whoever_looks_is_told_before_much_has_been_taken() -> None:
    """The callback comes several times during a long read, because the changes of all records are kept until then."""
    count = 100_000
    heard = Heard([*range(count)], count)
    taken: list[int] = []
    heard.intake = Intake(heard.intake._probes, heard.stream, lambda _: taken.append(len(heard.numbers)))
    heard.intake.catch_up()

    assert taken[-1] == count
    assert max(after - before for before, after in itertools.pairwise([0, *taken])) < count / 4


def test_to_catch_up_ends_though_records_come_as_fast_as_they_are_taken() -> None:
    """The intake reads the records that were there at the start; on a very busy host the ring is never empty."""
    count = 20_000
    heard = Heard([*range(count)], count)

    def more() -> bytes:
        heard.page.issued += 1
        if heard.page.issued > 5 * count:
            raise AssertionError("it goes on and on")
        return RecordWriter(heard.page.issued - 1).marker()

    heard.ring.more = more
    heard.intake.catch_up()

    assert heard.stream.next >= count


@pytest.mark.slow
def test_who_has_no_time_to_catch_up_is_told_so_and_nothing_is_given_up() -> None:
    """The process gets hardly any CPU time; unread records are still in the ring."""
    count = 100_000
    heard = Heard([*range(count)], count)

    assert not heard.intake.catch_up(time.monotonic())
    assert 0 < len(heard.numbers) < count / 4
    assert (heard.stream.lost, heard.stream.suspect) == (0, False)
    assert heard.intake.catch_up()
    assert heard.numbers == [*range(count)]


def test_the_kernel_side_is_told_what_the_speed_affords(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told at once when a reader begins, for another one may have left another allowance."""
    heard = Heard([*range(1000)], 1000)
    monkeypatch.setattr("time.thread_time", lambda: len(heard.numbers) * 100e-6)
    heard.intake.drain()
    monkeypatch.setattr("time.thread_time", lambda: len(heard.numbers) * 1e-6)
    heard.ring.records = [RecordWriter(number).marker() for number in range(1000, 5000)]
    heard.page.issued = 5000
    heard.intake.drain()

    assert heard.probes.allowed == [8000, 1000, 8000]


def test_a_few_records_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixed costs of each look at the ring would make them dear."""
    heard = Heard([], 0)
    monkeypatch.setattr("time.thread_time", lambda: len(heard.numbers) * 1.0)
    for number in range(1000):
        heard.ring.records = [RecordWriter(number).marker()]
        heard.page.issued = number + 1
        heard.intake.drain()

    assert len(heard.numbers) == 1000
    assert heard.probes.allowed == [8000]
