# SPDX-License-Identifier: Apache-2.0
"""The lives of a number: each task that has had it, from its birth to its reap, as the events of all tasks tell them.

Theory
------
Little of a life is in the records about it: the exit of a parent's last thread gives it another parent, the exec of another
thread ends it, a wait in another pid namespace reaps it. So nothing is derived from single records. The segments in which
something may have happened to the number (agent.recorder.numberplan) are replayed, and the feed of all events tells what
happened (agent.recorder.numberfeed). The others are passed over. Within a segment the feed stands by from the first record
about the number on, or from the beginning where a task has it there, and until no task has it any more and none will.

A life is that of one task: what a daemon tells of it and what the next one does, on another numbering of the same boot, is
one life, with a ``gap`` in it where records are missing. What differs behind the gap is assumed, as it is among all events.
What a record behind damage tells of its own task is certain, and told within the gap (agent.recorder.islands).
A ``loss`` is told of every number, as of its gaps: the records that were lost may have been of any task.
"""

from typing import TYPE_CHECKING, Any, Final

from agent.errors import NoSuchRootError, NoSuchTimeError, NotPermittedError
from agent.recorder import islands, kin, spanends
from agent.recorder.facts import Gap, Instant
from agent.recorder.instant import written
from agent.recorder.lifestates import ahead_of, is_dead, is_over, kept_names
from agent.recorder.numberfeed import NumberFeed
from agent.recorder.numberplan import NumberPlan
from agent.recorder.numberrecords import RecordExtent, extent
from agent.recorder.past import Enquirer
from agent.recorder.recording import Recording
from agent.recorder.replay import NO_RECORDS, Replayer
from agent.recorder.tape import TapeEntry, TornError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agent.recorder.tapesegment import TapeSegment

Said = dict[str, Any]

_EVERY: Final = 2**64 - 1
_OF_BIRTHS: Final = ("creator", "flags", "assumed", "present", "entered")
"""Fields of the birth of a task that was there before: its birth is not known."""

_OF_GROUPS: Final = ("pgid", "sid", "on", "assumed")
"""Fields of what a thread gives its process."""


