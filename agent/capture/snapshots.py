# SPDX-License-Identifier: Apache-2.0
"""Snapshots: the root of a tree is found, and the tree is cut from the table of a watch at one instant.

How a snapshot is made certain
------------------------------
1. *Drain*: apply every record whose number had been issued when the request came.
2. *Ask*: ask the kernel for the state of each task of the tree (a few microseconds each), or, where the tree is much of
   the host, sweep: walk all tasks and ask only about those that differ. The answers go through the same ring, so they
   stand in event order among the events that happen meanwhile.
3. *Cut*: drain the records behind the last answer. The table then holds the tree as of the last record. Some zombies may
   vanish without any event; they are asked about last, repeatedly, until no other record stands among the answers.

Membership of the tree rests on unbroken numbering (``verified: numbering``), or on the sweep. A sweep repairs loss, and
program runs that the kernel skipped, before any snapshot.
"""

import time
from collections.abc import Callable, Collection

from agent.capture.recent import Recent
from agent.capture.watch import Watch
from agent.errors import BusyError, NoSuchRootError
from agent.model import Completeness, Mode, Snapshot, Task, Verified
from agent.proc import host
from agent.rootname import RootName
from agent.selection import guests, lookup, select
from agent.selection.lookup import Sees
from agent.selection.ties import Ties
from agent.table import departure
from agent.table.objects import TaskStruct

# A walk visits so many tasks in the time of one question, and its start costs as much as so many tasks more.
_ROWS_PER_QUESTION, _ROWS_TO_BEGIN = 6, 100
_ROUNDS = 8  # tasks may join the tree while the kernel is asked
_ATTEMPTS = 3  # at a snapshot without loss during it
_PATIENCE_S = 2.0  # while events are lost; the snapshot then says that it is incomplete
_EXPLAIN_S = 0.004  # the time that a difference may wait for its event
_BEHIND = "more happens on this host than the daemon gets the time to follow: try again"
_OUTLAST = 40  # rounds of questions about zombies; in the densest storm one in four has no event between


class _Kept:
    """The parts of one tree's snapshot that its next one can use.

    Args:
        ties: reads the ties of its tasks.

    Attributes:
        ties: reads the ties of its tasks.
        told: the selection all of whose tasks have been asked about.
    """

    def __init__(self, ties: Ties) -> None:
        self.ties = ties
        self.told: select.Selection | None = None


