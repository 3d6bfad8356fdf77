# SPDX-License-Identifier: Apache-2.0
"""The watch: probes, stream and table together, kept complete by questions and sweeps.

A sweep repairs loss, and program runs that the kernel skipped. Where an answer differs from the table, an event that
comes a moment later explains it: its system call had begun before the answer. A difference that no event explains is an
anomaly: counted, and repaired by the answer itself. agent.capture.snapshots takes snapshots from the table.
"""

import gc
import math
import time
from collections import Counter
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Self, get_args

from agent.capture import memoryreader, memorywriter
from agent.capture.intake import Intake
from agent.capture.memorywriter import Memory
from agent.capture.probes import Probes
from agent.capture.selectioncache import SelectionCache
from agent.table.counters import Cause, Totals
from agent.table.handlers import Handlers
from agent.table.inputs import Input
from agent.table.objects import TaskStruct
from agent.table.processtable import ProcessTable
from agent.table.stream import Stream

if TYPE_CHECKING:
    from agent.events.feed import Feed

DRAIN_S = 0.003
"""Time for records between two looks at the clients: with subscribers a record takes longer."""

_ASK_AT_ONCE = 1000
_ROOM_FOR_ANSWER = 2048  # bytes of the ring; an answer mostly takes a tenth of it, so events still find room beside it
_DRAIN_BYTES = 1 << 18  # some thousand records, a few milliseconds, between two looks at the clients
_LARGE = 3000  # pid objects: a sweep of so many takes some 5 ms, a snapshot of them all, in any format, some 30 ms
_ROUNDS = 8  # a question may lead to others: an unknown parent's parent
# A sweep beside the loop delays requests, so it ends after so long; the next one has twice that time, up to the most.
_REST_S, _MOST_REST_S = 5.0, 20.0
_BEGIN_S = 1.0  # for sweeps at the start while events are lost; later ones are left to the loop


