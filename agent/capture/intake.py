# SPDX-License-Identifier: Apache-2.0
"""The transfer of records from the ring to the stream, with an account of the missing numbers.

A missing number is late, or the kernel side reports it as lost, or it is given up after a while.
"""

import math
import sys
import time
from collections.abc import Callable

from agent.capture.allowance import Allowance
from agent.capture.memorywriter import Place
from agent.capture.probes import Probes
from agent.capture.ring import LostNumbers
from agent.table.stream import Stream

# A number is given up if for so long it neither comes nor is reported as lost: a CPU may have stalled. Where the kernel
# side counts more losses than it has reported, for the last of many overwrite each other, it has hardly a chance to
# come.
_LATE_S, _LATE_AMID_LOSS_S = 1.0, 0.005
_PART_BYTES = 1 << 15  # some 170 records, 0.6 ms; with a subscriber 2
_MEASURED_BYTES = 1 << 9  # some records: the fixed costs of a smaller part would pass for those of its records
_LET_RUN_S = (
    1e-5  # the task that has taken that number may wait for this CPU: looking without a pause would keep it waiting
)


class Intake:
    """The only reader of a ring.

    Args:
        probes: the kernel side.
        stream: takes the records.
        taken: called after each part of at most a few hundred records, with its bytes; 0: the ring had nothing.

    Attributes:
        stream: takes the records.
        allowance: of each user, by the time that records take here; the kernel side is told of each change.
        behind: True where the ring held more than the last `drain` took.
    """

    def __init__(self, probes: Probes, stream: Stream, taken: Callable[[int], None] = lambda _: None) -> None:
        self.stream = stream
        self._taken = taken
        self._probes = probes
        self.allowance = Allowance()
        probes.allow(self.allowance.per_second)  # an earlier daemon may have set another
        self.behind = False
        self._lost: set[int] = set()
        self._passed = 0  # losses that were counted before this reader began

    def drain(self, limit: int = sys.maxsize, deadline_s: float = math.inf) -> None:
        """Apply the records that the ring holds, up to `limit` bytes, or until a time of time.monotonic()."""
        drained = self._drain(limit, deadline_s)
        self.behind = drained >= limit or (self._probes.ring.pending > 0 and time.monotonic() > deadline_s)
        if self.stream.waiting:
            self._account()

    def _drain(self, limit: int = sys.maxsize, deadline_s: float = math.inf) -> int:
        """Drain the ring as `Ring.drain` does, part by part, but only what it holds now: more may come as fast."""
        limit = min(limit, self._probes.ring.pending)
        drained = 0
        while drained < limit:
            wanted = min(_PART_BYTES, limit - drained)
            part = self._measured(wanted) if wanted >= _MEASURED_BYTES else self._part(wanted)
            drained += part
            if part < _PART_BYTES or time.monotonic() > deadline_s:
                break
        return drained

    def _part(self, limit: int) -> int:
        part = self._probes.ring.drain(self.stream.feed, limit)
        self._taken(part)
        return part

    def _measured(self, limit: int) -> int:
        """Drain a part, and set the allowance by the CPU time that its records have taken."""
        before, begin = self.stream.records, time.thread_time()
        part = self._part(limit)
        if self.allowance.note(self.stream.records - before, time.thread_time() - begin):
            self._probes.allow(self.allowance.per_second)
        return part

    def _account(self, deadline_s: float = math.inf) -> None:
        """Learn which of the missing numbers are lost."""
        page = self._probes.page
        numbers, overflow = page.lost_numbers()
        self._lost |= numbers
        if overflow:  # also of numbers taken since: no slot will ever hold them
            issued = page.issued
            self._drain(deadline_s=deadline_s)
            if time.monotonic() <= deadline_s:  # else some of them may be in the ring still
                self.stream.give_up_below(issued)
        self.stream.give_up(self._lost)
        self._lost = {number for number in self._lost if number >= self.stream.next}

    def catch_up(self, deadline_s: float = math.inf) -> bool:
        """Apply every record whose number was issued before this call; wait for those still being written.

        Args:
            deadline_s: of time.monotonic(). A process that gets no CPU takes seconds for what else takes milliseconds.

        Returns:
            False where the deadline came first.
        """
        target = self._probes.page.issued
        waiting_since = 0.0
        while True:
            self._drain(deadline_s=deadline_s)
            if self.stream.next >= target:
                return True
            if time.monotonic() > deadline_s:
                return False
            self._account(deadline_s)
            if self.stream.next >= target:
                return True
            now = time.monotonic()
            untold = self._probes.page.lost - self._passed > self.stream.lost
            if not waiting_since:
                waiting_since = now
            elif now - waiting_since > (_LATE_AMID_LOSS_S if untold else _LATE_S):
                self.stream.give_up_below(target)
                return True
            time.sleep(_LET_RUN_S)

    # ---- from one to the next --------------------------------------------------------------------------------------

    @property
    def place(self) -> Place:
        """The progress of reading, for the memory of the watch."""
        page = self._probes.page
        return Place(
            self._probes.ring_name,
            self._probes.ring.position,
            (page.known.read, page.known.slots),
            tuple(sorted(self._lost)),
        )

    def misfit(self, place: Place) -> str:
        """Return the reason why a memory of that place does not fit the ring as it stands; empty: it fits.

        The memory's stream is this reader's already.
        """
        if place.ring != self._probes.ring_name:
            return "it is of another ring"
        if place.position != self._probes.ring.position:
            return "it is stale: another reader has read on from there"
        if self.stream.next > self._probes.page.issued or place.lost_known[0] > self._probes.page.lost:
            return "it knows of records that there are none of"
        return ""

    def resume(self, place: Place) -> None:
        """Go on from the place at which another daemon stopped reading; the caller has checked that it fits the ring."""
        self._probes.page.known = LostNumbers(*place.lost_known)
        self._lost = set(place.lost)
        self._passed = place.lost_known[0] - self.stream.lost

    def join(self) -> None:
        """Begin to read a ring that another daemon has read from.

        The records that the ring holds are applied. Earlier ones are not known any more; they count neither as lost nor
        as missing.
        """
        page = self._probes.page
        page.pass_over()
        self._passed = page.lost
        issued = page.issued
        first = self._probes.ring.first()
        self.stream.resume(issued if first is None else first)
        self.drain()
        self.stream.give_up_below(issued)
        self.stream.lost = 0
