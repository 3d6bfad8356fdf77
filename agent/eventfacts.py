# SPDX-License-Identifier: Apache-2.0
"""What events say of a task, and the facts by which it is noticed that one has to be told."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from agent import rules
from agent.births import flag_names
from agent.objects import EXITED, STOPPED, SUBREAPER, Namespace, Pid, Task

Said = dict[str, Any]
Details = Callable[[Said, Task, Namespace], None]
"""Adds to what an event says of a task."""
Clock = Callable[[], int]

Marks = dict[str, bool]
ASSUMED: Final[Marks] = {"assumed": True}
ENTERED: Final[Marks] = {"entered": True}


class Facts(NamedTuple):
    """All that is told of a task. Of a thread that is no leader the fields of the group are empty.

    Attributes:
        leader: of its group; a task that is gone has none any more.
        parent, pgid, sid, subreaper: of the group.
        exited, exit_code, stopped, exit_signal, ids, comm: its own; exit_code is None while it has not exited.
    """

    leader: Task
    parent: Task | None
    pgid: Pid | None
    sid: Pid | None
    subreaper: int
    exited: int
    exit_code: int | None
    stopped: bool
    exit_signal: int
    ids: tuple[int, int]
    comm: bytes


def values_of(task: Task) -> tuple[object, ...]:
    """Values of the facts of a task that is there: nearly always they are compared with those that were told, and equal."""
    flags = task.flags
    exited = flags & EXITED
    leader = task.leader
    if leader is task:
        return (
            task,
            task.parent,
            task.pgid,
            task.sid,
            flags & SUBREAPER,
            exited,
            task.exit_code if exited else None,
            not exited and flags & STOPPED != 0,
            task.exit_signal,
            task.ids,
            task.comm,
        )
    code = task.exit_code if exited else None
    stopped = not exited and flags & STOPPED != 0
    return (leader, None, None, None, 0, exited, code, stopped, task.exit_signal, task.ids, task.comm)


def facts_of(task: Task) -> Facts:
    """Facts of a task that is there."""
    return Facts._make(values_of(task))


def is_told_by(own: str | None, facts: Facts, values: tuple[object, ...]) -> bool:
    """Return True if what differs of its subject is no more than the event of an exec or an exit says in any case.

    That is the exit code, ids and name.
    """
    if own == "exec":
        return not values[5] and values[:5] == facts[:5] and values[7:9] == facts[7:9]
    return own == "death" and values[5] == EXITED and values[:5] == facts[:5] and values[7:9] == facts[7:9]


# ---- what an event says --------------------------------------------------------------------------------------------


def birth(said: Said, task: Task, namespace: Namespace) -> None:
    """A task that begins."""
    parent, creator = task.leader.parent, task.creator
    said["parent"] = number = thread(parent, namespace)
    said["creator"] = number if creator is parent else thread(creator, namespace)
    ids(said, task, namespace)
    said["flags"] = flag_names(task.clone_flags)
    said["exit_signal"] = task.exit_signal
    if task.flags & STOPPED and not task.flags & EXITED:  # a thread: its tracer lets a stopped group run on
        said["stopped"] = True
    if rules.is_kernel_worker(task):
        said["kernel"] = True


def presence(said: Said, task: Task, namespace: Namespace) -> None:
    """A task that has been there for some time: as a birth, and what else it has become since."""
    birth(said, task, namespace)
    condition(said, task, namespace)
    said["subreaper"] = bool(task.leader.flags & SUBREAPER)


def execution(old: Pid | None) -> Details:
    """An exec by the thread that had this pid object."""

    def say(said: Said, task: Task, namespace: Namespace) -> None:
        said["old_tid"] = number(old, namespace)
        said["exit_signal"] = task.exit_signal

    return say


def _death(said: Said, task: Task, _namespace: Namespace) -> None:
    """An exit that leaves threads of the group."""
    said["exit_code"] = task.exit_code
    said["group_dead"] = False


def _last_death(said: Said, task: Task, _namespace: Namespace) -> None:
    """An exit after which no thread of the group is left."""
    said["exit_code"] = task.exit_code
    said["group_dead"] = True


DEATH: Final[tuple[Details, Details]] = (_death, _last_death)
"""An exit; the second: no thread of the group is left."""


def parent(said: Said, task: Task, namespace: Namespace) -> None:
    """Another parent, to which it sends another signal perhaps."""
    said["parent"] = thread(task.leader.parent, namespace)
    said["exit_signal"] = task.exit_signal


def ids(said: Said, task: Task, namespace: Namespace) -> None:
    """Group and session."""
    leader = task.leader
    said["pgid"] = number(leader.pgid, namespace)
    said["sid"] = number(leader.sid, namespace)


def subreaper(said: Said, task: Task, _namespace: Namespace) -> None:
    """Orphans come to it, or do so no more."""
    said["on"] = bool(task.leader.flags & SUBREAPER)


def condition(said: Said, task: Task, _namespace: Namespace) -> None:
    """What no other kind of event tells."""
    exited = bool(task.flags & EXITED)
    said["stopped"] = not exited and bool(task.flags & STOPPED)
    said["exit_code"] = task.exit_code if exited else None
    said["exit_signal"] = task.exit_signal


def nothing(_said: Said, _task: Task, _namespace: Namespace) -> None:
    """Nothing but whom it is about."""


def row(task: Task, namespace: Namespace) -> list[Any]:
    """Numbers, pid, parent, group and session, for whoever begins with a snapshot."""
    leader = task.leader
    return [
        task.pid.numbers[namespace.level :],
        number(leader.pid, namespace),
        thread(leader.parent, namespace),
        number(leader.pgid, namespace),
        number(leader.sid, namespace),
    ]


def number(pid: Pid | None, namespace: Namespace) -> int:
    """As a namespace counts; 0: it does not see it."""
    return pid.number_in(namespace) if pid is not None else 0


def thread(task: Task | None, namespace: Namespace) -> int:
    """The number of a task, as above."""
    return number(task.pid if task is not None else None, namespace)
