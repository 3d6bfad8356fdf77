# SPDX-License-Identifier: Apache-2.0
"""The tasks of this host as /proc shows them, for hosts that load no BPF.

Theory
------
A scan lists the processes, then reads one task after another while they run, so it is of no single instant. Three cheap
measures help: each task is read through one opened directory, so a row never mixes two tasks with one number; a task
that vanishes meanwhile is left out; and a row whose parent vanished is read again, since its parent has changed.

Numbers are those of the pid namespace that the procfs was mounted for, and of the ones below it. Names are read from
``stat``, up to the last parenthesis, for ``status`` escapes them.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import psutil

from agent.errors import HostError
from agent.model import WaitStatus
from agent.proc.host import boottime_offset_ns, ns_per_tick
from agent.proc.statfile import UNREADABLE, opened, read_at, stat_fields

NAMESPACE_WITHOUT_INIT: Final = 0
"""``pid_ns_for_children`` of a task that unshared its pid namespace and has not forked since."""

# Places in stat_fields(): proc(5) counts from 1 and the first field after the name is its third.
_STATE, _PPID, _PGRP, _SESSION, _TTY, _TPGID, _FLAGS = 0, 1, 2, 3, 7 - 3, 8 - 3, 9 - 3
_STARTTIME, _EXIT_SIGNAL, _EXIT_CODE = 22 - 3, 38 - 3, 52 - 3

_PF_IO_WORKER: Final = 0x10
_PF_USER_WORKER: Final = 0x4000
_PF_KTHREAD: Final = 0x0020_0000

_COMM_BYTES: Final = 15  # TASK_COMM_LEN without its NUL; stat shows more for kernel workers
_MENDING_ROUNDS: Final = 3


@dataclass(frozen=True, slots=True)
class ProcRow:
    """A task, as /proc shows it.

    Attributes:
        tid, tgid: numbers in the procfs's pid namespace.
        ppid: number of the thread that is real_parent; of its group where /proc does not tell the thread (a kernel
            without CONFIG_PROC_CHILDREN, or a list that changed while it was read). 0: the parent is outside the
            namespace, or there is none. A thread has its group's parent.
        numbers: of the task's own pid object, outermost first, from the procfs's namespace inward.
        tgid_numbers, pgid_numbers, sid_numbers: of its thread group, process group and session. As many as `numbers`:
            a group or session from further outside has 0 at the levels that do not see it, and one from further inside
            is cut at the task's own level.
        start_ns: birth, by CLOCK_BOOTTIME of the host, but only to the clock tick (10 ms): the kernel rounds down the
            time on the reader's own clock. host.start_ticks() makes two of them comparable.
        state: letter of proc(5): R, S, D, T, t, Z, I, ... Never X, the state of a task that is being released.
        exit_code: raw wait status of a zombie; None for a living task, and where the reader lacks the right (the kernel
            then shows 0).
        exit_signal: signal sent to the parent at exit; -1 for a thread that does not lead.
        comm: at most 15 bytes.
        uid, gid: real ids in the reader's user namespace.
        kernel_thread: a kernel thread, or a thread that the kernel runs inside a process (io_uring, vhost).
        pid_ns: inode number of its pid namespace; None where not permitted.
        pid_ns_for_children: of the one that its next child will be born into; NAMESPACE_WITHOUT_INIT where that has no
            task yet; None for a zombie and where not permitted.
        terminal: number of the device that is the controlling terminal; 0: it has none.
        foreground: number of the group in its foreground; 0 where the procfs's namespace does not see it, -1: there is
            none.
        subreaper: always None: /proc does not tell.
    """

    tid: int
    tgid: int
    ppid: int
    numbers: tuple[int, ...]
    tgid_numbers: tuple[int, ...]
    pgid_numbers: tuple[int, ...]
    sid_numbers: tuple[int, ...]
    start_ns: int
    state: str
    exit_code: WaitStatus | None
    exit_signal: int
    comm: bytes
    uid: int
    gid: int
    kernel_thread: bool
    pid_ns: int | None
    pid_ns_for_children: int | None
    terminal: int = 0
    foreground: int = -1
    subreaper: bool | None = None


def scan(root: Path = Path("/proc")) -> list[ProcRow]:
    """Read all tasks that the procfs shows, ordered by tid.

    A process that /proc hides from the reader (hidepid) is left out.

    Raises:
        HostError: there is no procfs at `root`; or see host.boottime_offset_ns().
    """
    offset_ns = boottime_offset_ns(root)
    processes = {tgid: rows for tgid in _pids(root) if (rows := _process(root, tgid))}
    _mend(root, processes)
    parents = _parent_threads(root, processes)
    # The key has the row's ppid: a task that got a new parent between the two reads finds no thread and keeps its ppid.
    exact = (
        replace(row, ppid=parents.get((row.ppid, row.tgid), row.ppid), start_ns=max(row.start_ns - offset_ns, 0))
        for group in processes.values()
        for row in group
    )
    # A number that was freed and taken again during the scan has two rows: the younger task has it now.
    return list({row.tid: row for row in sorted(exact, key=lambda row: (row.tid, row.start_ns))}.values())


def _pids(root: Path) -> list[int]:
    """Return the process ids that psutil finds."""
    with _psutil_at(root):
        try:
            return psutil.pids()
        except (OSError, IndexError) as error:  # psutil takes the lowest pid of its list, even of an empty one
            raise HostError(f"{root} shows no process: mount procfs there") from error


@contextmanager
def _psutil_at(root: Path) -> Iterator[None]:
    """Point psutil at another procfs, a global of its module, and reset it afterwards."""
    before, psutil.PROCFS_PATH = psutil.PROCFS_PATH, str(root)
    try:
        yield
    finally:
        psutil.PROCFS_PATH = before


def _process(root: Path, tgid: int) -> list[ProcRow]:
    """Read the rows of a process's threads; none where it is gone or hidden."""
    try:
        with opened(root / str(tgid)) as process, opened("task", process) as tasks:
            tids = [int(name) for name in os.listdir(tasks) if name.isdigit()]
            return [row for tid in tids if (row := _task(tasks, tid))]
    except UNREADABLE:
        return []


