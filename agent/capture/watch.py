# SPDX-License-Identifier: Apache-2.0
"""The watch: probes, stream and table together, kept complete, and the snapshot taken from them.

How a snapshot is made certain
------------------------------
1. *Drain*: apply every record whose number had been issued when the request came.
2. *Ask*: ask the kernel for the state of each task of the tree (a few microseconds each), or, where the tree is much of
   the host, sweep: walk all tasks and ask only about those that differ. The answers go through the same ring, so they
   stand in event order among the events that happen meanwhile.
3. *Cut*: drain the records behind the last answer. The table then holds the tree as of the last record. Some zombies
may
   vanish without any event; the watch asks about them last, repeatedly, until no other record stands among the answers.

Membership of the tree rests on unbroken numbering (``verified: numbering``), or on the sweep. A sweep repairs loss, and
program runs that the kernel skipped, before any snapshot. Where an answer differs from the table, an event that comes a
moment later explains it: its system call had begun before the answer. A difference that no event explains is an
anomaly: counted, and repaired by the answer itself.
"""

import gc
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import get_args

from agent.capture import memoryreader, memorywriter
from agent.capture.intake import Intake
from agent.capture.memorywriter import Memory
from agent.capture.probes import Probes
from agent.capture.selectioncache import Recall
from agent.config import Config
from agent.errors import BusyError, NoSuchRootError
from agent.model import Completeness, Header, Mode, Snapshot, Verified
from agent.model import Task as SnapshotTask
from agent.proc import host
from agent.rootname import RootName
from agent.selection import guests, lookup, select
from agent.selection.lookup import Sees
from agent.selection.ties import Ties
from agent.table import departure
from agent.table.counters import Cause, Totals
from agent.table.handlers import Handlers
from agent.table.objects import Task
from agent.table.processtable import ProcessTable
from agent.table.stream import Stream

_ASK_AT_ONCE = 1000
_ROOM_FOR_ANSWER = 2048  # bytes of the ring; an answer mostly takes a tenth of it, so events still find room beside it
# A walk visits so many tasks in the time of one question, and its start costs as much as so many tasks more.
_ROWS_PER_QUESTION, _ROWS_TO_BEGIN = 6, 100
_DRAIN_BYTES = 1 << 18  # some thousand records, a few milliseconds, between two looks at the clients
_LARGE = 3000  # pid objects: a sweep of so many takes some 5 ms, a snapshot of them all, in any format, some 30 ms
_ROUNDS = 8  # a question may lead to others: an unknown parent's parent
_ATTEMPTS = 3  # at a snapshot without loss during it
_PATIENCE_S = 2.0  # while events are lost; the snapshot then says that it is incomplete
# A sweep beside the loop delays requests, so it ends after so long; the next one has twice that time, up to the most.
_REST_S, _MOST_REST_S = 5.0, 20.0
_BEGIN_S = 1.0  # for sweeps at the start while events are lost; later ones are left to the loop
_EXPLAIN_S = 0.004  # the time that a difference may wait for its event
_BEHIND = "more happens on this host than the daemon gets the time to follow: try again"
_OUTLAST = 40  # rounds of questions about zombies; in the densest storm one in four has no event between


