# SPDX-License-Identifier: Apache-2.0
"""The verification of a rebuilt tree: /proc compared with the image, while all tasks stand, and when all are active.

Theory
------
Each task is looked up by the pid that this process sees. /proc/PID/status gives an id's number in each namespace from
that of the procfs inward. The last `depth + 1` of them are those from the root's namespace inward.

While all stand, ghosts too, these are compared: numbers at every level, thread group, parent, session, group, exit
signal, and pid namespace: two tasks share one if and only if they share one in the image.

When the tree is active, these are compared: zombies, their wait statuses, users and groups, and those of leaders that
have exited; stopped tasks; the pid namespace of each process's next child; that ghosts have gone; that an init that waits
within its exit does so. The image has a zombie for such an init, for it has exited; /proc shows another state, PF_EXITING,
and the status. The link to the namespace of the next child leads nowhere before that has an init, and to a namespace
without a task once it is dead. A link that this process may not read is told.

/proc cannot show *which thread* of its parent a task is a child of (PPid names the process), the session and group of a
zombie's dead parent, and the subreaper flag.
"""

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from agent.model import CKPT_PID_ROOT, Snapshot, Tag, Task, TaskState
from agent.model.signalnames import signal_name
from agent.restart.planning.plan import Actor, Plan, Role
from agent.restart.rebuild import manyanswers, taskanswers, userids
from agent.restart.rebuild.failure import name_of
from agent.restart.rebuild.taskanswers import Status, read_status

_NO_ANSWER: Final = (None, 0)
_EXACT: Final = b"="
"""In place of a status that has all numbers that it must have."""
_UNKNOWN: Final = -2
"""In place of the id of a namespace."""

_SETTLING: Final = 2.0
"""Seconds that a stop signal may take to stop all its tasks."""

_EXIT_CODE: Final = 52 - 3  # field 52 of stat; the first one after comm is field 3
_FLAGS: Final = 9 - 3
_PF_EXITING: Final = 4
_CORE: Final = 0x80
_EXITED: Final = TaskState.ZOMBIE, TaskState.DEAD_LEADER


