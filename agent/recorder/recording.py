# SPDX-License-Identifier: Apache-2.0
"""A recording as it lies in a folder: its runs, its gaps, and the table at any instant of it.

Opening reads the head of each segment, and little more. A daemon may write to the folder meanwhile.
"""

import time
from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

from agent.capture import memoryreader
from agent.capture.memoryreader import UnusableMemoryError
from agent.errors import NoSuchTimeError, UsageError
from agent.recorder import folder, folderlock, segment, tape
from agent.recorder.facts import Gap, Instant, NumberRun, Replayed
from agent.recorder.instant import written
from agent.recorder.replay import Replayer, times
from agent.recorder.tapesegment import TapeSegment
from agent.table import wire

_UNWRITTEN_NS: Final = 1_000_000_000  # what is older is on disk, where the writer keeps up
_HEAD_BYTES: Final = 1 << 12
_MOST_NAMED: Final = 3  # runs, each of which costs a replay
_DAMAGED: Final = "what lies between is damaged, or missing"


class NoRecordingError(NoSuchTimeError):
    """A folder without a recording that can be read (exit code 4)."""


class NoSuchInstantError(NoSuchTimeError):
    """An instant that the recording does not have; the text says which it has (exit code 4)."""


class AmbiguousNumberError(UsageError):
    """A number that several runs of the recording have; the text has their times (exit code 2)."""


