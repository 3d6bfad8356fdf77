# SPDX-License-Identifier: Apache-2.0
"""Records in the order of their numbers, whatever the order of their arrival."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.table import wire
from agent.table.stream import MOST_EARLY, Stream
from agent.table.wire import Kind
from tests.support.records import RecordWriter, a_state


class Heard:
    """A stream, and the numbers it has handled."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.stream = Stream({Kind.MARKER: self.note, Kind.STATE: self.note})

    def note(self, data: memoryview | bytes, at: int) -> None:
        """Note a number, as a handler."""
        self.numbers.append(wire.HEAD.unpack_from(data, at)[0])

    def feed(self, *numbers: int) -> None:
        """Feed markers of these numbers."""
        for number in numbers:
            self.stream.feed(RecordWriter(number).marker(), 0)


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_records_are_handled_in_the_order_of_their_numbers(order: tuple[int, ...]) -> None:
    """The order of arrival does not matter."""
    heard = Heard()
    heard.feed(*order)

    assert heard.numbers == [0, 1, 2, 3]
    assert (heard.stream.next, heard.stream.records, heard.stream.lost) == (4, 4, 0)
    assert not heard.stream.waiting
    assert not heard.stream.suspect


def test_nothing_behind_a_missing_number_is_handled() -> None:
    """The missing record may be late."""
    heard = Heard()
    heard.feed(0, 2, 3)

    assert heard.numbers == [0]
    assert heard.stream.waiting


def test_numbers_given_up_are_passed_over_as_far_as_that_leads() -> None:
    """1 and 4 are lost, 6 is not known to be."""
    heard = Heard()
    heard.feed(0, 2, 3, 5, 7)
    heard.stream.give_up({1, 4})

    assert heard.numbers == [0, 2, 3, 5]
    assert (heard.stream.next, heard.stream.lost, heard.stream.suspect) == (6, 2, True)


def test_giving_up_a_number_further_on_does_not_skip_the_one_before_it() -> None:
    """It is given up in its turn."""
    heard = Heard()
    heard.feed(3)
    heard.stream.give_up({1})

    assert (heard.numbers, heard.stream.next, heard.stream.lost) == ([], 0, 0)
    assert not heard.stream.suspect


def test_giving_up_below_a_number_handles_what_has_come_and_goes_on() -> None:
    """The record at that number and those behind it are handled too."""
    heard = Heard()
    heard.feed(1, 3, 5, 6)
    heard.stream.give_up_below(5)

    assert heard.numbers == [1, 3, 5, 6]
    assert (heard.stream.next, heard.stream.lost) == (7, 3)


def test_a_number_that_comes_after_it_was_given_up_is_handled_and_makes_the_table_suspect() -> None:
    """Its state may be older than the handled records."""
    heard = Heard()
    heard.stream.give_up_below(2)
    heard.stream.suspect = False
    heard.feed(2, 0)

    assert heard.numbers == [2, 0]
    assert heard.stream.suspect
    assert heard.stream.next == 3


def test_kinds_without_a_handler_count_and_are_passed_over() -> None:
    """Their numbers count."""
    heard = Heard()
    heard.stream.feed(RecordWriter().end(Kind.FREE, 1, 2), 0)
    heard.feed(1)

    assert heard.numbers == [1]


def test_an_early_record_is_kept_whole_though_its_buffer_is_used_again() -> None:
    """The ring's memory goes back to the kernel."""
    kept: list[wire.PidState | None] = []
    stream = Stream({Kind.STATE: lambda data, at: kept.append(wire.pid_state(data, at, 0))})
    own = a_state((100, 7, 1), (1, 2, 3))
    buffer = bytearray(b"\xff" * 8 + RecordWriter(1).task(Kind.STATE, roles=((5, own),) * 4) + b"\xff" * 8)
    stream.feed(memoryview(buffer), 8)
    buffer[:] = bytes(len(buffer))
    stream.feed(RecordWriter(0).marker(), 0)

    assert kept == [own]


@given(st.permutations(range(12)), st.sets(st.integers(0, 11)))
def test_every_number_that_comes_is_handled_once_in_order(order: list[int], lost: set[int]) -> None:
    """Every number that does not come is counted."""
    heard = Heard()
    heard.feed(*(number for number in order if number not in lost))
    heard.stream.give_up(lost)

    assert heard.numbers == [number for number in range(12) if number not in lost]
    assert heard.stream.next == 12
    assert heard.stream.lost == len(lost)


def test_no_more_records_wait_for_a_missing_number_than_memory_is_set_aside_for() -> None:
    """Then the number is given up; its record is handled all the same if it comes."""
    heard = Heard()
    heard.feed(*range(1, MOST_EARLY + 1))

    assert (heard.numbers, len(heard.stream.early)) == ([], MOST_EARLY)

    heard.feed(MOST_EARLY + 1)

    assert heard.numbers == list(range(1, MOST_EARLY + 2))
    assert (heard.stream.lost, heard.stream.suspect, heard.stream.early) == (1, True, [])

    heard.feed(0)

    assert heard.numbers[-1] == 0
    assert heard.stream.lost == 0
