# SPDX-License-Identifier: Apache-2.0
"""The verification of a rebuilt tree: /proc compared with the image, while all tasks stand, and when all are active.

Theory
------
Each task is looked up by the pid that this process sees. /proc/PID/status gives an id's number in each namespace from
that of the procfs inward. The last `depth + 1` of them are those from the root's namespace inward.

While all stand, ghosts too, these are compared: numbers at every level, thread group, parent, session, group, exit
signal, and pid namespace: two tasks share one if and only if they share one in the image.

When the tree is active, these are compared: zombies and their wait statuses; stopped tasks; the pid namespace of each
process's next child; that ghosts have gone; that an init that waits within its exit does so. The image has a zombie for
such an init, for it has exited; /proc shows another state, PF_EXITING, and the status. The link to the namespace of the
next child leads nowhere before that has an init, and to a namespace without a task once it is dead.

/proc cannot show *which thread* of its parent a task is a child of (PPid names the process), the session and group of a
zombie's dead parent, and the subreaper flag.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from agent.model import CKPT_PID_ROOT, Snapshot, Tag, Task, TaskState
from agent.restart.planning.plan import Actor, Plan, Role
from agent.restart.rebuild.failure import name_of

_PROC: Final = "/proc"
_LAST_FIELD: Final = b"\nNSsid:"
_AT_ONCE: Final = 4096
_UNKNOWN: Final = -2
"""In place of the id of a namespace."""

_SETTLING: Final = 2.0
"""Seconds that a stop signal may take to stop all its tasks."""

_EXIT_CODE: Final = 52 - 3  # field 52 of stat; the first one after comm is field 3
_FLAGS: Final = 9 - 3
_EXIT_SIGNAL: Final = 38 - 3
_PF_EXITING: Final = 4
_CORE: Final = 0x80


class Status(NamedTuple):
    """The fields of /proc/PID/status; tuples have one number for each namespace, from the procfs's inward."""

    tgid: int
    ppid: int
    state: str
    pid: tuple[int, ...]
    pgid: tuple[int, ...]
    sid: tuple[int, ...]


def read_status(pid: int, proc: str = _PROC) -> Status | None:
    """Return the status of a process or thread; None if there is none.

    The six fields alone are looked for: a tree has thousands of tasks, and each is asked twice. No name of a task holds
    the end of a line here: the kernel writes that as an escape sequence.
    """
    data = _read(f"{proc}/{pid}/status", _LAST_FIELD)
    if data is None:
        return None
    several = (tuple(map(int, _value(data, name).split())) for name in (b"\nNSpid:", b"\nNSpgid:", _LAST_FIELD))
    state = _value(data, b"\nState:").split()[0].decode()
    return Status(int(_value(data, b"\nTgid:")), int(_value(data, b"\nPPid:")), state, *several)


def _read(path: str, last: bytes) -> bytes | None:
    """Return a file of procfs at least to the line that begins with `last`, or to its end; None if it cannot be read."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        data = os.read(file, _AT_ONCE)
        while b"\n" not in data.partition(last)[2]:  # a task may be in many groups
            more = os.read(file, _AT_ONCE)
            if not more:
                break
            data += more
    except OSError:
        return None
    finally:
        os.close(file)
    return data


def _value(data: bytes, name: bytes) -> bytes:
    at = data.index(name) + len(name)
    return data[at : data.index(b"\n", at)]


class Standing(NamedTuple):
    """A tree that stands.

    Attributes:
        snapshot, plan: the snapshot, and the plan that made the tree.
        pids: for each actor the pid as this process sees it.
        numbers: for each actor its numbers, from the root's namespace inward.
        guard: the pid of the guard, the parent of actor 0.
    """

    snapshot: Snapshot
    plan: Plan
    pids: Sequence[int]
    numbers: Sequence[tuple[int, ...]]
    guard: int


def verify(standing: Standing) -> list[str]:
    """Return all differences between the image and the kernel's answers, while all stand."""
    return list(_Answers(standing).differences())