class Standing(NamedTuple):
    """A tree that stands.

    Attributes:
        snapshot, plan: the snapshot, and the plan that made the tree.
        pids: for each actor the pid as this process sees it.
        numbers: for each actor its numbers, from the root's namespace inward.
        guard: the pid of the guard, the parent of actor 0.
        strangers: the actors that keep the ids of the caller, because they cannot have their own here.
    """

    snapshot: Snapshot
    plan: Plan
    pids: Sequence[int]
    numbers: Sequence[tuple[int, ...]]
    guard: int
    strangers: Collection[int] = frozenset()


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
        self.tasks = dict(zip(standing.plan.tasks, standing.snapshot.tasks, strict=True))
        kept = [
            index for index, actor in enumerate(self.actors) if actor.role is not Role.HELPER and standing.pids[index]
        ]
        asked = [(standing.pids[index], self._signalled(index)) for index in kept]
        self.here = read_status(os.getpid())
        ((top, _),) = manyanswers.answers([(standing.pids[0], False)])
        self.top = taskanswers.parsed(top) if top is not None else None
        self.beside: dict[int, int] = {}
        self._ids: dict[tuple[Tag, int, tuple[int, ...]], bytes] = {}
        self.found: dict[int, tuple[bytes | None, int]] = {}
        if self.top is not None:
            self.found.update(zip(kept, manyanswers.answers(asked, partial(self._kept, kept)), strict=True))

    def _kept(self, kept: Sequence[int], place: int, status: bytes) -> bytes:
        """Return _EXACT for a status that is just as the task must have it, else what is to be looked at of it."""
        index = kept[place]
        task = self.tasks.get(index)
        if task is not None and self._is_exact(index, self.actors[index], task, status):
            return _EXACT
        return manyanswers.needed(place, status)

    def differences(self) -> Iterator[str]:
        if self.top is None:
            yield f"{name_of(self.actors[0])}: there is no such task"
            return
        for index, actor in enumerate(self.actors):
            if actor.role is Role.HELPER:
                continue
            data, exit_signal = self.found.get(index, _NO_ANSWER)
            if data is None:
                yield f"{name_of(actor)}: there is no such task"
                continue
            task = self.tasks.get(index)
            if task is not None and data == _EXACT:
                leader = self._leader_beside(actor, task)
                if leader is not None:
                    self.beside[index] = leader
            else:
                status = taskanswers.parsed(data)
                yield from self._own(index, actor, status)
                if task is not None:
                    yield from self._relations(index, task, status)
            if task is not None and self._signalled(index) and exit_signal != task.exit_signal:
                found, wanted = signal_name(exit_signal), signal_name(task.exit_signal or 0)
                yield f"{name_of(actor)}: has the exit signal {found} instead of {wanted}"
        yield from self._namespaces()

    def _signalled(self, index: int) -> bool:
        """Return True if the image has the exit signal of an actor: it is a process, and its signal is known."""
        task = self.tasks.get(index)
        return task is not None and task.exit_signal is not None and task.exit_signal >= 0

    def _is_exact(self, index: int, actor: Actor, task: Task, data: bytes) -> bool:
        """Return True if a status has just the lines that the task must have; False: look at each number.

        A tree has thousands of tasks. It takes less time to write the lines than to read the numbers in them.
        """
        pids, numbers = self.standing.pids, self.standing.numbers[index]
        if not self.here or len(self.here.pid) != 1 or len(numbers) != actor.depth + 1:
            return False
        outer = b"%d\t" % pids[index] if self.standing.plan.pidns else b""
        group, session = self._line(task.pgid, task), self._line(task.sid, task)
        return (
            b"\nTgid:\t%d\n" % pids[actor.leader] in data
            and b"\nPPid:\t%d\n" % self._parent(index, task) in data
            and b"\nNSpid:\t%s%s\nNSpgid:\t%s\nNSsid:\t%s\n" % (outer, _tabbed(numbers), group, session) in data
        )

    def _leader_beside(self, actor: Actor, task: Task) -> int | None:
        """Return an actor that is in the namespace of a task, by the task's status, which is exact; None if it shows none.

        A status has the number of a session or group in the task's own namespace only if the leader has a number there
        (pid_nr_ns() in kernel/pid.c). That is the leader's own namespace where both are equally deep.
        """
        own = self._spaces(task.pid)
        for tag in (task.sid, task.pgid):
            index = self.by_tag.get(tag)
            if not own or index is None or tag == task.pid or self.actors[index].depth != actor.depth:
                continue
            if self._spaces(tag) == own:
                return index
        return None

    def _line(self, tag: Tag, task: Task) -> bytes:
        """Return the numbers of a session or group as a status has them; where they are not known, what no status has."""
        key = tag, task.depth, self._spaces(task.pid)
        known = self._ids.get(key)
        if known is None:
            known = self._ids[key] = self._written(tag, task)
        return known

    def _written(self, tag: Tag, task: Task) -> bytes:
        expected = self._id(tag, task)
        if expected is None or (tag not in self.by_tag and tag != CKPT_PID_ROOT):
            return b"?"
        if not self.standing.plan.pidns:
            return _tabbed(expected) if tag in self.by_tag or expected[0] else b"?"
        outer = self.standing.pids[self.by_tag[tag]] if tag in self.by_tag else self._top_session()[0]
        return _tabbed((outer, *expected))

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
            return (self._top_session()[-1], *blank[1:])
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

    def _top_session(self) -> tuple[int, ...]:
        return self.top.sid if self.top is not None else (0,)

    def _spaces(self, tag: Tag) -> tuple[int, ...]:
        pid = self.standing.snapshot.pid(tag)
        return pid.namespaces if pid else ()

    def _own_numbers(self) -> set[int]:
        return {numbers[0] for numbers in self.standing.numbers if numbers}

    def _namespaces(self) -> Iterator[str]:
        """Yield differences: each namespace of the image must have one inode, and no two namespaces the same one.

        A task whose status shows it beside an actor of a known namespace needs no look of its own.
        """
        link_of: dict[int, tuple[str, int]] = {}
        known_of: set[int] = set()
        for tag, index in sorted(self.by_tag.items(), key=lambda each: each[1] in self.beside):
            if self.beside.get(index) in known_of:
                continue
            spaces = self._spaces(tag)
            link = taskanswers.link(self.standing.pids[index], "pid") if spaces else None
            if not link:
                continue
            known_of.add(index)
            known, first = link_of.setdefault(spaces[-1], (link, index))
            if known != link:
                yield f"{name_of(self.actors[index])}: is not in the namespace of {name_of(self.actors[first])}"
        by_link: dict[str, int] = {}
        for space, (link, first) in link_of.items():
            if by_link.setdefault(link, space) != space:
                yield f"{name_of(self.actors[first])}: is in a namespace that is to be another's"


