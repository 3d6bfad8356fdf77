# SPDX-License-Identifier: Apache-2.0
"""The selection of tasks, pid objects and tags for an immutable snapshot of the live objects.

Rules
-----
* Tasks stand in tree order: a leader, its descendants, then its next thread and that thread's; siblings and threads by
  number. Parents come first. Kernel threads and io workers are left out and counted.
* Pid objects are collected in that order, for each task pid, tgid, pgrp, session, each if new, and tagged from 1.
* An id without a number in the root's namespace has tag 0. Else, where the root inherited its session from outside,
  that session has CKPT_PID_ROOT, as session and as group. Every other visible id is collected, outside the tree too: it
  comes back as a ghost.
* ``container``: every member of the root's namespace and of those below. A group or session from outside is a leak. So
  is a task that entered from outside (its parent has no number here), or that such a task left behind
  (agent.selection.guests). ``subtree``: the root and its descendants.
"""

from collections.abc import Collection, Iterator

from agent.errors import HostError, RefusedError
from agent.model import CKPT_PID_ROOT, OUTSIDE, Ancestor, Mode, Namespace, PidObject, Tag, Task, TaskState
from agent.record import record
from agent.selection import guests
from agent.selection.births import Births
from agent.selection.tags import Namespaces, Refs, Tags
from agent.table import history, rules
from agent.table.objects import (
    EXITED,
    MOVING_NOWHERE,
    STOPPED,
    SUBREAPER,
    Pid,
    TaskStruct,
)


@record
class Selection:
    """The part of a snapshot that describes the tree; the caller adds host, time and completeness.

    Attributes:
        pids, tasks, namespaces, ancestors, squashed, entered: as in model.Snapshot.
        kernel_workers: count of kernel threads and io workers that were left out.
        unknown: tasks with a number or a parent that is not known, by name.
        outsiders: live objects outside the tree that the births depend on.
        inside: the live objects of `tasks`, with their tags, in the same order.
        refs: gives the snapshot's reference to a pid object.
    """

    pids: tuple[PidObject, ...]
    tasks: tuple[Task, ...]
    namespaces: tuple[Namespace, ...]
    ancestors: tuple[Ancestor, ...]
    squashed: tuple[str, ...]
    entered: tuple[str, ...]
    kernel_workers: int
    unknown: tuple[str, ...]
    outsiders: tuple[TaskStruct, ...]
    inside: dict[TaskStruct, Tag]
    refs: Refs


def resolve_mode(root: TaskStruct, mode: str) -> Mode:
    """Return the mode that a request means; `auto`: a container iff the root is a namespace's init but not the host's.

    Raises:
        RefusedError: the request is for a container, and the root is no namespace's init.
    """
    is_init = root.pid.level > 0 and root.pid.numbers[-1] == 1
    if mode == "subtree" or (mode == "auto" and not is_init):
        return "subtree"
    if not is_init:
        raise RefusedError(
            f"{name(root)} is not the init of a container's pid namespace: use --mode subtree, or name its init"
        )
    return "container"


def _comm(task: TaskStruct) -> bytes:
    return task.comm.rstrip(b"\0")


def name(task: TaskStruct) -> str:
    """Return a task's numbers and comm, for people."""
    return f"{'/'.join(map(str, task.pid.numbers))} ({_comm(task).decode(errors='backslashreplace')})"


def members(root: TaskStruct) -> list[TaskStruct]:
    """Return the root and its descendants in tree order; tasks that entered a container from outside are not among
    them.

    Raises:
        HostError: the root is a kernel thread.
    """
    if rules.is_kernel_worker(root):
        raise HostError(f"{name(root)} is a kernel thread: it cannot be captured, nor rebuilt")
    return list(_walk(root, root.pid.level))


def _parent_name(task: TaskStruct) -> str:
    parent = task.leader.parent
    return name(parent) if parent is not None else "unknown"


def _walk(root: TaskStruct, level: int) -> Iterator[TaskStruct]:
    """Walk the tree depth first. The stack holds tasks still to visit: threads stand below a leader's descendants."""

    def number(task: TaskStruct) -> int:
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


def _state(task: TaskStruct) -> TaskState:
    flags = task.flags
    if flags & EXITED:
        return TaskState.ZOMBIE if rules.is_zombie(task) else TaskState.DEAD_LEADER
    return TaskState.STOPPED if flags & STOPPED else TaskState.RUNNING


