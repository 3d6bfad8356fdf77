# SPDX-License-Identifier: Apache-2.0
"""A process tree kept up to date by events alone.

::

    with Client() as client, client.subscribe("4711") as events:
        tree = LiveTree.of(events)                    # as of the snapshot that the subscription began with
        for event in events:
            tree.apply(event)
            print(len(tree.tasks), "tasks at", tree.order)

The tree equals a snapshot taken at `order`: the same tasks, with the same numbers, parents, groups, sessions, states,
exit codes, subreaper flags, ids and names. Stop and continue, a name changed without exec, and changed ids have no
event of their own: the tree has them as the daemon last learned them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from agent.errors import CkptreeError
from agent.model import CKPT_PID_ROOT, Snapshot, TaskState

if TYPE_CHECKING:
    from agent.model import Task
    from agent.protocol.client import Event, EventTask, Subscription


@dataclass(slots=True, eq=False)  # each names the other: compare numbers and fields
class LiveTask:
    """A thread, leader or not, alive or dead. Numbers are those of the subscriber's pid namespace.

    Attributes:
        tid: its own number.
        process: its process.
        numbers: its numbers from the subscriber's namespace inward.
        start_ns: CLOCK_BOOTTIME at birth.
        exit_code: raw wait status once it has exited, else None.
        stopped: True while a signal has stopped its group.
        exit_signal: to its parent when it exits; -1 for a thread.
        uid, gid: real ids in the initial user namespace.
        comm: its name.
        kernel: True for a kernel thread or an io worker, which snapshots leave out.
    """

    tid: int
    process: "LiveProcess"
    numbers: tuple[int, ...]
    start_ns: int
    exit_code: int | None
    stopped: bool
    exit_signal: int
    uid: int
    gid: int
    comm: bytes
    kernel: bool = False

    @property
    def state(self) -> TaskState:
        """State, as snapshots have it."""
        if self.exit_code is None:
            return TaskState.STOPPED if self.stopped else TaskState.RUNNING
        alone = self.tid != self.process.pid or len(self.process.threads) == 1
        return TaskState.ZOMBIE if alone else TaskState.DEAD_LEADER


@dataclass(slots=True, eq=False)
class LiveProcess:
    """A thread group.

    Attributes:
        pid: its number, which is its leader's.
        parent: number of the thread that is its real parent; 0: the subscriber does not see it.
        pgid, sid: group and session; 0: the subscriber does not see it, or the daemon does not know it.
        subreaper: True where it adopts the orphans below it.
        threads: its tasks by number.
    """

    pid: int
    parent: int
    pgid: int
    sid: int
    subreaper: bool
    threads: dict[int, LiveTask] = field(default_factory=dict)


class LiveTree:
    """The tree below a root, as of the last event that was applied.

    Args:
        snapshot: the subscription's first state.
        ids: of the same answer: for each of its tasks numbers, pid, parent, group and session.
        order: of the same answer.

    Attributes:
        tasks: all threads by number, kernel workers born since among them.
        processes: by number.
        root: number of the topmost process.
        order: all events with smaller numbers have been applied.
        certain: False from a ``loss`` to the ``resync`` after it.
        whole: False once events were left out: they were not fetched in time, or the tree has a task that the
            subscriber may not see. Subscribe again.
        ended: True where the root is gone.
        unheard: count of events about tasks that no event had introduced.
    """

    def __init__(self, snapshot: Snapshot, ids: Sequence[Sequence[Any]], order: int) -> None:
        self.tasks: dict[int, LiveTask] = {}
        self.processes: dict[int, LiveProcess] = {}
        self._children: dict[int, set[int]] = {}
        self.order = order
        self.certain = self.whole = True
        self.ended = False
        self.unheard = 0
        self.root: int = ids[0][1]
        for told, (numbers, pid, parent, pgid, sid) in zip(snapshot.tasks, ids, strict=True):
            process = self._process(pid, parent, pgid, sid, subreaper=bool(told.subreaper))
            process.threads[numbers[0]] = self.tasks[numbers[0]] = LiveTask(
                numbers[0],
                process,
                tuple(numbers),
                told.start_ns or 0,
                told.exit_code,
                told.state is TaskState.STOPPED,
                told.exit_signal if told.exit_signal is not None else -1,
                told.uid or 0,
                told.gid or 0,
                told.comm or b"",
            )

    @classmethod
    def of(cls, events: "Subscription") -> Self:
        """Return a tree with the state of a subscription's snapshot.

        Raises:
            CkptreeError: the subscription has no snapshot; or the daemon is too old to send the ids.
        """
        from exporters import registry

        if events.snapshot is None:
            raise CkptreeError("a subscription without a snapshot has no tree to begin with: name a root")
        if events.ids is None:
            raise CkptreeError("the daemon is too old for this: it does not say what the snapshot's ids are from here")
        return cls(registry.load(events.snapshot.data), events.ids, events.order)

    # ---- events ----------------------------------------------------------------------------------------------------

    def apply(self, event: "Event") -> None:
        """Apply an event; one of an unknown kind changes nothing."""
        self.order = max(self.order, event.order)
        about, said = event.task, event.details
        if about is None:
            self.certain = event.kind == "resync" or (self.certain and event.kind != "loss")
            self.whole = self.whole and event.kind not in ("dropped", "hidden")
            self.ended = self.ended or event.kind == "end"
            return
        if event.kind == "birth":
            self._born(about, said)
            return
        task = self.tasks.get(about.tid)
        if task is None or task.start_ns != about.start_ns:
            self.unheard += event.kind != "reap"
            return
        task.uid, task.gid, task.comm = about.uid, about.gid, about.comm
        process = task.process
        match event.kind:
            case "exec":
                task.exit_code = None
                task.exit_signal = said.get("exit_signal", task.exit_signal)
            case "death":
                task.exit_code, task.stopped = said["exit_code"], False
            case "reap":
                self._reaped(task)
            case "reparent":
                task.exit_signal = said.get("exit_signal", task.exit_signal)
                self._reparented(process, said["parent"])
            case "setsid" | "setpgid":
                process.pgid, process.sid = said["pgid"] or 0, said["sid"] or 0
            case "subreaper":
                process.subreaper = said["on"]
            case "change":
                task.stopped, task.exit_code = said["stopped"], said["exit_code"]
                task.exit_signal = said["exit_signal"]

    def _process(self, pid: int, parent: int, pgid: int, sid: int, *, subreaper: bool) -> LiveProcess:
        process = self.processes.get(pid)
        if process is None:
            process = self.processes[pid] = LiveProcess(pid, parent, pgid, sid, subreaper)
            self._children.setdefault(parent, set()).add(pid)
        return process

    def _born(self, about: "EventTask", said: Mapping[str, Any]) -> None:
        known = self.tasks.get(about.tid)
        if known is not None and known.start_ns != about.start_ns:
            self._reaped(known)
            known = None
        process = self._process(about.pid, said["parent"], said["pgid"] or 0, said["sid"] or 0, subreaper=False)
        if known is None:
            known = LiveTask(
                about.tid,
                process,
                about.numbers,
                about.start_ns,
                None,
                stopped=False,
                exit_signal=said["exit_signal"],
                uid=about.uid,
                gid=about.gid,
                comm=about.comm,
                kernel=said.get("kernel", False),
            )
            self.tasks[about.tid] = process.threads[about.tid] = known
        known.uid, known.gid, known.comm = about.uid, about.gid, about.comm
        known.stopped = said.get("stopped", known.stopped)
        known.exit_code = said.get("exit_code", known.exit_code)
        process.subreaper = said.get("subreaper", process.subreaper)
        process.pgid, process.sid = said["pgid"] or 0, said["sid"] or 0

    def _reaped(self, task: LiveTask) -> None:
        process = task.process
        self.tasks.pop(task.tid, None)
        process.threads.pop(task.tid, None)
        if not process.threads:
            self.processes.pop(process.pid, None)
            self._children.get(process.parent, set()).discard(process.pid)

    def _reparented(self, process: LiveProcess, parent: int) -> None:
        """Give a process another parent; where that is not in the tree, the process and all below it leave the tree."""
        self._children.get(process.parent, set()).discard(process.pid)
        process.parent = parent
        self._children.setdefault(parent, set()).add(process.pid)
        if process.pid == self.root or parent in self.tasks:
            return
        leaving = [process]
        while leaving:
            gone = leaving.pop()
            for task in tuple(gone.threads.values()):
                leaving += [self.processes[pid] for pid in self._children.get(task.tid, ())]
                self._reaped(task)

    # ---- beside a snapshot -----------------------------------------------------------------------------------------

    def differences(self, snapshot: Snapshot) -> list[str]:
        """Compare with a snapshot that was taken at `order`, field by field; return a line for each difference.

        The numbers of a snapshot begin at its root's pid namespace, those of events at the subscriber's. Where the two
        namespaces differ, groups and sessions are equal if the same tasks share them.
        """
        shown = {task.tid: task for task in self.tasks.values() if not task.kernel}
        root = self.tasks.get(self.root)
        if root is None:
            return ["the root is not there any more"]
        first = snapshot.pid(snapshot.tasks[0].pid)
        above = len(root.numbers) - (len(first.numbers) if first is not None else 0)
        by_numbers = {task.numbers[above:]: task for task in shown.values()}
        tags: dict[int, int] = {}
        found: list[str] = []
        for told in snapshot.tasks:
            pid = snapshot.pid(told.pid)
            task = by_numbers.pop(pid.numbers, None) if pid is not None else None
            if task is None:
                found.append(f"{pid.numbers if pid else told.pid}: in the snapshot, and no event has told of it")
                continue
            tags[told.pid] = task.tid
            found += [
                f"{task.tid}: {name} is {here!r} by the events, {there!r} in the snapshot"
                for name, here, there in self._beside(task, told)
                if here != there
            ]
        found += [f"{task.tid}: told of, and not in the snapshot" for task in by_numbers.values()]
        return found + self._ids_beside(snapshot, tags, same=not above)

    def _beside(self, task: LiveTask, told: "Task") -> list[tuple[str, object, object]]:
        process = task.process
        return [
            ("start_ns", task.start_ns, told.start_ns),
            ("state", task.state, told.state),
            ("exit_code", task.exit_code, told.exit_code),
            ("exit_signal", task.exit_signal, told.exit_signal),
            ("uid", task.uid, told.uid),
            ("gid", task.gid, told.gid),
            ("comm", task.comm, told.comm),
            ("subreaper", process.subreaper, told.subreaper),
        ]

    def _ids_beside(self, snapshot: Snapshot, tags: dict[int, int], *, same: bool) -> list[str]:
        """Compare parents, processes, groups and sessions: each tag must have one number, and each number one tag."""
        numbers = dict(tags)
        holders = {number: tag for tag, number in tags.items()}
        found: list[str] = []
        for told in snapshot.tasks:
            task = self.tasks.get(tags.get(told.pid, 0))
            if task is None:
                continue
            process = task.process
            if tags.get(told.tgid) != process.pid:
                found.append(
                    f"{task.tid}: of process {process.pid} by the events, {tags.get(told.tgid)} in the snapshot"
                )
            if process.pid != self.root and tags.get(told.ppid) != process.parent:
                found.append(f"{task.tid}: child of {process.parent}, in the snapshot of {tags.get(told.ppid)}")
            for name, tag, number in (("group", told.pgid, process.pgid), ("session", told.sid, process.sid)):
                if tag == 0:
                    agrees = number not in holders
                elif same and tag != CKPT_PID_ROOT:
                    agrees = snapshot.number(tag) == number
                else:
                    agrees = numbers.setdefault(tag, number) == number and holders.setdefault(number, tag) == tag
                if not agrees:
                    found.append(f"{task.tid}: {name} {number} by the events, tag {tag} in the snapshot")
        return found
