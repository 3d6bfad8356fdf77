# SPDX-License-Identifier: Apache-2.0
"""What is left of a tree when its guard was killed: without a namespace of its own nothing goes by itself.

Its processes are then orphans. They come to the nearest subreaper above them, so the coordinator is one: it finds them
among its children, and below those, and kills them.
"""

import ctypes
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from agent.details import UNREADABLE, stat_fields

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
    self = os.getpid()
    return {pid for pid, parent in _parents().items() if parent == self}


def kill_all_but(kept: set[int]) -> None:
    """Kill and wait for all that descend from this process, except for those children and what is below them."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        parents = _parents()
        doomed = {pid for pid, parent in parents.items() if parent == os.getpid() and pid not in kept}
        if not doomed:
            return
        below = doomed
        while below:
            below = {pid for pid, parent in parents.items() if parent in below}
            doomed |= below
        for pid in doomed:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in doomed:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.002)


def _parents() -> dict[int, int]:
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(*UNREADABLE):
                found[int(name)] = int(stat_fields(Path(f"/proc/{name}/stat").read_bytes())[1])
    return found
