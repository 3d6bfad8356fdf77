# SPDX-License-Identifier: Apache-2.0
"""The search for a time of CLOCK_REALTIME in a segment of a recording.

Theory
------
The records have CLOCK_BOOTTIME, which only grows. CLOCK_REALTIME is ahead of it by what the last look at the clocks in the
tape tells, and that is less where it was set back. So a time may be there twice, where the later one counts, or never,
where the clock was set forward: then the state at that step is the answer.

The instant of a time is before the record with the least number that is later. Numbers and times rise together, but records
come swapped: those of smaller numbers that are missing yet are looked for in what follows.

A record that was lost has no time. Where nothing tells that it was lost before the time, it may have happened behind it,
and a sweep that has mended the table since may tell of a later state: so the instant says that it is uncertain.
"""

from itertools import zip_longest
from typing import Final

from agent.record import NamedTuple
from agent.recorder import tape
from agent.recorder.facts import Instant
from agent.recorder.replay import times
from agent.recorder.segment import Block
from agent.recorder.tapesegment import TapeSegment
from agent.table.inputs import Input

_ONE_LOOK_NS: Final = (
    450_000_000  # a block of a shorter time has one look at the clocks, two at most of the same moment
)
_NO_ORDER: Final = 1 << 64


class FoundTime(NamedTuple):
    """A time in a segment.

    Attributes:
        shown: the instant at which the clock showed it, the later one of two; None: it did not.
        skipped: the instant at which the clock was set forward over it.
        last: the instant behind the last record, as far as the segment is whole.
        is_before: True where the clock shows the time or less there.
        is_damaged: True where something of the segment is damaged, and no later state is known in it.
        is_within: True where the clock may have shown the time between the damage and the last block of the segment.
    """

    shown: Instant | None
    skipped: Instant | None
    last: Instant
    is_before: bool
    is_damaged: bool = False
    is_within: bool = False


def search(of: TapeSegment, time_ns: int, last_ns: int | None = None) -> FoundTime:
    """Look for a time in a segment.

    Args:
        of: the segment.
        time_ns: CLOCK_REALTIME, ns.
        last_ns: CLOCK_BOOTTIME of the last record in front of the segment, ns, where the clock has shown the time there
            already: records that were read late may be earlier all the same.

    Raises:
        TornError: the segment has what no daemon writes.
    """
    walk = _Walk(of, time_ns)
    if last_ns is not None:
        walk.go_on(last_ns)
    tapes = of.tapes
    for block, behind in zip_longest(tapes, tapes[1:]):
        if walk.may_skip(block, behind):
            if walk.is_before and not of.is_whole(block):
                return walk.broken_off(block)
            walk.skip(block)
            continue
        content = of.content(block)
        if content is None:
            return walk.broken_off(block)
        for entry in tape.entries(content):
            walk.take(entry)
    hidden = of.all_tapes[len(of.tapes) :]
    if hidden or of.is_cut_short:
        return walk.broken_off(*hidden[:1])
    return walk.found()


