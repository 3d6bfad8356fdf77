# SPDX-License-Identifier: Apache-2.0
"""The watch: probes, stream and table together, kept complete, and the snapshot taken from them.

How a snapshot is made certain
------------------------------
1. *Drain*: apply every record whose number had been issued when the request came.
2. *Ask*: put the kernel the question how each task of the tree is (a few microseconds each), or, where the tree is much of
   the host, sweep: walk all tasks and ask only about those that differ. The answers go through the same ring, so they
   stand in event order among the events that happen meanwhile.
3. *Cut*: drain what stands behind the last answer. What the table holds now is the tree as of the last record. Some zombies
   may vanish without any event; they are asked about last, again and again until nothing else stands beside the answers.

Membership of the tree rests on unbroken numbering (``verified: numbering``), or on the sweep. Loss, and program runs
that the kernel skipped, are made good by a sweep before anything else. A difference between an answer and the table
is explained by an event that comes a moment later, the call it tells of having begun before the answer; one that nothing
explains is an anomaly: counted, and healed by the answer itself.
"""

import gc
import time
from collections.abc import Iterable
from dataclasses import dataclass

from agent import host, rules, select
from agent.config import Config
from agent.errors import HostError, NoSuchRootError
from agent.model import Completeness, Header, Mode, Snapshot, Verified
from agent.model import Task as SnapshotTask
from agent.objects import EXITED, Namespace, Task
from agent.probes import Probes
from agent.rootname import RootName
from agent.stream import Stream
from agent.table import ProcessTable
from agent.ties import Ties

_ASK_AT_ONCE = 1000
_ROOM_FOR_ANSWER = 2048  # bytes of the ring; mostly a tenth of it is used, so that they fit beside what else happens
# One walk over the host costs less than many questions: in the time of one, it sees so many tasks; to begin with it costs
# as much as so many more.
_ROWS_PER_QUESTION, _ROWS_TO_BEGIN = 6, 100
_ROUNDS = 8  # a question may lead to others: an unknown parent's parent
# A number that neither comes nor is said to be lost for so long is given up: a CPU may be held up. Where losses are counted
# that have not been told of, by the last of many that overwrite each other, it will hardly come any more.
_LATE_S, _LATE_AMID_LOSS_S = 1.0, 0.005
_LET_RUN_S = (
    1e-5  # whoever has taken that number may be waiting for our CPU: looking without a pause would keep it waiting
)
_ATTEMPTS = 3  # at a snapshot without loss in the middle of it
_PATIENCE_S = 2.0  # of a snapshot with what keeps being lost: then it says so
_OUTLAST = 40  # questions about who vanishes without an event: in the thickest storm every fourth or so stands alone
_EXPLAIN_S = 0.004  # how long a difference may wait for its event


@dataclass(slots=True)
class Totals:
    """What the watch has done so far.

    Attributes:
        sweeps: full ones.
        snapshots: taken.
        skipped: program runs that took no number.
    """

    sweeps: int = 0
    snapshots: int = 0
    skipped: int = 0


