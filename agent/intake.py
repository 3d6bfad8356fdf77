# SPDX-License-Identifier: Apache-2.0
"""From ring to stream: records out of the one and, in the order of their numbers, into the other.

Numbers that are missing are accounted for: late, or lost and said to be, or given up at last.
"""

import sys
import time
from collections.abc import Callable

from agent.probes import Probes
from agent.ring import LostNumbers
from agent.state import Place
from agent.stream import Stream

# A number that neither comes nor is said to be lost for so long is given up: a CPU may be held up. Where losses are counted
# that nobody has told of, for the last of many overwrite each other, it will hardly come any more.
_LATE_S, _LATE_AMID_LOSS_S = 1.0, 0.005
_PART_BYTES = 1 << 18  # some thousand records
_LET_RUN_S = (
    1e-5  # whoever has taken that number may be waiting for our CPU: looking without a pause would keep it waiting
)


class Intake:
    """Reads the ring of some probes, alone.

    Args:
        probes: the kernel side.
        stream: where records go.
        taken: called when some records have been applied, and never more than a few thousand later.

    Attributes:
        stream: as above.
        behind: the ring held more than the last look took.
    """

    def __init__(self, probes: Probes, stream: Stream, taken: Callable[[], None] = lambda: None) -> None:
        self.stream = stream
        self._taken = taken
        self._probes = probes
        self.behind = False
        self._lost: set[int] = set()
        self._passed = 0  # losses that were counted before this came to the ring

    def drain(self, limit: int = sys.maxsize) -> None:
        """Apply what the ring holds, up to so many bytes."""
        self.behind = self._drain(limit) >= limit
        if self.stream.waiting:
            self._account()

    def _drain(self, limit: int = sys.maxsize) -> int:
        """As `Ring.drain`, a part at a time: what is there now, for more may come as fast."""
        limit = min(limit, self._probes.ring.pending)
        drained = 0
        while drained < limit:
            part = self._probes.ring.drain(self.stream.feed, min(_PART_BYTES, limit - drained))
            drained += part
            self._taken()
            if part < _PART_BYTES:
                break
        return drained

    def _account(self) -> None:
        """Numbers are missing: learn which ones are lost."""
        page = self._probes.page
        numbers, overflow = page.lost_numbers()
        self._lost |= numbers
        if overflow:  # also of those that were taken since: nobody will ever tell of them
            issued = page.issued
            self._drain()
            self.stream.give_up_below(issued)
        self.stream.give_up(self._lost)
        self._lost = {number for number in self._lost if number >= self.stream.next}

    def catch_up(self) -> None:
        """Apply every record whose number was issued before this call; wait for those still being written."""
        target = self._probes.page.issued
        waiting_since = 0.0
        while True:
            self._drain()
            if self.stream.next >= target:
                return
            self._account()
            if self.stream.next >= target:
                return
            now = time.monotonic()
            untold = self._probes.page.lost - self._passed > self.stream.lost
            if not waiting_since:
                waiting_since = now
            elif now - waiting_since > (_LATE_AMID_LOSS_S if untold else _LATE_S):
                self.stream.give_up_below(target)
                return
            time.sleep(_LET_RUN_S)

    # ---- from one to the next --------------------------------------------------------------------------------------

    @property
    def place(self) -> Place:
        """How far it has come."""
        page = self._probes.page
        return Place(
            self._probes.ring_name,
            self._probes.ring.position,
            (page.known.read, page.known.slots),
            tuple(sorted(self._lost)),
        )

    def misfit(self, place: Place) -> str:
        """Why a memory of that place, whose stream is here, is not of where the ring stands; empty: it is."""
        if place.ring != self._probes.ring_name:
            return "it is of another ring"
        if place.position != self._probes.ring.position:
            return "it is stale: somebody has read on from there"
        if self.stream.next > self._probes.page.issued or place.lost_known[0] > self._probes.page.lost:
            return "it knows of records that there are none of"
        return ""

    def resume(self, place: Place) -> None:
        """Go on from a place that fits."""
        self._probes.page.known = LostNumbers(*place.lost_known)
        self._lost = set(place.lost)
        self._passed = place.lost_known[0] - self.stream.lost

    def join(self) -> None:
        """Come to a ring that somebody else has read from.

        What it holds is as true as ever, births that nobody has heard of among it. What came before that is not known any
        more; it counts neither as lost nor as missing.
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