class Snapshots:
    """The snapshots of one watch.

    Args:
        watch: keeps the table complete.

    Attributes:
        header, boot_id: the host's.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._kept: Recent[TaskStruct, _Kept] = Recent(self._keep)
        self.header = host.header()
        self.boot_id = host.boot_id()
        self._boottime_ns = host.cut_clock()

    def _keep(self) -> _Kept:
        probes = self._watch.probes
        return _Kept(Ties(probes.tied, probes.ties, self._watch.table.pids, filters=probes.filters))

    def rest(self, kept: Collection[TaskStruct] = ()) -> None:
        """Do the watch's periodic work, and free what is kept for further snapshots.

        Args:
            kept: the roots of the trees of which it stays.
        """
        self._kept.retain(kept)
        self._watch.rest(kept)

    def caller(self, pid: int) -> TaskStruct | None:
        """Return the client's task, by its number in the initial namespace; None: no task has it.

        Raises:
            BusyError: the table has no such task, and it is not up to date.
        """
        learned = self._learn_all()
        task = self._watch.table.task(pid)
        if task is None and not learned:
            raise BusyError(_BEHIND)
        return task

    def find(self, root: RootName, caller: int | TaskStruct | None = None, sees: Sees | None = None) -> TaskStruct:
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
        asking = self.caller(caller) if isinstance(caller, int) else caller
        if asking is None and caller is not None:
            raise NoSuchRootError(f"{root} counts in the pid namespace of process {caller}, which is gone")
        try:
            space = asking.pid.namespace if asking is not None else self._watch.table.pids.initial
            seen = None if sees is None else lambda task: self._seen(task, sees)
            return lookup.process(self._watch.table, root, space, seen)
        except NoSuchRootError as error:
            if learned:
                raise
            raise BusyError(_BEHIND) from error

    def _learn_all(self) -> bool:
        """Have every task that has a number now in the table, after loss too; return False if time ran out."""
        deadline = time.monotonic() + _PATIENCE_S
        learned = self._watch.catch_up(deadline)
        if learned and self._watch.is_in_doubt:
            self._watch.sweep("loss", deadline)
            learned = time.monotonic() <= deadline
        return learned

    def _seen(self, task: TaskStruct, sees: Sees) -> bool:
        """Return True if a client may see a task by its current ids: no event tells a change of ids, so the kernel is
        asked.
        """
        if task.address:
            self._watch.ask([self._watch.table.question(task)])
        return sees(task.ids)

    def take(
        self,
        root: TaskStruct,
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
        anomalies = self._watch.table.counts.anomalies
        mark = self._watch.probes.page.issued
        deadline = time.monotonic() + _PATIENCE_S
        for _ in range(_ATTEMPTS):
            verified = self._verify(root, resolved, deadline)
            self._explain(deadline)
            certain = self._outlast(root, deadline)
            if not self._watch.is_in_doubt or time.monotonic() > deadline:
                break
        if root.pid.task is not root:
            raise NoSuchRootError(f"{select.name(root)} was reaped while its snapshot was taken")
        if sees is not None:
            if self._watch.is_in_doubt:
                raise BusyError(_BEHIND)
            lookup.refuse_others(root, resolved, self._watch.cache.members(root), sees)
        chosen = self._watch.cache.select(root, resolved, without_entered=without_entered)
        at_cut(chosen)
        order = self._watch.stream.next
        time_ns, boottime_ns = time.time_ns(), self._boottime_ns()
        kept = self._kept.of(root, len(chosen.tasks))
        tasks = self._tied(kept, chosen, mark, deadline)
        self._watch.totals.snapshots += 1
        reasons = [*chosen.unknown, *lookup.unlisted(self._watch.table, root)]
        if self._watch.is_in_doubt:
            verified = "no"
            reasons.append("events were lost while the snapshot was taken: take it again")
        elif not certain:
            reasons.append("a zombie that no parent waits for may have gone meanwhile: take it again")
        return Snapshot(
            mode=resolved,
            time_ns=time_ns,
            boottime_ns=boottime_ns,
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
                lost=self._watch.stream.lost,
                sweeps=self._watch.totals.sweeps,
                anomalies=self._watch.table.counts.anomalies - anomalies,
                kernel_threads_left_out=chosen.kernel_workers,
                reasons=tuple(reasons),
                order=order,
            ),
            as_of_read=kept.ties.fields,
        )

    def _verify(self, root: TaskStruct, mode: Mode, deadline: float) -> Verified:
        """Ask about every task of the tree, also about tasks that join it meanwhile and were born before."""
        mark = self._watch.probes.page.issued
        asked: set[TaskStruct] = set()
        for _ in range(_ROUNDS):
            blind, rows = self._watch.blind, len(self._watch.table.pids.numbers) + _ROWS_TO_BEGIN
            if blind or self._watch.cache.size(root) * _ROWS_PER_QUESTION > rows:
                self._watch.sweep("no-hook" if blind else "large-tree", deadline)
                return "sweep"
            found = self._watch.cache.members(root)
            if mode == "container":
                found = found + guests.entered(root, found)
            if self._watch.is_in_doubt or (not asked and self._watch.probes.skipped() != self._watch.totals.skipped):
                self._watch.sweep("loss", deadline)  # before it the members of the tree are not certain
                if time.monotonic() > deadline:
                    break
                continue
            new = [task for task in found if task not in asked and task.order < mark and task.address]
            if not new:
                break
            asked.update(new)
            self._watch.ask([self._watch.table.question(task) for task in new], deadline)
        return "numbering"

    def _outlast(self, root: TaskStruct, deadline: float) -> bool:
        """Return False if a zombie may have been reaped, without an event, since the last answer about it."""
        for _ in range(_OUTLAST):
            vanishing = [task for task in self._watch.cache.exited(root) if departure.may_vanish(task) and task.address]
            if not vanishing:
                return True
            if time.monotonic() > deadline:
                break
            issued = self._watch.probes.page.issued
            self._watch.ask([self._watch.table.question(task) for task in vanishing], deadline)
            if self._watch.stream.next <= issued + len(vanishing):
                return True
        return False

    def _tied(self, kept: _Kept, chosen: select.Selection, mark: int, deadline: float) -> tuple[Task, ...]:
        """Return the rows of a selection with their ties, read now.

        Args:
            kept: of its tree.
            chosen: the selection.
            mark: every task that was born before this number has been asked about, or a sweep has listed it.
        """
        if chosen is not kept.told:
            born = [task for task in chosen.inside if task.order >= mark and task.address and task.pid.task is task]
            if born:
                self._watch.ask([self._watch.table.question(task) for task in born], deadline)
            kept.told = chosen
        return kept.ties.add(chosen, self._watch.table.noted)

    def _explain(self, deadline: float) -> None:
        """Wait a moment for the events of differences; those that stay are anomalies."""
        if self._watch.table.surprises:
            end = time.monotonic() + _EXPLAIN_S
            while self._watch.table.surprises and time.monotonic() < end:
                time.sleep(0)
                if not self._watch.catch_up(deadline):
                    return
                if self._watch.table.doubts or self._watch.table.unknown:
                    self._watch.ask(self._watch.table.take_questions(), deadline)
            self._watch.table.settle()