class _Walk:
    """A walk along the tape of a segment.

    Attributes:
        is_before: True while the clock shows the time or less.
    """

    def __init__(self, of: TapeSegment, time_ns: int) -> None:
        self._of, self._time_ns = of, time_ns
        self._ahead_ns, self._part_ns = of.ahead_ns, of.facts.boottime_ns
        self._order, self._last_ns, self._uncertain_ns = of.facts.first, of.facts.boottime_ns, 0
        self.is_before = of.facts.realtime_ns <= time_ns
        self._shown: Instant | None = None
        self._skipped: Instant | None = None
        self._beyond = _NO_ORDER  # the least number known to be later, while smaller ones are missing
        self._stands: Instant | None = None  # in front of it
        self._seen_ns = self._last_ns  # CLOCK_BOOTTIME of the last part or look at the clocks
        self._later_ns = self._last_ns  # CLOCK_BOOTTIME of the last record that was looked at and later
        self._lost: tuple[int, int] | None = None  # numbers given up, from and below, that may be later than the time

    def go_on(self, last_ns: int) -> None:
        """Begin behind the time, and behind the last record of that CLOCK_BOOTTIME, ns."""
        self.is_before, self._last_ns, self._part_ns = True, last_ns, last_ns

    def may_skip(self, block: Block, behind: Block | None) -> bool:
        """Return True if the clock does not come to the time within a block, nor back over it.

        Args:
            block: the block.
            behind: the next one; numbers given up at the end of a block may have been taken after the time, if nothing
                behind it is as early.
        """
        if self._stands is not None:
            return False
        aheads = (self._ahead_ns, block.ahead_ns)
        if self.is_before:
            return behind is not None and 0 < behind.first_ns <= self._time_ns - max(*aheads, behind.ahead_ns)
        short = block.last_ns - block.first_ns < _ONE_LOOK_NS
        return self._later_ns + min(aheads) > self._time_ns and (short or block.ahead_ns == self._ahead_ns)

    def skip(self, block: Block) -> None:
        """Pass over a block."""
        self._order, self._ahead_ns = max(self._order, block.next), block.ahead_ns
        if block.last_ns:
            self._last_ns = self._part_ns = self._seen_ns = block.last_ns

    def take(self, entry: tape.TapeEntry) -> None:
        """Take an entry."""
        if entry.kind == tape.CLOCK:
            self._set_clock(entry.value - entry.ns, entry.ns)
        elif entry.kind in (Input.GIVE_UP, Input.GIVE_UP_BELOW):
            self._give_up(entry.value + (entry.kind == Input.GIVE_UP))
        elif entry.kind == tape.PART:
            self._seen_ns = entry.ns
            if self._stands is not None:
                self._fill(entry)
            elif entry.ns + self._ahead_ns <= self._time_ns:
                self._pass(entry)
            else:
                self._look(entry)

    def _give_up(self, below: int) -> None:
        """Take it that numbers were given up, which may have been taken before the time."""
        if self.is_before and below > self._order:
            self._lost = self._lost[0] if self._lost is not None else self._order, below
            self._order = below

    def _set_clock(self, ahead_ns: int, at_ns: int) -> None:
        if self.is_before and at_ns + max(ahead_ns, self._ahead_ns) <= self._time_ns:
            self._lost = None
        before_ns, self._ahead_ns = self._ahead_ns, ahead_ns
        seen_ns, self._seen_ns = self._seen_ns, at_ns
        if not self.is_before:
            self.is_before = self._stands is None and ahead_ns < before_ns and at_ns + ahead_ns <= self._time_ns
            return
        if ahead_ns < before_ns and at_ns + before_ns > self._time_ns:
            self._shown = self._here(before_ns)
        elif self._last_ns + before_ns <= self._time_ns < self._last_ns + ahead_ns:
            if seen_ns + before_ns > self._time_ns:  # the clock had shown it before it was set
                self._shown = self._here(before_ns)
            else:
                self._skipped = self._here(before_ns)
            self.is_before = False
            self._later_ns = self._last_ns

    def _pass(self, entry: tape.TapeEntry) -> None:
        """Pass over a part that is not later."""
        self.is_before, self._lost = True, None
        seen = max((number for number, _ in times(entry.payload)), default=-1)  # smaller ones may be late, or lost
        self._order = max(self._order, entry.value, seen + 1)
        self._uncertain_ns, self._last_ns = entry.ns - self._part_ns, entry.ns
        self._part_ns = entry.ns

    def _look(self, entry: tape.TapeEntry) -> None:
        """Look for the time in a part."""
        for number, at_ns in sorted(times(entry.payload)):
            if at_ns and at_ns + self._ahead_ns <= self._time_ns:
                self.is_before, self._lost = True, None
                if number >= self._order:
                    self._order = number + 1
                    self._last_ns, self._uncertain_ns = max(self._last_ns, at_ns), max(0, self._last_ns - at_ns)
            elif self.is_before:
                self.is_before = False
                self._later_ns = at_ns or entry.ns
                self._stands, self._beyond = self._here(self._ahead_ns), max(number, self._order)
            else:
                self._later_ns = max(self._later_ns, at_ns)
        self._order = max(self._order, entry.value)
        self._part_ns = entry.ns
        if self._stands is not None and entry.value >= self._beyond:
            self._settle()

    def _fill(self, entry: tape.TapeEntry) -> None:
        """Look for later records of smaller numbers, which have come late."""
        for number, at_ns in times(entry.payload):
            if number < self._beyond and at_ns + self._ahead_ns > self._time_ns:
                self._beyond = number
        self._order = max(self._order, entry.value)
        self._part_ns = entry.ns
        if entry.value >= self._beyond:
            self._settle()

    def _settle(self) -> None:
        """Note the instant before the least number that is later."""
        if self._stands is not None:
            self._shown = self._stands._replace(order=self._beyond)
        self._stands, self._beyond = None, _NO_ORDER

    def _here(self, ahead_ns: int) -> Instant:
        last_ns = self._last_ns
        missing = ""
        if self._lost is not None:
            first, behind = self._lost
            missing = f"#{first} to #{behind - 1} were lost: nothing tells if that was before this instant"
        return Instant(self._of.run, self._order, last_ns + ahead_ns, last_ns, self._uncertain_ns, missing)

    # ---- the end -----------------------------------------------------------------------------------------------------

    def found(self) -> FoundTime:
        """Return the result at the end of the tape."""
        self._settle()
        return FoundTime(self._shown, self._skipped, self._here(self._ahead_ns), self.is_before)

    def broken_off(self, damaged: Block | None = None) -> FoundTime:
        """Return the result where a block is damaged, or what is in front of it; None: what was in front of the end.

        Within each stretch of the rest the clock may have been set at any moment: so it may have shown all from the one
        clock at the beginning of the stretch to the other one at its end.
        """
        ahead = self._of.all_tapes
        self._settle()
        begin_ns, before_ns = self._last_ns, self._ahead_ns
        within = False
        for each in ahead[ahead.index(damaged) :] if damaged is not None else ():
            end_ns, aheads = max(begin_ns, each.last_ns), (before_ns, each.ahead_ns)
            within |= begin_ns + min(aheads) <= self._time_ns <= end_ns + max(aheads)
            begin_ns, before_ns = end_ns, each.ahead_ns
        if self._of.is_cut_short:
            within |= begin_ns + min(before_ns, self._of.sealed_ahead_ns) <= self._time_ns
        last = self._here(self._ahead_ns)
        return FoundTime(self._shown, self._skipped, last, self.is_before, is_damaged=True, is_within=within)
