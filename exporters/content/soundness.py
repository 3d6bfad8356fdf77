# SPDX-License-Identifier: Apache-2.0
"""The rules for pid objects and tasks that every reader applies, in every format.

The readers of 2011 left most of this unchecked: a parent out of range or a cycle of parents crashed them or made them
wait for ever. One pass over the pids and three over the tasks find the faults, and the caller translates each into a
place in its file. A reader stops at the first fault, a checker takes all of them. The code behind the readers relies on
these rules:

* Every number is a valid pid. No two pid objects share a number in the root's namespace. 1 is the innermost number of
  an init, and of nothing else.
* The first task is the root. It has the first tag and no parent. Every other task has a parent earlier in the list (so
  there is no cycle), except the root's own threads.
* Each tag names a pid object, and no two tasks have the same pid.
* A task's depth is that of its pid object.
* The tasks of a thread group have one group and one session, and the task of the tgid, if there is one, leads it.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from agent.model import CKPT_PID_ROOT, Tag
from agent.record import record

PID_NUMBER_MAX = 4 * 1024 * 1024 - 1
"""The highest pid of a kernel: PID_MAX_LIMIT - 1."""

DEPTH_MAX = 32
"""MAX_PID_NS_LEVEL of the kernel: the limit for nested pid namespaces."""

TAG_MAX = 2**31 - 1


class TaskIds(NamedTuple):
    """The six fields of a task that a bare image has; the first six of model.Task, in the same order."""

    pid: Tag
    ppid: Tag
    tgid: Tag
    pgid: Tag
    sid: Tag
    depth: int


@record
class Fault:
    """One place at which pids and tasks break a rule.

    Attributes:
        rule: name of the rule that is broken, a key of findings.RULES.
        array: the list at fault; ``namespaces`` and ``completeness`` are those of a snapshot, and ``completeness`` is a
            map and no list.
        index: index into the list.
        field: ``numbers`` of a pid, a field of TaskIds, or ``""`` for the list itself.
        text: the fault, and the right value.
        tags: the pid objects concerned.
    """

    rule: str
    array: Literal["pids", "tasks", "namespaces", "completeness"]
    index: int
    field: str
    text: str
    tags: tuple[int, ...] = ()


def first_fault(first_tag: int, pids: Sequence[tuple[int, ...]], tasks: Sequence[TaskIds]) -> Fault | None:
    """Return the first fault, pids before tasks; None if all is sound. Arguments as for `faults`."""
    return next(faults(first_tag, pids, tasks), None)


def faults(first_tag: int, pids: Sequence[tuple[int, ...]], tasks: Sequence[TaskIds]) -> Iterator[Fault]:
    """Yield all faults, pids before tasks, without known consequences of an earlier fault.

    Args:
        first_tag: tag of the first pid object.
        pids: the numbers of each pid object, outermost first.
        tasks: the ids of each task, parents first.
    """
    if not pids:
        yield Fault("no-pids", "pids", 0, "", "there is no pid object; a tree has at least its root's")
    elif first_tag < 1 or first_tag + len(pids) - 1 > TAG_MAX:
        text = f"tags cannot count from {first_tag}: all must be from 1 to {TAG_MAX}"
        yield Fault("tag-overflow", "pids", 0, "", text)
    yield from _pid_faults(first_tag, pids)
    if not tasks:
        yield Fault("no-tasks", "tasks", 0, "", "there is no task; a tree has at least its root")
        return
    # A pid that several tasks have belongs to the first of them.
    place: dict[int, int] = {}
    yield from _id_faults(first_tag, pids, tasks, place)
    yield from _parent_faults(tasks, place, range(first_tag, first_tag + len(pids)))
    yield from _group_faults(tasks, place)


def _pid_faults(first_tag: int, pids: Sequence[tuple[int, ...]]) -> Iterator[Fault]:
    seen: dict[int, int] = {}
    for index, numbers in enumerate(pids):
        if not 1 <= len(numbers) <= DEPTH_MAX + 1:
            text = f"a pid has 1 to {DEPTH_MAX + 1} numbers, not {len(numbers)}"
            yield Fault("pid-depth", "pids", index, "depth", text, (first_tag + index,))
            if not numbers:
                continue
        for level, number in enumerate(numbers):
            if not 1 <= number <= PID_NUMBER_MAX:
                text = f"{number} at level {level} is no pid number; those are 1 to {PID_NUMBER_MAX}"
                yield Fault("pid-number", "pids", index, "numbers", text, (first_tag + index,))
        if 1 in numbers[:-1]:
            text = f"{_path(numbers)} has an inner namespace below the number 1, but an init lives in its own"
            yield Fault("init-number", "pids", index, "numbers", text, (first_tag + index,))
        first = seen.setdefault(numbers[0], index)
        if first != index:
            text = f"the number {numbers[0]} is already that of pid object {first} ({_path(pids[first])})"
            yield Fault("duplicate-number", "pids", index, "numbers", text, (first_tag + first, first_tag + index))


def _id_faults(
    first_tag: int, pids: Sequence[tuple[int, ...]], tasks: Sequence[TaskIds], place: dict[int, int]
) -> Iterator[Fault]:
    """Yield the faults of single tasks; fill in the index of each tag's task."""
    if tasks[0].pid != first_tag:
        text = f"the root's tag must be the first one, {first_tag}, not {tasks[0].pid}"
        yield Fault("root-tag", "tasks", 0, "pid", text, (tasks[0].pid,))
    end = first_tag + len(pids)
    for index, task in enumerate(tasks):
        pid, ppid, tgid, pgid, sid, depth = task
        # One test for all ids, because most tasks have no fault.
        if not (
            first_tag <= pid < end
            and first_tag <= tgid < end
            and (ppid == 0 or first_tag <= ppid < end)
            and (first_tag <= sid < end or sid in (0, CKPT_PID_ROOT))
            and (first_tag <= pgid < end or pgid in (0, CKPT_PID_ROOT))
        ):
            yield from _tag_faults(index, task, first_tag, end)
        if place.setdefault(pid, index) != index:
            text = f"tag {pid} is already the pid of task {place[pid]}"
            yield Fault("duplicate-task", "tasks", index, "pid", text, (pid,))
        # A pid object that does not exist, or could not be read, has no depth to compare.
        if first_tag <= pid < end and depth != (known := len(pids[pid - first_tag]) - 1) and known >= 0:
            text = f"is {depth}, but that of pid object {pid} is {known}"
            yield Fault("task-depth", "tasks", index, "depth", text, (pid,))


