# SPDX-License-Identifier: Apache-2.0
"""Which tasks, which pid objects, which tags: from the live objects to an immutable snapshot.

Rules (the design source's, spelled out)
----------------------------------------
* Tasks stand in tree order: a leader, its descendants, then its next thread and that one's; siblings and threads by
  number. Parents come first. Kernel threads and io workers are left out and counted.
* Pid objects are collected in that order, for each task pid, tgid, pgrp, session, each if new, and tagged from 1.
* An id without a number in the root's namespace has tag 0. Else, where the root inherited its session from outside, that
  session has CKPT_PID_ROOT, as session and as group. Every other visible id is collected, outside the tree too: it
  comes back as a ghost.
* ``container``: every member of the root's namespace and of those below. A group or session from outside is a leak, and
  so is a task that entered from outside (its parent has no number here). ``subtree``: the root and its descendants.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from agent import history, rules
from agent.errors import HostError, RefusedError
from agent.model import (
    CKPT_PID_ROOT,
    Ancestor,
    AncestorEvent,
    Birth,
    Creator,
    Mode,
    OutsidePid,
    PidObject,
    PidRef,
    TaskState,
)
from agent.model import Namespace as SnapshotNamespace
from agent.model import Task as SnapshotTask
from agent.objects import (
    CLONE_NEWPID,
    CLONE_PARENT,
    CLONE_THREAD,
    CLONE_VFORK,
    EXITED,
    STOPPED,
    SUBREAPER,
    TRACING_STOP,
    Namespace,
    Pid,
    Task,
)

_FLAG_NAMES = (
    (CLONE_NEWPID, "CLONE_NEWPID"),
    (CLONE_PARENT, "CLONE_PARENT"),
    (CLONE_THREAD, "CLONE_THREAD"),
    (CLONE_VFORK, "CLONE_VFORK"),
)
_FLAGS: dict[int, tuple[str, ...]] = {}  # by value: there are few, and every task has one


@dataclass(frozen=True, slots=True)
class Selection:
    """What a snapshot says of the tree; the caller adds host, time and completeness.

    Attributes:
        pids, tasks, namespaces, ancestors, squashed, entered: as in model.Snapshot.
        kernel_workers: tasks left out.
        unknown: tasks with a number or a parent that is not known, by name.
    """

    pids: tuple[PidObject, ...]
    tasks: tuple[SnapshotTask, ...]
    namespaces: tuple[SnapshotNamespace, ...]
    ancestors: tuple[Ancestor, ...]
    squashed: tuple[str, ...]
    entered: tuple[str, ...]
    kernel_workers: int
    unknown: tuple[str, ...]


def resolve_mode(root: Task, mode: str) -> Mode:
    """What `auto` means: a container iff the root is init of a namespace other than the initial one.

    Raises:
        RefusedError: `container` was asked for, of a task that is no namespace's init.
    """
    is_init = root.pid.level > 0 and root.pid.numbers[-1] == 1
    if mode == "subtree" or (mode == "auto" and not is_init):
        return "subtree"
    if not is_init:
        raise RefusedError(
            f"{name(root)} is not the init of a container's pid namespace: use --mode subtree, or name its init"
        )
    return "container"


def name(task: Task) -> str:
    """For people: its numbers and what it calls itself."""
    return f"{'/'.join(map(str, task.pid.numbers))} ({task.comm.decode(errors='backslashreplace')})"


def members(root: Task) -> list[Task]:
    """The root and what descends from it, in tree order; what entered a container from outside is not among it.

    Raises:
        HostError: the root is a kernel thread.
    """
    if rules.is_kernel_worker(root):
        raise HostError(f"{name(root)} is a kernel thread: it cannot be captured, nor rebuilt")
    return list(_walk(root, root.pid.level))


def _parent_name(task: Task) -> str:
    parent = task.leader.parent
    return name(parent) if parent is not None else "unknown"


def _walk(root: Task, level: int) -> Iterator[Task]:
    """Depth first. The stack holds tasks whose turn is still to come: threads stand below a leader's descendants."""

    def number(task: Task) -> int:
        numbers = task.pid.numbers
        return numbers[level] if level < len(numbers) else 0

    stack = [root]
    while stack:
        task = stack.pop()
        if task.leader is task and task.threads:
            stack.extend(sorted(task.threads, key=number, reverse=True))
        child = task.first_child
        if child is not None:
            if child.next is None:
                stack.append(child)
            else:
                stack.extend(sorted(task.children(), key=number, reverse=True))
        yield task


def _entered(root: Task, reached: Collection[Task]) -> list[Task]:
    """Members of the root's namespace that do not descend from the root, threads aside, topmost first."""
    inside = set(reached)
    return [
        pid.task
        for pid in root.pid.namespace.numbers.values()
        if pid.task is not None and pid.task not in inside and pid.task.leader is pid.task
    ]


