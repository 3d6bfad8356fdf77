# SPDX-License-Identifier: Apache-2.0
"""Doubts at an instant that the records behind it settle. Pure.

Theory
------
At an instant of the past the kernel cannot be asked any more. What the daemon asked a moment later, and what happened next,
is in the recording, and some of it is true of the instant, too:

* A task exists from its birth to its release. So a zombie that an answer finds, that its parent waits for, or whose release
  has a record, all behind the instant, was there at the instant.
* An answer that agrees with the table of the instant in every field settles a doubt about any of them, where nothing
  between the two may have made it agree: no record is about the task, its process or its number, and no exit gave it its
  parent. For this, a task whose parent is above the one that exited may be a child that it has left.

An answer that shows another state does not tell since when: the doubt stays. The numbers have to be whole up to there.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from agent.record import NamedTuple
from agent.recorder import tape
from agent.table import answers, departure, rules, wire
from agent.table.objects import EXITED, TaskStruct
from agent.table.processtable import ProcessTable
from agent.table.wire import Kind

MOST_RECORDS: Final = 30_000
"""Records that are looked at: a daemon that keeps up asks within some thousand."""

_HEAD_BYTES: Final = 8
_DISCARD: Final = 1 << 30
_LENGTH: Final = _DISCARD - 1
_WORD: Final = 4


class LaterRecord(NamedTuple):
    """A record behind the instant.

    Attributes:
        order, kind: its own.
        data, at: the part of the ring, and the record's place in it.
    """

    order: int
    kind: int
    data: memoryview
    at: int


def later(entries: Iterable[tape.TapeEntry], order: int) -> Iterator[LaterRecord]:
    """Yield the records from a number on, in the order of numbers, up to the first that is missing.

    Args:
        entries: of the tape, from the part that has the number on, or from one before it.
        order: the number.
    """
    waiting: dict[int, LaterRecord] = {}
    end = order + MOST_RECORDS
    for entry in entries:
        if entry.kind != tape.PART:
            continue
        for each in _of_part(entry.payload):
            if order <= each.order < end:
                waiting[each.order] = each
        while (found := waiting.pop(order, None)) is not None:
            yield found
            order += 1
        if order == end or len(waiting) > MOST_RECORDS:
            return


def _of_part(part: memoryview) -> Iterator[LaterRecord]:
    at, end = 0, len(part)
    while at < end:
        flags = int.from_bytes(part[at : at + _WORD], "little")
        if not flags & _DISCARD:
            seq, kind, *_ = wire.HEAD.unpack_from(part, at + _HEAD_BYTES)
            yield LaterRecord(seq, kind, part, at + _HEAD_BYTES)
        at += _HEAD_BYTES + tape.padded(flags & _LENGTH)


class Hindsight:
    """The doubtful tasks of a table at an instant, as the records behind it settle them.

    Args:
        table: as of the instant; it is not changed.
        tasks: those in doubt.

    Attributes:
        settled: the tasks that were as the table has them.
    """

    def __init__(self, table: ProcessTable, tasks: Iterable[TaskStruct]) -> None:
        self._table = table
        self._open = dict.fromkeys(tasks)
        self.settled: set[TaskStruct] = set()

    def look(self, records: Iterable[LaterRecord]) -> None:
        """Look at the records behind the instant, until all is settled or cannot be."""
        for record in records:
            if not self._open:
                return
            if record.kind <= Kind.STATE:
                self._see_task(record)
            elif record.kind in (Kind.GONE, Kind.FREE, Kind.RELEASE):
                self._see_end(record)
            elif record.kind in (Kind.WAITED, Kind.REGROUPED):
                self._see_call(record)

    def _see_task(self, record: LaterRecord) -> None:
        state = wire.TaskRecord(*wire.TASK.unpack_from(record.data, record.at))
        if record.kind == Kind.EXIT:
            self._see_exit(state)
        for task in list(self._open):
            own = task.pid.numbers[0] == state.tid
            if own and record.kind == Kind.STATE and (task.pid.identity, task.start_ns) == (state.pid, state.start_ns):
                told = state._replace(by=self._table.noted.get(task, 0))  # no record tells all ties
                self._end(task, settled=self._only_exists(task) or answers.confirms(self._table, task, told))
            elif own or (task.leader.pid.identity == state.tgid and record.kind != Kind.STATE):
                self._end(task, settled=False)

    def _see_exit(self, state: wire.TaskRecord) -> None:
        """Leave the tasks that the exit may have given the parent that they have in the table."""
        gone = self._table.task(state.tid)
        if gone is None:
            return  # born behind the instant: it was nobody's parent then
        above = set(rules.lineage(gone))
        for task in list(self._open):
            parent = task.leader.parent
            if not self._only_exists(task) and (parent is None or parent.leader in above):
                self._end(task, settled=False)

    def _see_end(self, record: LaterRecord) -> None:
        address, start_ns, tid, _ = wire.END.unpack_from(record.data, record.at)[-4:]
        for task in list(self._open):
            is_own = (tid, start_ns) == (task.pid.numbers[0], task.start_ns)
            if is_own or (address == task.address and start_ns in (0, task.start_ns)):
                self._end(task, settled=is_own and record.kind == Kind.RELEASE and self._only_exists(task))

    def _see_call(self, record: LaterRecord) -> None:
        _, tid, number = wire.CALL.unpack_from(record.data, record.at)[-3:]
        caller = self._table.task(tid)
        named = caller.pid.namespace.numbers.get(number) if caller is not None else None
        for task in [each for each in self._open if number in each.pid.numbers]:
            parent = task.leader.parent
            waits = caller is not None and parent is not None and parent.leader is caller.leader
            reaped = record.kind == Kind.WAITED and waits and named is task.pid
            self._end(task, settled=reaped and self._only_exists(task))

    # ---- the tasks that are open -------------------------------------------------------------------------------------

    def _only_exists(self, task: TaskStruct) -> bool:
        """Return True for a zombie of which nothing but its release is in doubt."""
        return task not in self._table.doubts and departure.may_vanish(task) and bool(task.flags & EXITED)

    def _end(self, task: TaskStruct, *, settled: bool) -> None:
        """Look for no more records about a task."""
        del self._open[task]
        if settled:
            self.settled.add(task)