def _tag_faults(index: int, task: TaskIds, first: int, end: int) -> Iterator[Fault]:
    """Yield the tags of a task that name no pid object."""
    fields: tuple[tuple[str, int, tuple[int, ...]], ...] = (
        ("pid", task.pid, ()),
        ("ppid", task.ppid, (0,)),
        ("tgid", task.tgid, ()),
        ("pgid", task.pgid, (0, CKPT_PID_ROOT)),
        ("sid", task.sid, (0, CKPT_PID_ROOT)),
    )
    for field, tag, special in fields:
        if first <= tag < end or tag in special or (index == 0 and field == "pid"):
            continue  # the root's pid was compared with the first tag
        allowed = ", ".join([f"{first} to {end - 1}", *map(str, special)])
        text = f"{tag} is the tag of no pid object; possible here: {allowed}"
        rule = "native-tag" if field in ("pid", "tgid") and tag <= 0 else "tag-range"
        yield Fault(rule, "tasks", index, field, text, (task.pid,))


def _parent_faults(tasks: Sequence[TaskIds], place: dict[int, int], tags: range) -> Iterator[Fault]:
    root = tasks[0]
    if root.ppid != 0:
        text = f"the root's parent is outside and must be 0, not {root.ppid}"
        yield Fault("root-parent", "tasks", 0, "ppid", text, (root.pid,))
    ends: dict[int, bool] = {}
    for index, task in enumerate(tasks):
        if task.ppid == 0:
            if task.tgid != root.tgid:
                text = "is 0, but only the root (and its threads) has its parent outside"
                yield Fault("parent-outside", "tasks", index, "ppid", text, (task.pid,))
            continue
        parent = place.get(task.ppid)
        if (parent is not None and parent < index) or not index:  # the root's parent is judged above
            continue
        if parent is None:
            if task.ppid in tags:
                text = f"tag {task.ppid} has no task, and a parent must have one"
                yield Fault("parent-without-task", "tasks", index, "ppid", text, (task.pid, task.ppid))
        elif _ends(index, tasks, place, ends):
            text = f"comes before its parent, task {parent}; parents must be first"
            yield Fault("parent-order", "tasks", index, "ppid", text, (task.pid, task.ppid))
        else:
            text = "its line of parents runs in a circle"
            yield Fault("parent-cycle", "tasks", index, "ppid", text, (task.pid, task.ppid))


def _ends(index: int, tasks: Sequence[TaskIds], place: dict[int, int], known: dict[int, bool]) -> bool:
    """Return False if a task's line of parents is a cycle. `known` holds the answers, so that each step is taken
    once."""
    way: dict[int, None] = {}
    at: int | None = index
    while at is not None and at not in way and at not in known:
        way[at] = None
        above = tasks[at].ppid
        at = place.get(above) if above else None
    ends = at is None or known.get(at, False)
    known.update(dict.fromkeys(way, ends))
    return ends


def _group_faults(tasks: Sequence[TaskIds], place: dict[int, int]) -> Iterator[Fault]:
    shared: dict[int, TaskIds] = {}
    for index, task in enumerate(tasks):
        leader = place.get(task.tgid)
        if leader is not None and tasks[leader].tgid != task.tgid:
            text = f"task {leader} is in another thread group: it leads none"
            yield Fault("leader-elsewhere", "tasks", index, "tgid", text, (task.pid, task.tgid))
        first = shared.setdefault(task.tgid, task)
        if task.pgid != first.pgid or task.sid != first.sid:
            for field, mine, theirs in (("pgid", task.pgid, first.pgid), ("sid", task.sid, first.sid)):
                if mine != theirs:
                    text = f"is {mine}, but that of its thread group is {theirs}"
                    yield Fault("thread-group", "tasks", index, field, text, (task.pid, first.pid))


def _path(numbers: tuple[int, ...]) -> str:
    return "/".join(map(str, numbers))
