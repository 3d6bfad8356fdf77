# SPDX-License-Identifier: Apache-2.0
"""The event that a record announces, for live events: one of one task, beside all repairs that the record may bring."""

from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from agent.events.eventfacts import Facts
from agent.table import wire
from agent.table.objects import Pid, TaskStruct
from agent.table.pidspace import Data
from agent.table.processtable import ProcessTable
from agent.table.wire import Kind

OF_GROUP: Final = ("setsid", "setpgid", "subreaper")
"""Events of a whole process."""

EXACT: Final = (Kind.EXIT, Kind.EXEC, Kind.RELEASE, Kind.WAITED)
"""Kinds of records at whose moment the kernel releases tasks; other records tell of a release later."""

_OWN: Final[dict[int, str]] = {
    Kind.FORK.value: "birth",
    Kind.EXEC.value: "exec",
    Kind.EXIT.value: "death",
    Kind.SESSION.value: "setsid",
    Kind.GROUP.value: "setpgid",
    Kind.SUBREAPER.value: "subreaper",
}
_EXEC: Final = Kind.EXEC.value
_WHOM = wire.reader(wire.RECORD_TASK, "argument", "pid", "tid").unpack_from
_CALLED = wire.reader(wire.RECORD_TASK, "uid", "gid", "comm").unpack_from

Before = tuple[TaskStruct | None, TaskStruct | None, Pid | None, int, int, int]
"""Subject, caller, the caller's pid object, argument, and identity and number of the subject."""


class Record(NamedTuple):
    """A record's own event.

    Attributes:
        kind: of the record.
        own: the event that it announces; None where it announces none.
        subject: the task that it is about; None where the table lacks it.
        is_new: the subject was not in the table before.
        caller: of an exec: the thread that called it, where that was not the leader.
        caller_pid: of an exec: the pid object that the calling thread had.
        argument: the record's.
    """

    kind: int
    own: str | None = None
    subject: TaskStruct | None = None
    is_new: bool = False
    caller: TaskStruct | None = None
    caller_pid: Pid | None = None
    argument: int = 0

    def follows(self, task: TaskStruct, facts: Facts | None) -> bool:
        """Return True if a task's change is the consequence of this record's own event.

        Args:
            task: of the table.
            facts: last told of it.
        """
        subject = self.subject
        if subject is None or task is subject:
            return False
        match self.own:
            case "birth":
                return task.leader.parent is subject
            case "death":
                return facts is None or facts.parent is subject
            case "exec":
                return facts is None or (self.caller is not None and facts.parent is self.caller)
        return False

    def coming(self, task: TaskStruct, facts: Facts | None) -> str | None:
        """Return the own event if it is about a task; ``status`` where the death of its last thread sets its exit code.

        Args:
            task: of the table.
            facts: last told of the subject.
        """
        subject, own = self.subject, self.own
        if task is subject or (own in OF_GROUP and subject is not None and task is subject.leader):
            return own
        return "status" if own == "death" and facts is not None and facts.leader is task else None


_record: Final[Callable[[tuple[object, ...]], Record]] = partial(tuple.__new__, Record)  # half the time of a call of it


def begun(table: ProcessTable, kind: int, data: Data, at: int) -> Before:
    """Note the subject of a record of a task, before the record is applied."""
    argument, identity, tid = _WHOM(data, at)
    pid = table.pids.numbers.get(tid)
    task = pid.task if pid is not None and pid.identity == identity else None
    caller = None
    if kind == _EXEC and argument != tid:
        caller = table.task(argument)
        pid = caller.pid if caller is not None else pid
    return task, caller, pid if caller is not None or task is not None else None, argument, identity, tid


def done(table: ProcessTable, kind: int, before: Before, data: Data, at: int) -> Record:
    """Return the event of a record once that is applied: a new subject is in the table, with ids and name of the
    record.
    """
    task, caller, pid, argument, identity, tid = before
    own = _OWN.get(kind)
    is_new = task is None
    if task is None:
        task = table.task(tid)
        if task is not None and task.pid.identity != identity:
            task = None
    elif own is not None:
        uid, gid, comm = _CALLED(data, at)
        table.call(task, (uid, gid), comm)
    return _record((kind, own, task, is_new, caller, pid, argument))
