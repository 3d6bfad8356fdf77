# SPDX-License-Identifier: Apache-2.0
"""Facts of this host that are told with every event, and that no event has."""

import os
from pathlib import Path
from typing import Final

from agent.proc import host
from agent.proc.statfile import UNREADABLE, opened, read_at, stat_fields
from agent.protocol.replies import EventTask
from agent.record import NamedTuple

_STARTTIME: Final = 22 - 3  # proc(5) counts from 1, and the first field after the name is the third
_DELETED: Final = " (deleted)"


class ThisHost(NamedTuple):
    """Facts of a host.

    Attributes:
        name: of the host.
        kernel: its release.
        boot_id: the kernel's random id of this boot; empty where it is not shown.
        ahead_ns: CLOCK_REALTIME minus CLOCK_BOOTTIME, ns, as of one moment: a process keeps its start when the clock is
            set.
    """

    name: str
    kernel: str
    boot_id: str
    ahead_ns: int


def facts() -> ThisHost:
    """Ask this host."""
    told = os.uname()
    return ThisHost(told.nodename, told.release, host.boot_id(), host.realtime_ahead_ns())


class Executables:
    """The programs that processes run.

    Args:
        proc: mount point of procfs, of the subscriber's pid namespace.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._offset_ns = host.boottime_offset_ns(proc)

    def find(self, task: EventTask) -> str | None:
        """Return the path of a process's program; None where the process is gone, or may not be read.

        The name must be that of the event, before and after: the process may have run another program since.
        """
        try:
            with opened(self._proc / str(task.pid)) as process:
                if not self._is_as_told(process, task):
                    return None
                path = os.readlink("exe", dir_fd=process)
                return path.removesuffix(_DELETED) if self._is_as_told(process, task) else None
        except UNREADABLE:
            return None

    def _is_as_told(self, process: int, task: EventTask) -> bool:
        stat = read_at(process, "stat")
        if not stat:
            return False
        same = int(stat_fields(stat)[_STARTTIME]) == host.start_ticks(task.start_ns, self._offset_ns)
        return same and stat.partition(b"(")[2].rpartition(b")")[0] == task.comm
