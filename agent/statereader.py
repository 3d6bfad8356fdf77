# SPDX-License-Identifier: Apache-2.0
"""Reads a memory (agent.state). What it returns is a table that no record can lead astray, or nothing.

The bytes were written by ourselves and come from the service manager; still they are as good as the way they took and the
version that wrote them. A check sum tells whether they are whole. Then every value has to be of its type, every reference
within its list, and the links have to be what the table relies on: a child has one parent, a thread one leader, and
whoever goes up, to a parent or a creator, comes to an end. Whether the table is *true* only the kernel knows: that is for
the sweep which follows.
"""

import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgpack

from agent import wire
from agent.errors import CkptreeError
from agent.objects import NOBODY, Deed, DeedName, Namespace, Pid, Task
from agent.roster import Counts
from agent.state import DEEDS, FRAME, MAGIC, SURPRISES, VERSION, Memory, Place
from agent.stream import Stream
from agent.table import ProcessTable
from agent.wire import Kind

_T = TypeVar("_T")
_COMM_BYTES = 16
_TASK_FIELDS = 19


class StateError(CkptreeError):
    """Bytes that are no memory of ours."""


def load(data: bytes, totals: int) -> Memory:
    """A memory from its bytes.

    Args:
        data: all of them.
        totals: how many of those there have to be.

    Raises:
        StateError: they are cut short, damaged, of another version, or contradict themselves; the text says which.
    """
    if len(data) < FRAME.size:
        raise StateError(f"it ends after {len(data)} bytes")
    magic, version, check, length = FRAME.unpack_from(data)
    body = data[FRAME.size :]
    if magic != MAGIC:
        raise StateError("it does not begin as one")
    if version != VERSION:
        raise StateError(f"it is of version {version}, and this one reads {VERSION}")
    if length != len(body):
        raise StateError(f"it has {len(body)} bytes, and should have {length}")
    if zlib.crc32(body) != check:
        raise StateError("its check sum is wrong")
    try:
        place, stream, namespaces, pids, tasks, comms, ids, rest = msgpack.unpackb(body)
        reader = _Reader(namespaces, pids, tasks, comms, ids)
        return Memory(*_place(place, totals), reader.table(rest), reader.stream(stream))
    except StateError:
        raise
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, struct.error, msgpack.UnpackException) as error:
        raise StateError(f"it contradicts its own grammar: {error!r}") from error


def _expect(what: str, *, holds: bool) -> None:
    if not holds:
        raise StateError(f"it contradicts itself: {what}")


def _ints(values: Iterable[Any], least: int = 0) -> None:
    for value in values:
        if type(value) is not int or value < least:  # True is none
            raise StateError(f"it contradicts its own grammar: {value!r} where an integer from {least} has to be")


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise StateError(f"it contradicts its own grammar: {value!r} where true or false has to be")
    return value


def _at(values: Sequence[_T], index: int) -> _T:
    """What a reference refers to; there is no counting from the end."""
    if type(index) is not int or index < 0:
        raise StateError(f"it contradicts its own grammar: {index!r} where a reference has to be")
    return values[index]


def _place(row: Any, count: int) -> tuple[Place, tuple[int, ...]]:
    ring, position, (read, *slots), lost, *totals = row
    _ints((position, read, *slots, *lost, *totals))
    _expect("lost numbers", holds=isinstance(ring, str) and len(slots) == wire.LOST_NUMBERS)
    _expect("totals", holds=len(totals) == count)
    return Place(ring, position, (read, tuple(slots)), tuple(lost)), tuple(totals)


