# SPDX-License-Identifier: Apache-2.0
"""A watch's memory as bytes: table, history and place in the stream, for the daemon that comes next.

Theory
------
The kernel side lives on without a daemon: its hooks go on writing into the ring. The daemon alone has the content of
the records so far: the table, with every birth, and the position up to which it has read. It writes both between two
records, and the next daemon goes on with the next record.

A memory belongs to one *place*: a ring, and a position in it. Every consumed record moves the position, never back. So
a memory is valid exactly as long as the ring is the same and no record has been consumed since; any other one is stale.

The objects are a graph with circles. They are numbered in the order in which a walk from the table meets them, and
refer to each other by number, -1 for none. That order and the rows depend on the graph alone, so a memory that is read
and written again has the same bytes. Derived facts are left out: the parents follow from the lists of children, whose
order counts. agent.capture.memoryreader has the checks of a memory.

The rows are read one by one, into objects that exist already, for a host has many of them and the memory stays small.

Grammar (msgpack objects, one behind the other; all arrays; ints unless said otherwise)::

    memory     := "ckptree\\0" u32 version, u32 CRC-32 of body, u64 bytes of body (little endian), body
    body       := counts, [comm bytes*], [[uid, gid]*], [strings*], namespace*, pid*, task*, members*, rest, place,
    stream counts     := [namespaces, pids, tasks]
    strings    := [arguments bytes | nil, environment bytes | nil], as objects.Task has them
    namespace  := [identity, inum, parent, reaper (task), is listed (bool)]; parents before children
    pid        := [identity, namespace, users, task, number*]
    members    := [pid*], of each namespace: the pid objects that have a number there
    task       := [pid, start_ns, address, flags, exit_code, exit_signal, ids, comm, [child ns identity, inum] | nil,
                   leader (-1: released), [thread*], [child*, newest first], pgid, sid, creator, birth_pgid, birth_sid,
                   clone_flags, order, strings, [what, order, value]* deeds]
    value      := pid for setsid and setpgid, 1 or 0 for subreaper, -1 for exit
    rest       := [repairs, [anomalies of a kind*], assumed, idle task (address), astray (bool), [doubted task*],
                   [unknown address*], [[task, surprise]*],
                   [unlisted task*], [[task, ties]*], [[address, [orphan*]]*], [[address, [thread address*]]*],
                   [[address, [creatorless task*]]*], [[address, start_ns, asked task]*], [[founder, identity]*],
                   contracting (task), [[namespace, [lingering task*]]*]]
    place      := [ring (text), position, [lost count, slot*], [lost number*], total*]
    stream     := [next, [records of a kind*], lost, suspect (bool), [record (bytes) that came too early *]]
"""

import struct
import zlib
from collections.abc import Callable
from itertools import islice
from typing import Any, Final, TypeVar, get_args

import msgpack

from agent.record import NamedTuple, record
from agent.table.counters import Cause, Surprise
from agent.table.objects import NOBODY, Deed, DeedName, Pid, PidNamespace, Strings, TaskStruct
from agent.table.processtable import ProcessTable
from agent.table.stream import Stream

VERSION = 6
TOTALS: Final = len(get_args(Cause)) + 2
"""The count of a watch's own counts in its memory."""
MAGIC = b"ckptree\0"
FRAME = struct.Struct("<8sIIQ")
DEEDS: tuple[DeedName, ...] = ("setsid", "setpgid", "subreaper", "exit")
SURPRISES: tuple[Surprise, ...] = ("exit", "gone", "group", "parent", "session")


class Place(NamedTuple):
    """The point of a ring at which a memory ends.

    Attributes:
        ring: the kernel's name of the ring.
        position: bytes of it consumed.
        lost_known: as ring.LostNumbers.
        lost: lost numbers that the stream has not reached yet.
    """

    ring: str
    position: int
    lost_known: tuple[int, tuple[int, ...]]
    lost: tuple[int, ...]


@record
class Memory:
    """The state that one watch leaves to the next.

    Attributes:
        place: the point of the ring at which it stopped.
        totals: its own counts (agent.table.counters).
        table, stream: its table and stream.
    """

    place: Place
    totals: tuple[int, ...]
    table: ProcessTable
    stream: Stream


def dump(memory: Memory) -> bytes:
    """Return a memory as bytes. The table must be between two records."""
    body = _Writer(memory.table).body(memory)
    return FRAME.pack(MAGIC, VERSION, zlib.crc32(body), len(body)) + body


_T = TypeVar("_T")
_PACK: Callable[[object], bytes] = msgpack.Packer().pack


class _Numbers(dict[_T | None, int]):
    """Numbers of objects, given at the first request, and -1 for none; `order` lists the objects by number.

    Args:
        none: stand for none, too.
    """

    def __init__(self, *none: _T) -> None:
        super().__init__(dict.fromkeys((None, *none), -1))
        self.order: list[_T] = []

    def __missing__(self, key: _T) -> int:
        number = self[key] = len(self.order)
        self.order.append(key)
        return number


