# SPDX-License-Identifier: Apache-2.0
"""The search for the root of a span: the process of its name at the beginning, or else the first one behind it.

Theory
------
A replay goes on from the beginning, and the table is looked at behind each entry of the tape and behind each birth: a part
of the ring may have a whole life. Parts that have no record about the number are passed over by the index. Where the
recording has a gap, the search goes on behind it: a process may have begun within the gap, and no record tells of it.

No record may have come on either side of a gap. So a number does not tell on which side the search stands, but its segment.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agent.errors import NoSuchRootError, NoSuchTimeError, NotPermittedError
from agent.recorder import spanends, tape
from agent.recorder.facts import Gap, Instant
from agent.recorder.numberrecords import NumberPlace, places
from agent.recorder.past import Enquirer
from agent.recorder.recording import Recording
from agent.recorder.replay import Replayer
from agent.rootname import RootName
from agent.selection import lookup
from agent.table import wire
from agent.table.objects import PidNamespace, TaskStruct
from agent.table.pidspace import Data
from agent.table.wire import Kind

_EVERY: Final = 2**64 - 1
_SEQ: Final = wire.reader(wire.RECORD, "seq").unpack_from


@dataclass(frozen=True, slots=True)
class FoundRoot:
    """A root, and where it has been found.

    Attributes:
        run: index of the run.
        replay: stands at the span's beginning, or where the root was found: right behind its birth, if that is recorded.
        task: the root.
        namespace: the enquirer's pid namespace, in the replay's table.
        is_later: True where it was not there at the span's beginning.
        gap: the gap in which it began; None: in none.
        ahead_ns: in front of the gap, by how much CLOCK_REALTIME was ahead of CLOCK_BOOTTIME, ns.
    """

    run: int
    replay: Replayer
    task: TaskStruct
    namespace: PidNamespace
    is_later: bool
    gap: Gap | None
    ahead_ns: int

    @property
    def is_born(self) -> bool:
        """True where the replay stands right behind the record of its birth, which is within the span."""
        return self.is_later and self.gap is None and self.task.order + 1 == self.replay.order


class RootSearch:
    """The search for a root.

    Args:
        recording: the recording.
        since, until: the span.
        wanted: the name of the root.
        reader: the one who asks.

    Attributes:
        gaps: those that the search has met: a process of that name may have been within one.
    """

    def __init__(
        self, recording: Recording, since: Instant, until: Instant, wanted: RootName, reader: Enquirer
    ) -> None:
        self._recording, self._until, self._wanted, self._reader = recording, until, wanted, reader
        self.gaps: list[Gap] = []
        self._born: list[int] = []
        self._tried: set[int] = set()
        self._crossed: set[tuple[int, int, int]] = set()
        self._begun: set[tuple[int, int, int]] = set()
        self._ahead_ns = 0
        self._begin_at(since, recording.place(since))

    def found(self) -> FoundRoot:
        """Return the root.

        Raises:
            NoSuchRootError: no process had its name within the span.
            NotPermittedError: the reader may not see it.
            TornError: the recording has what no daemon writes.
        """
        gap: Gap | None = None
        is_later = False
        while True:
            try:
                namespace, task = self._look()
            except NoSuchRootError:
                is_later, gap = True, None
                if not self._go_on():
                    gap = self._cross()
                    if gap is None:
                        raise
            else:
                self._replay.stream.handle(Kind.FORK, self._apply)
                return FoundRoot(self._run, self._replay, task, namespace, is_later, gap, self._ahead_ns)

    def _look(self) -> tuple[PidNamespace, TaskStruct]:
        """Return the reader's pid namespace and the root, at the replay's point; errors as of lookup.process."""
        sees, table = self._reader.sees, self._replay.table
        namespace = self._reader.space(table, self._recording.runs[self._run].boot_id)
        seen = None if sees is None else lambda task: sees(task.ids)
        return namespace, lookup.process(table, self._wanted, namespace, seen)

    # ---- the replay ------------------------------------------------------------------------------------------------

    def _begin_at(self, instant: Instant, segment: int) -> None:
        """Begin to search at an instant, in the segment of an index."""
        self._run = instant.run
        self._tried.clear()
        self._stand_at(instant, segment)
        self._skip = self._skipper(instant)

    def _stand_at(self, instant: Instant, segment: int) -> None:
        replay = self._replay = self._recording.replayer(instant, segment)
        self._segment = segment
        apply = self._apply = replay.stream.handlers()[Kind.FORK]
        self._born.clear()

        def heard(data: Data, at: int) -> None:
            apply(data, at)
            try:
                self._look()
            except NoSuchRootError:
                return
            except NotPermittedError:  # it is told once the replay stands right behind this birth
                pass
            self._born.append(_SEQ(data, at)[0])

        replay.stream.handle(Kind.FORK, heard)
        self._entries = replay.steps(self._limit())

    def _limit(self) -> int:
        return self._until.order if self._until.run == self._run else _EVERY

    def _go_on(self) -> bool:
        """Go on by an entry, or to right behind a birth of the root; return False in front of a gap, and at the end."""
        if not self._skip() or next(self._entries, None) is None:
            return False
        born = next((order for order in self._born if order not in self._tried), None)
        self._born.clear()
        if born is not None:  # the part that it came in has been applied whole
            self._tried.add(born)
            self._stand_at(Instant(self._run, born + 1, 0, 0, 0), self._segment)
        return True

    def _skipper(self, since: Instant) -> Callable[[], bool]:
        """Return a function that passes over records that are not about the number; it returns False where no more are."""
        if self._wanted.namespace or self._reader.namespace:
            return lambda: True  # the index has numbers of the initial namespace alone
        ahead = places(self._recording, self._wanted.number, since.order, self._segment)
        here: NumberPlace | None = None

        def skip() -> bool:
            nonlocal here
            replay = self._replay
            if here is not None and (replay.order <= here.next or replay.stream.waiting):
                return True  # a record that has come too early may be one of a place that lies behind
            here = next((each for each in ahead if each.next >= replay.order), None)
            if here is None or here.first >= self._limit():
                return False
            if here.keyframe > replay.order:
                self._stand_at(Instant(self._run, here.first, 0, 0, 0), here.segment)
            return True

        return skip

    # ---- gaps ------------------------------------------------------------------------------------------------------

    def _cross(self) -> Gap | None:
        """Go on behind the next gap, and return it; None where there is none that ends within the span."""
        gap = self._next_gap()
        while gap is not None and spanends.is_begun(self._recording, gap, self._until):
            self.gaps.append(gap)
            if not spanends.is_behind(self._recording, self._until, gap):
                return None
            if _behind(gap) in self._crossed:
                raise tape.TornError(f"what the recording has behind #{gap.first} cannot be read")
            self._crossed.add(_behind(gap))
            self._ahead_ns = self._replay.ahead_ns
            try:
                behind = Instant(gap.next_run, gap.next, gap.until_ns, 0, 0)
                self._begin_at(behind, self._recording.place_behind(gap))
            except NoSuchTimeError:  # the keyframe there is damaged
                of = self._recording.segments[self._recording.place_behind(gap)]
                gap = self._recording.gap(gap.next_run, gap.next, of.facts.boottime_ns, of.ahead_ns)
            else:
                self._begun.add(_behind(gap))
                return gap
        return None

    def goes_on_behind(self, gap: Gap) -> bool:
        """Return True if the search has gone on behind one of its gaps, from a state that is known there."""
        return _behind(gap) in self._begun

    def _next_gap(self) -> Gap | None:
        """Return the next gap, as the ends of segments tell it: a search that passes over records does not come to it."""
        replay, seams = self._replay, self._recording.seams
        if not replay.exhausted:
            return next((each for each in seams if self._recording.place_behind(each) > self._segment), None)
        gap = self._recording.gap(self._run, replay.order, replay.boottime_ns, replay.ahead_ns)
        if gap is None or gap.next_run == len(self._recording.runs):
            return gap
        return next((each for each in seams if _behind(each) == _behind(gap)), gap)


def _behind(gap: Gap) -> tuple[int, int, int]:
    """Return the point at which the recording goes on behind a gap."""
    return gap.next_run, gap.next, gap.until_ns
