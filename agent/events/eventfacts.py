# SPDX-License-Identifier: Apache-2.0
"""The facts of a task: an event is due where they differ from those last told."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

from agent.table.objects import EXITED, STOPPED, SUBREAPER, Pid, PidNamespace, TaskStruct

Clock = Callable[[], int]

Marks = dict[str, bool]
ASSUMED: Final[Marks] = {"assumed": True}
ENTERED: Final[Marks] = {"entered": True}


class Facts(NamedTuple):
    """The facts that events tell of a task. For a thread that is no leader the fields of the group are empty.

    Attributes:
        leader: of its group; a task that is gone has none any more.
        parent, pgid, sid, subreaper: of the group.
        stopped, exit_signal, exited, exit_code, ids, comm: its own; exit_code is None while it has not exited.
    """

    leader: TaskStruct
    parent: TaskStruct | None
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
"""Makes facts of their values, in half the time of Facts._make()."""

_STANDING: Final = Facts._fields.index("exited")
"""Place of the first fact that the event of an exec or an exit tells; no such event tells the ones before."""


def values_of(task: TaskStruct) -> tuple[object, ...]:
    """Return the values of the facts of a living or dead task, as a plain tuple: mostly they equal those last told."""
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


def facts_of(task: TaskStruct) -> Facts:
    """Return the facts of a task."""
    return as_facts(values_of(task))


def is_told_by(own: str | None, facts: Facts, values: tuple[object, ...]) -> bool:
    """Return True if the subject of an exec or exit differs only in facts that its event tells in any case.

    These are the exit code, ids and name.
    """
    says = own == "death" if values[_STANDING] else own == "exec"
    return says and values[:_STANDING] == facts[:_STANDING]


def row(task: TaskStruct, namespace: PidNamespace) -> list[Any]:
    """Return numbers, pid, parent, group and session, for a subscriber that begins with a snapshot."""
    leader = task.leader
    return [
        task.pid.numbers[namespace.level :],
        number(leader.pid, namespace),
        thread(leader.parent, namespace),
        number(leader.pgid, namespace),
        number(leader.sid, namespace),
    ]


def number(pid: Pid | None, namespace: PidNamespace) -> int:
    """Return the number of a pid object in a namespace; 0: it has none there."""
    return pid.number_in(namespace) if pid is not None else 0


def thread(task: TaskStruct | None, namespace: PidNamespace) -> int:
    """Return the number of a task in a namespace; 0: it has none there."""
    return number(task.pid if task is not None else None, namespace)