class Watch:
    """A live process table, from the moment of construction.

    Args:
        config: ring size and intervals.
        without: kernel features to do without, for trying that.

    Raises:
        HostError: not permitted, or this host cannot.
    """

    def __init__(self, config: Config, without: Iterable[str] = ()) -> None:
        if not host.in_initial_pid_namespace():
            raise HostError(
                "not in the initial pid namespace: the kernel would show this process only a part of the tasks. "
                "Run ckptree on the host (in a container: share the host's pid namespace)"
            )
        self.probes = Probes(config.ring_bytes, without)
        self.table = ProcessTable()
        self.stream = Stream(dict(self.table.handlers))
        self.totals = Totals()
        self._lost: set[int] = set()
        self._last: tuple[object, list[object], select.Selection, int] | None = None
        self._walked: tuple[Task, int, list[Task], list[Task]] | None = None
        self._swept: tuple[int, bytes, list[Task]] | None = None
        self._told: select.Selection | None = None
        self._ties = Ties(self.probes.tied, self.probes.ties, self.table.pids, filters=self.probes.filters)
        self.header: Header = host.header()
        self.boot_id = host.boot_id()
        self.sweep()

    @property
    def blind(self) -> list[str]:
        """What no hook announces here, by the names of bpf/hooks.py: every snapshot then rests on a sweep."""
        return [feature for feature, hooks in self.probes.hooks.items() if not hooks]

    @property
    def _news(self) -> int:
        """Records that changed the table, or may have: while it stays the same, so does the table."""
        return self.stream.records - self.table.confirmed

    # ---- keeping up ------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Apply what the ring holds."""
        issued = self.probes.page.issued
        self.probes.ring.drain(self.stream.feed)
        if self.stream.waiting:
            self._account(issued)

    def _account(self, issued: int) -> None:
        """Numbers are missing: learn which ones are lost.

        Args:
            issued: numbers issued before the ring was drained. Those from there on may still be in it.
        """
        numbers, overflow = self.probes.page.lost_numbers()
        self._lost |= numbers
        if overflow:
            self.stream.give_up_below(issued)
        self.stream.give_up(self._lost)
        self._lost = {number for number in self._lost if number >= self.stream.next}

    def catch_up(self) -> None:
        """Apply every record whose number was issued before this call; wait for those still being written."""
        target = self.probes.page.issued
        waiting_since = 0.0
        while True:
            self.probes.ring.drain(self.stream.feed)
            if self.stream.next >= target:
                return
            self._account(target)
            if self.stream.next >= target:
                return
            now = time.monotonic()
            late_s = _LATE_AMID_LOSS_S if self.probes.page.lost > self.stream.lost else _LATE_S
            if not waiting_since:
                waiting_since = now
            elif now - waiting_since > late_s:
                self.stream.give_up_below(target)
                return
            time.sleep(_LET_RUN_S)

    def _ask(self, questions: list[tuple[int, int]]) -> None:
        """Put questions, and whatever follows from the answers."""
        ask = self.probes.ask
        at_once = max(1, min(_ASK_AT_ONCE, self.probes.ring.size // _ROOM_FOR_ANSWER))
        for _ in range(_ROUNDS):
            for start in range(0, len(questions), at_once):
                for address, start_ns in questions[start : start + at_once]:
                    ask(address, start_ns)
                self.catch_up()
            questions = self.table.take_questions()
            if not questions:
                return

    def sweep(self) -> None:
        """Compare the table with all tasks of the kernel, and heal what differs."""
        skipped = self.probes.skipped()
        self.stream.suspect = self.table.astray = False
        self.catch_up()
        mark = self.stream.next
        rows = self.probes.rows()
        self.catch_up()
        self._ask(self._differing(rows))
        if not self.totals.sweeps:
            self._ask(self.table.differing(rows))  # who was entered as somebody's parent may not be listed either
        self.table.strike_off(mark)
        if not self.totals.sweeps:
            self.table.settle()
            self.table.counts.anomalies = 0  # the first sweep fills the table: nothing to differ from
        self.totals.sweeps += 1
        self.totals.skipped = skipped

    def _differing(self, rows: bytes) -> list[tuple[int, int]]:
        """What a walk gives reason to ask. Where neither walk nor table have changed since the last one: the same."""
        table, news = self.table, self._news
        if self._swept is not None and self._swept[0] == news and self._swept[1] == rows:
            return [table.question(task) for task in self._swept[2]]
        questions = table.differing(rows)
        doubted = [table.asked(question) for question in questions]
        strangers = doubted.count(None)
        self._swept = None if strangers else (news, rows, [task for task in doubted if task is not None])
        return questions

    def rest(self) -> None:
        """What is due now and then: a sweep for what no event told, and letting go of what is kept for speed."""
        self._last = self._walked = self._told = self._swept = None
        self._ties.forget()
        self.sweep()
        self.table.settle()
        gc.collect()

    def tend(self) -> None:
        """Between requests: apply what has come, ask what is in doubt, repair loss."""
        self.drain()
        if self.stream.suspect or self.table.astray:
            self.sweep()
        elif self.table.doubts or self.table.unknown:
            self._ask(self.table.take_questions())

    # ---- answering -------------------------------------------------------------------------------------------------

    def find(self, root: RootName, caller: int | None = None) -> Task:
        """The process that a caller means.

        Args:
            root: a pid counts as in the caller's pid namespace.
            caller: the caller's own number in the initial namespace; None: that namespace is meant.

        Raises:
            NoSuchRootError: nobody has it, or it is a thread's.
        """
        self.catch_up()
        if root.namespace:
            for namespace in self.table.pids.living():
                if namespace.inum == root.number:
                    return self._process(namespace, 1, f"init of {root}")
            raise NoSuchRootError(f"no process lives in a pid namespace {root}; see the links /proc/PID/ns/pid")
        asking = self.table.task(caller) if caller else None
        namespace = asking.pid.namespace if asking is not None else self.table.pids.initial
        return self._process(namespace, root.number, str(root))

    def _process(self, namespace: Namespace, number: int, text: str) -> Task:
        pid = namespace.numbers.get(number)
        task = pid.task if pid is not None else None
        if task is None:
            held = (
                " (the number is held by a group or session whose leader is dead)" if pid is not None and number else ""
            )
            raise NoSuchRootError(f"no such process: {text}{held}")
        if task.leader is not task:
            leader = task.leader.pid.number_in(namespace)
            raise NoSuchRootError(f"{text} is a thread, not a process: its process is {leader}")
        return task

    def snapshot(self, root: Task, mode: str = "auto", *, without_entered: bool = False) -> Snapshot:
        """The tree below a task, at one instant.

        Args:
            root: from `find`.
            mode: ``auto``, ``container`` or ``subtree``.
            without_entered: leave out what entered the container from outside.

        Raises:
            NoSuchRootError: it has been reaped meanwhile.
            RefusedError: it leaks, or is no container.
            HostError: it is a kernel thread.
        """
        resolved = select.resolve_mode(root, mode)
        anomalies = self.table.counts.anomalies
        mark = self.probes.page.issued
        deadline = time.monotonic() + _PATIENCE_S
        for _ in range(_ATTEMPTS):
            verified = self._verify(root, resolved, deadline)
            self._explain()
            self._outlast(root)
            if not self.stream.suspect or time.monotonic() > deadline:
                break
        if root.pid.task is not root:
            raise NoSuchRootError(f"{select.name(root)} was reaped while its snapshot was taken")
        chosen = self._select(root, resolved, without_entered=without_entered)
        time_ns = time.time_ns()
        tasks = self._tied(chosen, mark)
        self.totals.snapshots += 1
        reasons = [*chosen.unknown, *self._unlisted(root)]
        if self.stream.suspect or self.table.astray:
            verified = "no"
            reasons.append("events were lost while the snapshot was taken: take it again")
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
            ),
            as_of_read=self._ties.fields,
        )

    def _verify(self, root: Task, mode: Mode, deadline: float) -> Verified:
        """Ask about every task of the tree, those too that turn up meanwhile without having been born meanwhile."""
        mark = self.probes.page.issued
        asked: set[Task] = set()
        for _ in range(_ROUNDS):
            found = self._members(root)
            if mode == "container":
                found = found + select.entered(root, found)
            if self.blind or len(found) * _ROWS_PER_QUESTION > len(self.table.pids.numbers) + _ROWS_TO_BEGIN:
                self.sweep()
                return "sweep"
            if self.stream.suspect or self.table.astray or (not asked and self.probes.skipped() != self.totals.skipped):
                self.sweep()  # who is in the tree is not certain before
                if time.monotonic() > deadline:
                    break
                continue
            new = [task for task in found if task not in asked and task.order < mark and task.address]
            if not new:
                break
            asked.update(new)
            self._ask([self.table.question(task) for task in new])
        return "numbering"

    def _outlast(self, root: Task) -> None:
        """Whoever may vanish without an event is there at the last record that was applied, or known to be gone by then."""
        for _ in range(_OUTLAST):
            vanishing = [task for task in self._exited(root) if rules.may_vanish(task) and task.address]
            if not vanishing:
                return
            issued = self.probes.page.issued
            self._ask([self.table.question(task) for task in vanishing])
            if self.stream.next <= issued + len(vanishing):
                return

    def _unlisted(self, root: Task) -> list[str]:
        """Processes of the tree that the kernel's walk passes over; it then does so with all of their threads."""
        unlisted = {task.leader for task in self.table.unlisted if task.pid.task is task}
        return [
            f"{select.name(leader)}: the kernel's task iterator does not list it, so some of its threads may be missing"
            for leader in unlisted
            if rules.descends_from(leader, root)
        ]

    def _members(self, root: Task) -> list[Task]:
        """The tree, walked anew only where a record has been applied since: nothing else changes the table."""
        if self._walked is None or self._walked[:2] != (root, self._news):
            members = select.members(root)
            self._walked = root, self._news, members, [task for task in members if task.flags & EXITED]
        return self._walked[2]

    def _exited(self, root: Task) -> list[Task]:
        """Those of the tree that run no more."""
        self._members(root)
        return self._walked[3] if self._walked is not None else []

    def _select(self, root: Task, mode: Mode, *, without_entered: bool) -> select.Selection:
        """Select, unless the last selection was of the same tree and nothing it depends on has changed."""
        key = (root, mode, without_entered)
        news = self._news
        tasks = self._members(root)
        if self._last is not None:
            last_key, signature, chosen, last_news = self._last
            if last_key == key and last_news == news:
                return chosen
            if last_key == key and select.signature(root, mode, tasks, chosen.outsiders) == signature:
                self._last = (key, signature, chosen, news)
                return chosen
        chosen = select.select(root, mode, without_entered=without_entered)
        self._last = (key, select.signature(root, mode, tasks, chosen.outsiders), chosen, news)
        return chosen

    def _tied(self, chosen: select.Selection, mark: int) -> tuple[SnapshotTask, ...]:
        """The rows of a selection with their terminals and owners of files, read now.

        Args:
            chosen: the selection.
            mark: no task that was born before this number has not been asked about, or walked past.
        """
        if chosen is not self._told:
            born = [task for task in chosen.inside if task.order >= mark and task.address and task.pid.task is task]
            if born:
                self._ask([self.table.question(task) for task in born])
            self._told = chosen
        return self._ties.add(chosen, self.table.noted)

    def _explain(self) -> None:
        """Give differences the time their events need; those that stay are anomalies."""
        if self.table.surprises:
            deadline = time.monotonic() + _EXPLAIN_S
            while self.table.surprises and time.monotonic() < deadline:
                time.sleep(0)
                self.catch_up()
                if self.table.doubts or self.table.unknown:
                    self._ask(self.table.take_questions())
            self.table.settle()

    def close(self) -> None:
        """Detach the probes."""
        self.probes.close()