def _task(tasks: int, tid: int) -> ProcRow | None:
    """Read one row; return None where the task is gone, or is being released."""
    try:
        with opened(str(tid), tasks) as task:
            # The kernel shows exit_code by the same right as the links, but only a link fails without it. So links
            # first.
            pid_ns = _namespace(task, "ns/pid")
            for_children = _namespace(task, "ns/pid_for_children")
            stat, status = read_at(task, "stat"), read_at(task, "status")
    except UNREADABLE:
        return None
    if not stat or not status:
        return None
    fields, keys = stat_fields(stat), _status(status)
    state = fields[_STATE].decode("ascii")
    pgrp, session = int(fields[_PGRP]), int(fields[_SESSION])
    numbers = keys.get(b"NSpid", (tid,))
    # A released task has lost its pid objects: stat then shows -1 for its group, status 0 for its own number.
    if state in "Xx" or pgrp < 0 or 0 in numbers:
        return None
    zombie = state == "Z"
    tgid = keys[b"Tgid"][0]
    return ProcRow(
        tid=tid,
        tgid=tgid,
        ppid=int(fields[_PPID]),
        numbers=numbers,
        tgid_numbers=keys.get(b"NStgid", (tgid,)),
        pgid_numbers=keys.get(b"NSpgid", (pgrp,)),
        sid_numbers=keys.get(b"NSsid", (session,)),
        start_ns=int(fields[_STARTTIME]) * ns_per_tick(),
        state=state,
        exit_code=WaitStatus(int(fields[_EXIT_CODE])) if zombie and pid_ns is not None else None,
        exit_signal=int(fields[_EXIT_SIGNAL]),
        comm=stat.partition(b"(")[2].rpartition(b")")[0][:_COMM_BYTES],
        uid=keys[b"Uid"][0],
        gid=keys[b"Gid"][0],
        kernel_thread=_is_kernels(int(fields[_FLAGS]), leader=tid == tgid),
        pid_ns=pid_ns,
        pid_ns_for_children=None if zombie else for_children,
        terminal=int(fields[_TTY]) & 0xFFFF_FFFF,
        foreground=int(fields[_TPGID]),
    )


def _status(status: bytes) -> dict[bytes, tuple[int, ...]]:
    """Return the lines of a status file that hold ids. Its name line has no bare newline, so it cannot fake another
    line.
    """
    found = {}
    for line in status.split(b"\n"):
        key, _, value = line.partition(b":")
        if key in {b"Tgid", b"Uid", b"Gid", b"NStgid", b"NSpid", b"NSpgid", b"NSsid"}:
            found[key] = tuple(int(number) for number in value.split())
    return found


def _is_kernels(flags: int, *, leader: bool) -> bool:
    """Return True for a kernel thread or a worker that the kernel runs inside a process.

    The two worker flags count for threads only: workers lead no group, and 0x4000 had another meaning before v5.17
    (PF_USED_ASYNC, of processes that had loaded a module).
    """
    return bool(flags & _PF_KTHREAD) or (not leader and bool(flags & (_PF_IO_WORKER | _PF_USER_WORKER)))


def _namespace(task: int, link: str) -> int | None:
    """Return the inode number of a namespace; None where the kernel or the reader's rights do not allow it.

    A link that exists but leads nowhere means that the namespace has no init yet. A missing link means that the kernel
    lacks it (pid_for_children came with v4.12).
    """
    try:
        return int(os.readlink(link, dir_fd=task).partition("[")[2].rstrip("]"))
    except FileNotFoundError:
        try:
            os.stat(link, dir_fd=task, follow_symlinks=False)
        except UNREADABLE:
            return None
        return NAMESPACE_WITHOUT_INIT
    except (PermissionError, ProcessLookupError):
        return None


def _mend(root: Path, processes: dict[int, list[ProcRow]]) -> None:
    """Read rows again whose parent is missing: it exited after they were read, or was born after the listing.

    The rounds are bounded, for in a fork storm there is always one more, and a parent that hidepid hides is never
    found.
    """
    for _ in range(_MENDING_ROUNDS):
        orphans = {
            tgid
            for group in processes.values()
            for row in group
            if row.ppid and row.ppid not in processes
            for tgid in (row.ppid, row.tgid)
        }
        if not orphans:
            return
        for tgid in orphans:
            if rows := _process(root, tgid):
                processes[tgid] = rows
            else:
                processes.pop(tgid, None)


def _parent_threads(root: Path, processes: dict[int, list[ProcRow]]) -> dict[tuple[int, int], int]:
    """Find the thread that is the parent, by its group and the child, in groups of several threads."""
    having_children = {row.ppid for group in processes.values() for row in group}
    return {
        (tgid, int(child)): row.tid
        for tgid in having_children & processes.keys()
        if len(processes[tgid]) > 1
        for row in processes[tgid]
        for child in _children(root, row)
    }


def _children(root: Path, row: ProcRow) -> list[bytes]:
    try:
        return (root / f"{row.tgid}/task/{row.tid}/children").read_bytes().split()
    except UNREADABLE:
        return []
