# SPDX-License-Identifier: Apache-2.0
"""What is left of a tree when its guard was killed: without a namespace of its own nothing goes by itself.

Its processes are then orphans. They come to the nearest subreaper above them, so the coordinator is one: it finds them
among its children, and below those, and kills them. A number may be another's by then, so they are killed through
pidfds, each proven to be of the tree: kin.c and takedown.c, which do the same, say how.
"""

import ctypes
import os
import select
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from agent.proc.details import UNREADABLE, stat_fields

_PR_SET_CHILD_SUBREAPER: Final = 36
_PATIENCE: Final = 10.0


def adopt(*, wanted: bool) -> None:
    """From now on orphans from below this process are its children, or are not any more."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"prctl: {os.strerror(number)}")


def children() -> set[int]:
    """Of this process."""
    return set(_families().get(os.getpid(), ()))


def kill_all_but(kept: set[int]) -> None:
    """Kill and wait for all that descend from this process, except for those children and what is below them."""
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
    """Go down from this process and kill on the way up: a parent that is there proves that its children are."""
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
    """Kill a namespace's init, and wait until it has gone, and all of its namespace with it; False: it has not."""
    with suppress(ProcessLookupError, PermissionError):
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(_PATIENCE * 1000))


def opened(pid: int, parent: int, parent_fd: int = -1) -> int | None:
    """A pidfd of a process that is a child of that one; None: it is not, or there are no descriptors left."""
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
    """Children by parent."""
    found: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        parent = _parent(int(name)) if name.isdigit() else None
        if parent is not None:
            found.setdefault(parent, []).append(int(name))
    return found