class Watch:
    """A live process table. `begin` and `resume` make one that is complete; this constructor only joins the parts.

    Attributes:
        probes: the kernel side.
        table, stream: the table, and the stream that feeds it.
        totals: counts of sweeps and snapshots.
        cache: results about the table that still hold.
        blind: changes that no hook announces on this kernel, by the names of bpf/hooks.py: every snapshot then rests on a
            sweep.
        remembers: True where it has gone on from an earlier watch's memory.
        feed: the live events; it tells losses at moments that a recording has, too (agent.recorder.settler).
    """

    def __init__(self, probes: Probes, table: ProcessTable, stream: Stream, totals: Totals) -> None:
        self.probes = probes
        self.table = table
        self.stream = stream
        self.totals = totals
        self.cache = SelectionCache(table)
        self.remembers = False
        self.blind = [feature for feature, hooks in probes.hooks.items() if not hooks]
        table.keeps_text = probes.keeps_strings
        self.feed: Feed | None = None
        self._intake = Intake(probes, stream, self._took)
        self._rest_s = _REST_S

    @classmethod
    def begin(cls, probes: Probes) -> Self:
        """Return a watch that knows all tasks and no birth before now.

        Args:
            probes: the kernel side; where another daemon has read its ring, earlier records are passed over.
        """
        table = ProcessTable()
        watch = cls(probes, table, Stream(Handlers(table).by_kind), Totals())
        if probes.is_taken_over:
            watch._intake.join()
        watch._sweep_first()
        return watch

    @classmethod
    def resume(cls, probes: Probes, left: bytes, begun: Callable[[Self], None] = lambda _: None) -> Self:
        """Return a watch that goes on where an earlier watch of these probes has stopped.

        Args:
            probes: the kernel side.
            left: the earlier watch's memory (agent.capture.memorywriter).
            begun: called with the watch as it was left, before it takes in anything.

        Raises:
            UnusableMemoryError: the memory is damaged, or does not fit the ring; the probes are as they were.
        """
        causes: tuple[Cause, ...] = get_args(Cause)
        memory = memoryreader.load(left, memorywriter.TOTALS)
        *counts, snapshots, skipped = memory.totals
        totals = Totals(Counter(dict(zip(causes, counts, strict=True))), snapshots, skipped)
        watch = cls(probes, memory.table, memory.stream, totals)
        refusal = watch._intake.misfit(memory.place)
        if refusal:
            raise memoryreader.UnusableMemoryError(refusal)
        watch._intake.resume(memory.place)
        watch.remembers = True
        begun(watch)
        watch._sweep_first()
        return watch

    def _sweep_first(self) -> None:
        deadline = time.monotonic() + _BEGIN_S
        self.sweep("start")
        while self.is_in_doubt and time.monotonic() < deadline:
            self.sweep("start")

    def memory(self) -> bytes:
        """Return the watch's memory, for the next watch. No record may be consumed after this call."""
        totals = self.totals
        counts = tuple(totals.causes[cause] for cause in get_args(Cause))
        place = self._intake.place
        return memorywriter.dump(Memory(place, (*counts, totals.snapshots, totals.skipped), self.table, self.stream))

    @property
    def is_busy(self) -> bool:
        """True where a snapshot may keep the loop from its clients for too long: many tasks, many records, or loss."""
        return len(self.table.pids.numbers) > _LARGE or self.is_in_doubt or self.probes.ring.pending > _DRAIN_BYTES

    @property
    def is_in_doubt(self) -> bool:
        """True where a sweep has to repair loss."""
        return self.stream.suspect or self.table.astray

    # ---- keeping up ------------------------------------------------------------------------------------------------

    def _took(self, part: int) -> None:
        """Have the cache and the feed note a part of the ring, whose bytes are counted."""
        self.cache.note()
        if part and self.feed is not None:
            self.feed.settle()

    @property
    def allowed_per_second(self) -> int:
        """The changes of groups and subreaper flags that are announced of each user, a second."""
        return self._intake.allowance.per_second

    @property
    def behind(self) -> bool:
        """True where the ring held more than the last `drain` took."""
        return self._intake.behind

    def drain(self, limit: int = _DRAIN_BYTES, longest_s: float = math.inf) -> None:
        """Apply the records that the ring holds: `behind` is then True if there are more.

        Args:
            limit: bytes at most.
            longest_s: after so much time, s, no further part is applied.
        """
        self._intake.drain(limit, time.monotonic() + longest_s)

    def catch_up(self, deadline: float = math.inf) -> bool:
        """Apply every record whose number was issued before this call; wait for those still being written.

        Args:
            deadline: of time.monotonic(). Records that have not been applied by then are as good as lost.

        Returns:
            False where the deadline came first.
        """
        if self._intake.catch_up(deadline):
            return True
        self.stream.doubt()
        return False

    def ask(self, questions: list[tuple[int, int]], deadline: float = math.inf) -> None:
        """Put questions (ProcessTable.question), and those that follow from the answers.

        Past the deadline, or after `_ROUNDS` rounds, the rest is not put, and counts as lost.
        """
        ask = self.probes.ask
        at_once = max(1, min(_ASK_AT_ONCE, self.probes.ring.size // _ROOM_FOR_ANSWER))
        for _ in range(_ROUNDS):
            for start in range(0, len(questions), at_once):
                if time.monotonic() > deadline:
                    self.stream.doubt()
                    return
                for address, start_ns in questions[start : start + at_once]:
                    ask(address, start_ns)
                if not self.catch_up(deadline):
                    return
            questions = self.table.take_questions()
            if not questions:
                return
        self.stream.doubt()

    def sweep(self, cause: Cause = "due", deadline: float = math.inf) -> None:
        """Compare the table with all tasks of the kernel, and repair the differences."""
        skipped = self.probes.skipped()  # before the walk: runs skipped later are left to the next sweep
        first = not self.totals.sweeps
        incomplete = self.is_in_doubt or skipped != self.totals.skipped or first
        self._trust()
        if not self.catch_up(deadline):
            return
        mark = self.stream.next
        rows = self.probes.rows()
        if not self.catch_up(deadline):
            return
        remember = cause in ("large-tree", "no-hook") or (cause == "due" and self.cache.is_used)
        self.ask(self.cache.differing(rows, remember=remember), deadline)
        if first:
            self.ask(self.cache.differing(rows, remember=False))  # again, for tasks whose parent had no row
        self.table.strike_off(mark)
        if self.feed is not None:
            self.feed.sweep_ends()
        if incomplete or self.stream.suspect:
            self.table.reunite()
            self.cache.forget()
        if first:
            self.table.settle()
            self.table.counts.forget_anomalies()  # the first sweep fills the table, so its differences are none
        self.totals.causes[cause] += 1
        self.totals.skipped = skipped

    def _trust(self) -> None:
        if self.feed is not None:
            self.feed.sweep_begins(suspect=self.stream.suspect)
        self.stream.note(Input.TRUST, 0)
        self.stream.suspect = self.table.astray = False

    def rest(self, kept: Collection[TaskStruct] = ()) -> None:
        """Do the periodic work: sweep for changes that no event told, and free the caches.

        The sweep compares all fields of each task, whatever the last one has found.

        Args:
            kept: the roots of the trees whose results are kept.
        """
        self.cache.retain(kept)
        self._sweep_beside("due")
        self.table.settle()
        gc.collect()

    def mend(self) -> None:
        """Repair loss by a sweep."""
        self._sweep_beside("loss")

    def _sweep_beside(self, cause: Cause) -> None:
        """Sweep while requests wait: for a limited time, and longer the next time where that was not enough."""
        self.sweep(cause, time.monotonic() + self._rest_s)
        self._rest_s = min(2 * self._rest_s, _MOST_REST_S) if self.is_in_doubt else _REST_S

    def tend(self) -> None:
        """Apply some records and put some doubts, between requests.

        The answers go into the ring behind the events that happen meanwhile: the next call applies them.
        """
        self.drain(longest_s=DRAIN_S)
        if not self.is_in_doubt and (self.table.doubts or self.table.unknown):
            for address, start_ns in self.table.take_questions(_ASK_AT_ONCE):
                self.probes.ask(address, start_ns)
            self._intake.behind = True

    def close(self) -> None:
        """Detach the probes."""
        self.probes.close()
