# SPDX-License-Identifier: Apache-2.0
"""Comparison of the table with the kernel, in every field: snapshots against the task iterator and against /proc.

Theory ------ No two of the three can be read at the same instant. So the two readings are taken between two snapshots:
a task that both snapshots show alike, in every field, did not change meanwhile, and both readings must agree with them.
A difference is checked once more: a task that changes from one state to another and back differs only once.
"""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from agent.model import Snapshot, Tag, Task, TaskState
from agent.table import wire
from agent.table.objects import EXITED, STOPPED, SUBREAPER
from agent.table.pidspace import INITIAL_INUM
from tests.bench.iterator import BareIterator
from tests.live.kernelview import TaskView, tasks_of

TICK_NS = 10_000_000
_CORE_DUMPED = 0x80
_ATTEMPTS = 4
_PAUSE_S = 0.02
_LETTERS = {TaskState.ZOMBIE: "ZX", TaskState.DEAD_LEADER: "ZX", TaskState.STOPPED: "Tt"}
_ALIVE = "RSDIt"

Key = tuple[int, int]
"""The identity of a task: its number, and its start in ns."""


class Facts(NamedTuple):
    """The fields of one task in a snapshot, by the numbers of the initial namespace; None: unknown.

    Attributes:
        numbers: its own at every level, from the root's namespace inward.
        pgids, sids: of its group and session, on the levels of its own namespace; 0 where unseen.
        namespace: inode number of its own.
    """

    tid: int
    start_ns: int
    tgid: int
    ppid: int | None
    numbers: tuple[int, ...]
    pgids: tuple[int, ...] | None
    sids: tuple[int, ...] | None
    namespace: int | None
    state: TaskState | None
    exit_code: int | None
    exit_signal: int | None
    comm: bytes
    uid: int | None
    gid: int | None
    subreaper: bool | None
    terminal: bool | None


class Report(NamedTuple):
    """The result of one comparison.

    Attributes:
        tasks: number of tasks that did not change and were compared.
        values: number of compared values.
        differences: one line each.
    """

    tasks: int
    values: int
    differences: tuple[str, ...]


def facts_of(snapshot: Snapshot) -> dict[Key, Facts]:
    """Return the fields of every task of a snapshot."""
    if snapshot.namespaces[0].inum != INITIAL_INUM:
        raise ValueError("numbers of a tree within a namespace are not those of the iterator and of /proc")
    group = {task.pid: task.tgid for task in snapshot.tasks}
    inums = {namespace.id: namespace.inum for namespace in snapshot.namespaces}

    def facts(task: Task) -> Facts:
        own = snapshot.pid(task.pid)
        if own is None:
            raise ValueError(f"task {task} has no pid object")
        parent = group.get(task.ppid)
        return Facts(
            tid=own.numbers[0],
            start_ns=task.start_ns or 0,
            tgid=snapshot.number(task.tgid),
            ppid=snapshot.number(parent) if parent is not None else None,
            numbers=own.numbers,
            pgids=_seen(snapshot, task.pgid, task),
            sids=_seen(snapshot, task.sid, task),
            namespace=inums.get(own.namespaces[-1]),
            state=task.state,
            exit_code=None if task.exit_code is None else task.exit_code & ~_CORE_DUMPED,
            exit_signal=task.exit_signal,
            comm=task.comm or b"",
            uid=task.uid,
            gid=task.gid,
            subreaper=task.subreaper,
            terminal=None if task.pid != task.tgid else task.tty is not None and task.tty.name is not None,
        )

    return {(found.tid, found.start_ns): found for found in map(facts, snapshot.tasks)}


def _seen(snapshot: Snapshot, tag: int, by: Task) -> tuple[int, ...] | None:
    """Return the numbers of a pid object in a task's namespace and those above it; None for one from outside."""
    pid, own = snapshot.pid(Tag(tag)), snapshot.pid(by.pid)
    if pid is None or own is None:
        return None
    levels = zip(own.namespaces, pid.namespaces + (-2,) * len(own.numbers), strict=False)
    numbers = pid.numbers + (0,) * len(own.numbers)
    return tuple(numbers[level] if mine == its else 0 for level, (mine, its) in enumerate(levels))


def rows_of_iterator(iterator: BareIterator) -> dict[Key, dict[str, object]]:
    """Return the rows of the kernel's own iterator, read without any event: by task, the fields that its row has."""
    raw = list(wire.ROW.iter_unpack(iterator.read().data))
    by_address = {row[0]: row for row in raw}
    by_pid = {row[3]: row[6] for row in raw if row[3]}
    found = {}
    for row in raw:
        _, start_ns, parent, _, pgid, sid, tid, flags, uid, gid, comm, _ = row
        above = by_address.get(parent)
        found[tid, start_ns] = {
            "parent thread": above[6] if above else None,
            "group": by_pid.get(pgid),
            "session": by_pid.get(sid),
            "exited": bool(flags & EXITED),
            "stopped": bool(flags & STOPPED) and not flags & EXITED,
            "subreaper": bool(flags & SUBREAPER),
            "uid": uid,
            "gid": gid,
            "comm": comm.rstrip(b"\0"),
        }
    return found


