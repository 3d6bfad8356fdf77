# SPDX-License-Identifier: Apache-2.0
"""The facts of a task by which it is noticed that an event has to be told."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

from agent.objects import EXITED, STOPPED, SUBREAPER, Namespace, Pid, Task

Clock = Callable[[], int]

Marks = dict[str, bool]
ASSUMED: Final[Marks] = {"assumed": True}
ENTERED: Final[Marks] = {"entered": True}


class Facts(NamedTuple):
    """All that is told of a task. Of a thread that is no leader the fields of the group are empty.

    Attributes:
        leader: of its group; a task that is gone has none any more.
        parent, pgid, sid, subreaper: of the group.
        stopped, exit_signal, exited, exit_code, ids, comm: its own; exit_code is None while it has not exited.
    """

    leader: Task
    parent: Task | None
    pgid: Pid | None
    sid: Pid | None
    subreaper: int
    stopped: bool
    exit_signal: int
    exited: int
    exit_code: int | None
    ids: tuple[int, int]
    comm: bytes


as_facts: Final[Callable[[tuple[object, ...]], Facts]] = partial(tuple.__new__, Facts)
"""Makes facts of their values; as Facts._make(), in half the time."""

_STANDING: Final = Facts._fields.index("exited")
"""Facts before this one are told by neither an exec nor an exit."""


def values_of(task: Task) -> tuple[object, ...]:
    """Values of the facts of a task that is there: nearly always they are compared with those that were told, and equal."""
    flags = task.flags
    leader = task.leader
    signal, ids, comm = task.exit_signal, task.ids, task.comm
    if flags & EXITED:
        stopped, exited, code = False, EXITED, task.exit_code
    else:
        stopped, exited, code = flags & STOPPED != 0, 0, None
    if leader is task:
        subreaper = flags & SUBREAPER
        return (task, task.parent, task.pgid, task.sid, subreaper, stopped, signal, exited, code, ids, comm)
    return (leader, None, None, None, 0, stopped, signal, exited, code, ids, comm)


def facts_of(task: Task) -> Facts:
    """Facts of a task that is there."""
    return as_facts(values_of(task))


def is_told_by(own: str | None, facts: Facts, values: tuple[object, ...]) -> bool:
    """Return True if what differs of its subject is no more than the event of an exec or an exit says in any case.

    That is the exit code, ids and name.
    """
    says = own == "death" if values[_STANDING] else own == "exec"
    return says and values[:_STANDING] == facts[:_STANDING]


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
