# SPDX-License-Identifier: Apache-2.0
"""The events of a span of a recording: those that a watch would have told.

Theory
------
The feed of live events (agent.events.feed) stands between a stream and its table, and here it stands between those of a
replay. So the events are the same, but for their times: here an event has the time of its record.

What the recording knows and no live event tells comes as events without a task. ``gap``: records are missing, and `why`.
The table behind a gap is another one; the differences are told as assumed events, up to a ``resync``, as after a loss.
``clock``: CLOCK_REALTIME was set by `by_ns`. ``suspend``: the host slept for `asleep_ns`. `boottime_ns` of every event is
the boot's clock beside `time_ns`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgpack

from agent.errors import NoSuchRootError
from agent.events import eventpack
from agent.events.eventfacts import ASSUMED
from agent.events.feed import Feed
from agent.events.subscriber import ARGUMENTS, KINDS, Subscriber
from agent.recorder import bridge, spanends, tape
from agent.recorder.facts import Gap, Instant
from agent.recorder.past import Enquirer
from agent.recorder.recording import Recording
from agent.recorder.replay import NO_RECORDS
from agent.recorder.rootsearch import RootSearch
from agent.recorder.settler import Settler
from agent.rootname import RootName
from agent.table.objects import PidNamespace, TaskStruct

Said: TypeAlias = dict[str, Any]
"""An event as the protocol has it."""

_EVERY: Final = 2**64 - 1
_ANY_BYTES: Final = 1 << 60
_MOVED_NS: Final = 100_000_000  # a clock that is slewed moves by 30 ms at most between two looks at it


@dataclass(frozen=True, slots=True)
class EventSpan:
    """The wanted events.

    Attributes:
        since, until: the instants between which they happened.
        root: of the tree that they are of, as it was called at `since`, or else as the first process of that number
            behind it; None: of all tasks.
        kinds: of agent.events.subscriber.KINDS.
        arguments: True for the arguments of execs.
        present: True for the tasks that there are at `since`, as assumed births.
    """

    since: Instant
    until: Instant
    root: RootName | None = None
    kinds: tuple[str, ...] = KINDS
    arguments: bool = False
    present: bool = False


class Retelling:
    """The events of a span, in batches.

    Args:
        recording: the recording.
        span: the wanted events.
        reader: the one who asks; events of tasks that it may not see are left out, by the ids that they had then.
    """

    def __init__(self, recording: Recording, span: EventSpan, reader: Enquirer) -> None:
        self._recording = recording
        self._span = span
        self._reader = reader
        self._replay = recording.replayer(span.since)
        self._run = span.since.run
        self._entries = self._replay.steps(self._limit())
        self._ahead_ns = self._replay.ahead_ns
        self._asleep_ns = 0
        self._over = False
        self._crossed: list[Gap] = []

    def batches(self) -> Iterator[list[Said]]:
        """Yield the events, as they come to light together.

        Raises:
            NoSuchRootError: no process had the root's number within the span, and the span has no gap.
            NotPermittedError: the reader may not see the root.
            TornError: the recording has what no daemon writes.
        """
        try:
            yield from self._batches()
        except NO_RECORDS as error:
            text = f"the recording has what no daemon writes, behind #{self._replay.order}: {error!r}"
            raise tape.TornError(text) from error

    def _batches(self) -> Iterator[list[Said]]:
        self._begin()
        yield self._taken()
        while not self._over:
            for entry in self._entries:
                self._note(entry)
                yield self._taken()
                if self._listener.ended:
                    return
            self._settler.settle()
            yield self._taken()
            gap = None
            if self._replay.at_end and not self._listener.ended:
                replay = self._replay
                gap = self._recording.gap(self._run, replay.order, replay.boottime_ns, replay.ahead_ns)
            if gap is None or not spanends.is_begun(self._recording, gap, self._span.until):
                return
            if gap in self._crossed:  # its keyframe is none, so that no replay gets behind it
                raise tape.TornError(f"what the recording has behind #{gap.first} cannot be read")
            self._crossed.append(gap)
            yield from self._cross(gap)

    # ---- the beginning -----------------------------------------------------------------------------------------------

    @property
    def _boot_id(self) -> str:
        return self._recording.runs[self._run].boot_id

    def _limit(self) -> int:
        until = self._span.until
        return until.order if until.run == self._run else _EVERY

    def _begin(self) -> None:
        """Listen to the root, or to all tasks, and tell how they come: what is there, or a birth behind the beginning."""
        span = self._span
        if span.root is None:
            self._listen((), self._reader.space(self._replay.table, self._boot_id))
            self._tell_first_gap()
            if span.present:
                self._tell_present()
            return
        search = RootSearch(self._recording, span.since, span.until, span.root, self._reader)
        try:
            found = search.found()
        except NoSuchRootError:
            if not self._tell_only(search.gaps):
                raise
            return
        replay = self._replay = found.replay
        self._run, self._ahead_ns = found.run, replay.ahead_ns
        self._entries = replay.steps(self._limit())
        self._listen((found.task,), found.namespace)
        self._tell_first_gap()
        for each in search.gaps:
            if each is not found.gap:
                self._tell_passed(each, goes_on=search.goes_on_behind(each))
        if not found.is_later:
            if span.present:
                self._tell_present()
        elif found.is_born:
            self._tell_birth(found.task)
        else:
            if found.gap is not None:
                self._tell_gap(found.gap, found.ahead_ns)
            self._compare(bridge.Side({}, found.namespace), {})
            if found.gap is not None:
                self._say("resync")

    def _listen(self, roots: tuple[TaskStruct, ...], namespace: PidNamespace) -> None:
        replay = self._replay
        self._feed = Feed(replay.stream, replay.table, lambda: replay.time_ns, lambda: replay.ahead_ns)
        self._settler = Settler(self._feed, replay)
        kinds = (*self._span.kinds, ARGUMENTS) if self._span.arguments else self._span.kinds
        # It is fetched from after each part of the ring, so that it needs no bound.
        self._listener = Subscriber(self._reader.viewer, namespace, roots, kinds, replay.order, _ANY_BYTES)
        self._feed.add(self._listener, int)

    def _tell_first_gap(self) -> None:
        """Tell the gap in front of the recording, where the span begins with that."""
        gap = self._recording.first_gap if self._span.since.missing else None
        if gap is not None:
            self._say("gap", **self._of_gap(gap))
            self._say("resync")

    def _tell_passed(self, gap: Gap, *, goes_on: bool) -> None:
        """Tell a gap in front of a root that is found behind it: another process of its number may be within.

        Args:
            gap: the gap.
            goes_on: True where the state behind it is known.
        """
        self._tell_gap(gap, self._recording.ahead_ns(gap.run, gap.first))
        if goes_on:
            ahead_ns = self._recording.ahead_ns(gap.next_run, gap.next)
            times = {"time_ns": gap.until_ns, "boottime_ns": gap.until_ns - ahead_ns}
            self._listener.say({"event": "resync", "order": gap.next, **times})

    def _tell_only(self, gaps: list[Gap]) -> bool:
        """Tell the gaps in which a root may have been that is not found elsewhere; return False where there is none."""
        begin = self._recording.first_gap if self._span.since.missing else None
        if begin is None and not gaps:
            return False
        self._listen((), self._replay.table.pids.initial)
        self._tell_first_gap()
        for each in gaps:
            self._tell_gap(each, self._recording.ahead_ns(each.run, each.first))
        self._over = True
        return True

    def _tell_gap(self, gap: Gap, ahead_ns: int) -> None:
        """Tell a gap, before which a replay, or the search for a root, stands."""
        times = {"time_ns": gap.from_ns, "boottime_ns": gap.from_ns - ahead_ns}
        self._listener.say({"event": "gap", "order": gap.first, **times, **self._of_gap(gap)})

    def _tell_present(self) -> None:
        """Tell the tasks that there are as assumed births, parents first."""
        listener, replay = self._listener, self._replay
        for task in sorted(self._feed.told, key=lambda task: task.start_ns):
            if listener.sees(task):
                when, marks = (replay.order, replay.time_ns), {**ASSUMED, "present": True}
                listener.put(
                    eventpack.event("birth", *when, task, task.leader, listener.namespace, eventpack.presence, marks)
                )

    def _tell_birth(self, root: TaskStruct) -> None:
        """Tell the birth of a root, behind which the replay stands."""
        listener = self._listener
        if "birth" in listener.kinds and listener.sees(root):
            when = root.order, root.start_ns + self._replay.ahead_ns
            listener.put(eventpack.event("birth", *when, root, root, listener.namespace, eventpack.birth, {}))

    # ---- the span ----------------------------------------------------------------------------------------------------

    def _note(self, entry: tape.TapeEntry) -> None:
        """Tell what is due behind an entry."""
        if entry.kind == tape.CLOCK:
            self._compare_clocks(entry.ns - tape.MONOTONIC.unpack_from(entry.payload)[0])
        else:
            self._settler.note(entry)

    def _compare_clocks(self, asleep_ns: int) -> None:
        by_ns, slept_ns = self._replay.ahead_ns - self._ahead_ns, asleep_ns - self._asleep_ns
        if slept_ns > _MOVED_NS and self._asleep_ns:
            self._say("suspend", asleep_ns=slept_ns)
        if abs(by_ns) > _MOVED_NS:
            self._say("clock", by_ns=by_ns)
        self._ahead_ns, self._asleep_ns = self._replay.ahead_ns, asleep_ns

    def _say(self, kind: str, **details: int | str) -> None:
        replay = self._replay
        self._listener.say({"event": kind, "order": replay.order, "time_ns": replay.time_ns, **details})

    def _taken(self) -> list[Said]:
        """Return the events that wait, with the boot's clock beside their times."""
        if not self._listener.waiting:
            return []
        said: list[Said] = msgpack.unpackb(b"".join(self._listener.take(self._replay.order)))["events"]
        for each in said:
            each.setdefault("boottime_ns", each["time_ns"] - self._replay.ahead_ns)
        return said

    # ---- gaps --------------------------------------------------------------------------------------------------------

    def _cross(self, gap: Gap) -> Iterator[list[Said]]:
        """Tell a gap, and the differences between the tables before and behind it."""
        self._tell_gap(gap, self._replay.ahead_ns)
        same_boot = self._is_one_boot(gap)
        yield self._taken()
        if not spanends.is_behind(self._recording, self._span.until, gap):
            self._over = True
            return
        listener = self._listener
        before = bridge.Side(self._feed.told, listener.namespace)
        behind = Instant(gap.next_run, gap.next, gap.until_ns, 0, 0)
        replay = self._replay = self._recording.replayer(behind, self._recording.place_behind(gap))
        self._run = gap.next_run
        self._entries = replay.steps(self._limit())
        self._ahead_ns, self._asleep_ns = replay.ahead_ns, 0
        here = {bridge.key(task): task for task in replay.table.tasks()} if same_boot else {}
        roots = tuple(here[bridge.key(root)] for root in listener.roots if bridge.key(root) in here)
        if listener.roots and not roots:
            when = (replay.order, replay.time_ns)
            space = self._reader.space(replay.table, self._boot_id) if here else listener.namespace
            bridge.cross(before, bridge.Side({}, space), here, listener, *when)
            self._say("end")
            self._over = True
        else:
            self._listen(roots, self._reader.space(replay.table, self._boot_id))
            self._compare(before, here)
            self._say("resync")
        yield self._taken()

    def _compare(self, before: bridge.Side, there: Mapping[bridge.Key, TaskStruct]) -> None:
        """Tell the differences between the tasks before a gap and those that are listened to.

        Args:
            before: of the gap.
            there: all tasks behind it that may have been there before.
        """
        after = bridge.Side(self._feed.told, self._listener.namespace)
        when = self._replay.order, self._replay.time_ns
        bridge.cross(before, after, there, self._listener, *when)

    def _is_one_boot(self, gap: Gap) -> bool:
        runs = self._recording.runs
        return gap.next_run == len(runs) or runs[gap.next_run].boot_id == runs[gap.run].boot_id

    def _of_gap(self, gap: Gap) -> Said:
        """Return the details of the event of a gap."""
        return {"why": gap.why, "until_ns": gap.until_ns, "next": gap.next, "reboot": not self._is_one_boot(gap)}
