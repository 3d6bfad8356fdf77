# SPDX-License-Identifier: Apache-2.0
"""The replay of a tape: a keyframe, then entries through the same stream, handlers and table that the daemon has. Pure.

A replay stops between two records, before the first one whose number is not smaller than the one asked for is handled. The
watch's own calls until then have had their effect. Records with larger numbers may have come already; they are held back.
"""

import struct
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final, Protocol

from agent.capture import memoryreader, memorywriter
from agent.recorder import tape
from agent.table import wire
from agent.table.inputs import Input
from agent.table.processtable import ProcessTable
from agent.table.stream import Stream

_BUSY: Final = 1 << 31
_DISCARD: Final = 1 << 30
_LENGTH: Final = _DISCARD - 1
_RING_HEAD: Final = struct.Struct("<II")
_SEQ: Final = wire.reader(wire.RECORD, "seq").unpack_from
NO_RECORDS: Final = (
    *(struct.error, IndexError, KeyError, ValueError, TypeError, AttributeError, OverflowError, RecursionError),
)
"""Errors of a handler over bytes that no kernel writes: a check sum does not keep an author from writing them."""
_KIND: Final = wire.reader(wire.RECORD, "seq", "kind").unpack_from
_TIME: Final = wire.reader(wire.RECORD, "time_ns").unpack_from
_NUMBER_AND_TIME: Final = wire.reader(wire.RECORD, "seq", "time_ns").unpack_from


class Picks(Protocol):
    """A choice of records that leaves a part of the table as all records would (agent.recorder.kin).

    Attributes:
        last_at: the offset of the last record of the part last picked from.
    """

    last_at: int

    def picked(self, part: memoryview, stream: Stream) -> Iterator[int]:
        """Yield the offsets in a part of the records that the stream has to take; pass the stream over the others."""
        ...

    def refuse(self, kind: int, value: int, table: ProcessTable) -> None:
        """Raise UnfitKinError where an input beside records makes the choice a wrong one."""
        ...

    def check(self, stream: Stream, table: ProcessTable) -> None:
        """Raise UnfitKinError where the table shows that the choice is a wrong one."""
        ...