class _Tags:
    """Collects pid objects in the order in which they are met."""

    def __init__(self, root: Task, first_tag: int) -> None:
        self.namespace = root.pid.namespace
        self.level = self.namespace.level
        self.pids: list[Pid] = []
        self._tags: dict[Pid | None, int] = {}
        self._first = first_tag
        self.outside: dict[Pid, int] = {}
        leader = root.leader
        # The root inherited its session, if it does not lead one.
        inherited = leader.sid if leader.sid is not leader.pid else None
        if inherited is not None and inherited.number_in(self.namespace):
            self._tags[inherited] = CKPT_PID_ROOT
            self.outside[inherited] = CKPT_PID_ROOT

    def __call__(self, pid: Pid | None) -> int:
        """The tag of a pid object, which is collected if need be."""
        tag = self._tags.get(pid)
        if tag is None:
            if pid is None:
                return 0
            if pid.number_in(self.namespace):
                tag = self._first + len(self.pids)
                self.pids.append(pid)
            else:
                tag = 0
                self.outside[pid] = 0
            self._tags[pid] = tag
        return tag

    def known(self, pid: Pid | None) -> int | None:
        """The tag of a pid object that has one, or a special value."""
        return self._tags.get(pid)


class _Namespaces:
    """Numbers the namespaces of the collected pid objects: the root's is 0, parents before children."""

    def __init__(self, root: Namespace, pids: Collection[Pid]) -> None:
        self._root = root
        self._ids: dict[Namespace, int] = {root: 0}
        self._chains: dict[Namespace, tuple[int, ...]] = {root: (0,)}
        self.rows = [SnapshotNamespace(0, root.inum, 0, None)]
        self._by_identity = {root.identity: 0}
        deeper = {pid.namespace for pid in pids if pid.namespace is not root}
        for namespace in sorted(deeper, key=lambda one: (one.level, one.identity)):
            self._add(namespace)

    def _add(self, namespace: Namespace) -> tuple[int, ...]:
        chain = self._chains.get(namespace)
        if chain is None:
            above = self._add(namespace.parent or self._root)
            number = len(self.rows)
            self.rows.append(SnapshotNamespace(number, namespace.inum, namespace.level - self._root.level, above[-1]))
            chain = self._chains[namespace] = (*above, number)
            self._by_identity[namespace.identity] = number
        return chain

    def of(self, pid: Pid) -> tuple[int, ...]:
        """Ids of a pid object's namespaces from the root's inward; -1 for those that hold none of the snapshot's."""
        chain = self._chains.get(pid.namespace)
        return chain if chain is not None else (0, *(-1,) * (pid.level - self._root.level))

    def child_id(self, pending: tuple[int, int] | None) -> int | None:
        """Id of the namespace of a task's next child: -1 for one that holds no task of the tree."""
        return None if pending is None else self._by_identity.get(pending[0], -1)


class _Births:
    """Birth edges, and the ancestors they run through."""

    def __init__(self, tags: _Tags, namespaces: _Namespaces, inside: dict[Task, int]) -> None:
        self._tags = tags
        self._namespaces = namespaces
        self._inside = inside
        self._level = tags.level
        self._index: dict[Task, int] = {}
        self._order: list[Task] = []

    def of(self, task: Task) -> Birth:
        """The birth of a task of the snapshot, or of an ancestor."""
        flags = task.clone_flags
        names = _FLAGS.get(flags)
        if names is None:
            names = _FLAGS[flags] = tuple(text for bit, text in _FLAG_NAMES if flags & bit)
        if task.order < 0:
            return Birth(None, False, None, None, names, None)
        return Birth(
            self._creator(task),
            True,
            self._pid(task.birth_sid),
            self._pid(task.birth_pgid),
            names,
            task.order,
        )

    def _creator(self, task: Task) -> Creator | None:
        creator = task.creator
        if creator is None:
            return None
        tag = self._inside.get(creator)
        if tag is not None:
            return Creator(tag, None)
        if not history.is_gone(creator) or not creator.pid.number_in(self._tags.namespace):
            return None  # it lives, or lived, outside the tree
        index = self._index.get(creator)
        if index is None:
            index = self._index[creator] = len(self._order)
            self._order.append(creator)
        return Creator(None, index)

    def _pid(self, pid: Pid | None) -> PidRef | None:
        if pid is None:
            return None
        tag = self._tags.known(pid)
        if tag is not None:
            return tag
        if not pid.number_in(self._tags.namespace):
            return 0
        return OutsidePid(pid.numbers[self._level :], self._namespaces.of(pid))

    def ancestors(self) -> tuple[Ancestor, ...]:
        """Everybody that a birth has named so far, and those that their births name in turn."""
        rows = []
        for index, task in enumerate(self._order):  # grows while it is walked
            events = tuple(
                AncestorEvent(what, order, self._pid(value) if isinstance(value, Pid) else value)  # type: ignore[arg-type]  # `what` is one of the four
                for what, order, value in sorted(task.deeds or (), key=lambda deed: deed[1])
            )
            numbers = task.pid.numbers[self._level :]
            rows.append(Ancestor(index, numbers, self._namespaces.of(task.pid), self.of(task), events))
        return tuple(rows)