def select(root: TaskStruct, mode: Mode, *, without_entered: bool = False, first_tag: int = 1) -> Selection:
    """Take the tree below a task.

    Raises:
        RefusedError: in container mode, the container leaks; the error names every leaking pid.
        HostError: the root is a kernel thread.
    """
    all_tasks = members(root)
    tasks = [task for task in all_tasks if not rules.is_kernel_worker(task)]
    workers = len(all_tasks) - len(tasks)
    outsiders = guests.entered(root, all_tasks) if mode == "container" else []
    strays = guests.left_behind(root, tasks) if mode == "container" else set()
    if strays and without_entered:
        outsiders += [task for task in tasks if task in strays]
        tasks = [task for task in tasks if task.leader not in strays]
    tags = Tags(root, first_tag)
    level = tags.level
    own_tag = tags.own
    ids: list[tuple[Tag, Tag, Tag, Tag]] = []
    inside: dict[TaskStruct, Tag] = {}
    last_pgid: Pid | None = None
    last_sid: Pid | None = None
    pgid = sid = OUTSIDE
    for task in tasks:
        leader = task.leader
        own = inside[task] = own_tag(task.pid)
        tgid = own if leader is task else tags(leader.pid)
        if leader.pgid is not last_pgid:  # mostly the task before has the same
            last_pgid = leader.pgid
            pgid = tags(last_pgid)
        if leader.sid is not last_sid:
            last_sid = leader.sid
            sid = tags(last_sid)
        ids.append((own, tgid, pgid, sid))
    if mode == "container":
        _refuse_leaks(root, [] if without_entered else outsiders, tasks, tags, set() if without_entered else strays)

    namespaces = Namespaces(tags.namespace, tags.pids)
    births = Births(tags, namespaces, root, inside)
    birth_of = births.of
    unknown: list[str] = []
    rows: list[Task] = []
    root_leader = root.leader
    for task, (own, tgid, pgid, sid) in zip(tasks, ids, strict=True):
        leader = task.leader
        parent = leader.parent
        if leader is root_leader:
            ppid = OUTSIDE
        else:
            ppid = inside.get(parent, OUTSIDE) if parent is not None else OUTSIDE
            if not ppid:
                unknown.append(f"{name(task)}: its parent is not known")
        flags = task.flags
        rows.append(
            Task(  # by place: keywords would double its time; tests/unit/selection/test_select.py proves the order
                own,
                ppid,
                tgid,
                pgid,
                sid,
                task.pid.level - level,
                task.start_ns,
                _state(task) if flags & (EXITED | STOPPED) else TaskState.RUNNING,
                task.exit_code if flags & EXITED else None,
                task.exit_signal,
                _comm(task),
                task.ids[0],
                task.ids[1],
                bool(leader.flags & SUBREAPER),
                namespaces.child_id(task.child_namespace),
                None,
                None,
                None,
                None,
                None,
                None,
                None,
                True if flags & MOVING_NOWHERE else None,
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
        tuple(map(name, outsiders)),
        workers,
        tuple(unknown),
        tuple(births.outsiders),
        inside,
        Refs(tags, namespaces),
    )


def signature(root: TaskStruct, mode: Mode, tasks: list[TaskStruct], outsiders: Collection[TaskStruct]) -> list[object]:
    """Return all facts that a selection depends on: while the signature is equal, a new selection would be equal.

    Args:
        root, mode: as in select().
        tasks: members(root).
        outsiders: the selection's.
    """
    facts: list[object] = []
    for task in tasks:
        leader = task.leader
        facts.append(
            (
                *(task, task.pid, task.flags, task.ids, task.comm, task.exit_code, task.exit_signal, task.start_ns),
                *(task.child_namespace, task.order, task.creator, leader, leader.flags),
                *(leader.parent, leader.pgid, leader.sid),
            )
        )
    facts += [(task, history.is_gone(task), task.creator, task.deeds) for task in outsiders]
    if mode == "container":
        facts += [(task, task.comm) for task in guests.entered(root, tasks)]
    return facts


def _leaks(tasks: list[TaskStruct], tags: Tags) -> Iterator[tuple[TaskStruct, str]]:
    """Yield a task and a line for each use of a group or session from outside."""
    for task in tasks if tags.outside else ():
        leader = task.leader
        for role, pid in (("group", leader.pgid), ("session", leader.sid)) if leader is task else ():
            if pid is not None and pid in tags.outside:
                numbers = "/".join(map(str, pid.numbers))
                owner = (
                    f" ({_comm(pid.task).decode(errors='backslashreplace')})" if pid.task else ", whose leader is dead"
                )
                yield task, f"{name(task)}: its {role} is {numbers}{owner}, outside the container"


def _refuse_leaks(
    root: TaskStruct, entered: list[TaskStruct], tasks: list[TaskStruct], tags: Tags, strays: set[TaskStruct]
) -> None:
    lines = [f"{name(task)}: entered from outside (parent {_parent_name(task)})" for task in entered]
    leaks = list(_leaks(tasks, tags))
    left = {task: f" ({line.partition(': ')[2]})" for task, line in leaks if task in strays}
    leaks = [(task, line) for task, line in leaks if task not in strays]
    lines += [
        f"{name(task)}: left behind by one that entered from outside{left.get(task, '')}"
        for task in tasks
        if task in strays
    ]
    advice = []
    if lines:
        advice.append("leave out what entered from outside with --without-entered")
    if leaks:
        advice.append("start its init with setsid, or use --mode subtree, which writes ids from outside as 0")
    if advice:
        raise RefusedError(
            f"the container of {name(root)} leaks, so it was not written: {'; or '.join(advice)}",
            lines + [line for _, line in leaks],
        )


def _squashed(tags: Tags) -> tuple[str, ...]:
    """Return the ids from outside that share one special value, where more than one does."""
    lines = []
    for special in (0, CKPT_PID_ROOT):
        squashed = [pid for pid, tag in tags.outside.items() if tag == special]
        if len(squashed) > 1:
            lines += [f"{'/'.join(map(str, pid.numbers))} became {special}" for pid in squashed]
    return tuple(lines)
