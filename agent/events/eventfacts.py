# SPDX-License-Identifier: Apache-2.0
"""The facts of a task: an event is due where they differ from those last told."""

from collections.abc import Callable
from typing import Any, Final

from agent.table.objects import EXITED, STOPPED, SUBREAPER, Pid, PidNamespace, TaskStruct

Clock = Callable[[], int]

Marks = dict[str, bool]
UNMARKED: Final[Marks] = {}
ASSUMED: Final[Marks] = {"assumed": True}
ENTERED: Final[Marks] = {"entered": True}


class Name:
    """The packed part of an event that says which task it is about.

    Args:
        namespace: in which the numbers count.
        start_ns, ids, comm: of the task that it was made of.
        packed: the bytes.
    """

    __slots__ = ("comm", "ids", "namespace", "packed", "start_ns")

    def __init__(
        self, namespace: PidNamespace, start_ns: int, ids: tuple[int, int], comm: bytes, packed: bytes
    ) -> None:
        self.namespace = namespace
        self.start_ns = start_ns
        self.ids = ids
        self.comm = comm
        self.packed = packed

    def fits(self, task: TaskStruct, namespace: PidNamespace) -> bool:
        """Return True if the bytes still name their task: it has the same ids, comm and birth."""
        return (
            self.comm is task.comm
            and self.ids == task.ids
            and self.namespace is namespace
            and self.start_ns == task.start_ns
        )


class Facts:
    """The facts that events tell of a task. For a thread that is no leader the fields of the group are empty.

    Args:
        task: whose present facts these are.

    Attributes:
        leader: of its group; a task that is gone has none any more.
        parent, pgid, sid, subreaper: of the group.
        stopped, exit_signal, exited, exit_code, ids, comm: its own; exit_code is None while it has not exited.
        name: kept for agent.events.eventpack; None where it has kept nothing.
    """

    __slots__ = (
        "comm",
        "exit_code",
        "exit_signal",
        "exited",
        "ids",
        "leader",
        "name",
        "parent",
        "pgid",
        "sid",
        "stopped",
        "subreaper",
    )

    def __init__(self, task: TaskStruct) -> None:
        self.name: Name | None = None
        self.take(task)

    def take(self, task: TaskStruct) -> None:
        """Take over the present facts of a living or dead task."""
        flags = task.flags
        leader = self.leader = task.leader
        self.exit_signal: int = task.exit_signal
        self.ids: tuple[int, int] = task.ids
        self.comm: bytes = task.comm
        self.stopped: bool = False
        self.exited: int = flags & EXITED
        self.exit_code: int | None = None
        if flags & EXITED:
            self.exit_code = task.exit_code
        else:
            self.stopped = flags & STOPPED != 0
        self.parent: TaskStruct | None = None
        self.pgid: Pid | None = None
        self.sid: Pid | None = None
        self.subreaper: int = 0
        if leader is task:
            self.parent, self.pgid, self.sid = task.parent, task.pgid, task.sid
            self.subreaper = flags & SUBREAPER

    def holds(self, task: TaskStruct) -> bool:
        """Return True if a task is as these facts say."""
        flags = task.flags
        return (
            flags & EXITED == self.exited
            and (task.comm is self.comm or task.comm == self.comm)
            and task.ids == self.ids
            and (not flags & EXITED or task.exit_code == self.exit_code)
            and self.stands(task)
        )

    def stands(self, task: TaskStruct) -> bool:
        """Return True if a task differs from these facts only in what the event of an exec or an exit tells in any case.

        These are the exit, its code, ids and name.
        """
        flags, leader = task.flags, task.leader
        if (
            leader is not self.leader
            or task.exit_signal != self.exit_signal
            or (not flags & EXITED and flags & STOPPED != 0) != self.stopped
        ):
            return False
        if leader is not task:
            return True
        return (
            task.parent is self.parent
            and task.pgid is self.pgid
            and task.sid is self.sid
            and flags & SUBREAPER == self.subreaper
        )


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
