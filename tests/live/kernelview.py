# SPDX-License-Identifier: Apache-2.0
"""What the kernel itself says of a process tree: /proc, and waitid() for what /proc does not tell.

/proc shows the parent as a process. Which *thread* of it is the parent, /proc tells only with CONFIG_PROC_CHILDREN;
here each living thread is asked instead, by a waitid() with __WNOTHREAD and WNOWAIT, whether the child is its own.
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
        exit_code: of the process, as /proc/PID/stat has it; meaningless for the living.
        exit_signal: -1 for a thread.
        start_ticks: hundredths of a second since boot.
        inum: of its pid namespace; None where it cannot be read any more.
        child_inum: of the namespace of its next child; None where there is none yet.
        threads: of its process, unreleased.
        terminal: major and minor of the controlling terminal; None where it has none.
        foreground: the group in its foreground; -1 where there is none.
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
    """The fields of /proc/PID/stat, numbered as proc(5) does; the name may hold spaces and brackets."""
    left, _, right = text.rpartition(b")")
    number, _, name = left.partition(b" (")
    return [b"", number, name, *right.split()]


def kernel_view(tree: "Tree") -> KernelView:
    """Every task below the keeper, by number, found by descending through /proc and not by what the script made."""
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
    """The threads of a process that are still there, as /proc has them."""
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
