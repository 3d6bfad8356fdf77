# SPDX-License-Identifier: Apache-2.0
"""One task of a watch's memory, or its count of losses, without the objects of all others.

A question about one number looks into many memories, of which a whole one has a host's tasks. The rows of these are passed
over (agent.capture.memorywriter has the grammar). So references are checked as far as they lead to the task alone.
"""

import struct
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, Final

import msgpack

from agent.capture.memoryreader import UnusableMemoryError, body_of
from agent.model import WaitStatus
from agent.record import NamedTuple
from agent.table.objects import NOBODY, Pid, PidNamespace, TaskStruct

_INITIAL: Final = PidNamespace(0, 0, None)
_INIT: Final = 1  # its parent is the idle task, which is in no table
_PID_NUMBERS: Final = 4  # the place of the first one in a row


class _TaskRow(NamedTuple):
    """The fields of a task's row, up to the last one that is needed."""

    pid: int
    start_ns: int
    address: int
    flags: int
    exit_code: int
    exit_signal: int
    ids: int
    comm: int
    child_namespace: Any
    leader: int
    threads: list[int]
    children: list[int]
    pgid: int
    sid: int


def task_of(data: bytes, number: int, parents: Iterable[int] = ()) -> TaskStruct | None:
    """Return the task that has a number in the initial namespace, and with it its leader, whose parent, group and session.

    Args:
        data: the memory.
        number: the number.
        parents: numbers of tasks that may be its parent: they are looked at first.

    Raises:
        UnusableMemoryError: as of memoryreader.load, as far as that is noticed.
    """
    body = body_of(data)
    if body.find(msgpack.packb(number)) < 0:
        return None
    try:
        return _Rows(body).task(number, parents)
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, struct.error, msgpack.UnpackException) as error:
        raise UnusableMemoryError(f"it contradicts its own grammar: {error!r}") from error


def losses_of(data: bytes) -> int:
    """Return how many records a watch had lost.

    Args:
        data: the memory.

    Raises:
        UnusableMemoryError: as of memoryreader.load, as far as that is noticed.
    """
    body = body_of(data)
    objects = msgpack.Unpacker(max_buffer_size=len(body) + 1)
    objects.feed(body)
    begin = 0
    try:
        while objects.tell() < len(body):
            begin = objects.tell()
            objects.skip()
        _, _, lost, _, _ = msgpack.unpackb(body[begin:])
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise UnusableMemoryError(f"it contradicts its own grammar: {error!r}") from error
    return int(lost)


class _Rows:
    """The rows of a memory.

    Args:
        body: of the memory.
    """

    def __init__(self, body: bytes) -> None:
        self._body = memoryview(body)
        rows = msgpack.Unpacker(max_buffer_size=len(body) + 1)
        rows.feed(body)
        namespaces, pids, tasks = rows.unpack()
        if namespaces + pids + tasks > len(body):
            raise ValueError("counts")
        self._comms: list[bytes] = rows.unpack()
        self._ids: list[list[int]] = rows.unpack()
        for _ in range(1 + namespaces):  # strings are in front of them
            rows.skip()
        self._pids: list[list[int]] = [rows.unpack() for _ in range(pids)]
        self._ends = [rows.tell()]
        skip, tell, add = rows.skip, rows.tell, self._ends.append
        for _ in range(tasks):
            skip()
            add(tell())
        self._members: list[int] = rows.unpack()

    def task(self, number: int, parents: Iterable[int]) -> TaskStruct | None:
        found = self._having(number)
        if found < 0:
            return None
        row = self._row(found)
        made = self._made(row)
        leads = row.leader
        if leads < 0:
            made.leader = NOBODY
            return made
        leader = row if leads == found else self._row(leads)
        made.leader = made if leads == found else self._made(leader)
        made.leader.pgid, made.leader.sid = self._pid(leader.pgid), self._pid(leader.sid)
        is_init = made.leader.pid.numbers[:1] == (_INIT,)
        above = None if is_init else self._parent(leads, parents)
        made.leader.parent = None if above is None else self._made(above)
        return made

    def _having(self, number: int) -> int:
        """Return the index of the task that has a number; negative: none has it."""
        for index, row in enumerate(self._pids):
            if row[_PID_NUMBERS] == number and index in self._members:
                return row[_PID_NUMBERS - 1]
        return -1

    def _row(self, index: int) -> _TaskRow:
        begin, end = self._ends[index : index + 2]
        return _TaskRow(*msgpack.unpackb(self._body[begin:end])[: len(_TaskRow._fields)])

    def _made(self, row: _TaskRow) -> TaskStruct:
        pid = self._pid(row.pid)
        made = TaskStruct(NOBODY.pid if pid is None else pid, row.start_ns, row.address, row.flags)
        uid, gid = self._ids[row.ids]
        made.ids, made.comm, made.exit_code = (uid, gid), self._comms[row.comm], WaitStatus(row.exit_code)
        made.exit_signal = row.exit_signal
        return made

    def _pid(self, index: int) -> Pid | None:
        if index < 0:
            return None
        identity, _, _, _, *numbers = self._pids[index]
        return Pid(identity, tuple(numbers), _INITIAL)

    def _parent(self, index: int, likely: Iterable[int]) -> _TaskRow | None:
        """Return the row that has a task among its children."""
        for each in chain(filter(lambda one: one >= 0, map(self._having, likely)), self._all()):
            row = self._row(each)
            if index in row.children:
                return row
        return None

    def _all(self) -> Iterator[int]:
        return iter(range(len(self._ends) - 1))
