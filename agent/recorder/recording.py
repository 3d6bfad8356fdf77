# SPDX-License-Identifier: Apache-2.0
"""A recording as it lies in a folder: its runs, its gaps, and the table at any instant of it.

Opening reads the head of each segment, and little more. A daemon may write to the folder meanwhile.
"""

from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from agent.capture import memoryreader
from agent.capture.memoryreader import UnusableMemoryError
from agent.errors import NoSuchTimeError, UsageError
from agent.recorder import lostsegment, numbertime, storedsegments, tape
from agent.recorder.facts import Gap, Instant, NumberRun, Replayed
from agent.recorder.replay import Replayer
from agent.recorder.tapesegment import TapeSegment
from agent.recorder.timesearch import search
from agent.table import wire

DAMAGED: Final = "what lies between is damaged, or missing"


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
        self._standing: tuple[tuple[int, int, int], Replayer] | None = None
        self.segments, self._lost_first, self._lost, self._between = storedsegments.opened(place)
        if not self.segments:
            also = f" that can be read: {lostsegment.named(self._lost)}" if self._lost else ""
            raise NoRecordingError(f"{place}: there is no recording in it{also}")
        self.runs = tuple(self._run(index) for index in range(self.segments[-1].run + 1))

    @property
    def host(self) -> dict[str, Any]:
        """The fields of agent.model.Header of the host, as of the newest segment."""
        return self.segments[-1].facts.host

    def _run(self, index: int) -> NumberRun:
        mine = [each for each in self.segments if each.run == index]
        first, last = mine[0].facts, mine[-1]
        begin = Instant(index, first.first, first.realtime_ns, first.boottime_ns, 0)
        if not index and self._lost_first:
            begin = begin._replace(missing=f"the recording is damaged in front of #{begin.order}")
        end = Instant(index, last.end_next, last.known_ns + last.end_ahead_ns, last.known_ns, 0)
        if last is self.segments[-1] and (self._lost or not last.ends_whole):
            end = end._replace(missing=self._damaged(end._replace(order=last.next), None))
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
            places = (self.place(Instant(run.first.run, order, 0, 0, 0)) for run in having)
            segments = (self.segments[place] for place in places)
            raise AmbiguousNumberError(numbertime.ambiguous(order, list(zip(having, segments, strict=True))))
        return self._at_order(having[0], order)

    def _at_order(self, run: NumberRun, order: int) -> Instant:
        stands = self.replayer(Instant(run.first.run, order, 0, 0, 0))
        found = Instant(run.first.run, order, stands.time_ns, stands.boottime_ns, stands.uncertain_ns)
        self._standing = (found.run, order, self.place(found)), stands  # whoever asks for the state next has it already
        return found

    def at_time(self, time_ns: int) -> Instant:
        """Return the instant of a time: the records of before it have happened, and no other.

        Args:
            time_ns: CLOCK_REALTIME, ns. Where that clock was set back it may be there twice: the later one counts.

        Raises:
            NoSuchInstantError: it is before the recording's beginning, or behind its end.
        """
        fallback: Instant | None = None
        for index in range(len(self.segments) - 1, -1, -1):
            if self._earliest_ns(index) > time_ns or (fallback is not None and self._latest_ns(index) < time_ns):
                continue
            found, is_certain = self._in_segment(index, time_ns)
            if is_certain and found is not None:
                return found
            fallback = found if fallback is None else fallback
        if fallback is None or time_ns > self.until_ns:
            raise NoSuchInstantError(f"{_date(time_ns)}: the recording does not have that time; it has {self._said()}")
        return fallback

    def _in_segment(self, index: int, time_ns: int) -> tuple[Instant | None, bool]:
        """Return the instant of a time in a segment, or in the gap behind it, and True if the clock showed it there.

        Else the instant is the one at which the clock was set over that time, or the end; None: it was always later there.
        """
        each = self.segments[index]
        following = self.segments[index + 1] if index + 1 < len(self.segments) else None
        found = search(each, time_ns)
        is_joined = following is not None and each.is_sound and following.joins(each)
        if following is not None and not is_joined and _may_be_between(each, following, time_ns):
            return found.last._replace(missing=self._missing(found.last.order, following)), True
        if found.is_within:
            return found.last._replace(missing=self._damaged(found.last, following)), True
        if not found.is_before:
            return found.shown or found.skipped, found.shown is not None
        end_ns = time_ns - each.end_ahead_ns
        last_ns = following.facts.boottime_ns - 1 if following is not None and is_joined else each.known_ns
        shown = end_ns <= last_ns
        if found.shown is not None and not shown:
            return found.shown, True
        missing = found.last.missing
        if shown and is_joined and following is not None and end_ns > each.known_ns:
            behind = search(following, time_ns, found.last.boottime_ns)  # records may have been read late
            if behind.shown is not None and behind.shown.order > found.last.order:
                return behind.shown, True
            if behind.is_damaged:
                missing = self._damaged(found.last, following)
        if not shown and not is_joined and following is not None:
            missing = self._missing(found.last.order, following)
        if found.is_damaged:
            missing = self._damaged(found.last, following)
        return found.last._replace(missing=missing), shown

    def _earliest_ns(self, index: int) -> int:
        """Return CLOCK_REALTIME at the beginning of a segment, ns, or what was shown since, if the clock was set back."""
        each, following = self.segments[index], self.segments[index + 1 : index + 2]
        sequence = each.facts.sequence + 1  # if it goes on from here, it begins with the clock at the end of this one
        goes_on = any(
            one.facts.continues and (one.run, one.facts.sequence) == (each.run, sequence) for one in following
        )
        aheads = [each.ahead_ns] if goes_on else [each.ahead_ns, each.end_ahead_ns, each.sealed_ahead_ns]
        aheads += [one.ahead_ns for one in following if one.facts.boot_id == each.facts.boot_id]
        others = [one.facts.realtime_ns for one in following if one.facts.boot_id != each.facts.boot_id]
        return min([each.facts.boottime_ns + min(aheads), *others])

    def _latest_ns(self, index: int) -> int:
        """Return the latest CLOCK_REALTIME that may have been shown in a segment, or between it and the next one, ns."""
        of, following = self.segments[index], self.segments[index + 1 : index + 2]
        ahead_ns = max([of.ahead_ns, of.sealed_ahead_ns, *(block.ahead_ns for block in of.all_tapes)])
        ends_ns = [one.facts.boottime_ns for one in following if one.facts.boot_id == of.facts.boot_id]
        return max([ahead_ns + max([of.known_ns, *ends_ns]), *(one.facts.realtime_ns for one in following)])

    def _damaged(self, stands: Instant, following: TapeSegment | None) -> str:
        if following is None:
            return f"the recording is damaged behind #{stands.order}: this is the state before"
        return self._missing(stands.order, following)

    def _missing(self, order: int, following: TapeSegment) -> str:
        behind = f"the recording has a gap from #{order} on, until {_date(following.facts.realtime_ns)}"
        return f"{behind} ({self._why(self.segments.index(following))}): this is the state before"

    @property
    def until_ns(self) -> int:
        """CLOCK_REALTIME up to which the recording has everything, but for its gaps, ns."""
        return self.runs[-1].last.time_ns

    @cached_property
    def gaps(self) -> tuple[Gap, ...]:
        """The gaps, by time."""
        return self._gaps([each.next for each in self.segments])

    @cached_property
    def seams(self) -> tuple[Gap, ...]:
        """The gaps between segments, by time, as their ends tell: no block is looked for where there is an index."""
        return self._gaps([each.sealed_next or each.end_next for each in self.segments])

    def _gaps(self, nexts: list[int]) -> tuple[Gap, ...]:
        found = []
        ahead = enumerate(zip(self.segments, nexts, self.segments[1:], strict=False), 1)
        for place, (before, following, behind) in ahead:
            if not behind.joins(before, following):
                facts = behind.facts
                ended_ns = before.known_ns + before.end_ahead_ns
                times = ended_ns, facts.realtime_ns
                found.append(Gap(before.run, following, behind.run, facts.first, *times, self._why(place)))
        end = self.runs[-1].last
        if end.missing:
            found.append(self._last_gap(end.run, end.order, end.time_ns))
        return tuple(found)

    def gap(self, run: int, order: int, boottime_ns: int, ahead_ns: int) -> Gap | None:
        """Return the gap in front of which a replayer stands that is exhausted; None where the recording ends there.

        Where nothing behind it can be replayed, it reaches up to the recording's end. Where its tape is whole, it begins
        at the time up to which the recording states that it has everything: it may have been long idle there.

        Args:
            run: the replayer's.
            order, boottime_ns, ahead_ns: where it stands.
        """
        for place, (before, each) in enumerate(zip([None, *self.segments], self.segments, strict=False)):
            facts = each.facts
            is_reached = each.run == run and facts.first <= order
            if before is not None and is_reached and before.ends_whole and each.joins(before):
                continue  # the replayer has passed over from one to the other
            if (each.run, facts.boottime_ns) > (run, boottime_ns) and each.keyframe() is not None:
                from_ns = boottime_ns + ahead_ns
                if before is not None and before.run == run and before.ends_whole and before.end_next == order:
                    from_ns = before.known_ns + before.end_ahead_ns
                return Gap(run, order, each.run, facts.first, from_ns, facts.realtime_ns, self._why(place))
        end = self.runs[-1].last
        if (run, order) < (end.run, end.order) or end.missing or self._is_broken_behind(run, boottime_ns):
            return self._last_gap(run, order, boottime_ns + ahead_ns)
        return None

    def _why(self, place: int) -> str:
        """Return the reason of the gap in front of a segment, and what of the folder is missing there."""
        return "; ".join(filter(None, (self.segments[place].facts.why, self._between.get(place)))) or DAMAGED

    def _is_broken_behind(self, run: int, boottime_ns: int) -> bool:
        """Return True if something is damaged or missing in the segment of a time or behind it, be it no record."""
        place = bisect_right([(each.run, each.facts.boottime_ns) for each in self.segments], (run, boottime_ns))
        behind = self.segments[max(0, place - 1) :]
        joins = all(other.joins(one) for one, other in pairwise(behind))
        return not joins or not all(each.is_sound for each in behind)

    def _last_gap(self, run: int, order: int, from_ns: int) -> Gap:
        """Return the gap that reaches up to the end of the recording; the segments that are lost there are in it."""
        end = self.runs[-1].last
        behind = max([end.order, *(each.next for each in self._lost)])
        until_ns = max([end.time_ns, *(each.until_ns for each in self._lost)])
        return Gap(run, order, end.run + 1, behind, from_ns, until_ns, lostsegment.named(self._lost) or DAMAGED)

    @property
    def first_gap(self) -> Gap | None:
        """The gap in front of the first segment that can be read, where others cannot; it begins at an unknown time."""
        begin = self.runs[0].first
        if not self._lost_first:
            return None
        return Gap(0, begin.order, 0, begin.order, begin.time_ns, begin.time_ns, lostsegment.named(self._lost_first))

    def ahead_ns(self, run: int, order: int) -> int:
        """Return by how much CLOCK_REALTIME was ahead of CLOCK_BOOTTIME behind the segment that has a number, ns."""
        mine = [each for each in self.segments if each.run == run]
        return max(mine, key=lambda each: (each.facts.first <= order, each.facts.first)).end_ahead_ns

    def _said(self) -> str:
        runs = (
            f"#{run.first.order} to #{run.last.order} ({_date(run.first.time_ns)} to {_date(run.last.time_ns)})"
            for run in self.runs
        )
        return "; ".join(
            [", ".join(runs), *filter(None, (lostsegment.named(self._lost_first), lostsegment.named(self._lost)))]
        )

    # ---- replays ---------------------------------------------------------------------------------------------------

    def place(self, instant: Instant) -> int:
        """Return the index of the segment that has an instant.

        Several may begin at its number, with gaps between them: the one of its time has it then, and of a number the last.
        """
        begins = [(each.run, each.facts.first) for each in self.segments]
        place = bisect_right(begins, instant[:2]) - 1
        while place > 0 and begins[place] == instant[:2] and begins[place - 1][0] == instant.run:
            if not 0 < instant.boottime_ns < self.segments[place].facts.boottime_ns:
                break
            place -= 1
        return place

    def place_behind(self, gap: Gap) -> int:
        """Return the index of the segment that is behind a gap; their number where none is."""
        return self._places.get((gap.next_run, gap.next, gap.until_ns), len(self.segments))

    @cached_property
    def _places(self) -> dict[tuple[int, int, int], int]:
        return storedsegments.places(self.segments)

    def replayer(self, instant: Instant, place: int | None = None) -> Replayer:
        """Return a replayer that stands at an instant, or, where the recording has a gap before it, in front of the gap.

        Args:
            instant: the instant.
            place: the index of its segment, where several begin at its number, with gaps between them; None: as of `place`.

        Raises:
            NoSuchInstantError: there is no whole keyframe before it.
        """
        standing, self._standing = self._standing, None
        if place is None:
            place = self.place(instant)
            if standing is not None and standing[0] == (*instant[:2], place):
                return standing[1]
        for index in range(self._last_joined(instant, place), -1, -1):
            begin = self.segments[index]
            if begin.run != instant.run:
                break
            if begin.facts.head_bytes != wire.HEAD.size or begin.facts.memory not in memoryreader.READS:
                raise NoSuchInstantError(
                    f"#{instant.order}: ckptree {begin.facts.by} has recorded it in another format"
                )
            keyframe = begin.keyframe()
            if keyframe is not None:
                try:
                    ahead = storedsegments.tapes(self.segments[index:])
                    found = Replayer(keyframe, ahead, begin.facts.boottime_ns, begin.ahead_ns)
                except UnusableMemoryError:
                    keyframe = None
            if keyframe is not None:
                try:
                    found.advance(instant.order)
                except tape.TornError as error:
                    raise NoSuchInstantError(f"#{instant.order}: {error}") from error
                return found
            if not begin.joins(self.segments[index - 1] if index else None):
                break
        raise NoSuchInstantError(f"#{instant.order}: no keyframe before it is whole; the recording has {self._said()}")

    def _last_joined(self, instant: Instant, place: int) -> int:
        """Return the index of the last segment that begins at or before an instant, with no gap behind a place."""
        for one, other in pairwise(self.segments[place:]):
            if other.run != instant.run or other.facts.first > instant.order or not other.joins(one):
                break
            place += 1
        return place

    def entries(self, instant: Instant) -> Iterator[tape.TapeEntry]:
        """Yield the entries of the tape from the block of an instant on, up to the first gap.

        Raises:
            TornError: a piece of the tape is not whole.
        """
        for piece in storedsegments.tapes(self.segments[max(0, self.place(instant)) :], instant.order):
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
        elif found.at_end and storedsegments.are_broken(self.segments[self.place(instant) :], found.order):
            reasons.append(f"the recording is damaged behind #{found.order}: what has no record there may be missing")
        reasons += found.doubts()
        return Replayed(instant, found.table, found.stream, found.is_in_doubt, tuple(reasons))


def _may_be_between(before: TapeSegment, behind: TapeSegment, time_ns: int) -> bool:
    """Return True if the clock may have shown a time in the gap between two segments."""
    begin_ns, end_ns = before.known_ns, behind.facts.boottime_ns
    if before.facts.boot_id == behind.facts.boot_id:
        aheads = before.end_ahead_ns, before.sealed_ahead_ns, behind.ahead_ns
        return begin_ns + min(aheads) < time_ns <= end_ns + max(aheads)
    ended_ns, began_ns = begin_ns + before.end_ahead_ns, behind.facts.realtime_ns
    if ended_ns > began_ns:  # a boot with an earlier clock: what the one before has recorded was not within the gap
        ended_ns = began_ns - behind.facts.boottime_ns
    return ended_ns < time_ns <= began_ns


def _date(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
