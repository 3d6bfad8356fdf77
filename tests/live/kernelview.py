# SPDX-License-Identifier: Apache-2.0
"""The kernel's own view of a process tree: /proc, and waitid() for the parent threads.

/proc shows the parent as a process. It shows the parent *thread* only with CONFIG_PROC_CHILDREN. So each living thread
is asked whether the child is its own, by a waitid() with __WNOTHREAD and WNOWAIT.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.live.tasks import Life

if TYPE_CHECKING:
    from tests.live.treeprog import Tree

_PROC = Path("/proc")
_PF_EXITING = 4


class TaskView(NamedTuple):
    """One task as the kernel shows it; numbers are those of the initial namespace unless said otherwise.

    Attributes:
        tid, tgid, ppid: as in /proc/PID/task/TID/status.
        parent: the thread that is ``real_parent``.
        numbers: NSpid, outermost first.
        tgids, pgids, sids: NStgid, NSpgid, NSsid: on the same levels, 0 where unseen.
        state: the letter of /proc.
        exiting: PF_EXITING.
        exit_code: of the process, as in /proc/PID/stat; meaningless for a living one.
        exit_signal: -1 for a thread.
        start_ticks: hundredths of a second since boot.
        inum: inode of its pid namespace; None if it cannot be read any more.
        child_inum: inode of the namespace of its next child; None if that has no init yet.
        threads: the number of unreleased threads of its process.
        terminal: major and minor of the controlling terminal; None if it has none.
        foreground: the group in the terminal's foreground; -1 if there is none.
    """

    tid: int
    tgid: int
    ppid: int
    parent: int
    numbers: tuple[int, ...]
    tgids: tuple[int, ...]
    pgids: tuple[int, ...]
    sids: tuple[int, ...]
    state: str
    exiting: bool
    exit_code: int
    exit_signal: int
    start_ticks: int
    comm: bytes
    uid: int
    gid: int
    inum: int | None
    child_inum: int | None
    threads: int
    terminal: tuple[int, int] | None
    foreground: int


KernelView = dict[int, TaskView]


def parse_stat(text: bytes) -> list[bytes]:
    """Split /proc/PID/stat into fields, numbered as in proc(5); the name may hold spaces and brackets."""
    left, _, right = text.rpartition(b")")
    number, _, name = left.partition(b" (")
    return [b"", number, name, *right.split()]


def kernel_view(tree: "Tree") -> KernelView:
    """Return every task below the keeper, by number, found in /proc without the help of the script."""
    keeper = tree.number(-1)
    parents: dict[int, int] = {}
    for name in os.listdir(_PROC):
        if name.isdigit():
            stat = _read(_PROC / name / "stat")
            if stat is not None:
                parents[int(name)] = int(parse_stat(stat)[4])
    view: KernelView = {}
    for tgid in sorted(_below(parents, keeper)):
        for task in tasks_of(tgid):
            view[task.tid] = task
    return _with_parent_threads(tree, view)


def _below(parents: dict[int, int], top: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    todo = [top]
    while todo:
        fresh = children.get(todo.pop(), [])
        found.update(fresh)
        todo += fresh
    return found


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None


def tasks_of(tgid: int) -> Iterator[TaskView]:
    """Yield the unreleased threads of a process, as /proc shows them."""
    try:
        names = os.listdir(_PROC / str(tgid) / "task")
    except FileNotFoundError:
        return
    for name in names:
        folder = _PROC / str(tgid) / "task" / name
        stat, status = _read(folder / "stat"), _read(folder / "status")
        whole = _read(_PROC / str(tgid) / "stat") if int(name) == tgid else stat
        if stat is None or status is None or whole is None:
            continue
        field, lines = parse_stat(stat), _lines(status)
        yield TaskView(
            tid=int(name),
            tgid=int(lines[b"Tgid"][0]),
            ppid=int(lines[b"PPid"][0]),
            parent=int(lines[b"PPid"][0]),
            numbers=tuple(map(int, lines[b"NSpid"])),
            tgids=tuple(map(int, lines[b"NStgid"])),
            pgids=tuple(map(int, lines[b"NSpgid"])),
            sids=tuple(map(int, lines[b"NSsid"])),
            state=field[3].decode(),
            exiting=bool(int(field[9]) & _PF_EXITING),
            exit_code=int(parse_stat(whole)[52]),
            exit_signal=int(field[38]),
            start_ticks=int(field[22]),
            comm=field[2],
            uid=int(lines[b"Uid"][0]),
            gid=int(lines[b"Gid"][0]),
            inum=_inum(folder / "ns/pid"),
            child_inum=_inum(folder / "ns/pid_for_children"),
            threads=len(names),
            terminal=_device(int(field[7])),
            foreground=int(field[8]),
        )


def _lines(status: bytes) -> dict[bytes, list[bytes]]:
    pairs = (line.partition(b":") for line in status.splitlines())
    return {key: value.split() for key, _, value in pairs}


def _device(number: int) -> tuple[int, int] | None:
    return (os.major(number), os.minor(number)) if number else None


def _inum(link: Path) -> int | None:
    try:
        return int(str(link.readlink()).rpartition("[")[2][:-1])
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def _with_parent_threads(tree: "Tree", view: KernelView) -> KernelView:
    by_number = {task.pid.numbers[0]: task for task in tree.oracle.unreleased()}
    for task in [each for each in view.values() if each.tid in by_number and each.tid == each.tgid]:
        above = by_number.get(task.ppid)
        threads = [each for each in above.process.threads if each.life is not Life.DEAD] if above else []
        if len(threads) == 1:
            parent = threads[0].pid.numbers[0]
        else:
            asked = [each for each in threads if tree.can_act(each)]
            pid = by_number[task.tid].pid
            owners = [each for each in asked if tree.is_child_of_thread(each.node, pid)]
            predicted = by_number[task.tid].process.parent
            if owners:
                parent = owners[0].pid.numbers[0]
            elif predicted is not None and predicted in threads and predicted not in asked:
                parent = predicted.pid.numbers[0]  # stopped, or waiting for a vfork: it cannot be asked
            else:
                parent = task.ppid
        for tid, each in list(view.items()):
            if each.tgid == task.tgid:
                view[tid] = each._replace(parent=parent)
    return view
