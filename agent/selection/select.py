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
from typing import NamedTuple

from agent.errors import HostError, RefusedError
from agent.model import CKPT_PID_ROOT, Ancestor, Mode, Namespace, PidObject, Tag, Task
from agent.record import record
from agent.selection import guests
from agent.selection.births import Births
from agent.selection.rows import Rows, pid_objects
from agent.selection.tags import Ids, Namespaces, Refs, Tags
from agent.selection.walk import Walk
from agent.table import rules
from agent.table.objects import TaskStruct


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
        births: of the tasks.
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
    births: Births


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


def walk(root: TaskStruct) -> Walk:
    """Return the walk over the root and its descendants; tasks that entered a container from outside are not among
    them.

    Raises:
        HostError: the root is a kernel thread.
    """
    if rules.is_kernel_worker(root):
        raise HostError(f"{name(root)} is a kernel thread: it cannot be captured, nor rebuilt")
    return Walk(root)


def members(root: TaskStruct) -> list[TaskStruct]:
    """Return the tasks of `walk`.

    Raises:
        HostError: the root is a kernel thread.
    """
    return walk(root).members()


def _parent_name(task: TaskStruct) -> str:
    parent = task.leader.parent
    return name(parent) if parent is not None else "unknown"


class Earlier(NamedTuple):
    """An earlier selection of the same root in the same mode, of the same table.

    Attributes:
        chosen: the selection.
        touched: all tasks of it that have been touched since.
    """

    chosen: Selection
    touched: Collection[TaskStruct]


def select(
    root: TaskStruct,
    mode: Mode,
    *,
    without_entered: bool = False,
    first_tag: int = 1,
    reached: list[TaskStruct] | None = None,
    earlier: Earlier | None = None,
) -> Selection:
    """Take the tree below a task.

    Args:
        root: the task.
        mode: as `resolve_mode` returns it.
        without_entered: leave out tasks that entered the container from outside.
        first_tag: tag of the root.
        reached: members(root), where the caller has them.
        earlier: has rows that may still hold. The result equals that without it; it is the earlier selection itself
            where nothing differs.

    Raises:
        RefusedError: in container mode, the container leaks; the error names every leaking pid.
        HostError: the root is a kernel thread.
    """
    all_tasks = members(root) if reached is None else reached
    tasks = [task for task in all_tasks if not task.flags & rules.WORKER]
    workers = len(all_tasks) - len(tasks)
    outsiders = guests.entered(root, all_tasks) if mode == "container" else []
    strays = guests.left_behind(root, tasks) if mode == "container" else set()
    if strays and without_entered:
        outsiders += [task for task in tasks if task in strays]
        tasks = [task for task in tasks if task.leader not in strays]
    tags = Tags(root, first_tag)
    inside: dict[TaskStruct, Tag] = {}
    ids = tags.ids(tasks, inside)
    if mode == "container":
        _refuse_leaks(root, [] if without_entered else outsiders, tasks, tags, set() if without_entered else strays)

    namespaces = Namespaces(tags.namespace, tags.pids)
    refs = Refs(tags, namespaces)
    last = earlier.chosen if earlier is not None else None
    births = Births(refs, root, inside, last.births if last is not None else None)
    rows = Rows(births, namespaces, tags.level)
    if earlier is None or last is None:
        task_rows = rows.made(tasks, ids)
        pids = pid_objects(refs)
    else:
        task_rows = rows.mended(tasks, ids, dict(zip(last.inside, last.tasks, strict=True)), earlier.touched)
        pids = pid_objects(refs, last.refs, last.pids)
    chosen = Selection(
        tuple(pids),
        tuple(task_rows),
        tuple(namespaces.rows),
        births.ancestors(),
        _squashed(tags),
        tuple(map(name, outsiders)),
        workers,
        tuple([f"{name(task)}: its parent is not known" for task in _parentless(tasks, ids)]),
        tuple(births.outsiders),
        inside,
        refs,
        births,
    )
    return last if last is not None and _is_same(chosen, last) else chosen


def _parentless(tasks: list[TaskStruct], ids: list[Ids]) -> list[TaskStruct]:
    """Return the tasks of a tree without a parent in it, but for the root's group."""
    root = tasks[0] if tasks else None
    return [task for task, own in zip(tasks, ids, strict=True) if not own[1] and task.leader is not root]


def _is_same(one: Selection, other: Selection) -> bool:
    """Return True if two selections of one tree are equal, and of the same live objects."""
    return (
        one.tasks == other.tasks
        and one.pids == other.pids
        and list(one.inside) == list(other.inside)
        and one.refs.is_same(other.refs)
        and (one.namespaces, one.ancestors, one.squashed) == (other.namespaces, other.ancestors, other.squashed)
        and (one.entered, one.unknown, one.kernel_workers) == (other.entered, other.unknown, other.kernel_workers)
        and one.outsiders == other.outsiders
    )


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