class NumberHistory:
    """The lives of a number within a span.

    Args:
        recording: the recording.
        span: the first and the last instant.
        number: in the initial pid namespace.
        enquirer: the one who asks: what a task did under ids that it may not see is left out.

    Attributes:
        gaps: events of the gaps and the losses in the span at which no life goes on, once `lives` has been called: one
            may be within.
    """

    def __init__(self, recording: Recording, span: tuple[Instant, Instant], number: int, enquirer: Enquirer) -> None:
        self._recording = recording
        self._since, self._until = span
        self._number = number
        self._enquirer = enquirer
        self._lives: dict[tuple[str, int], list[Said]] = {}
        self._seams = {recording.place_behind(gap): gap for gap in recording.seams}
        self._feed: NumberFeed | None = None
        self._steps: Iterator[TapeEntry] | None = None
        self._lost = 0
        self._run = self._since.run
        self.gaps: list[Said] = []
        self._hidden = False
        self._whole: set[int] = set()  # segments from which on all records have to be replayed
        # The segment in which the feed was made, and the count of gaps and the lives then.
        self._kept: tuple[int, int, dict[tuple[str, int], list[Said]]] = (0, 0, {})

    def lives(self) -> list[list[Said]]:
        """Return the events of each life, oldest first.

        Raises:
            NoSuchRootError: no task had the number, and the span has no gap.
            NotPermittedError: none that the client may see.
            TornError: the recording has what no daemon writes.
        """
        try:
            self._find()
        except NO_RECORDS as error:
            raise TornError(
                f"the recording has what no daemon writes about number {self._number}: {error!r}"
            ) from error
        told = [self._told(life) for life in self._lives.values()]
        lives = [life for life in told if life]
        if not lives and self._hidden:
            raise NotPermittedError(f"not permitted: no task that has had number {self._number} was yours")
        if not lives and not self.gaps:
            times = " to ".join(written(each.time_ns) for each in (self._since, self._until))
            raise NoSuchRootError(f"no task has had number {self._number} from {times}")
        return sorted(lives, key=lambda life: (life[0]["run"], life[0]["order"]))

    # ---- the span --------------------------------------------------------------------------------------------------

    def _find(self) -> None:
        recording, until = self._recording, self._until
        place, last = max(0, recording.place(self._since)), max(0, recording.place(until))
        self._plan = NumberPlan(recording, self._number, place, last)
        self._begin(place)
        while True:
            self._run = recording.segments[place].run
            try:
                further = self._pass(place, last)
            except kin.UnfitKinError:
                further = self._widen()
            if further is None:
                return
            place = further

    def _pass(self, place: int, last: int) -> int | None:
        """Take what a segment tells of the number; return the index of the next one, or None at the end of the span."""
        broken = self._listen(place, last)
        gap = broken if broken is not None else self._seams.get(place + 1)
        if gap is None and place < last:
            return place + 1
        if gap is None or not spanends.is_begun(self._recording, gap, self._until):
            return None
        return self._cross(gap, place)

    def _begin(self, place: int) -> None:
        """Take the task that has the number at the first instant."""
        since, first = self._since, self._recording.segments[place].facts.first
        if since.missing and (gap := self._recording.first_gap) is not None:
            self._mark(gap, same_boot=True)
        elif self._is_quiet(since, place):
            return
        replay = self._recording.replayer(since)
        self._feed = NumberFeed(replay, self._number)
        self._feed.tell_present()
        for each in self._feed.taken():
            if replay.order >= since.order:
                each |= {"time_ns": since.time_ns, "boottime_ns": since.boottime_ns}
            self._take(each)
        if (since.order > first and self._lives) or since.missing:  # the plan knows the state at its beginning alone
            self._plan.loud.add(place)

    def _is_quiet(self, since: Instant, place: int) -> bool:
        """Return True if the span begins with a keyframe in which no task has the number, and no loss is behind it."""
        is_begin = since.order == self._recording.segments[place].facts.first and not since.missing
        return is_begin and place not in self._plan.lossy and self._plan.state(place) is None

    def _listen(self, place: int, last: int) -> Gap | None:
        """Take what a segment tells of the number; return the gap where its tape cannot be read to its end."""
        if place not in self._plan.loud:
            self._drop()
            return None
        of = self._recording.segments[place]
        about = extent(of, self._number)
        try:
            feed = self._feed if self._feed is not None else self._stand(place, about, last)
        except NoSuchTimeError:  # no keyframe before it is whole
            return self._recording.gap(of.run, of.facts.first, of.facts.boottime_ns, of.ahead_ns)
        if feed is None:
            return None
        if feed is not self._feed or self._steps is None:
            self._steps = kin.steps(feed.replay, self._limit(place, last))
            self._lost = feed.replay.stream.lost
        self._feed = feed
        behind = self._behind(place)
        is_lossy = place in self._plan.lossy
        for entry in self._steps:
            feed.note(entry)
            for each in feed.taken():
                self._take(each)
            if place < last and feed.replay.order > behind:
                return None  # it stands in the next segment
            if not is_lossy and (about is None or about.whole):
                ends = -1 if about is None else about.last
                if feed.task is None and feed.replay.order > ends and not feed.replay.is_stirred(self._lost):
                    self._drop()
                    return None
            if place < last and feed.replay.order >= behind:
                return None
        feed.settle()
        for each in feed.taken():
            self._take(each)
        if feed.replay.order >= self._limit(place, last) and not (place >= last and feed.replay.at_end):
            return None
        return self._break(feed.replay)

    def _limit(self, place: int, last: int) -> int:
        """Return the number up to which the loud segments from one on are replayed without a stop."""
        place = self._plan.last_of_loud(place, last)
        limit = self._behind(place)
        if place >= last and self._until.run == self._recording.segments[place].run:
            limit = min(limit, self._until.order)
        return limit

    def _behind(self, place: int) -> int:
        """Return the number with which the segment behind one begins; where a gap is between, a number that none has."""
        segments = self._recording.segments
        return segments[place + 1].facts.first if place + 1 < len(segments) and place + 1 not in self._seams else _EVERY

    def _drop(self) -> None:
        self._feed = self._steps = None

    def _widen(self) -> int:
        """Take back what a replay of the records of the kin has told; return the segment in which it has begun."""
        begun, count, self._lives = self._kept
        del self.gaps[count:]
        self._whole.add(begun)
        self._drop()
        return begun

    def _break(self, replay: Replayer) -> Gap | None:
        """Return the gap in front of which a replay stands; None where there is none."""
        stands = self._run, replay.order, replay.boottime_ns, replay.ahead_ns
        gap = self._recording.gap(*stands) if replay.at_end else None
        seam = None if gap is None else self._seams.get(self._recording.place_behind(gap))
        if gap is not None and seam is not None and seam[:4] == gap[:4]:
            return seam
        return gap

    def _stand(self, place: int, about: RecordExtent | None, last: int) -> NumberFeed | None:
        """Return a feed at the beginning of a segment, or at its first record about a number that no task has there."""
        of = self._recording.segments[place]
        first = of.facts.first
        if place not in self._plan.lossy and self._plan.state(place) is None:
            if about is None:
                return None
            first = max(first, about.first) if about.whole else first
        self._kept = place, len(self.gaps), {key: list(events) for key, events in self._lives.items()}
        places = range(place, self._plan.last_of_loud(place, last) + 1)
        replay = None
        if place not in self._whole and self._plan.lossy.isdisjoint(places):
            replay = kin.replayer(self._recording, places, self._number, first, about.records if about else ())
        if replay is None:
            replay = self._recording.replayer(Instant(of.run, first, 0, 0, 0), place)
        feed = NumberFeed(replay, self._number)
        task = feed.task
        life = self._lives.get(self._key(of.run, task.start_ns)) if task is not None else None
        if life:
            feed.name(life[-1]["uid"], life[-1]["gid"], life[-1]["comm"])
        return feed

    # ---- events ----------------------------------------------------------------------------------------------------

    def _take(self, event: Said) -> None:
        """Add an event to the life that it is of."""
        if event["event"] == "loss":
            self._put_apart({**event, "run": self._run})
            return
        if event["tid"] != self._number:
            self._take_of_group(event)
            return
        life = self._lives.setdefault(self._key(self._run, event["start_ns"]), [])
        kind = event["event"]
        if kind == "arguments":
            execs = (each for each in reversed(life) if each["event"] == "exec")
            if self._enquirer.viewer.uid == 0 and (last := next(execs, None)) is not None:
                text, size = event["arguments"], event["size"]
                last["arguments"] = text.removesuffix(b"\0").split(b"\0")
                last["arguments_cut"] = size > len(text)
            return
        if kind == "birth" and "assumed" in event:
            event = {**event, "event": "present"}
            for name in _OF_BIRTHS:
                event.pop(name, None)
        life.append({**event, "run": self._run})

    def _take_of_group(self, event: Said) -> None:
        """Add a session, a group or a subreaper's flag that another thread has given the number's process."""
        lives = [life for life in self._lives.values() if not is_over(life) and life[-1]["run"] == self._run]
        if lives:
            said = {
                key: event[key] for key in (*_OF_GROUPS, "event", "order", "time_ns", "boottime_ns") if key in event
            }
            lives[-1].append(kept_names(lives[-1][-1]) | said | {"tid": self._number, "by": event["tid"]})

    def _key(self, run: int, start_ns: int) -> tuple[str, int]:
        return self._recording.runs[run].boot_id, start_ns

    def _told(self, life: list[Said]) -> list[Said]:
        """Return the events of a life that may be told."""
        sees = self._enquirer.sees
        shown = [event for event in life if sees is None or sees((event["uid"], event["gid"]))]
        self._hidden |= len(shown) < len(life)
        return shown

    # ---- gaps ------------------------------------------------------------------------------------------------------

    def _cross(self, gap: Gap, place: int) -> int | None:
        """Mark a gap, and tell what differs behind it.

        Args:
            gap: the gap.
            place: the index of the segment in front of it.

        Returns:
            The index of the segment behind it; None where that is not in the span, or cannot be replayed.
        """
        recording, plan = self._recording, self._plan
        heard, run = self._feed, self._run
        self._drop()
        while True:
            same_boot = self._is_one_boot(gap)
            self._mark(gap, same_boot=same_boot)
            behind = recording.place_behind(gap)
            if heard is not None and self._run == run:
                self._tell_islands(heard, gap, recording.segments[place:behind])
            before = heard.side if heard is not None else None
            if behind >= len(recording.segments) or not spanends.is_behind(recording, self._until, gap):
                return None
            self._run = gap.next_run
            if before is None and same_boot and place not in plan.loud:
                return behind  # nothing differs there
            if (before is None or not before.told) and plan.state(behind) is None:
                self._bury(gap, None)
                return behind
            try:
                replay = recording.replayer(Instant(gap.next_run, gap.next, gap.until_ns, 0, 0), behind)
            except NoSuchTimeError:  # the keyframe there is damaged
                of = recording.segments[behind]
                further = recording.gap(gap.next_run, gap.next, of.facts.boottime_ns, of.ahead_ns)
                if further is None:
                    return None
                gap = further
                continue
            feed = self._feed = NumberFeed(replay, self._number)
            feed.cross(before, same_boot=same_boot)
            for each in feed.taken():
                is_first = each["event"] == "birth"  # as of the first state, whose time the gap tells
                times = {"time_ns": gap.until_ns, "boottime_ns": gap.until_ns - replay.ahead_ns}
                self._take(each | times if is_first else each)
            if before is None:
                self._bury(gap, feed.task.start_ns if feed.task is not None else None)
            return behind

    def _tell_islands(self, feed: NumberFeed, gap: Gap, segments: "Sequence[TapeSegment]") -> None:
        """Tell what records within a gap say of their own tasks, and assume what else they show.

        Args:
            feed: stands in front of the gap.
            gap: the gap.
            segments: from the one in front of it up to the one behind it.
        """
        replay, run = feed.replay, self._run
        is_joined = gap.next_run == run and self._recording.place_behind(gap) < len(self._recording.segments)
        end = min(gap.next if is_joined else _EVERY, self._until.order if self._until.run == run else _EVERY)
        replay.stream.resume(replay.order)  # what has come early waits for what is missing
        here = [each for each in segments if each.run == run]
        for island in islands.records(here, self._number, replay.order, end):
            kin.refuse_islands(replay)
            known = set(self._lives)
            replay.extend((island.pieces,))
            for _ in replay.steps(end):
                for each in feed.taken():
                    if each.get("tid") == self._number:  # not a loss: it is of the gap
                        is_certain = each["event"] in (island.own, "arguments")
                        self._take(each | (island.said if is_certain else {"assumed": True}))
            if not known.issuperset(self._lives):
                self._mark(gap._replace(first=replay.order, from_ns=replay.time_ns), same_boot=self._is_one_boot(gap))

    def _bury(self, gap: Gap, here: int | None) -> None:
        """Tell the end of lives of which the state in front of a gap could not be replayed, and that are not behind it.

        Args:
            gap: the gap.
            here: start of the task that has the number behind it, CLOCK_BOOTTIME, ns; None: none has.
        """
        kept = None if here is None else self._key(gap.next_run, here)
        for key, life in self._lives.items():
            if key != kept and not is_over(life):
                said: Said = {"order": gap.next, "time_ns": gap.until_ns, "assumed": True, "run": gap.next_run}
                said |= {"tid": self._number, "boottime_ns": gap.until_ns - ahead_of(life[-1])}
                names = kept_names(life[-1])
                if not is_dead(life):
                    is_last = names["pid"] == self._number
                    life.append(names | said | {"event": "death", "exit_code": None, "group_dead": is_last})
                life.append(names | said | {"event": "reap"})

    def _is_one_boot(self, gap: Gap) -> bool:
        runs = self._recording.runs
        return gap.next_run == len(runs) or runs[gap.next_run].boot_id == runs[gap.run].boot_id

    def _mark(self, gap: Gap, *, same_boot: bool) -> None:
        """Mark a gap in the lives that go on; where none does, it stands apart: a life may be in it."""
        said: Said = {"event": "gap", "why": gap.why, "until_ns": gap.until_ns, "reboot": not same_boot}
        said |= {"run": gap.run, "order": gap.first, "time_ns": gap.from_ns}
        self._put_apart(said)

    def _put_apart(self, said: Said) -> None:
        """Put a gap or a loss in the lives that go on; where none does, it stands apart."""
        boot_id = self._recording.runs[said["run"]].boot_id
        lives = [life for (of, _), life in self._lives.items() if of == boot_id and not is_over(life)]
        for life in lives:
            boottime_ns = said["time_ns"] - ahead_of(life[-1])
            life.append(kept_names(life[-1]) | {"boottime_ns": boottime_ns} | said | {"tid": self._number})
        if not lives:
            boottime_ns = said["time_ns"] - self._recording.ahead_ns(said["run"], said["order"])
            self.gaps.append({"boottime_ns": boottime_ns} | said)
