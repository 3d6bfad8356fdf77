# SPDX-License-Identifier: Apache-2.0
"""The processes of a rebuilt tree beside its tasks, and their violent ends."""

import os
import signal
from contextlib import suppress
from pathlib import Path

from agent.restart.rebuild.coordinator import HELPER


def left_over(others: set[int]) -> set[int]:
    """Return the pids of guards and tasks of this checkout, except for `others`; zombies are left out."""
    found = set()
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and os.readlink(entry / "exe") == os.fspath(HELPER):
                found.add(int(entry.name))
    return found - others


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
