# SPDX-License-Identifier: Apache-2.0
"""The order of records: they come as CPUs write them, and leave in the order of their numbers.

Two CPUs take numbers and write records independently, so neighbours arrive swapped now and then; and a CPU may stall (a
virtual machine's for milliseconds) after it has taken a number and before it writes the record. So a missing number is
late, not lost, until the kernel side says that its record found no room: it counts those, and keeps the numbers of the
last few hundred.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from agent.table import wire
from agent.table.inputs import Input, Note, ignore

Handler = Callable[[memoryview | bytes, int], None]

_HEAD: Final = wire.reader(wire.RECORD, "seq", "kind").unpack_from

MOST_EARLY: Final = 1 << 16
"""Records that may wait for a missing number, some 20 MB of them. A CPU rarely stalls for longer than other CPUs take
to write so many, and its record is still applied when it comes. Without a bound a user could fill the daemon's memory."""


class Stream:
    """A sequencer: it takes records in any order and calls their handlers in the order of the numbers.

    Args:
        handlers: by kind of record; called with the buffer that holds the record and the record's offset in it. Kinds
            without a handler are passed over.

    Attributes:
        next: the number expected next: every smaller one has been handled or given up.
        kinds: count of handled records, by kind.
        lost: count of numbers that were given up and have not come since.
        is_late: True while a record is handled that comes after its number was given up.
        suspect: True where numbers were lost since it was last set to False: the table needs a sweep.
        note: takes note of the inputs beside records.
    """

    def __init__(self, handlers: Mapping[wire.Kind, Handler]) -> None:
        self._handlers: list[Handler | None] = [None] * (max(wire.Kind) + 1)
        for kind, handler in handlers.items():
            self._handlers[kind] = handler
        self._early: dict[int, bytes] = {}
        self.kinds = [0] * len(self._handlers)
        self.next = 0
        self.lost = 0
        self.suspect = False
        self.is_late = False
        self.note: Note = ignore

    def handlers(self) -> dict[wire.Kind, Handler]:
        """Return the handler of each kind that has one."""
        return {kind: handler for kind in wire.Kind if (handler := self._handlers[kind]) is not None}

    def handle(self, kind: wire.Kind, handler: Handler) -> None:
        """Set the handler of a kind."""
        self._handlers[kind] = handler

    @property
    def records(self) -> int:
        """Count of records handled so far."""
        return sum(self.kinds)

    @property
    def waiting(self) -> bool:
        """True while records wait for a missing smaller number."""
        return bool(self._early)

    def feed(self, data: memoryview | bytes, at: int) -> None:
        """Take the record that starts at `at`."""
        seq, kind = _HEAD(data, at)
        if seq == self.next:
            self.next = seq + 1
            self.kinds[kind] += 1
            handler = self._handlers[kind]
            if handler is not None:
                handler(data, at)
            if self._early:
                self._catch_up()
        elif seq > self.next:
            self._early[seq] = bytes(data[at : at + wire.record_bytes(data, at, kind)])
            if len(self._early) > MOST_EARLY:
                self._pass(min(self._early))
        else:
            # Given up too soon. The record is older than those handled since, but a birth or a death of an exact
            # identity is still true; a state in it may have changed since, which a sweep must repair.
            self.suspect = True
            self.lost = max(0, self.lost - 1)
            self.is_late = True
            self._handle(bytes(data[at : at + wire.record_bytes(data, at, kind)]))
            self.is_late = False

    def _handle(self, record: bytes) -> None:
        kind = _HEAD(record, 0)[1]
        self.kinds[kind] += 1
        handler = self._handlers[kind]
        if handler is not None:
            handler(record, 0)

    def _catch_up(self) -> None:
        early = self._early
        while early and (record := early.pop(self.next, None)) is not None:
            self.next += 1
            self._handle(record)

    def give_up(self, numbers: Collection[int]) -> None:
        """Go on without numbers that will never come, as far as they are the next ones."""
        while self.next in numbers:
            self.note(Input.GIVE_UP, self.next)
            self.next += 1
            self.lost += 1
            self.suspect = True
            self._catch_up()

    def give_up_below(self, number: int) -> None:
        """Stop waiting for any missing number below this one; there may be millions of them."""
        if number > self.next:
            self.note(Input.GIVE_UP_BELOW, number)
            self._pass(number)

    def doubt(self) -> None:
        """Note that the table needs a sweep."""
        self.note(Input.SUSPECT, 0)
        self.suspect = True

    def _pass(self, number: int) -> None:
        for seq in (*sorted(seq for seq in self._early if seq < number), number):
            if seq > self.next:
                self.lost += seq - self.next
                self.next = seq
                self.suspect = True
            self._catch_up()

    @property
    def early(self) -> list[bytes]:
        """The records that wait for a missing smaller number."""
        return list(self._early.values())

    def resume(self, number: int, early: Iterable[bytes] = ()) -> None:
        """Begin at a number; smaller ones count neither as handled nor as lost.

        Args:
            number: the one expected next.
            early: records with larger numbers that have come already.
        """
        self.next = number
        self._early = {_HEAD(record, 0)[0]: record for record in early}
