# SPDX-License-Identifier: Apache-2.0
"""The reader of a memory (agent.capture.memorywriter): it returns a consistent table, or raises.

A daemon wrote the bytes and the service manager kept them; still they may be damaged, or of another version. A check
sum proves that they are whole. Then every value must have its type, every reference must be within its list, and the
links must be those that the table relies on: a child has one parent, a thread one leader, and every walk up, by parents
or by creators, ends. The sweep that follows compares the table with the kernel.
"""

import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

import msgpack

from agent.capture.memorywriter import DEEDS, FRAME, MAGIC, SURPRISES, VERSION, Memory, Place
from agent.errors import CkptreeError
from agent.table import departure, wire
from agent.table.counters import Counts
from agent.table.handlers import Handlers
from agent.table.objects import NOBODY, Deed, DeedName, Pid, PidNamespace, Strings, TaskStruct
from agent.table.processtable import ProcessTable
from agent.table.stream import Stream
from agent.table.wire import Kind

_T = TypeVar("_T")
_COMM_BYTES = 16
_WITHOUT_LINGERING: Final = 5
READS: Final = (_WITHOUT_LINGERING, VERSION)
"""The versions that this module reads."""


class UnusableMemoryError(CkptreeError):
    """A memory that no watch can go on from: its bytes are damaged, or it does not fit the ring."""


def load(data: bytes, count: int) -> Memory:
    """Read a memory from its bytes.

    Args:
        data: all bytes.
        count: the number of totals that it must have.

    Raises:
        UnusableMemoryError: the bytes are cut short, damaged, of another version, or contradict themselves; the text
            says which.
    """
    body = body_of(data)
    _, version, _, _ = FRAME.unpack_from(data)
    try:
        unpacker = msgpack.Unpacker(max_buffer_size=len(body) + 1)
        unpacker.feed(body)
        reader = _Reader(unpacker.unpack, most=len(body))
        table = reader.table(version)
        place, totals = _place(unpacker.unpack(), count)
        stream = reader.stream(unpacker.unpack())
        _expect("it goes on behind its end", holds=unpacker.tell() == len(body))
        return Memory(place, totals, table, stream)
    except UnusableMemoryError:
        raise
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, struct.error, msgpack.UnpackException) as error:
        raise UnusableMemoryError(f"it contradicts its own grammar: {error!r}") from error


def body_of(data: bytes) -> bytes:
    """Return the body of a memory, which is whole.

    Args:
        data: all bytes.

    Raises:
        UnusableMemoryError: the bytes are cut short, damaged, or of another version.
    """
    if len(data) < FRAME.size:
        raise UnusableMemoryError(f"it ends after {len(data)} bytes")
    magic, version, check, length = FRAME.unpack_from(data)
    body = data[FRAME.size :]
    if magic != MAGIC:
        raise UnusableMemoryError("it does not begin as one")
    if version not in READS:
        raise UnusableMemoryError(f"it is of version {version}, and this one reads {' and '.join(map(str, READS))}")
    if length != len(body):
        raise UnusableMemoryError(f"it has {len(body)} bytes, and should have {length}")
    if zlib.crc32(body) != check:
        raise UnusableMemoryError("its check sum is wrong")
    return body


def _expect(what: str, *, holds: bool) -> None:
    if not holds:
        raise UnusableMemoryError(f"it contradicts itself: {what}")


def _ints(values: Iterable[Any], least: int = 0) -> None:
    for value in values:
        if type(value) is not int or value < least:  # True is no int here
            raise UnusableMemoryError(
                f"it contradicts its own grammar: {value!r} where an integer from {least} has to be"
            )


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise UnusableMemoryError(f"it contradicts its own grammar: {value!r} where true or false has to be")
    return value


def _at(values: Sequence[_T], index: int) -> _T:
    """Return the object that a reference refers to; a negative one is refused."""
    if type(index) is not int or index < 0:
        raise UnusableMemoryError(f"it contradicts its own grammar: {index!r} where a reference has to be")
    return values[index]


def _place(row: Any, count: int) -> tuple[Place, tuple[int, ...]]:
    ring, position, (read, *slots), lost, *totals = row
    _ints((position, read, *slots, *lost, *totals))
    _expect("lost numbers", holds=isinstance(ring, str) and len(slots) == wire.LOST_NUMBERS)
    _expect("totals", holds=len(totals) == count)
    return Place(ring, position, (read, tuple(slots)), tuple(lost)), tuple(totals)


