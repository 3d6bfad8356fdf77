# SPDX-License-Identifier: Apache-2.0
"""Puts records into the order of their numbers, and knows which numbers will never come.

Two CPUs take numbers and write records independently, so neighbours arrive swapped now and then; and a CPU may be held
up (a virtual machine's may be for milliseconds) between the two. So a missing number is late, not lost, until the kernel
side says that its record found no room: it keeps count of those, and of the last few hundred the numbers themselves.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Final

from agent import wire

Handler = Callable[[memoryview | bytes, int], None]

_HEAD = wire.reader(wire.RECORD, "seq", "kind").unpack_from

MOST_EARLY: Final = 1 << 16
"""Records that may wait for a missing number, some 20 MB of them. A CPU that is held up for longer than it takes to write
so many is rare, and its record is taken when it comes; memory without a bound would be somebody else's to fill."""


class Stream:
    """Records in, handler calls out, in order.

    Args:
        handlers: for each kind of record; called with what holds the record and where it starts. Kinds that are not in
            it are passed over.

    Attributes:
        next: the number expected next: every smaller one has been handled or given up.
        kinds: how many have been handled, by kind.
        lost: numbers given up that have not come after all.
        is_late: the record that is being handled comes after its number was given up.
        suspect: numbers were lost since this was last set to False: the table needs a sweep.
    """

    def __init__(self, handlers: dict[wire.Kind, Handler]) -> None:
        self._handlers: list[Handler | None] = [None] * (max(wire.Kind) + 1)
        for kind, handler in handlers.items():
            self._handlers[kind] = handler
        self._early: dict[int, bytes] = {}
        self.kinds = [0] * len(self._handlers)
        self.next = 0
        self.lost = 0
        self.suspect = False
        self.is_late = False

    def handle(self, kind: wire.Kind, handler: Handler) -> None:
        """From now on this is the handler of a kind."""
        self._handlers[kind] = handler

    @property
    def records(self) -> int:
        """Handled so far."""
        return sum(self.kinds)

    @property
    def waiting(self) -> bool:
        """Later numbers have come already."""
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
                self.give_up_below(min(self._early))
        else:
            # Given up too soon. It is older than what has been handled, but what it tells first-hand, a birth or a death
            # of an exact identity, is as true as ever; what it tells of a state that has changed since, a sweep must mend.
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
        """These numbers will never come, so go on without them, as far as that leads."""
        while self.next in numbers:
            self.next += 1
            self.lost += 1
            self.suspect = True
            self._catch_up()

    def give_up_below(self, number: int) -> None:
        """None of the missing numbers below this one is waited for any longer; there may be millions of them."""
        for seq in (*sorted(seq for seq in self._early if seq < number), number):
            if seq > self.next:
                self.lost += seq - self.next
                self.next = seq
                self.suspect = True
            self._catch_up()

    @property
    def early(self) -> list[bytes]:
        """The records that have come before their turn."""
        return list(self._early.values())

    def resume(self, number: int, early: Iterable[bytes] = ()) -> None:
        """Begin in the middle: smaller numbers are no business of this stream.

        Args:
            number: the one expected next.
            early: later ones that have come already.
        """
        self.next = number
        self._early = {_HEAD(record, 0)[0]: record for record in early}
