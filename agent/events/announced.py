# SPDX-License-Identifier: Apache-2.0
"""The event that a record announces, for live events: one of one task, beside all repairs that the record may bring."""

from typing import Final

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

OWN: Final[dict[int, str]] = {
    Kind.FORK.value: "birth",
    Kind.EXEC.value: "exec",
    Kind.EXIT.value: "death",
    Kind.SESSION.value: "setsid",
    Kind.GROUP.value: "setpgid",
    Kind.SUBREAPER.value: "subreaper",
}
"""The event that a record announces, by its kind."""
_EXEC: Final = Kind.EXEC.value
_WHOM: Final = wire.reader(wire.RECORD_TASK, "argument", "pid", "tid").unpack_from
_CALLED: Final = wire.reader(wire.RECORD_TASK, "uid", "gid", "comm").unpack_from


class Record:
    """A record's own event. One object serves all records of a kind, one after the other.

    Args:
        table: the table that the records are applied to.
        kind: of the records.

    Attributes:
        kind: of the records.
        own: the event that they announce; None where they announce none.
        is_exact: the kernel releases tasks at the moment of such a record.
        subject: the task that the record is about; None where the table lacks it.
        is_new: the subject was not in the table before.
        caller: of an exec: the thread that called it, where that was not the leader.
        caller_pid: of an exec: the pid object that the calling thread had.
        argument: the record's.
    """

    __slots__ = (
        "_identity",
        "_is_exec",
        "_numbers",
        "_table",
        "_tid",
        "argument",
        "caller",
        "caller_pid",
        "is_exact",
        "is_new",
        "kind",
        "own",
        "subject",
    )

    def __init__(self, table: ProcessTable, kind: int) -> None:
        self._table = table
        self._numbers = table.pids.numbers
        self._is_exec = kind == _EXEC
        self._identity = self._tid = 0
        self.kind = kind
        self.own = OWN.get(kind)
        self.is_exact = kind in EXACT
        self.subject: TaskStruct | None = None
        self.is_new = False
        self.caller: TaskStruct | None = None
        self.caller_pid: Pid | None = None
        self.argument = 0

    def begin(self, data: Data, at: int) -> None:
        """Note the subject of a record of a task, before the record is applied."""
        argument, identity, tid = _WHOM(data, at)
        pid = self._numbers.get(tid)
        self._identity, self._tid, self.argument = identity, tid, argument
        self.subject = pid.task if pid is not None and pid.identity == identity else None
        if self._is_exec:
            self.caller = self._table.task(argument) if argument != tid else None
            if self.caller is not None:
                self.caller_pid = self.caller.pid
            else:
                self.caller_pid = pid if self.subject is not None else None

    def end(self, data: Data, at: int) -> None:
        """Find the event of the record that is applied now: a new subject is in the table, with ids and name of the
        record.
        """
        task = self.subject
        self.is_new = task is None
        if task is None:
            pid = self._numbers.get(self._tid)
            if pid is not None and pid.identity == self._identity:
                self.subject = pid.task
        elif self.own is not None:
            uid, gid, comm = _CALLED(data, at)
            self._table.call(task, (uid, gid), comm)

    def forget(self) -> None:
        """Let go of the tasks of the last record."""
        self.subject = self.caller = self.caller_pid = None

    def follows(self, task: TaskStruct, facts: Facts | None) -> bool:
        """Return True if a task's change is the consequence of this record's own event.

        Args:
            task: of the table.
            facts: last told of it.
        """
        subject, own = self.subject, self.own
        if subject is None or task is subject:
            return False
        if own == "birth":
            return task.leader.parent is subject
        if own == "death":
            return facts is None or facts.parent is subject
        if own == "exec":
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