class _Reader:
    """The reader of the rows: it makes all objects empty, then fills them row by row.

    Args:
        read: gives the next msgpack object.
        most: bound of the count of objects.
    """

    def __init__(self, read: Callable[[], Any], most: int) -> None:
        self._read = read
        self._table = ProcessTable()
        namespaces, pids, tasks = counts = read()
        _ints(counts)
        _expect("counts", holds=sum(counts) <= most)
        self._comms: list[bytes] = read()
        for comm in self._comms:
            _expect("a name", holds=isinstance(comm, bytes) and len(comm) <= _COMM_BYTES)
        self._ids: list[tuple[int, int]] = []
        for uid, gid in read():
            _ints((uid, gid))
            self._ids.append((uid, gid))
        self._strings: list[Strings] = []
        for arguments, environment in read():
            for each in (arguments, environment):
                _expect("strings", holds=each is None or (isinstance(each, bytes) and len(each) >= wire.AREA.size))
            self._strings.append((arguments, environment))
        initial = self._table.pids.initial
        self._pids = [Pid(0, (), initial) for _ in range(pids)]
        self._tasks = [TaskStruct(NOBODY.pid, 0, 0, 0) for _ in range(tasks)]
        self._namespaces: list[PidNamespace] = []
        for _ in range(namespaces):
            self._namespaces.append(self._namespace(*read()))
        _expect("no initial namespace", holds=self._namespaces[:1] == [initial])
        for pid in self._pids:
            self._fill_pid(pid, *read())
        for task in self._tasks:
            self._fill_task(task, *read())
        for namespace in self._namespaces:
            self._fill_namespace(namespace, read())
        self._check_links()

    # ---- references ------------------------------------------------------------------------------------------------

    def _task(self, index: int) -> TaskStruct | None:
        return None if index == -1 else _at(self._tasks, index)

    def _pid(self, index: int) -> Pid | None:
        return None if index == -1 else _at(self._pids, index)

    # ---- rows ------------------------------------------------------------------------------------------------------

    def _namespace(self, identity: int, inum: int, parent: int, reaper: int, listed: Any) -> PidNamespace:
        pids = self._table.pids
        _ints((identity, inum))
        if self._namespaces:
            namespace = PidNamespace(identity, inum, _at(self._namespaces, parent))
            if _bool(listed):
                pids.namespaces[identity] = namespace
        else:
            namespace = pids.initial
            _expect("the initial namespace", holds=(identity, inum, parent) == (0, namespace.inum, -1))
        namespace.reaper = self._task(reaper)
        return namespace

    def _fill_pid(self, pid: Pid, identity: int, namespace: int, users: int, task: int, *numbers: int) -> None:
        _ints((identity, users, *numbers))
        pid.identity, pid.numbers, pid.users = identity, numbers, users
        pid.namespace = _at(self._namespaces, namespace)
        pid.task = self._task(task)
        _expect("a pid's numbers", holds=len(numbers) == pid.namespace.level + 1 <= wire.MAX_LEVELS)

    def _fill_namespace(self, namespace: PidNamespace, members: Any) -> None:
        level = namespace.level
        for index in members:
            pid = _at(self._pids, index)
            is_seen = pid.namespace.ancestor(level) is namespace
            _expect("members of a namespace", holds=is_seen and pid.numbers[level] not in namespace.numbers)
            namespace.numbers[pid.numbers[level]] = pid

    def _fill_task(self, task: TaskStruct, pid: int, start_ns: int, address: int, flags: int, *row: Any) -> None:
        exit_code, exit_signal, ids, comm, child_namespace, leader, threads, children, pgid, sid, *birth = row
        creator, birth_pgid, birth_sid, clone_flags, order, strings, *deeds = birth
        _ints((start_ns, address, flags, exit_code, clone_flags))
        _ints((exit_signal, order), -1)
        task.pid = _at(self._pids, pid)
        task.start_ns, task.address, task.flags = start_ns, address, flags
        task.exit_code, task.exit_signal = exit_code, exit_signal
        task.ids = _at(self._ids, ids)
        task.comm = _at(self._comms, comm)
        if child_namespace is not None:
            identity, inum = child_namespace
            _ints((identity, inum))
            task.child_namespace = identity, inum
        task.leader = self._task(leader) or NOBODY
        if threads:
            task.threads = dict.fromkeys([_at(self._tasks, index) for index in threads])
        self._fill_children(task, children)
        task.pgid, task.sid = self._pid(pgid), self._pid(sid)
        task.creator = self._task(creator)
        task.birth_pgid, task.birth_sid = self._pid(birth_pgid), self._pid(birth_sid)
        task.clone_flags, task.order = clone_flags, order
        task.strings = None if strings == -1 else _at(self._strings, strings)
        task.deeds = tuple([self._deed(*deed) for deed in deeds]) or None

    def _fill_children(self, task: TaskStruct, children: Any) -> None:
        previous: TaskStruct | None = None
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

    def _deed(self, what: int, order: int, value: int) -> Deed:
        _ints((order, value), -1)
        name: DeedName = _at(DEEDS, what)
        if name == "subreaper":
            return name, order, value
        return name, order, self._pid(value) if name != "exit" else None

    def _check_links(self) -> None:
        for pid in self._pids:
            _expect("a pid's task", holds=pid.task is None or pid.task.pid is pid)
        for task in self._tasks:
            leader = task.leader
            _expect(
                "a leader and its threads",
                holds=leader in (NOBODY, task) or (leader.leader is leader and task in (leader.threads or ())),
            )
            for thread in task.threads or ():
                _expect("a thread's leader", holds=thread.leader is task is not thread)
        self._check_ends("parents", lambda task: task.leader.parent)
        self._check_ends("creators", lambda task: task.creator)

    def _check_ends(self, what: str, up: Callable[[TaskStruct], TaskStruct | None]) -> None:
        """Refuse a circle: every walk up must end."""
        walks: dict[TaskStruct, int] = {}
        for walk, start in enumerate(self._tasks):
            task: TaskStruct | None = start
            while task is not None and task not in walks:
                walks[task] = walk
                task = up(task)
            _expect(f"{what} in a circle", holds=task is None or walks[task] != walk)

    # ---- results ---------------------------------------------------------------------------------------------------

    def stream(self, row: Any) -> Stream:
        """Return the stream, which feeds the table."""
        number, kinds, lost, suspect, early = row
        _ints((number, *kinds, lost))
        for record in early:
            seq, kind, *_ = wire.HEAD.unpack_from(record)
            levels = record[wire.LEVELS_AT : wire.LEVELS_AT + 4] if kind <= Kind.STATE else b""
            _expect(
                "a record",
                holds=seq > number
                and kind in set(Kind)
                and len(record) == wire.record_bytes(record, 0, kind)
                and all(each <= wire.MAX_LEVELS for each in levels),
            )
        stream = Stream(Handlers(self._table).by_kind)
        stream.resume(number, early)
        _expect("kinds of records", holds=len(kinds) == len(stream.kinds))
        stream.kinds, stream.lost, stream.suspect = kinds, lost, _bool(suspect)
        return stream

    def table(self, version: int) -> ProcessTable:
        """Return the table, with its doubts and waiting tasks.

        Args:
            version: of the grammar.
        """
        table = self._table
        repairs, anomalies, assumed, idle, astray, doubts, unknown, surprises, unlisted, noted, *waiting = self._read()
        lingering = waiting.pop() if version > _WITHOUT_LINGERING else None
        orphans, leaderless, creatorless, asked, moved, contracting = waiting
        _ints((repairs, *anomalies, assumed, idle, *unknown))
        table.counts = Counts(repairs, Counter(dict(zip(SURPRISES, anomalies, strict=True))), assumed)
        table.idle = idle
        table.astray = _bool(astray)
        table.doubts.update(dict.fromkeys(self._of(doubts)))
        table.unknown.update(dict.fromkeys(unknown))
        table.surprises.update({_at(self._tasks, index): _at(SURPRISES, what) for index, what in surprises})
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
        for index, identity in moved:
            _ints((identity,))
            table.moved[_at(self._tasks, index)] = identity
        table.contracting = self._task(contracting)
        if lingering is None:  # nearly the same follows from the tasks
            for task in filter(departure.lingers, table.tasks()):
                table.lingering.setdefault(task.pid.namespace, {})[task] = None
        for namespace, tasks in lingering or ():
            table.lingering[_at(self._namespaces, namespace)] = dict.fromkeys(self._of(tasks))
        return table

    def _of(self, indexes: Iterable[int]) -> list[TaskStruct]:
        return [_at(self._tasks, index) for index in indexes]
