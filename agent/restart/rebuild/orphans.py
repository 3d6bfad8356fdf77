# SPDX-License-Identifier: Apache-2.0
"""The orphans of a tree whose guard was killed: without a pid namespace of their own they do not end by themselves.

Orphans become children of the nearest subreaper above them. So the coordinator is a subreaper: it finds the orphans
among its children and their descendants, and kills them. A pid may have a new owner by then, so the coordinator kills
through pidfds, each proven to be of the tree. kin.c and takedown.c do the same, and explain the proof.
"""

import os
import select
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from agent.proc.statfile import UNREADABLE, stat_fields

_PR_SET_CHILD_SUBREAPER: Final = 36
_PATIENCE: Final = 10.0  # seconds


def adopt(*, wanted: bool) -> None:
    """Make this process a subreaper, which adopts the orphans below it; or make it none."""
    import ctypes  # takes a millisecond, and no tree with a pid namespace of its own needs it

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"prctl: {os.strerror(number)}")


def children() -> set[int]:
    """Return the pids of this process's children."""
    return set(_families().get(os.getpid(), ()))


def threads(pid: int, levels: int) -> dict[tuple[int, ...], int]:
    """Return the tids of a process, by their numbers at its innermost levels."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text(errors="replace").splitlines():
            if line.startswith("NSpid:"):
                found[tuple(map(int, line.split()[1:][-levels:]))] = int(task.name)
    return found


def kill_all_but(kept: set[int]) -> None:
    """Kill all descendants of this process, and wait for them, for 10 seconds at most.

    Args:
        kept: children of this process that are left alone, with their descendants.
    """
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        families = _families()
        self = os.getpid()
        orphans = [pid for pid in families.get(self, ()) if pid not in kept]
        if not orphans:
            return
        families[self] = orphans.copy()
        _kill_below(self, families)
        for pid in orphans:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.002)


def _kill_below(top: int, families: dict[int, list[int]]) -> None:
    """Kill the descendants of a process, deepest first: a living parent proves that its children's pids are theirs."""
    path: list[tuple[int, int]] = [(top, -1)]
    while path:
        pid, fd = path[-1]
        below = families.get(pid)
        if below:
            child = below.pop()
            child_fd = opened(child, pid, fd)
            if child_fd is not None:
                path.append((child, child_fd))
            continue
        path.pop()
        if fd >= 0:
            with suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            os.close(fd)


def ended(fd: int) -> bool:
    """Kill a namespace's init, and wait until it and its namespace have ended; return False after 10 seconds."""
    with suppress(ProcessLookupError, PermissionError):
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(_PATIENCE * 1000))


def opened(pid: int, parent: int, parent_fd: int = -1) -> int | None:
    """Return a pidfd of a child of `parent`; None if `pid` is no child of it, or no descriptor is free."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return None
    if _parent(pid) == parent and _is_there(fd) and (parent_fd < 0 or _is_there(parent_fd)):
        return fd
    os.close(fd)
    return None


def _is_there(fd: int) -> bool:
    try:
        signal.pidfd_send_signal(fd, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _parent(pid: int) -> int | None:
    with suppress(*UNREADABLE):
        return int(stat_fields(Path(f"/proc/{pid}/stat").read_bytes())[1])
    return None


def _families() -> dict[int, list[int]]:
    """Return the children of each process that /proc shows, by the parent's pid."""
    found: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        parent = _parent(int(name)) if name.isdigit() else None
        if parent is not None:
            found.setdefault(parent, []).append(int(name))
    return found