class Watch:
    """A live process table, from the moment of construction.

    Args:
        config: ring size and intervals.
        without: kernel features to do without, for tests.
        probes: the kernel side, where it is loaded already.
        left: the memory of an earlier watch of these probes (agent.capture.memorywriter).

    Attributes:
        remembers: True where it goes on from `left`.
        refusal: the reason why it does not, where `left` was given; else empty.

    Raises:
        HostError: the caller lacks the rights, or the kernel lacks a feature.
    """

    def __init__(
        self, config: Config, without: Iterable[str] = (), probes: Probes | None = None, left: bytes | None = None
    ) -> None:
        self.probes = probes or Probes(config.ring_bytes, without)
        self.table = ProcessTable()
        self.stream = Stream(Handlers(self.table).by_kind)
        self.totals = Totals()
        self._recall = Recall(self.table)
        self._intake = Intake(self.probes, self.stream, lambda: self._recall.note())
        self.refusal = self._resume(left) if left is not None else ""
        self.remembers = left is not None and not self.refusal
        self._told: select.Selection | None = None
        self._rest_s = _REST_S
        self._ties = Ties(self.probes.tied, self.probes.ties, self.table.pids, filters=self.probes.filters)
        self.header: Header = host.header()
        self.boot_id = host.boot_id()
        if self.probes.is_taken_over and not self.remembers:
            self._intake.join()
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

    def _resume(self, left: bytes) -> str:
        """Go on from an earlier watch's memory; return the reason where that is not possible, else an empty text."""
        causes: tuple[Cause, ...] = get_args(Cause)
        try:
            memory = memoryreader.load(left, len(causes) + 2)
        except memoryreader.StateError as error:
            return str(error)
        intake = Intake(self.probes, memory.stream, lambda: self._recall.note())
        refusal = intake.misfit(memory.place)
        if not refusal:
            intake.resume(memory.place)
            self.table, self.stream, self._intake = memory.table, memory.stream, intake
            self._recall = Recall(self.table)
            *counts, snapshots, skipped = memory.totals
            self.totals = Totals(Counter(dict(zip(causes, counts, strict=True))), snapshots, skipped)
        return refusal

    @property
    def blind(self) -> list[str]:
        """Changes that no hook announces on this kernel, by the names of bpf/hooks.py: every snapshot then rests on a
        sweep.
        """
        return [feature for feature, hooks in self.probes.hooks.items() if not hooks]

    @property
    def is_busy(self) -> bool:
        """True where a snapshot may keep the loop from its clients for too long: many tasks, many records, or loss."""
        return len(self.table.pids.numbers) > _LARGE or self.is_in_doubt or self.probes.ring.pending > _DRAIN_BYTES

    @property
    def is_in_doubt(self) -> bool:
        """True where a sweep has to repair loss."""
        return self.stream.suspect or self.table.astray

    # ---- keeping up ------------------------------------------------------------------------------------------------

    @property
    def behind(self) -> bool:
        """True where the ring held more than the last `drain` took."""
        return self._intake.behind

    def drain(self, limit: int = _DRAIN_BYTES) -> None:
        """Apply the records that the ring holds, up to `limit` bytes: `behind` is then True if there are more."""
        self._intake.drain(limit)

    def catch_up(self) -> None:
        """Apply every record whose number was issued before this call; wait for those still being written."""
        self._intake.catch_up()

    def _catch_up(self, deadline: float) -> bool:
        """Do as `catch_up`; what has not been applied by the deadline is as good as lost."""
        if self._intake.catch_up(deadline):
            return True
        self.stream.suspect = True
        return False

    def _ask(self, questions: list[tuple[int, int]], deadline: float = math.inf) -> None:
        """Put questions, and those that follow from the answers. Past the deadline, or after `_ROUNDS` rounds, the rest
        is not put, and counts as lost.
        """
        ask = self.probes.ask
        at_once = max(1, min(_ASK_AT_ONCE, self.probes.ring.size // _ROOM_FOR_ANSWER))
        for _ in range(_ROUNDS):
            for start in range(0, len(questions), at_once):
                if time.monotonic() > deadline:
                    self.stream.suspect = True
                    return
                for address, start_ns in questions[start : start + at_once]:
                    ask(address, start_ns)
                if not self._catch_up(deadline):
                    return
            questions = self.table.take_questions()
            if not questions:
                return
        self.stream.suspect = True

    def sweep(self, cause: Cause = "due", deadline: float = math.inf) -> None:
        """Compare the table with all tasks of the kernel, and repair the differences."""
        skipped = self.probes.skipped()  # before the walk: runs skipped later are left to the next sweep
        first = not self.totals.sweeps
        incomplete = self.is_in_doubt or skipped != self.totals.skipped or first
        self.stream.suspect = self.table.astray = False
        if not self._catch_up(deadline):
            return
        mark = self.stream.next
        rows = self.probes.rows()
        if not self._catch_up(deadline):
            return
        self._ask(self._recall.differing(rows, remember=cause in ("large-tree", "no-hook")), deadline)
        if first:
            self._ask(self._recall.differing(rows, remember=False))  # again, for tasks whose parent had no row
        self.table.strike_off(mark)
        if incomplete or self.stream.suspect:
            self.table.reunite()
            self._recall.forget()
        if first:
            self.table.settle()
            self.table.counts.forget_anomalies()  # the first sweep fills the table, so its differences are none
        self.totals.causes[cause] += 1
        self.totals.skipped = skipped

    def rest(self) -> None:
        """Do the periodic work: sweep for changes that no event told, and free the caches."""
        self._recall.forget()
        self._told = None
        self._ties.forget()
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
        self.drain()
        if not self.is_in_doubt and (self.table.doubts or self.table.unknown):
            for address, start_ns in self.table.take_questions(_ASK_AT_ONCE):
                self.probes.ask(address, start_ns)
            self._intake.behind = True

    # ---- answering -------------------------------------------------------------------------------------------------

    def caller(self, pid: int) -> Task | None:
        """Return the client's task, by its number in the initial namespace.

        Raises:
            BusyError: the table has no such task, and it is not up to date.
        """
        learned = self._learn_all()
        task = self.table.task(pid)
        if task is None and not learned:
            raise BusyError(_BEHIND)
        return task

    def find(self, root: RootName, caller: int | Task | None = None, sees: Sees | None = None) -> Task:
        """Return the process that a client names.

        Args:
            root: a pid counts in the client's pid namespace.
            caller: the client's task, or its number in the initial namespace; None: a pid counts in that namespace.
            sees: returns True if the client may see a task of these ids; None: it may see all.

        Raises:
            NoSuchRootError: no process has the number, or it is a thread's.
            NotPermittedError: the client may not see it.
            BusyError: no process has the number as far as the table knows, and it is not up to date.
        """
        learned = self._learn_all()
        asking = self.table.task(caller) if isinstance(caller, int) else caller
        try:
            return lookup.process(
                self.table, root, asking, None if sees is None else lambda task: self._seen(task, sees)
            )
        except NoSuchRootError as error:
            if learned:
                raise
            raise BusyError(_BEHIND) from error

    def _learn_all(self) -> bool:
        """Have every task that has a number now in the table, after loss too; return False if time ran out."""
        deadline = time.monotonic() + _PATIENCE_S
        learned = self._catch_up(deadline)
        if learned and self.is_in_doubt:
            self.sweep("loss", deadline)
            learned = time.monotonic() <= deadline
        return learned

    def _seen(self, task: Task, sees: Sees) -> bool:
        """Return True if a client may see a task by its current ids: no event tells a change of ids, so the kernel is
        asked.
        """
        if task.address:
            self._ask([self.table.question(task)])
        return sees(task.ids)

    def snapshot(
        self,
        root: Task,
        mode: str = "auto",
        *,
        without_entered: bool = False,
        sees: Sees | None = None,
        at_cut: Callable[[select.Selection], None] = lambda _: None,
    ) -> Snapshot:
        """Take a snapshot of the tree below a task, at one instant.

        Args:
            root: from `find`.
            mode: ``auto``, ``container`` or ``subtree``.
            without_entered: leave out tasks that entered the container from outside.
            sees: returns True if the client may see a task of these real ids; None: it may see all.
            at_cut: called with the selection while the table is in the state of the snapshot: all records below
                `stream.next` are applied.

        Raises:
            NotPermittedError: the tree has a task that the client may not see.
            NoSuchRootError: the root was reaped meanwhile.
            RefusedError: the container leaks, or the root is no container's init.
            HostError: the root is a kernel thread.
            BusyError: there was no time to make certain that the client may see the whole tree.
        """
        resolved = select.resolve_mode(root, mode)
        anomalies = self.table.counts.anomalies
        mark = self.probes.page.issued
        deadline = time.monotonic() + _PATIENCE_S
        for _ in range(_ATTEMPTS):
            verified = self._verify(root, resolved, deadline)
            self._explain(deadline)
            certain = self._outlast(root, deadline)
            if not self.is_in_doubt or time.monotonic() > deadline:
                break
        if root.pid.task is not root:
            raise NoSuchRootError(f"{select.name(root)} was reaped while its snapshot was taken")
        if sees is not None:
            if self.is_in_doubt:
                raise BusyError(_BEHIND)
            lookup.refuse_others(root, resolved, self._recall.members(root), sees)
        chosen = self._recall.select(root, resolved, without_entered=without_entered)
        at_cut(chosen)
        order = self.stream.next
        time_ns = time.time_ns()
        tasks = self._tied(chosen, mark, deadline)
        self.totals.snapshots += 1
        reasons = [*chosen.unknown, *lookup.unlisted(self.table, root)]
        if self.is_in_doubt:
            verified = "no"
            reasons.append("events were lost while the snapshot was taken: take it again")
        elif not certain:
            reasons.append("a zombie that no parent waits for may have gone meanwhile: take it again")
        return Snapshot(
            mode=resolved,
            time_ns=time_ns,
            pids=chosen.pids,
            tasks=tasks,
            namespaces=chosen.namespaces,
            ancestors=chosen.ancestors,
            squashed=chosen.squashed,
            entered=chosen.entered,
            boot_id=self.boot_id,
            header=self.header,
            completeness=Completeness(
                verified=verified,
                lost=self.stream.lost,
                sweeps=self.totals.sweeps,
                anomalies=self.table.counts.anomalies - anomalies,
                kernel_threads_left_out=chosen.kernel_workers,
                reasons=tuple(reasons),
                order=order,
            ),
            as_of_read=self._ties.fields,
        )

    def _verify(self, root: Task, mode: Mode, deadline: float) -> Verified:
        """Ask about every task of the tree, also about tasks that join it meanwhile and were born before."""
        mark = self.probes.page.issued
        asked: set[Task] = set()
        for _ in range(_ROUNDS):
            found = self._recall.members(root)
            if mode == "container":
                found = found + guests.entered(root, found)
            if self.blind or len(found) * _ROWS_PER_QUESTION > len(self.table.pids.numbers) + _ROWS_TO_BEGIN:
                self.sweep("no-hook" if self.blind else "large-tree", deadline)
                return "sweep"
            if self.is_in_doubt or (not asked and self.probes.skipped() != self.totals.skipped):
                self.sweep("loss", deadline)  # before it the members of the tree are not certain
                if time.monotonic() > deadline:
                    break
                continue
            new = [task for task in found if task not in asked and task.order < mark and task.address]
            if not new:
                break
            asked.update(new)
            self._ask([self.table.question(task) for task in new], deadline)
        return "numbering"

    def _outlast(self, root: Task, deadline: float) -> bool:
        """Return False if a zombie may have been reaped, without an event, since the last answer about it."""
        for _ in range(_OUTLAST):
            vanishing = [task for task in self._recall.exited(root) if departure.may_vanish(task) and task.address]
            if not vanishing:
                return True
            if time.monotonic() > deadline:
                break
            issued = self.probes.page.issued
            self._ask([self.table.question(task) for task in vanishing], deadline)
            if self.stream.next <= issued + len(vanishing):
                return True
        return False

    def _tied(self, chosen: select.Selection, mark: int, deadline: float) -> tuple[SnapshotTask, ...]:
        """Return the rows of a selection with their ties, read now.

        Args:
            chosen: the selection.
            mark: every task that was born before this number has been asked about, or a sweep has listed it.
        """
        if chosen is not self._told:
            born = [task for task in chosen.inside if task.order >= mark and task.address and task.pid.task is task]
            if born:
                self._ask([self.table.question(task) for task in born], deadline)
            self._told = chosen
        return self._ties.add(chosen, self.table.noted)

    def _explain(self, deadline: float) -> None:
        """Wait a moment for the events of differences; those that stay are anomalies."""
        if self.table.surprises:
            end = time.monotonic() + _EXPLAIN_S
            while self.table.surprises and time.monotonic() < end:
                time.sleep(0)
                if not self._catch_up(deadline):
                    return
                if self.table.doubts or self.table.unknown:
                    self._ask(self.table.take_questions(), deadline)
            self.table.settle()

    def close(self) -> None:
        """Detach the probes."""
        self.probes.close()
