# SPDX-License-Identifier: Apache-2.0
"""The processes of a rebuilt tree beside its tasks, and their violent ends."""

import os
import signal
from contextlib import suppress
from pathlib import Path

from agent.restart.rebuild.coordinator import HELPER


def running(*programs: Path) -> set[int]:
    """Return the pids of all processes that run one of these programs; zombies are left out."""
    names = {os.fspath(path) for path in programs}
    found = set()
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and os.readlink(entry / "exe") in names:
                found.add(int(entry.name))
    return found


def left_over(others: set[int]) -> set[int]:
    """Return the pids of guards and tasks of this checkout, except for `others`; zombies are left out."""
    return running(HELPER) - others


def guards(coordinator: int) -> list[int]:
    """Its only child, where it has one."""
    return [int(pid) for pid in Path(f"/proc/{coordinator}/task/{coordinator}/children").read_text().split()]


def kill_session(coordinator: int) -> None:
    """All that is in it, one after the other, as pkill -s does."""
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            if os.getsid(int(entry.name)) == coordinator:
                os.kill(int(entry.name), signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.kill(coordinator, signal.SIGKILL)