def _state(task: Task) -> TaskState:
    flags = task.flags
    if flags & EXITED:
        return TaskState.ZOMBIE if rules.is_zombie(task) else TaskState.DEAD_LEADER
    return TaskState.STOPPED if flags & (STOPPED | TRACING_STOP) else TaskState.RUNNING


def select(root: Task, mode: Mode, *, without_entered: bool = False, first_tag: int = 1) -> Selection:
    """Take the tree below a task.

    Raises:
        RefusedError: container mode, and something leaks; every leaking pid is named.
        HostError: the root is a kernel thread.
    """
    all_tasks = members(root)
    tasks = [task for task in all_tasks if not rules.is_kernel_worker(task)]
    tags = _Tags(root, first_tag)
    level = tags.level
    running, state_of = TaskState.RUNNING, _state
    ids: list[tuple[int, int, int, int]] = []
    inside: dict[Task, int] = {}
    for task in tasks:
        leader = task.leader
        own = tags(task.pid)
        inside[task] = own
        ids.append((own, tags(leader.pid), tags(leader.pgid), tags(leader.sid)))
    entered = _entered(root, all_tasks) if mode == "container" else []
    if mode == "container":
        _refuse_leaks(root, [] if without_entered else entered, _leaks(tasks, tags))

    namespaces = _Namespaces(tags.namespace, tags.pids)
    births = _Births(tags, namespaces, inside)
    birth_of = births.of
    unknown: list[str] = []
    rows: list[SnapshotTask] = []
    root_leader = root.leader
    for task, (own, tgid, pgid, sid) in zip(tasks, ids, strict=True):
        leader = task.leader
        parent = leader.parent
        if leader is root_leader:
            ppid = 0
        else:
            ppid = inside.get(parent, 0) if parent is not None else 0
            if not ppid:
                unknown.append(f"{name(task)}: its parent is not known")
        flags = task.flags
        rows.append(
            SnapshotTask(
                own,
                ppid,
                tgid,
                pgid,
                sid,
                task.pid.level - level,
                task.start_ns,
                state_of(task) if flags & (EXITED | STOPPED | TRACING_STOP) else running,
                task.exit_code if flags & EXITED else None,
                task.exit_signal,
                task.comm,
                task.ids[0],
                task.ids[1],
                bool(leader.flags & SUBREAPER),
                namespaces.child_id(task.child_namespace),
                None,
                None,
                None,
                birth_of(task),
            )
        )
    of = namespaces.of
    pids = tuple(PidObject(pid.numbers[level:] if level else pid.numbers, of(pid)) for pid in tags.pids)
    return Selection(
        pids,
        tuple(rows),
        tuple(namespaces.rows),
        births.ancestors(),
        _squashed(tags),
        tuple(map(name, entered)),
        len(all_tasks) - len(tasks),
        tuple(unknown),
    )


def _leaks(tasks: list[Task], tags: _Tags) -> list[str]:
    """Groups and sessions from outside, one line for each use."""
    lines = []
    for task in tasks if tags.outside else ():
        leader = task.leader
        for role, pid in (("group", leader.pgid), ("session", leader.sid)) if leader is task else ():
            if pid is not None and pid in tags.outside:
                numbers = "/".join(map(str, pid.numbers))
                owner = (
                    f" ({pid.task.comm.decode(errors='backslashreplace')})" if pid.task else ", whose leader is dead"
                )
                lines.append(f"{name(task)}: its {role} is {numbers}{owner}, outside the container")
    return lines


def _refuse_leaks(root: Task, entered: list[Task], leaks: list[str]) -> None:
    lines = [f"{name(task)}: entered from outside (parent {_parent_name(task)})" for task in entered]
    advice = []
    if entered:
        advice.append("--without-entered leaves out what entered from outside")
    if leaks:
        advice.append("start its init with setsid, or use --mode subtree, which writes ids from outside as 0")
    if advice:
        raise RefusedError(
            f"the container of {name(root)} leaks in {len(lines) + len(leaks)} place(s): {'; '.join(advice)}",
            lines + leaks,
        )


def _squashed(tags: _Tags) -> tuple[str, ...]:
    """Ids from outside that one special value now stands for, where that is more than one."""
    lines = []
    for special in (0, CKPT_PID_ROOT):
        squashed = [pid for pid, tag in tags.outside.items() if tag == special]
        if len(squashed) > 1:
            lines += [f"{'/'.join(map(str, pid.numbers))} became {special}" for pid in squashed]
    return tuple(lines)