def _by_iterator(task: Facts, parent: int | None, row: dict[str, object]) -> Iterator[tuple[str, object, object]]:
    yield (
        "parent thread",
        parent if row["parent thread"] is not None else None,
        row["parent thread"] if parent else None,
    )
    for name, numbers in (("group", task.pgids), ("session", task.sids)):
        if numbers is not None and row[name] is not None:  # the leader may be dead, and then no row names the task
            yield name, numbers[0], row[name]
    yield "exited", task.exit_code is not None, row["exited"]
    yield "stopped", task.state is TaskState.STOPPED, row["stopped"]
    yield "subreaper", task.subreaper, row["subreaper"]
    yield "uid", task.uid, row["uid"]
    yield "gid", task.gid, row["gid"]
    yield "comm", task.comm, row["comm"]


def _by_proc(task: Facts, view: TaskView) -> Iterator[tuple[str, object, object]]:
    yield "tgid", task.tgid, view.tgid
    if task.ppid is not None:
        yield "PPid", task.ppid, view.ppid
    yield "NSpid", task.numbers, view.numbers
    if task.pgids is not None:
        yield "NSpgid", task.pgids, view.pgids
    if task.sids is not None:
        yield "NSsid", task.sids, view.sids
    if task.namespace is not None and view.inum is not None:
        yield "namespace", task.namespace, view.inum
    yield "state", True, view.state in _LETTERS.get(task.state or TaskState.RUNNING, _ALIVE)
    if task.state is TaskState.ZOMBIE and task.tid == task.tgid:
        yield "exit code", task.exit_code, view.exit_code & ~_CORE_DUMPED
    yield "exit signal", task.exit_signal, view.exit_signal
    yield "start", task.start_ns // TICK_NS, view.start_ticks
    yield "comm", task.comm, view.comm
    yield "uid", task.uid, view.uid
    yield "gid", task.gid, view.gid
    if task.terminal is not None and task.exit_code is None:
        yield "terminal", task.terminal, view.terminal is not None


def _once(take: Callable[[], Snapshot], iterator: BareIterator, every: int, turn: int) -> Report:
    before = take()
    rows = rows_of_iterator(iterator)
    shown = facts_of(before)
    some = [task for task in shown.values() if task.tgid % every == turn % every]
    views = {view.tid: view for tgid in {task.tgid for task in some} for view in tasks_of(tgid)}
    after = take()
    later = facts_of(after)
    parents = {before.number(task.pid): before.number(task.ppid) or None for task in before.tasks}
    tasks = values = 0
    lines = []
    for key, task in shown.items():
        if later.get(key) != task:
            continue
        tasks += 1
        pairs = [("iterator", pair) for pair in _by_iterator(task, parents[task.tid], rows[key])] if key in rows else []
        view = views.get(task.tid)
        if view is not None:
            pairs += [("/proc", pair) for pair in _by_proc(task, view)]
        elif task in some:
            lines.append(f"{task.tid}: not in /proc")
        if key not in rows:
            lines.append(f"{task.tid}: not listed by the iterator")
        values += len(pairs)
        lines += [
            f"{task.tid} ({task.comm.decode(errors='replace')}): {name} is {ours}, {whose} says {theirs}"
            for whose, (name, ours, theirs) in pairs
            if ours != theirs
        ]
    numbers = {tid for tid, _ in shown} & {tid for tid, _ in later}
    born_before = _began(before)
    lines += [
        f"{tid}: of this tree by the iterator, and in neither snapshot"
        for (tid, start_ns), row in rows.items()
        if row["parent thread"] in numbers and (tid, start_ns) not in shown and (tid, start_ns) not in later
        if start_ns < born_before and tid not in numbers
    ]
    return Report(tasks, values, tuple(lines))


def _began(snapshot: Snapshot) -> int:
    """Return the time of a snapshot, CLOCK_BOOTTIME in ns, by the present clocks; it must have all tasks born
    before.
    """
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - (time.time_ns() - snapshot.time_ns) - TICK_NS


def compare(take: Callable[[], Snapshot], iterator: BareIterator, *, every: int = 1, turn: int = 0) -> Report:
    """Compare; check a difference again, and report it if it remains each time.

    Args:
        take: returns a snapshot of the tree.
        iterator: the bare one.
        every, turn: of /proc, read one process of so many, and which.
    """
    report = _once(take, iterator, every, turn)
    standing = set(report.differences)
    for _ in range(_ATTEMPTS - 1):
        if not standing:
            break
        time.sleep(_PAUSE_S)
        standing &= set(_once(take, iterator, every, turn).differences)
    return report._replace(differences=tuple(sorted(standing)))
