# SPDX-License-Identifier: Apache-2.0
"""The table beside a walk over all tasks of the kernel: who has to be asked about.

Theory
------
A walk has a row for each task (struct sweep_row), each as of some moment. So a row is a hint and no more: whoever differs
from the table, or has no row, is asked about.

What a row says and what the table says in the same words depends on that task, and not on others: touched (agent.changes)
is whoever has become another one in one of them. So a row that is byte for byte what it was when it agreed agrees still,
if its task has not been touched since. Mostly that is all of them, and telling it is one lookup a row; the others are
compared field by field. Without a row can only be whoever had one that is not there any more, or was touched, or doubted
last time.
"""

import struct
from typing import NamedTuple

from agent import wire
from agent.objects import EXITED, EXITING, MOVING, PTRACED, STOPPED, SUBREAPER, UNDER_SUBREAPER, Task
from agent.roster import Roster

_SWEPT = SUBREAPER | UNDER_SUBREAPER | STOPPED | PTRACED | EXITED  # what a walk can tell of
_SWEPT_IN_ROW = _SWEPT | MOVING  # a table never has this one: it keeps what its question was answered
_SIGNAL = wire.ROW_SIGNAL_SHIFT
_FIELDS = wire.ROW.iter_unpack
_WHOLE = struct.Struct(f"{wire.ROW.size}s").iter_unpack
_ROOM = 256  # of the touched who are not known to be gone, so many more than agree are not worth keeping apart

Question = tuple[int, int]


class _Compared(NamedTuple):
    """Rows beside the table.

    Attributes:
        met: whose row each is; None for somebody who is not here.
        strangers: questions about those.
        doubted: who differs from the row.
        moved: the numbers of the strangers.
    """

    met: list[Task | None]
    strangers: list[Question]
    doubted: dict[Task, None]
    moved: set[int]


