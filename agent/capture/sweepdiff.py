# SPDX-License-Identifier: Apache-2.0
"""The comparison of the table with a sweep, which yields the tasks about which to ask the kernel.

Theory
------
A sweep has a row for each task (struct sweep_row), each as of another moment. So a row is only a hint: the kernel is
asked about each task that differs from its row, or has none.

A row, and the fields of the table that it is compared with, belong to one task alone: a change of any of them touches
the task (agent.table.changes). So a row that has not changed a byte since it agreed still agrees, if its task has not
been touched. Mostly all rows do, and one lookup a row shows it; the others are compared field by field. A task without
a row is one whose last row is missing now, or that was touched or doubted since.
"""

import struct
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from agent.table import wire
from agent.table.objects import EXITED, EXITING, MOVING, PTRACED, STOPPED, SUBREAPER, UNDER_SUBREAPER, TaskStruct
from agent.table.processtable import ProcessTable

if TYPE_CHECKING:
    from collections.abc import Iterator

_SWEPT: Final = SUBREAPER | UNDER_SUBREAPER | STOPPED | PTRACED | EXITED  # the flags that a row shows
_SWEPT_IN_ROW: Final = _SWEPT | MOVING  # MOVING in a row always leads to a question: only the answer has the namespace
_SIGNAL: Final = wire.ROW_SIGNAL_SHIFT
_FIELDS = wire.ROW.iter_unpack
_WHOLE = struct.Struct(f"{wire.ROW.size}s").iter_unpack
_ROOM: Final = 256  # with so many more open tasks than agreeing rows, a full comparison is cheaper

Question = tuple[int, int]
_Row = tuple[int, int, int, int, int, int, int, int, int, int, bytes, int]  # in this order: wire.ROW


class _Compared(NamedTuple):
    """The result of comparing rows with the table.

    Attributes:
        met: the task of each row; None where the table lacks it.
        strangers: questions about the tasks that the table lacks.
        doubted: tasks that differ from their rows.
        moved: the numbers of the strangers.
    """

    met: list[TaskStruct | None]
    strangers: list[Question]
    doubted: dict[TaskStruct, None]
    moved: set[int]


class SweepDiff:
    """The comparison of sweeps with one table.

    Args:
        table: a comparison also sets its `noted` and `unlisted`.
    """

    def __init__(self, table: ProcessTable) -> None:
        self._table = table
        self._agreed: dict[bytes, TaskStruct] = {}  # rows that agree, while their tasks are not touched
        self._rows: dict[TaskStruct, bytes] = {}  # the inverse of _agreed
        self._open: set[TaskStruct] = set()  # all other tasks of the table, and some that are gone
        self._remembers = False
        self._same: tuple[bytes, list[TaskStruct], list[TaskStruct]] | None = None  # rows, doubted, unseen
        self._unsorted: tuple[bytes, _Compared] | None = None  # all rows, which _agreed and _rows do not have yet

    def forget(self) -> None:
        """Forget the last sweep."""
        self._agreed.clear()
        self._rows.clear()
        self._open.clear()
        self._remembers = False
        self._same = self._unsorted = None

    def note(self, touched: set[TaskStruct]) -> None:
        """Forget the agreement of rows with tasks that were touched."""
        if not self._remembers:
            return
        self._same = None
        self._sort()
        for task in self._rows.keys() & touched:
            del self._agreed[self._rows.pop(task)]
        self._open.update([task for task in touched if task.pid.task is task])
        if len(self._open) > len(self._rows) + _ROOM:
            self.forget()

    def differing(self, rows: bytes, *, remember: bool = False) -> list[Question]:
        """Return the questions that a sweep gives reason for; the table notes them as put.

        Args:
            rows: struct sweep_row, one after the other: every task of the kernel.
            remember: keep the result for another sweep that may follow soon.
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
            self._unsorted = rows, found
            self._keep_open(found, unseen)
        return self._questions(rows, found, unseen)

    def _beside_the_last(self, rows: bytes) -> list[Question]:
        if self._same is not None and self._same[0] == rows:
            _, doubted, unseen = self._same
            self._table.miss(unseen)
            return [self._table.question(task) for task in (*doubted, *unseen)]
        self._sort()
        agreed = self._agreed
        whole = [row for (row,) in _WHOLE(rows)]
        here = set(whole)
        fresh = [row for row in whole if row not in agreed]
        away: list[TaskStruct] = []
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
            self.forget()  # a task has two rows: it changed, by exec, while the sweep passed it
            return self._beside_all(rows, remember=True)
        seen = set(found.met)
        unseen = [task for task in (*self._open, *away) if task.pid.task is task and task not in seen]
        unseen = list(dict.fromkeys(unseen))
        self._keep_agreed(fresh, found)
        self._keep_open(found, unseen)
        return self._questions(rows, found, unseen)

    def _sort(self) -> None:
        """Find the task of each row of a first comparison: mostly the next sweep has the same rows, and asks for none."""
        if self._unsorted is not None:
            rows, found = self._unsorted
            self._unsorted = None
            of_task: dict[TaskStruct | None, bytes] = dict(
                zip(found.met, [row for (row,) in _WHOLE(rows)], strict=True)
            )
            for other in (None, *found.doubted):
                of_task.pop(other, None)
            self._rows.update(cast("dict[TaskStruct, bytes]", of_task))
            self._agreed.update(zip(self._rows.values(), self._rows, strict=True))

    def _keep_agreed(self, rows: list[bytes], found: _Compared) -> None:
        doubted = found.doubted
        for row, task in zip(rows, found.met, strict=False):
            if task is not None and task not in doubted:
                if task in self._rows:  # a second row of one task
                    del self._agreed[self._rows[task]]
                self._agreed[row] = task
                self._rows[task] = row

    def _keep_open(self, found: _Compared, unseen: list[TaskStruct]) -> None:
        self._open.clear()
        self._open.update(found.doubted, unseen)
        self._remembers = True

    def _questions(self, rows: bytes, found: _Compared, unseen: list[TaskStruct]) -> list[Question]:
        table = self._table
        self._same = None if found.strangers or not self._remembers else (rows, list(found.doubted), unseen)
        unseen.sort(key=lambda task: task.leader is task)  # a leader's end is not believed before its threads'
        table.miss(task for task in unseen if task.pid.numbers[0] not in found.moved)
        # Children of a task that the table has as exited would go to the reaper, so such a task is asked about first,
        # and again below.
        revived = [table.question(task) for task in found.doubted if task.flags & EXITED]
        return [*revived, *found.strangers, *map(table.question, found.doubted), *map(table.question, unseen)]

    def _compare(self, rows: bytes) -> _Compared:
        """Compare rows with the table, field by field."""
        table = self._table
        met: list[TaskStruct | None] = []
        found = _Compared(met, [], {}, set())
        number = table.pids.numbers.get
        noted, idle = table.noted, table.idle
        fields: Iterator[_Row] = _FIELDS(rows)
        for address, start_ns, parent_address, identity, pgid, sid, tid, flags, uid, gid, comm, ties in fields:
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
    """Return True if a row's flags contradict the table's. An exit is announced before exit_notify() sets EXITED."""
    if not flags & EXITED and flags & EXITING:
        if not known & EXITED:
            return True  # the exit of an init may have no event
        known &= ~EXITED
    return known & _SWEPT != flags & _SWEPT_IN_ROW