class _Reader:
    """Objects first, empty; then what they say of each other."""

    def __init__(self, namespaces: Any, pids: Any, tasks: Any, comms: Any, ids: Any) -> None:
        self._table = ProcessTable()
        self._comms: list[bytes] = comms
        self._ids: list[tuple[int, int]] = []
        for uid, gid in ids:
            _ints((uid, gid))
            self._ids.append((uid, gid))
        for comm in comms:
            _expect("a name", holds=isinstance(comm, bytes) and len(comm) <= _COMM_BYTES)
        self._namespaces = self._make_namespaces(namespaces)
        self._pids = [self._make_pid(row) for row in pids]
        self._tasks = [self._make_task(row) for row in tasks]
        for pid, row in zip(self._pids, pids, strict=True):
            pid.task = self._task(row[3])
            _expect("a pid's task", holds=pid.task is None or pid.task.pid is pid)
        for namespace, row in zip(self._namespaces, namespaces, strict=True):
            self._fill(namespace, row)
        for task, row in zip(self._tasks, tasks, strict=True):
            self._link(task, row)
        for task, row in zip(self._tasks, tasks, strict=True):
            self._link_below(task, row)
        self._check_links()

    # ---- references ------------------------------------------------------------------------------------------------

    def _task(self, index: int) -> Task | None:
        return None if index == -1 else _at(self._tasks, index)

    def _pid(self, index: int) -> Pid | None:
        return None if index == -1 else _at(self._pids, index)

    # ---- rows ------------------------------------------------------------------------------------------------------

    def _make_namespaces(self, rows: Any) -> list[Namespace]:
        pids = self._table.pids
        made: list[Namespace] = []
        for row in rows:
            identity, inum, parent = row[:3]
            _ints((identity, inum))
            if not made:
                _expect("the initial namespace", holds=(identity, inum, parent) == (0, pids.initial.inum, -1))
                made.append(pids.initial)
                continue
            namespace = Namespace(identity, inum, _at(made, parent))
            made.append(namespace)
            if _bool(row[4]):
                pids.namespaces[identity] = namespace
        _expect("no initial namespace", holds=bool(made))
        return made

    def _make_pid(self, row: Any) -> Pid:
        identity, namespace, users, _, *numbers = row
        _ints((identity, users, *numbers))
        pid = Pid(identity, tuple(numbers), _at(self._namespaces, namespace))
        _expect("a pid's numbers", holds=len(numbers) == pid.namespace.level + 1 <= wire.MAX_LEVELS and users >= 0)
        pid.users = users
        return pid

    def _make_task(self, row: Any) -> Task:
        pid, start_ns, address, flags, exit_code, exit_signal, ids, comm, child_namespace = row[:9]
        _ints((start_ns, address, flags, exit_code))
        _ints((exit_signal,), -1)
        task = Task(_at(self._pids, pid), start_ns, address, flags)
        task.exit_code = exit_code
        task.exit_signal = exit_signal
        task.ids = _at(self._ids, ids)
        task.comm = _at(self._comms, comm)
        if child_namespace is not None:
            identity, inum = child_namespace
            _ints((identity, inum))
            task.child_namespace = identity, inum
        return task

    def _fill(self, namespace: Namespace, row: Any) -> None:
        namespace.reaper = self._task(row[3])
        numbers = row[5:]
        _ints(numbers[::2])
        for number, index in zip(numbers[::2], numbers[1::2], strict=True):
            pid = _at(self._pids, index)
            _expect(f"number {number}", holds=pid.numbers[namespace.level : namespace.level + 1] == (number,))
            namespace.numbers[number] = pid

    def _link(self, task: Task, row: Any) -> None:
        leader, _, _, pgid, sid, creator, birth_pgid, birth_sid, clone_flags, order = row[9:_TASK_FIELDS]
        _ints((clone_flags,))
        _ints((order,), -1)
        task.leader = self._task(leader) or NOBODY
        task.pgid = self._pid(pgid)
        task.sid = self._pid(sid)
        task.creator = self._task(creator)
        task.birth_pgid = self._pid(birth_pgid)
        task.birth_sid = self._pid(birth_sid)
        task.clone_flags = clone_flags
        task.order = order
        task.deeds = tuple([self._deed(*deed) for deed in row[_TASK_FIELDS:]]) or None

    def _deed(self, what: int, order: int, value: int) -> Deed:
        _ints((order, value), -1)
        name: DeedName = _at(DEEDS, what)
        if name == "subreaper":
            return name, order, value
        return name, order, self._pid(value) if name != "exit" else None

    def _link_below(self, task: Task, row: Any) -> None:
        threads, children = row[10:12]
        for index in threads:
            thread = _at(self._tasks, index)
            _expect("a thread's leader", holds=thread.leader is task and thread is not task)
        if threads:
            task.threads = dict.fromkeys([self._tasks[index] for index in threads])
        previous: Task | None = None
        for index in children:
            child = _at(self._tasks, index)
            _expect("a child's parent", holds=child.parent is None)
            child.parent = task
            child.previous = previous
            if previous is None:
                task.first_child = child
            else:
                previous.next = child
            previous = child

    def _check_links(self) -> None:
        for task in self._tasks:
            leader = task.leader
            _expect("a leader's leader", holds=leader is NOBODY or leader.leader is leader)
            _expect(
                "a leader's threads",
                holds=leader is NOBODY or leader is task or (leader.threads is not None and task in leader.threads),
            )
        self._check_ends("parents", lambda task: task.leader.parent)
        self._check_ends("creators", lambda task: task.creator)

    def _check_ends(self, what: str, up: Callable[[Task], Task | None]) -> None:
        """Whoever goes up comes to an end."""
        walks: dict[Task, int] = {}
        for walk, start in enumerate(self._tasks):
            task: Task | None = start
            while task is not None and task not in walks:
                walks[task] = walk
                task = up(task)
            _expect(f"{what} in a circle", holds=task is None or walks[task] != walk)

    # ---- what comes of them ----------------------------------------------------------------------------------------

    def stream(self, row: Any) -> Stream:
        """The stream, which feeds that table."""
        number, kinds, lost, suspect, early = row
        _ints((number, *kinds, lost))
        for record in early:
            seq, kind, _ = wire.HEAD.unpack_from(record)
            levels = record[wire.LEVELS_AT : wire.LEVELS_AT + 4] if kind <= Kind.STATE else b""
            _expect(
                "a record",
                holds=seq > number
                and kind in set(Kind)
                and len(record) == wire.record_bytes(record, 0, kind)
                and all(each <= wire.MAX_LEVELS for each in levels),
            )
        stream = Stream(dict(self._table.handlers))
        stream.resume(number, early)
        _expect("kinds of records", holds=len(kinds) == len(stream.kinds))
        stream.kinds, stream.lost, stream.suspect = kinds, lost, _bool(suspect)
        return stream

    def table(self, rest: Any) -> ProcessTable:
        """The table."""
        table = self._table
        repairs, anomalies, assumed, confirmed, astray, doubts, unknown, surprises, unlisted, noted, *waiting = rest
        orphans, leaderless, creatorless, asked = waiting
        _ints((repairs, *anomalies, assumed, confirmed, *unknown))
        table.counts = Counts(repairs, Counter(dict(zip(SURPRISES, anomalies, strict=True))), assumed)
        table.confirmed = confirmed
        table.astray = _bool(astray)
        table.doubts = dict.fromkeys(self._of(doubts))
        table.unknown = set(unknown)
        table.surprises = {_at(self._tasks, index): _at(SURPRISES, what) for index, what in surprises}
        table.unlisted = set(self._of(unlisted))
        for index, ties in noted:
            _ints((ties,))
            table.noted[_at(self._tasks, index)] = ties
        for waiters, rows in ((table.orphans, orphans), (table.creatorless, creatorless)):
            for address, tasks in rows:
                _ints((address,))
                waiters[address] = dict.fromkeys(self._of(tasks))
        for address, threads in leaderless:
            _ints((address, *threads))
            table.leaderless[address] = set(threads)
        for address, start_ns, index in asked:
            _ints((address, start_ns))
            table.unanswered[address, start_ns] = _at(self._tasks, index)
        return table

    def _of(self, indexes: Iterable[int]) -> list[Task]:
        return [_at(self._tasks, index) for index in indexes]