class Muster:
    """Compares walks with one table.

    Args:
        table: with its `noted` and `unlisted`, which a walk is the source of.
    """

    def __init__(self, table: Roster) -> None:
        self._table = table
        self._agreed: dict[bytes, Task] = {}  # rows that agree, while their tasks are not touched
        self._rows: dict[Task, bytes] = {}  # the same, the other way round
        self._open: set[Task] = set()  # everybody else who is here, and some who were
        self._remembers = False
        self._same: tuple[bytes, list[Task], list[Task]] | None = None  # the last walk, and whom it made ask about

    def forget(self) -> None:
        """Let go of the last walk."""
        self._agreed.clear()
        self._rows.clear()
        self._open.clear()
        self._remembers = False
        self._same = None

    def note(self, touched: set[Task]) -> None:
        """Somebody has become another one."""
        if not self._remembers:
            return
        self._same = None
        for task in self._rows.keys() & touched:
            del self._agreed[self._rows.pop(task)]
        self._open.update([task for task in touched if task.pid.task is task])
        if len(self._open) > len(self._rows) + _ROOM:
            self.forget()

    def differing(self, rows: bytes, *, remember: bool = False) -> list[Question]:
        """What a walk gives reason to ask; what it is about is noted in the table as asked.

        Args:
            rows: struct sweep_row, one after the other: every task the kernel has.
            remember: there may soon be another walk.
        """
        if not remember:
            self.forget()
        return self._beside_the_last(rows) if self._remembers else self._beside_all(rows, remember=remember)

    def _beside_all(self, rows: bytes, *, remember: bool) -> list[Question]:
        table = self._table
        noted = table.noted
        table.noted = {}
        found = self._compare(rows)
        seen = set(found.met)
        unseen = [task for task in table.tasks() if task not in seen]
        table.noted |= {task: noted[task] for task in unseen if task in noted}
        if remember:
            self._keep([row for (row,) in _WHOLE(rows)], found, unseen)
        return self._questions(rows, found, unseen)

    def _beside_the_last(self, rows: bytes) -> list[Question]:
        if self._same is not None and self._same[0] == rows:
            _, doubted, unseen = self._same
            self._table.unlisted = set(unseen)
            return [self._table.question(task) for task in (*doubted, *unseen)]
        agreed = self._agreed
        whole = [row for (row,) in _WHOLE(rows)]
        here = set(whole)
        fresh = [row for row in whole if row not in agreed]
        away: list[Task] = []
        if len(whole) - len(fresh) < len(agreed):
            for row in agreed.keys() - here:
                task = agreed.pop(row)
                del self._rows[task]
                away.append(task)
        noted = self._table.noted
        for task in [task for task in noted if task.pid.task is not task]:
            del noted[task]
        found = self._compare(b"".join(fresh))
        if len(here) < len(whole) or not self._rows.keys().isdisjoint(found.met):
            self.forget()  # a task has two rows: it has become another one while the kernel walked past it
            return self._beside_all(rows, remember=True)
        seen = set(found.met)
        unseen = [task for task in (*self._open, *away) if task.pid.task is task and task not in seen]
        unseen = list(dict.fromkeys(unseen))
        self._keep(fresh, found, unseen)
        return self._questions(rows, found, unseen)

    def _keep(self, rows: list[bytes], found: _Compared, unseen: list[Task]) -> None:
        doubted = found.doubted
        for row, task in zip(rows, found.met, strict=True):
            if task is not None and task not in doubted:
                if task in self._rows:  # it had two, as no task should
                    del self._agreed[self._rows[task]]
                self._agreed[row] = task
                self._rows[task] = row
        self._open = {*doubted, *unseen}
        self._remembers = True

    def _questions(self, rows: bytes, found: _Compared, unseen: list[Task]) -> list[Question]:
        table = self._table
        self._same = None if found.strangers or not self._remembers else (rows, list(found.doubted), unseen)
        unseen.sort(key=lambda task: task.leader is task)  # a leader's end is not believed before its threads'
        table.unlisted = {task for task in unseen if task.pid.numbers[0] not in found.moved}
        # A child of one that is taken for exited would go to the reaper: such a one is asked about first, and again below.
        revived = [table.question(task) for task in found.doubted if task.flags & EXITED]
        return [*revived, *found.strangers, *map(table.question, found.doubted), *map(table.question, unseen)]

    def _compare(self, rows: bytes) -> _Compared:
        """Field by field."""
        table = self._table
        met: list[Task | None] = []
        found = _Compared(met, [], {}, set())
        number = table.pids.numbers.get
        noted, idle = table.noted, table.idle
        for address, start_ns, parent_address, identity, pgid, sid, tid, flags, uid, gid, comm, ties in _FIELDS(rows):
            pid = number(tid)
            task = pid.task if pid is not None and pid.identity == identity else None
            if task is None or task.address != address or task.start_ns != start_ns:
                met.append(None)
                found.strangers.append((address, start_ns))
                found.moved.add(tid)
                continue
            met.append(task)
            if ties:
                noted[task] = ties
            elif noted:
                noted.pop(task, None)
            leader = task.leader
            parent = leader.parent
            if (
                ((task.flags & _SWEPT != flags & _SWEPT_IN_ROW or flags & EXITING) and _differ(task.flags, flags))
                or (leader.pgid is None or leader.pgid.identity != pgid)
                or (leader.sid is None or leader.sid.identity != sid)
                or (parent.address if parent is not None else idle) != parent_address
                or flags >> _SIGNAL != task.exit_signal & 0xFF
                or task.ids != (uid, gid)
                or comm != task.comm
                or task.child_namespace is not None
            ):
                found.doubted[task] = None
        return found


def _differ(known: int, flags: int) -> bool:
    """Whether a row's flags contradict the table's. An exit is announced before exit_notify() sets EXITED."""
    if not flags & EXITED and flags & EXITING:
        if not known & EXITED:
            return True  # of an init it may not be announced any more
        known &= ~EXITED
    return known & _SWEPT != flags & _SWEPT_IN_ROW