class Recording:
    """A recording.

    Args:
        place: its folder.

    Attributes:
        segments: oldest first.
        runs: by time.

    Raises:
        NoRecordingError: there is no segment in it.
        HostError: it cannot be read.
    """

    def __init__(self, place: Path) -> None:
        self.folder = place
        self.segments: list[TapeSegment] = []
        self._standing: tuple[tuple[int, int], Replayer] | None = None
        for each in folder.stored(place):
            try:
                facts, begin = _head_of(each.path)
            except (OSError, segment.DamagedError):
                continue  # dropped meanwhile, or its head is damaged: the one behind it joins nothing then
            last = self.segments[-1] if self.segments else None
            new = last is None or (last.facts.boot_id, last.facts.ring) != (facts.boot_id, facts.ring)
            self.segments.append(TapeSegment(each.path, facts, begin, (last.run + new) if last else 0))
        if not self.segments:
            raise NoRecordingError(f"{place}: there is no recording in it")
        self.runs = tuple(self._run(index) for index in range(self.segments[-1].run + 1))

    @property
    def host(self) -> dict[str, Any]:
        """The fields of agent.model.Header of the host, as of the newest segment."""
        return self.segments[-1].facts.host

    def _run(self, index: int) -> NumberRun:
        mine = [each for each in self.segments if each.run == index]
        first, last = mine[0].facts, mine[-1]
        begin = Instant(index, first.first, first.realtime_ns, first.boottime_ns, 0)
        end = Instant(index, last.next, last.last_ns + last.ahead_ns, last.last_ns, 0)
        return NumberRun(first.boot_id, first.ring, begin, end, last.ended)

    # ---- instants --------------------------------------------------------------------------------------------------

    def at_order(self, order: int) -> Instant:
        """Return the instant before the record of a number.

        Raises:
            NoSuchInstantError: no run has it.
            AmbiguousNumberError: several runs have it.
        """
        having = [run for run in self.runs if run.first.order <= order <= run.last.order]
        if not having:
            raise NoSuchInstantError(f"#{order}: the recording has no such number; it has {self._said()}")
        if len(having) > 1:
            raise AmbiguousNumberError(self._ambiguous(order, having))
        return self._at_order(having[0], order)

    def _at_order(self, run: NumberRun, order: int) -> Instant:
        stands = self.replayer(Instant(run.first.run, order, 0, 0, 0))
        self._standing = (run.first.run, order), stands  # whoever asks for the state next has it already
        return Instant(run.first.run, order, stands.time_ns, stands.boottime_ns, stands.uncertain_ns)

    def _ambiguous(self, order: int, having: list[NumberRun]) -> str:
        """Return the times of a number that several runs have, the last ones where there are many."""
        named = []
        for run in having[-_MOST_NAMED:]:
            try:
                named.append(written(self._at_order(run, order).time_ns))
            except NoSuchInstantError:  # what is before it is damaged
                named.append(f"a time from {written(run.first.time_ns)} to {written(run.last.time_ns)}")
        earlier = len(having) - len(named)
        also = f", and {earlier} earlier times" if earlier else ""
        return (
            f"TIME '#{order}': numbers begin anew where a daemon starts without the records of the one before, and the "
            f"recording has this number {len(having)} times: name the time, {' or '.join(named)}{also}"
        )

    def at_time(self, time_ns: int) -> Instant:
        """Return the instant of a time: the records of before it have happened, and no other.

        Args:
            time_ns: CLOCK_REALTIME, ns. Where that clock was set back it may be there twice: the later one counts.

        Raises:
            NoSuchInstantError: it is before the recording's beginning, or behind its end.
        """
        index = max((n for n, each in enumerate(self.segments) if each.facts.realtime_ns <= time_ns), default=-1)
        if index < 0 or time_ns > self.until_ns:
            raise NoSuchInstantError(f"{_date(time_ns)}: the recording does not have that time; it has {self._said()}")
        begin = self.segments[index]
        found, beyond = _instant_in(begin, time_ns)
        following = self.segments[index + 1] if index + 1 < len(self.segments) else None
        if not beyond or (begin.is_sound and (following is None or following.joins(begin))):
            return found
        if following is None:
            return found._replace(missing=f"the recording is damaged behind #{found.order}: this is the state before")
        return found._replace(missing=_missing(found.order, following))

    @property
    def until_ns(self) -> int:
        """CLOCK_REALTIME of the last instant that is known, ns; while a daemon writes, that is a moment ago."""
        last = self.runs[-1].last.time_ns
        return max(last, time.time_ns() - _UNWRITTEN_NS) if folderlock.is_written(self.folder) else last

    @cached_property
    def gaps(self) -> tuple[Gap, ...]:
        """The gaps, by time."""
        return self._gaps([each.next for each in self.segments])

    @cached_property
    def seams(self) -> tuple[Gap, ...]:
        """The gaps between segments, by time, as far as their ends tell: no block is looked for within those that have an
        index.
        """
        return self._gaps([each.sealed_next or each.next for each in self.segments])

    def _gaps(self, nexts: list[int]) -> tuple[Gap, ...]:
        found = []
        for before, following, behind in zip(self.segments, nexts, self.segments[1:], strict=False):
            if not behind.joins(before, following):
                facts = behind.facts
                why = facts.why or _DAMAGED
                ended_ns = before.last_ns + before.ahead_ns
                found.append(Gap(before.run, following, behind.run, facts.first, ended_ns, facts.realtime_ns, why))
        return tuple(found)

    def gap(self, run: int, order: int, boottime_ns: int) -> Gap | None:
        """Return the gap in front of which a replayer stands that is exhausted; None where the recording ends there.

        Args:
            run: the replayer's.
            order, boottime_ns: where it stands.
        """
        for each in self.segments:
            facts = each.facts
            if (each.run, facts.boottime_ns) > (run, boottime_ns) and each.keyframe() is not None:
                ahead_ns = [one.ahead_ns for one in self.segments if one.run == run][-1]
                why = facts.why or _DAMAGED
                return Gap(run, order, each.run, facts.first, boottime_ns + ahead_ns, facts.realtime_ns, why)
        return None

    def _said(self) -> str:
        return ", ".join(
            f"#{run.first.order} to #{run.last.order} ({_date(run.first.time_ns)} to {_date(run.last.time_ns)})"
            for run in self.runs
        )

    # ---- replays ---------------------------------------------------------------------------------------------------

    def replayer(self, instant: Instant) -> Replayer:
        """Return a replayer that stands at an instant, or, where the recording has a gap before it, in front of the gap.

        Raises:
            NoSuchInstantError: there is no whole keyframe before it.
        """
        standing, self._standing = self._standing, None
        if standing is not None and standing[0] == (instant.run, instant.order):
            return standing[1]
        mine = [each for each in self.segments if each.run == instant.run]
        for index in range(bisect_right([each.facts.first for each in mine], instant.order) - 1, -1, -1):
            begin = mine[index]
            if begin.facts.head_bytes != wire.HEAD.size or begin.facts.memory not in memoryreader.READS:
                raise NoSuchInstantError(
                    f"#{instant.order}: ckptree {begin.facts.by} has recorded it in another format"
                )
            keyframe = begin.keyframe()
            if keyframe is not None:
                try:
                    found = Replayer(keyframe, _tapes(mine[index:]), begin.facts.boottime_ns, begin.ahead_ns)
                except UnusableMemoryError:
                    keyframe = None
            if keyframe is not None:
                try:
                    found.advance(instant.order)
                except tape.TornError as error:
                    raise NoSuchInstantError(f"#{instant.order}: {error}") from error
                return found
            if not begin.joins(mine[index - 1] if index else None):
                break
        raise NoSuchInstantError(f"#{instant.order}: no keyframe before it is whole; the recording has {self._said()}")

    def entries(self, instant: Instant) -> Iterator[tape.TapeEntry]:
        """Yield the entries of the tape from the block of an instant on, up to the first gap.

        Raises:
            TornError: a piece of the tape is not whole.
        """
        mine = [each for each in self.segments if each.run == instant.run]
        index = bisect_right([each.facts.first for each in mine], instant.order) - 1
        for piece in _tapes(mine[max(0, index) :], instant.order):
            yield from tape.entries(piece)

    def table_at(self, instant: Instant) -> Replayed:
        """Return the state at an instant.

        Raises:
            NoSuchInstantError: there is no whole keyframe before it.
        """
        found = self.replayer(instant)
        reasons = []
        if instant.missing:
            reasons.append(instant.missing)
        elif found.order < instant.order:
            reasons.append(f"the recording is missing #{found.order} to #{instant.order - 1}: this is the state before")
        reasons += found.doubts()
        return Replayed(instant, found.table, found.stream, found.is_in_doubt, tuple(reasons))