class _Answers:
    """The kernel's answers, read once, beside the answers that the image requires."""

    def __init__(self, standing: Standing) -> None:
        self.standing = standing
        self.actors = standing.plan.actors
        self.by_tag = {
            actor.tag: index for index, actor in enumerate(self.actors) if actor.tag and actor.role is not Role.HELPER
        }
        kept = [index for index, actor in enumerate(self.actors) if actor.role is not Role.HELPER]
        self.found: dict[int, Status | None] = {
            index: read_status(standing.pids[index]) for index in kept if standing.pids[index]
        }
        self.here = read_status(os.getpid())

    def differences(self) -> Iterator[str]:
        tasks = dict(zip(self.standing.plan.tasks, self.standing.snapshot.tasks, strict=True))
        top = self.found.get(0)
        if top is None:
            yield f"{name_of(self.actors[0])}: there is no such task"
            return
        self.top = top
        for index, actor in enumerate(self.actors):
            if actor.role is Role.HELPER:
                continue
            status = self.found.get(index)
            if status is None:
                yield f"{name_of(actor)}: there is no such task"
                continue
            yield from self._own(index, actor, status)
            if index in tasks:
                yield from self._relations(index, tasks[index], status)
        yield from self._namespaces()

    def _own(self, index: int, actor: Actor, status: Status) -> Iterator[str]:
        numbers = self.standing.numbers[index]
        who = name_of(actor)
        if status.pid[-len(numbers) :] != numbers:
            yield f"{who}: has the numbers {_list(status.pid[-len(numbers) :])} instead of {_list(numbers)}"
        outside = len(self.here.pid) - (0 if self.standing.plan.pidns else 1) if self.here else 0
        if self.here and len(status.pid) - outside != actor.depth + 1:
            yield f"{who}: is {len(status.pid) - outside - 1} namespaces deep instead of {actor.depth}"
        if status.tgid != self.standing.pids[actor.leader]:
            yield f"{who}: is in the thread group {status.tgid} instead of {self.standing.pids[actor.leader]}"

    def _relations(self, index: int, task: Task, status: Status) -> Iterator[str]:
        who = name_of(self.actors[index])
        parent = self._parent(index, task)
        if status.ppid != parent:
            yield f"{who}: has the parent {status.ppid} instead of {parent} (tag {task.ppid})"
        signal = _stat(self.standing.pids[index], _EXIT_SIGNAL)
        if task.exit_signal is not None and task.exit_signal >= 0 and signal != task.exit_signal:
            yield f"{who}: has the exit signal {signal} instead of {task.exit_signal}"
        levels = self.actors[index].depth + 1
        for what, tag, found in (("group", task.pgid, status.pgid), ("session", task.sid, status.sid)):
            seen = found[-levels:]
            expected = self._id(tag, task)
            if expected is None:
                if seen[0] in self._own_numbers():
                    yield f"{who}: has the {what} {_list(seen)}, of the tree, instead of one from outside"
            elif tag == CKPT_PID_ROOT and not expected[0] and not self.standing.plan.pidns:
                yield f"{who}: has a {what} without a number in this namespace instead of one that has (tag {tag})"
            elif seen != expected:
                yield f"{who}: has the {what} {_list(seen)} instead of {_list(expected)} (tag {tag})"

    def _parent(self, index: int, task: Task) -> int:
        """Return the parent that a task must have, as a pid that this process sees.

        The parent of the root is the reaper if there is one, else the guard.
        """
        if task.ppid in self.by_tag:
            return self.standing.pids[self.actors[self.by_tag[task.ppid]].leader]
        leader = self.actors[index].leader
        return self.standing.guard if leader == 0 else self.standing.pids[0]

    def _id(self, tag: Tag, task: Task) -> tuple[int, ...] | None:
        """Return the numbers of a session or group as a task at its depth sees them; None: any outside of the tree.

        The session of a root that did not found it is that of actor 0. A group outside has the number of that session.
        """
        blank = (0,) * (task.depth + 1)
        if tag == CKPT_PID_ROOT:
            return (self.top.sid[-1], *blank[1:])
        if tag == 0:
            return blank if self.standing.plan.pidns else None
        if tag not in self.by_tag:
            return blank
        numbers = self.standing.numbers[self.by_tag[tag]]
        own, other = self._spaces(task.pid), self._spaces(tag)
        same = [
            number if not own or not other or own[level : level + 1] == other[level : level + 1] else 0
            for level, number in enumerate(numbers[: task.depth + 1])
        ]
        return (*same, *blank[len(same) :])

    def _spaces(self, tag: Tag) -> tuple[int, ...]:
        pid = self.standing.snapshot.pid(tag)
        return pid.namespaces if pid else ()

    def _own_numbers(self) -> set[int]:
        return {numbers[0] for numbers in self.standing.numbers if numbers}

    def _namespaces(self) -> Iterator[str]:
        """Yield differences: each namespace of the image must have one inode, and no two namespaces the same one."""
        inode_of: dict[int, tuple[int, int]] = {}
        for tag, index in self.by_tag.items():
            spaces = self._spaces(tag)
            inode = _namespace_inode(self.standing.pids[index])
            if not spaces or inode is None:
                continue
            known, first = inode_of.setdefault(spaces[-1], (inode, index))
            if known != inode:
                yield f"{name_of(self.actors[index])}: is not in the namespace of {name_of(self.actors[first])}"
        by_inode: dict[int, int] = {}
        for space, (inode, first) in inode_of.items():
            if by_inode.setdefault(inode, space) != space:
                yield f"{name_of(self.actors[first])}: is in a namespace that is to be another's"


