# SPDX-License-Identifier: Apache-2.0
"""What must hold between pid objects and tasks, whatever file they came in.

The old readers left most of this unchecked: a parent out of range or a cycle of parents crashed them or made them wait
for ever. Here one pass over the pids and one over the tasks finds the first fault, and the caller says where in its
file that is. Everything read is sound in this sense, so nothing behind the readers needs to ask again:

* every number is a pid's, no two pid objects share the number in the root's namespace, and 1 is the innermost number
  of an init and nothing else's;
* the first task is the root, has the first tag and no parent; every other has a parent, before it in the list (so there
  is no cycle), but for the root's own threads;
* each tag names a pid object, and no two tasks have the same;
* a task's depth is that of its pid object;
* the tasks of a thread group have one group and one session, and the task that a tgid names, if it lives, leads it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from agent.model import CKPT_PID_ROOT

PID_NUMBER_MAX = 4 * 1024 * 1024 - 1
"""The highest number a kernel gives: below PID_MAX_LIMIT."""

DEPTH_MAX = 32
"""MAX_PID_NS_LEVEL: how deep the kernel nests pid namespaces."""

TAG_MAX = 2**31 - 1


class TaskIds(NamedTuple):
    """The six fields of a task that a bare image has; the first six of model.Task, in the same order."""

    pid: int
    ppid: int
    tgid: int
    pgid: int
    sid: int
    depth: int


@dataclass(frozen=True, slots=True)
class Fault:
    """Where pids and tasks do not fit together.

    Attributes:
        array: which of the two.
        index: place in it.
        field: ``numbers`` of a pid, a field of TaskIds, or ``""`` for the array itself.
        text: what is wrong, and what would be right.
    """

    array: Literal["pids", "tasks"]
    index: int
    field: str
    text: str


def first_fault(first_tag: int, pids: Sequence[tuple[int, ...]], tasks: Sequence[TaskIds]) -> Fault | None:
    """Find the first fault, pids before tasks; None where all is sound.

    Args:
        first_tag: tag of the first pid object.
        pids: the numbers of each pid object, outermost first.
        tasks: parents first.
    """
    return _pid_fault(first_tag, pids) or _task_fault(first_tag, pids, tasks)


def _pid_fault(first_tag: int, pids: Sequence[tuple[int, ...]]) -> Fault | None:
    if not pids:
        return Fault("pids", 0, "", "there is no pid object; a tree has at least its root's")
    if first_tag < 1 or first_tag + len(pids) - 1 > TAG_MAX:
        return Fault("pids", 0, "", f"tags cannot count from {first_tag}: all must be from 1 to {TAG_MAX}")
    seen: dict[int, int] = {}
    for index, numbers in enumerate(pids):
        if not 1 <= len(numbers) <= DEPTH_MAX + 1:
            return Fault("pids", index, "depth", f"a pid has 1 to {DEPTH_MAX + 1} numbers, not {len(numbers)}")
        for level, number in enumerate(numbers):
            if not 1 <= number <= PID_NUMBER_MAX:
                text = f"{number} at level {level} is no pid number; those are 1 to {PID_NUMBER_MAX}"
                return Fault("pids", index, "numbers", text)
        if 1 in numbers[:-1]:
            text = f"{_path(numbers)} has an inner namespace below the number 1, but an init lives in its own"
            return Fault("pids", index, "numbers", text)
        first = seen.setdefault(numbers[0], index)
        if first != index:
            text = f"the number {numbers[0]} is already that of pid object {first} ({_path(pids[first])})"
            return Fault("pids", index, "numbers", text)
    return None


def _task_fault(first_tag: int, pids: Sequence[tuple[int, ...]], tasks: Sequence[TaskIds]) -> Fault | None:
    if not tasks:
        return Fault("tasks", 0, "", "there is no task; a tree has at least its root")
    if tasks[0].pid != first_tag:
        return Fault("tasks", 0, "pid", f"the root's tag must be the first one, {first_tag}, not {tasks[0].pid}")
    place: dict[int, int] = {}
    for index, task in enumerate(tasks):
        wrong = _tag_fault(task, first_tag, first_tag + len(pids))
        if wrong:
            return Fault("tasks", index, *wrong)
        if place.setdefault(task.pid, index) != index:
            return Fault("tasks", index, "pid", f"tag {task.pid} is already the pid of task {place[task.pid]}")
        depth = len(pids[task.pid - first_tag]) - 1
        if task.depth != depth:
            return Fault("tasks", index, "depth", f"is {task.depth}, but that of pid object {task.pid} is {depth}")
    return _parent_fault(tasks, place) or _group_fault(tasks, place)


def _tag_fault(task: TaskIds, first: int, end: int) -> tuple[str, str] | None:
    """A tag that names nothing: the field, and the text."""
    # Most tasks are right in everything; they should cost no more than this.
    if (
        first <= task.pid < end
        and first <= task.tgid < end
        and (task.ppid == 0 or first <= task.ppid < end)
        and (first <= task.sid < end or task.sid in (0, CKPT_PID_ROOT))
        and (first <= task.pgid < end or task.pgid in (0, CKPT_PID_ROOT))
    ):
        return None
    pairs: tuple[tuple[str, int, tuple[int, ...]], ...] = (
        ("pid", task.pid, ()),
        ("ppid", task.ppid, (0,)),
        ("tgid", task.tgid, ()),
        ("pgid", task.pgid, (0, CKPT_PID_ROOT)),
        ("sid", task.sid, (0, CKPT_PID_ROOT)),
    )
    field, tag, special = next((f, t, s) for f, t, s in pairs if t not in s and not first <= t < end)
    allowed = ", ".join([f"{first} to {end - 1}", *map(str, special)])
    return field, f"{tag} is the tag of no pid object; possible here: {allowed}"


def _parent_fault(tasks: Sequence[TaskIds], place: dict[int, int]) -> Fault | None:
    root = tasks[0]
    if root.ppid != 0:
        return Fault("tasks", 0, "ppid", f"the root's parent is outside and must be 0, not {root.ppid}")
    for index, task in enumerate(tasks):
        if task.ppid == 0:
            if task.tgid != root.tgid:
                return Fault("tasks", index, "ppid", "is 0, but only the root (and its threads) has its parent outside")
            continue
        parent = place.get(task.ppid)
        if parent is None:
            return Fault("tasks", index, "ppid", f"tag {task.ppid} has no task, and the dead are nobody's parent")
        if parent >= index:
            loop = _in_cycle(index, tasks, place)
            text = (
                "its line of parents runs in a circle"
                if loop
                else f"comes before its parent, task {parent}; parents must be first"
            )
            return Fault("tasks", index, "ppid", text)
    return None


def _in_cycle(index: int, tasks: Sequence[TaskIds], place: dict[int, int]) -> bool:
    seen: set[int] = set()
    at: int | None = index
    while at is not None and at not in seen:
        seen.add(at)
        at = place.get(tasks[at].ppid)
    return at is not None


def _group_fault(tasks: Sequence[TaskIds], place: dict[int, int]) -> Fault | None:
    shared: dict[int, TaskIds] = {}
    for index, task in enumerate(tasks):
        leader = place.get(task.tgid)
        if leader is not None and tasks[leader].tgid != task.tgid:
            return Fault("tasks", index, "tgid", f"task {leader} is in another thread group: it leads none")
        first = shared.setdefault(task.tgid, task)
        for field, mine, theirs in (("pgid", task.pgid, first.pgid), ("sid", task.sid, first.sid)):
            if mine != theirs:
                return Fault("tasks", index, field, f"is {mine}, but that of its thread group is {theirs}")
    return None


def _path(numbers: tuple[int, ...]) -> str:
    return "/".join(map(str, numbers))