class _Writer:
    """The writer of a memory: it numbers objects as it meets them, and writes their rows in that order."""

    def __init__(self, table: ProcessTable) -> None:
        self._table = table
        self._namespaces: _Numbers[PidNamespace] = _Numbers()
        self._pids: _Numbers[Pid] = _Numbers()
        self._tasks: _Numbers[TaskStruct] = _Numbers(NOBODY)
        self._comms: _Numbers[bytes] = _Numbers()
        self._ids: _Numbers[tuple[int, int]] = _Numbers()
        self._strings: _Numbers[Strings] = _Numbers()

    def body(self, memory: Memory) -> bytes:
        """Return all rows and counts."""
        place, stream, table = memory.place, memory.stream, self._table
        count, slots = place.lost_known
        for namespace in (table.pids.initial, *table.pids.namespaces.values()):
            self._namespace(namespace)
        rest = self._rest()
        rows: tuple[list[bytes], list[bytes], list[bytes], list[bytes]] = ([], [], [], [])
        while (  # a row may name objects that have not been met before
            self._catch_up(self._namespaces.order, rows[0], self._namespace_row)
            or self._catch_up(self._pids.order, rows[1], self._pid_row)
            or self._catch_up(self._tasks.order, rows[2], self._task_row)
            or self._catch_up(self._namespaces.order, rows[3], self._members)
        ):
            pass
        head = (list(map(len, rows[:3])), self._comms.order, self._ids.order, self._strings.order)
        tail = (
            rest,
            [place.ring, place.position, [count, *slots], list(place.lost), *memory.totals],
            [stream.next, stream.kinds, stream.lost, stream.suspect, stream.early],
        )
        return b"".join([*map(_PACK, head), *(row for kind in rows for row in kind), *map(_PACK, tail)])

    @staticmethod
    def _catch_up(order: list[_T], rows: list[bytes], row: Callable[[_T], list[Any]]) -> bool:
        """Write the rows that are missing; return True if there were any."""
        before = len(rows)
        rows.extend(map(_PACK, map(row, islice(order, before, None))))  # the order may grow meanwhile
        return len(rows) > before

    def _namespace(self, namespace: PidNamespace | None) -> int:
        if namespace is None:
            return -1
        if namespace not in self._namespaces:
            self._namespace(namespace.parent)  # those above come first
        return self._namespaces[namespace]

    # ---- rows ------------------------------------------------------------------------------------------------------

    def _namespace_row(self, namespace: PidNamespace) -> list[Any]:
        listed = self._table.pids.namespaces.get(namespace.identity) is namespace
        above, reaper = self._namespace(namespace.parent), self._tasks[namespace.reaper]
        return [namespace.identity, namespace.inum, above, reaper, listed]

    def _members(self, namespace: PidNamespace) -> list[Any]:
        return [self._pids[pid] for pid in namespace.numbers.values()]

    def _pid_row(self, pid: Pid) -> list[Any]:
        return [pid.identity, self._namespace(pid.namespace), pid.users, self._tasks[pid.task], *pid.numbers]

    def _task_row(self, task: TaskStruct) -> list[Any]:
        tasks, pids = self._tasks, self._pids
        tasks[task.parent]  # numbers the parent; its row has this task among its children
        return [
            pids[task.pid],
            task.start_ns,
            task.address,
            task.flags,
            task.exit_code,
            task.exit_signal,
            self._ids[task.ids],
            self._comms[task.comm],
            task.child_namespace,
            tasks[task.leader],
            [tasks[thread] for thread in task.threads] if task.threads else [],
            [tasks[child] for child in task.children()] if task.first_child else [],
            pids[task.pgid],
            pids[task.sid],
            tasks[task.creator],
            pids[task.birth_pgid],
            pids[task.birth_sid],
            task.clone_flags,
            task.order,
            self._strings[task.strings],
            *(map(self._deed, task.deeds) if task.deeds else ()),
        ]

    def _deed(self, deed: Deed) -> list[int]:
        what, order, value = deed
        return [DEEDS.index(what), order, value if isinstance(value, int) else self._pids[value]]

    def _rest(self) -> list[Any]:
        table, number = self._table, self._tasks.__getitem__
        counts = table.counts
        return [
            *(counts.repairs, [counts.kinds[kind] for kind in SURPRISES], counts.assumed, table.idle),
            table.astray,
            [number(task) for task in table.doubts],
            list(table.unknown),
            [[number(task), SURPRISES.index(what)] for task, what in table.surprises.items()],
            [number(task) for task in sorted(table.unlisted, key=lambda task: (task.pid.numbers, task.start_ns))],
            [[number(task), ties] for task, ties in table.noted.items()],
            [[address, [number(task) for task in tasks]] for address, tasks in table.orphans.items()],
            [[address, sorted(threads)] for address, threads in table.leaderless.items()],
            [[address, [number(task) for task in tasks]] for address, tasks in table.creatorless.items()],
            [[address, start_ns, number(task)] for (address, start_ns), task in table.unanswered.items()],
            [[number(task), identity] for task, identity in table.moved.items()],
            number(table.contracting),
            self._lingering(),
        ]

    def _lingering(self) -> list[list[Any]]:
        """Return what the table has noted of lingering tasks: it depends on when each of them exited, not on its state
        alone.
        """
        found = []
        for namespace, tasks in self._table.lingering.items():
            here = [self._tasks[task] for task in tasks if task.pid.task is task]
            if here:
                found.append([self._namespace(namespace), here])
        return found