def _head_of(path: Path) -> tuple[segment.SegmentFacts, int]:
    """Read the head of a segment's file; errors as of segment.read_head, and OSError."""
    with path.open("rb", buffering=0) as file:
        begun = file.read(_HEAD_BYTES)
        return segment.read_head(begun + file.read(max(0, segment.most_of_head(begun) - len(begun))))


def _instant_in(begin: TapeSegment, time_ns: int) -> tuple[Instant, bool]:
    """Return the instant of a time that is not before a segment's beginning.

    Returns:
        The instant, and False if it is among the segment's records, True if it is behind the last whole one.
    """
    ahead_ns, before_ns = begin.ahead_ns, begin.facts.boottime_ns
    order, last_ns, uncertain_ns = begin.facts.first, before_ns, 0
    tapes = begin.tapes
    for block, behind in zip_longest(tapes, tapes[1:]):
        if behind is not None and 0 < behind.first_ns <= time_ns - max(ahead_ns, block.ahead_ns, behind.ahead_ns):
            if not begin.is_whole(block):
                break
            order, ahead_ns, last_ns, before_ns = block.next, block.ahead_ns, block.last_ns, block.last_ns
            continue
        content = begin.content(block)
        if content is None:
            break
        for entry in tape.entries(content):
            if entry.kind == tape.CLOCK:
                ahead_ns = entry.value - entry.ns
            elif entry.kind == tape.PART and entry.ns + ahead_ns <= time_ns:
                seen = max(
                    (number for number, _ in times(entry.payload)), default=-1
                )  # smaller ones may be late, or lost
                order, last_ns, uncertain_ns = max(order, entry.value, seen + 1), entry.ns, entry.ns - before_ns
                before_ns = entry.ns
            elif entry.kind == tape.PART:
                for number, at_ns in sorted(times(entry.payload)):
                    if not at_ns or at_ns + ahead_ns > time_ns:
                        return Instant(begin.run, order, last_ns + ahead_ns, last_ns, uncertain_ns), False
                    if number >= order:
                        order, last_ns, uncertain_ns = number + 1, max(last_ns, at_ns), max(0, last_ns - at_ns)
            elif entry.ns and entry.ns + ahead_ns > time_ns:
                return Instant(begin.run, order, last_ns + ahead_ns, last_ns, uncertain_ns), False
    return Instant(begin.run, order, last_ns + ahead_ns, last_ns, uncertain_ns), True


def _missing(order: int, following: TapeSegment) -> str:
    facts = following.facts
    behind = f"the recording has a gap from #{order} on, until {_date(facts.realtime_ns)}"
    return f"{behind} ({facts.why or _DAMAGED}): this is the state before"


def _date(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _tapes(segments: list[TapeSegment], order: int = 0) -> Iterator[bytes]:
    """Yield the tapes of segments, up to the first gap, but for blocks that end before a number."""
    for index, each in enumerate(segments):
        if index and not each.joins(segments[index - 1]):
            return
        for block in each.blocks:
            if block is None:
                return
            if block.kind == segment.TAPE and block.next >= order:
                content = each.content(block)
                if content is None:
                    return
                yield content