def _tabbed(numbers: Sequence[int]) -> bytes:
    return b"\t".join([b"%d" % number for number in numbers])


def _list(numbers: Sequence[int]) -> str:
    return "/".join(map(str, numbers))


class _Unread(NamedTuple):
    """A fact of an active tree that this process may not read yet, or not at all."""

    text: str


def verify_active(
    standing: Standing, *, stopped: bool, unread: Callable[[str], None] = lambda _line: None
) -> list[str]:
    """Return all differences of the tasks' states, once every task has had its turn; wait for them for 2 seconds.

    Args:
        standing: the tree.
        stopped: True once the tree has been released: the tasks that were stopped are stopped again.
        unread: is told each fact that this process may not read, and so has not compared.
    """
    deadline = time.monotonic() + _SETTLING
    while True:
        found = list(_states(standing, stopped=stopped))
        if not found or time.monotonic() > deadline:
            for each in found:
                if isinstance(each, _Unread):
                    unread(each.text)
            return [each for each in found if isinstance(each, str)]
        time.sleep(0.005)


def _states(standing: Standing, *, stopped: bool) -> Iterator[str | _Unread]:
    plan = standing.plan
    lingering = plan.lingering()
    links = {} if stopped else _links(standing)
    living = {} if stopped else _living_namespaces(standing, links)
    for index, task in zip(plan.tasks, standing.snapshot.tasks, strict=True):
        pid = standing.pids[index]
        who = plan.actors[index]
        fields = taskanswers.fields(pid)
        if not fields:
            yield f"{name_of(who)}: there is no such task"
            continue
        state = fields[0].decode()
        exits = index in lingering
        wrong = (task.state in _EXITED) != (state in "ZX" or exits)
        if exits and (state in "ZX" or not int(fields[_FLAGS]) & _PF_EXITING):
            yield f"{name_of(who)}: is in state {state}, and is to wait within its exit"
        if stopped:
            wrong |= (task.state is TaskState.STOPPED) != (state == "T")
        if wrong:
            yield f"{name_of(who)}: is in state {state}, and was {task.state}"
        if not stopped and task.state not in _EXITED and pid:
            yield from _next_namespace(
                who, task, pid, living, links[index] if index in links else taskanswers.link(pid, "pid")
            )
        if task.state is TaskState.ZOMBIE and task.exit_code is not None:
            code = int(fields[_EXIT_CODE])
            # /proc also shows 0 to a reader without the right to see the status
            if code and (code & ~_CORE) != (task.exit_code & ~_CORE):
                yield f"{name_of(who)}: has the wait status {code} instead of {task.exit_code}"
        if task.state in _EXITED and index not in standing.strangers:
            ids = userids.of_image(task)
            if ids is not None and (found := userids.read_difference(pid, ids)):
                yield f"{name_of(who)}: has {found}"
    for index, actor in enumerate(plan.actors):
        if actor.role is Role.GHOST and _is(standing, index):
            yield f"{name_of(actor)}: is still there"


def _links(standing: Standing) -> dict[int, str | None]:
    """Return the link to its pid namespace of each actor that lives."""
    lingering = standing.plan.lingering()
    return {
        index: taskanswers.link(standing.pids[index], "pid")
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


def _next_namespace(
    who: Actor, task: Task, pid: int, living: Mapping[str, int], own: str | None
) -> Iterator[str | _Unread]:
    """Yield the difference of the namespace of a task's next child from the image's; `own` is the link to the task's."""
    found = taskanswers.link(pid, "pid_for_children")
    if not own or found is None:
        yield _Unread(f"{name_of(who)}: its pid namespaces are not compared, for they cannot be read here")
        return
    is_dead = found != own and bool(found) and found not in living
    have = living.get(found, task.child_namespace) if found else -1
    if (task.child_namespace is None) != (found == own):
        yield f"{name_of(who)}: its next child {'leaves' if found != own else 'stays in'} its pid namespace"
    elif is_dead != bool(task.child_namespace_dead and task.child_namespace is not None):
        yield f"{name_of(who)}: the pid namespace of its next child is {'dead' if is_dead else 'alive'}"
    elif found != own and have not in (task.child_namespace, _UNKNOWN):
        yield f"{name_of(who)}: the pid namespace of its next child is {have} instead of {task.child_namespace}"


def _is(standing: Standing, index: int) -> bool:
    status = read_status(standing.pids[index])
    numbers = standing.numbers[index]
    return status is not None and status.pid[-len(numbers) :] == numbers