class Replayer:
    """A stream and a table that stand at a point of a tape.

    Args:
        keyframe: the memory at the tape's beginning.
        tapes: the pieces of the tape, each of whole entries.
        boottime_ns, ahead_ns: CLOCK_BOOTTIME at the beginning, and by how much CLOCK_REALTIME was ahead of it.

    Attributes:
        table, stream: as the daemon had them at this point.
        uncertain_ns: bound of the error of `boottime_ns`.
        ended: True once an orderly end of the daemon has been passed.
        mends_loss: True while a sweep goes on that repairs a loss of records.

    Raises:
        UnusableMemoryError: the keyframe is damaged, or of another version.
    """

    def __init__(self, keyframe: bytes, tapes: Iterable[bytes], boottime_ns: int, ahead_ns: int) -> None:
        memory = memoryreader.load(keyframe, memorywriter.TOTALS)
        self.table, self.stream = memory.table, memory.stream
        self.uncertain_ns = 0
        self.ended = False
        self._ahead_ns = ahead_ns
        self._last_ns = boottime_ns
        self._begun_ns = boottime_ns  # of the last record in front of the present part
        self._part_ns = boottime_ns
        self._handled: memoryview | None = None  # the part whose record, at `_at`, is being handled
        self._entries = _entries_of(tapes)
        self._entry = next(self._entries, None)
        self._at = 0  # within the payload of the present entry
        self._held: list[bytes] = []
        self.mends_loss = False
        self._mends = False  # a sweep that repairs any doubt goes on
        self._picks: Picks | None = None

    @property
    def order(self) -> int:
        """The number of the first record that has not been handled."""
        return self.stream.next

    @property
    def boottime_ns(self) -> int:
        """CLOCK_BOOTTIME of the last record, or of the one that is being handled, ns: no earlier than any before it."""
        if self._handled is not None:
            return max(self._begun_ns, int(_TIME(self._handled, self._at + _RING_HEAD.size)[0]))
        return self._last_ns

    @property
    def time_ns(self) -> int:
        """CLOCK_REALTIME that belongs to `boottime_ns`, ns."""
        return self.boottime_ns + self._ahead_ns

    @property
    def exhausted(self) -> bool:
        """True where the tape has no more entries."""
        return self._entry is None and not self._held

    @property
    def at_end(self) -> bool:
        """True where the tape has no more entries, though records that have come too early may wait."""
        return self._entry is None

    @property
    def ahead_ns(self) -> int:
        """By how much CLOCK_REALTIME is ahead of CLOCK_BOOTTIME at this point, ns."""
        return self._ahead_ns

    @property
    def is_in_doubt(self) -> bool:
        """True where a loss has not been repaired: the sweep that repairs it has not begun, or not ended."""
        return self.stream.suspect or self.table.astray or self._mends

    def is_stirred(self, lost: int) -> bool:
        """Return True if a record may come late: since `lost` were lost, others were, or some wait for a missing one."""
        return self.stream.waiting or self.stream.lost != lost or self.is_in_doubt

    def doubts(self) -> list[str]:
        """Return sentences on what makes the state at this point uncertain."""
        if self.is_in_doubt:
            return ["events were lost before this instant, and no comparison with the kernel had followed yet"]
        return []

    @property
    def is_narrow(self) -> bool:
        """True where the table gets some of the records only."""
        return self._picks is not None

    def narrow(self, picks: Picks) -> None:
        """From now on hand the table only the records that are picked. `steps` and `advance` raise what `picks` raises."""
        self._picks = picks

    def extend(self, tapes: Iterable[bytes]) -> None:
        """Append pieces of a tape that has grown.

        Raises:
            TornError: a piece is not whole.
        """
        self._entries = chain(self._entries, _entries_of(tapes))
        if self._entry is None:
            self._entry = next(self._entries, None)

    def advance(self, order: int) -> None:
        """Go on to a number; where the tape ends before, to its end.

        Raises:
            TornError: a piece of the tape is not whole.
        """
        for _ in self.steps(order):
            pass

    def steps(self, order: int) -> Iterator[tape.TapeEntry]:
        """Go on to a number; yield each entry once it has had its effect, all of it or what is before the number.

        Raises:
            TornError: a piece of the tape is not whole.
        """
        self._feed_held(order)
        while (entry := self._entry) is not None:
            if self.stream.next == order and self._has_come(order):
                return
            try:
                whole = self._part(entry, order) if entry.kind == tape.PART else self._input(entry, order)
            except NO_RECORDS as error:
                self._handled = None
                raise tape.TornError(f"the tape has what no daemon writes, behind #{self.order}: {error!r}") from error
            if whole:
                self._entry, self._at = next(self._entries, None), 0
            self.table.changes.gather().clear()
            if self._picks is not None:
                self._picks.check(self.stream, self.table)
            yield entry
            if not whole:
                return

    # ---- records ---------------------------------------------------------------------------------------------------

    def _part(self, entry: tape.TapeEntry, order: int) -> bool:
        """Feed a part, or its records up to a number; return False where it has more."""
        view, end = entry.payload, len(entry.payload)
        if not self._at:
            self._begun_ns = self._last_ns
            if entry.value <= order:
                self._feed_all(view)
                self._pass(view, entry.ns)
                return True
            self._hold_early(order)
        while self._at < end:
            flags, _ = _RING_HEAD.unpack_from(view, self._at)
            begin = self._at + _RING_HEAD.size
            if not flags & _DISCARD:
                (seq,) = _SEQ(view, begin)
                if seq == order == self.stream.next:
                    return False
                if seq >= order:
                    self._held.append(_record(view, begin))
                else:
                    self._handled = view
                    self.stream.feed(view, begin)
                    self._handled = None
                    self._pass_one(_TIME(view, begin)[0], entry.ns)
            self._at = begin + tape.padded(flags & _LENGTH)
            if self.stream.next == order and self._has_come(order):
                return False
        self._part_ns = entry.ns
        return True

    def _feed_all(self, part: memoryview) -> None:
        feed, at, end = self.stream.feed, 0, len(part)
        words = part.cast("I")
        self._handled = part
        if self._picks is not None:
            for picked in self._picks.picked(part, self.stream):
                self._at = picked
                feed(part, picked + _RING_HEAD.size)
            self._at = self._picks.last_at
            at = end
        while at < end:
            flags = words[at >> 2]
            if not flags & _DISCARD:
                self._at = at
                feed(part, at + 8)
            at += (flags & _LENGTH) + 15 & ~7
        self._handled = None

    def _pass(self, part: memoryview, part_ns: int) -> None:
        """Note the time of a part that has been fed: that of its last record."""
        self._pass_one(_TIME(part, self._at + _RING_HEAD.size)[0], part_ns)
        self._part_ns = part_ns

    def _pass_one(self, time_ns: int, part_ns: int) -> None:
        if time_ns:
            self.uncertain_ns = max(0, self._last_ns - time_ns)
            self._last_ns = max(self._last_ns, time_ns)
        else:  # the hooks were not asked for times then: it happened between two reads of the ring
            self.uncertain_ns = part_ns - self._part_ns
            self._last_ns = max(self._last_ns, part_ns)

    def _hold_early(self, order: int) -> None:
        """Take back records with larger numbers that wait in the stream."""
        early = self.stream.early
        later = [record for record in early if _SEQ(record)[0] >= order]
        if later:
            self._held += later
            self.stream.resume(self.stream.next, [record for record in early if _SEQ(record)[0] < order])

    def _feed_held(self, order: int) -> None:
        """Feed the records that were held back from an earlier stop, as far as they are not behind this one either."""
        held, self._held = self._held, []
        for record in held:
            if _SEQ(record)[0] >= order:
                self._held.append(record)
            else:
                self.stream.feed(record, 0)

    def _has_come(self, order: int) -> bool:
        return any(_SEQ(record)[0] == order for record in self._held)

    # ---- inputs beside records -------------------------------------------------------------------------------------

    def _input(self, entry: tape.TapeEntry, order: int) -> bool:
        """Repeat a call of the watch; return False where it would go beyond a number."""
        kind, value = entry.kind, entry.value
        stream = self.stream
        if self._picks is not None and kind < tape.PART:
            self._picks.refuse(kind, value, self.table)
        if kind == Input.GIVE_UP:
            if value >= order:
                return False
            self._hold_early(order)
            stream.give_up((value,))
        elif kind == Input.GIVE_UP_BELOW:
            self._hold_early(order)
            stream.give_up_below(min(value, order))
            return value <= order
        elif kind == tape.CLOCK:
            self._ahead_ns = value - entry.ns
        elif kind == tape.END:
            self.ended = True
        else:
            self._call(kind, value)
        return True

    def _call(self, kind: int, value: int) -> None:
        """Repeat a call that moves no number."""
        stream, table = self.stream, self.table
        if kind == Input.SUSPECT:
            stream.suspect = True
        elif kind == Input.TRUST:
            self._mends = self.is_in_doubt
            self.mends_loss = stream.suspect or self.mends_loss
            stream.suspect = table.astray = False
        elif kind == Input.QUESTION:
            task = table.task(value)
            if task is not None:
                table.question(task)
        elif kind == Input.TAKE:
            table.take_questions(value)
        elif kind == Input.MISS_NONE:
            table.miss(())
        elif kind == Input.MISS:
            task = table.task(value)
            if task is not None:
                table.unlisted.add(task)
        elif kind == Input.STRIKE_OFF:
            table.strike_off(value)
            self._mends = self.mends_loss = False
        elif kind == Input.REUNITE:
            table.reunite()
        elif kind == Input.SETTLE:
            table.settle()


def times(part: memoryview) -> list[tuple[int, int]]:
    """Return number and time (CLOCK_BOOTTIME, ns; 0: not told) of each record of a part."""
    found, at = [], 0
    try:
        while at < len(part):
            flags, _ = _RING_HEAD.unpack_from(part, at)
            if not flags & _DISCARD:
                found.append(_NUMBER_AND_TIME(part, at + _RING_HEAD.size))
            at += _RING_HEAD.size + tape.padded(flags & _LENGTH)
    except struct.error as error:
        raise tape.TornError(f"a part of the tape is not whole: {error}") from error
    return found


def _entries_of(tapes: Iterable[bytes]) -> Iterator[tape.TapeEntry]:
    for piece in tapes:
        yield from tape.entries(piece)


def _record(view: memoryview, at: int) -> bytes:
    kind = _KIND(view, at)[1]
    return bytes(view[at : at + wire.record_bytes(view, at, kind)])