def _namespace_inode(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return None


def _list(numbers: Sequence[int]) -> str:
    return "/".join(map(str, numbers))


def verify_active(standing: Standing, *, stopped: bool) -> list[str]:
    """Return all differences of the tasks' states, once every task has had its turn; wait for them for 2 seconds.

    Args:
        standing: the tree.
        stopped: True once the tree has been released: the tasks that were stopped are stopped again.
    """
    deadline = time.monotonic() + _SETTLING
    while True:
        found = list(_states(standing, stopped=stopped))
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.005)


def _states(standing: Standing, *, stopped: bool) -> Iterator[str]:
    plan = standing.plan
    lingering = plan.lingering()
    links = {} if stopped else _links(standing)
    living = {} if stopped else _living_namespaces(standing, links)
    for index, task in zip(plan.tasks, standing.snapshot.tasks, strict=True):
        pid = standing.pids[index]
        status = read_status(pid)
        who = name_of(plan.actors[index])
        if status is None:
            yield f"{who}: there is no such task"
            continue
        exits = index in lingering
        wrong = (task.state in (TaskState.ZOMBIE, TaskState.DEAD_LEADER)) != (status.state in "ZX" or exits)
        if exits and (status.state in "ZX" or not _is_exiting(pid)):
            yield f"{who}: is in state {status.state}, and is to wait within its exit"
        if stopped:
            wrong |= (task.state is TaskState.STOPPED) != (status.state == "T")
        if wrong:
            yield f"{who}: is in state {status.state}, and was {task.state}"
        if not stopped and task.state not in (TaskState.ZOMBIE, TaskState.DEAD_LEADER) and pid:
            yield from _next_namespace(who, task, pid, living, links[index] if index in links else _link(pid, "pid"))
        if task.state is TaskState.ZOMBIE and task.exit_code is not None:
            code = _exit_code(pid)
            # /proc also shows 0 to a reader without the right to see the status
            if code and (code & ~_CORE) != (task.exit_code & ~_CORE):
                yield f"{who}: has the wait status {code} instead of {task.exit_code}"
    for index, actor in enumerate(plan.actors):
        if actor.role is Role.GHOST and _is(standing, index):
            yield f"{name_of(actor)}: is still there"


def _links(standing: Standing) -> dict[int, str | None]:
    """Return the link to its pid namespace of each actor that lives."""
    lingering = standing.plan.lingering()
    return {
        index: _link(standing.pids[index], "pid")
        for index, actor in enumerate(standing.plan.actors)
        if actor.role not in (Role.HELPER, Role.GHOST) and actor.status is None and index not in lingering
    }


def _living_namespaces(standing: Standing, links: Mapping[int, str | None]) -> dict[str, int]:
    """Return the ids, in the image, of the namespaces with living tasks of the tree, by their links in /proc."""
    spaces: dict[str, int] = {}
    for index, link in links.items():
        if link:
            tag = standing.plan.actors[index].tag
            known = standing.snapshot.pid(tag) if tag else None
            spaces[link] = known.namespaces[-1] if known and known.namespaces else spaces.get(link, _UNKNOWN)
    return spaces


def _next_namespace(who: str, task: Task, pid: int, living: Mapping[str, int], own: str | None) -> Iterator[str]:
    """Yield the difference of the namespace of a task's next child from the image's; `own` is the link to the task's."""
    found = _link(pid, "pid_for_children")
    if not own or found is None:
        return  # it has exited, or its links are not for this process to read
    is_dead = found != own and bool(found) and found not in living
    have = living.get(found, task.child_namespace) if found else -1
    if (task.child_namespace is None) != (found == own):
        yield f"{who}: its next child {'leaves' if found != own else 'stays in'} its pid namespace"
    elif is_dead != bool(task.child_namespace_dead and task.child_namespace is not None):
        yield f"{who}: the pid namespace of its next child is {'dead' if is_dead else 'alive'}"
    elif found != own and have not in (task.child_namespace, _UNKNOWN):
        yield f"{who}: the pid namespace of its next child is {have} instead of {task.child_namespace}"


def _link(pid: int, name: str) -> str | None:
    """Return the target of a link to a namespace; empty if that has no init yet, None if the link cannot be read."""
    try:
        return os.readlink(f"{_PROC}/{pid}/ns/{name}")
    except FileNotFoundError:
        return "" if os.path.exists(f"{_PROC}/{pid}/ns") else None
    except OSError:
        return None


def _is(standing: Standing, index: int) -> bool:
    status = read_status(standing.pids[index])
    numbers = standing.numbers[index]
    return status is not None and status.pid[-len(numbers) :] == numbers


def _exit_code(pid: int) -> int:
    return _stat(pid, _EXIT_CODE)


def _is_exiting(pid: int) -> bool:
    return bool(_stat(pid, _FLAGS) & _PF_EXITING)


def _stat(pid: int, field: int) -> int:
    """Return a field of /proc/PID/stat, counted from the state on; 0 if it cannot be read."""
    try:
        return int((_read(f"{_PROC}/{pid}/stat", b") ") or b"").rpartition(b")")[2].split()[field])
    except (ValueError, IndexError):
        return 0
