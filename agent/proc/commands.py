# SPDX-License-Identifier: Apache-2.0
"""The command lines of live processes, as /proc shows them: for a tree that is shown again and again.

They are read as ps(1) reads them: a process may have written a title over its arguments, and every user may read them.
The arguments that exec() had put there are another question (agent.proc.details). A process is read once, and again
after an exec, under another name, and when some time has passed.
"""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from agent.errors import HostError
from agent.model import PidObject, Snapshot, Task, TaskState
from agent.proc.host import boottime_offset_ns, start_ticks
from agent.proc.statfile import UNREADABLE, opened, read_at, stat_fields
from agent.record import replace

MOST_BYTES: Final = 4096
"""Bytes of a command line that are read at most."""

FRESH_S: Final = 10.0
"""The time after which a command line is read again."""

_STARTTIME: Final = 22 - 3  # in statfile.stat_fields()

Outer = Sequence[Sequence[int]]
"""For each pid object of a snapshot its numbers in the namespaces above the root's, from the caller's inward."""


def from_outside(snapshot: Snapshot, outer: Outer) -> Snapshot:
    """Return a snapshot for drawings: each pid object has the numbers of the namespaces above the root's, too.

    An ancestor is gone, and its numbers there with it: they are 0, which a drawing shows as unknown.
    """
    if not any(outer):
        return snapshot
    unknown = (0,) * max(map(len, outer))
    ancestors = [each._replace(numbers=(*unknown, *each.numbers)) for each in snapshot.ancestors]
    pids = [PidObject((*above, *pid.numbers), pid.namespaces) for above, pid in zip(outer, snapshot.pids, strict=True)]
    return replace(snapshot, pids=tuple(pids), ancestors=tuple(ancestors))


class Commands:
    """The reader of command lines.

    Args:
        proc: mount point of procfs.
        clock: gives a time that never goes back, s.
    """

    def __init__(self, proc: Path = Path("/proc"), clock: Callable[[], float] = time.monotonic) -> None:
        self._proc = proc
        self._clock = clock
        self._known: dict[tuple[int, int], tuple[bytes | None, float, tuple[bytes, ...] | None]] = {}
        self._shows_callers = _is_own(proc)
        try:
            self._offset_ns = boottime_offset_ns(proc)
        except HostError:
            self._shows_callers = False

    def added(self, taken: Iterable[tuple[Snapshot, Outer]]) -> list[Snapshot]:
        """Return snapshots of now as the caller counts, with the arguments that /proc shows, where it shows them.

        Args:
            taken: the snapshots. Where the numbers above the root's namespace are not told, as by an older daemon, the
                snapshot is returned as it is.
        """
        known, self._known = self._known, {}
        now = self._clock()
        found = []
        for snapshot, outer in taken:
            seen = from_outside(snapshot, outer)
            if outer and self._shows_callers:
                seen = replace(seen, tasks=tuple([self._with_argv(seen, task, known, now) for task in seen.tasks]))
            found.append(seen)
        return found

    def forget(self, pid: int) -> None:
        """Read a process again: it has called exec."""
        for key in [key for key in self._known if key[0] == pid]:
            del self._known[key]

    def _with_argv(
        self,
        snapshot: Snapshot,
        task: Task,
        known: dict[tuple[int, int], tuple[bytes | None, float, tuple[bytes, ...] | None]],
        now: float,
    ) -> Task:
        if task.pid != task.tgid or task.start_ns is None or task.state is TaskState.ZOMBIE:
            return task
        key = (snapshot.number(task.pid), task.start_ns)
        entry = known.get(key)
        if entry is None or entry[0] != task.comm or now - entry[1] > FRESH_S:
            entry = (task.comm, now, self._read(*key))
        self._known[key] = entry
        return task._replace(argv=entry[2])

    def _read(self, pid: int, start_ns: int) -> tuple[bytes, ...] | None:
        """Return the command line of the process that has this pid since `start_ns`; None where it cannot be read."""
        try:
            with opened(self._proc / str(pid)) as process:
                stat = read_at(process, "stat")
                if not stat or int(stat_fields(stat)[_STARTTIME]) != start_ticks(start_ns, self._offset_ns):
                    return None
                with open(os.open("cmdline", os.O_RDONLY, dir_fd=process), "rb", buffering=0) as file:
                    return words(file.read(MOST_BYTES))
        except UNREADABLE:
            return None


def words(shown: bytes) -> tuple[bytes, ...] | None:
    """Return the arguments in the content of a cmdline file; None where it is empty.

    The NULs and blanks at its end are often the remainder of arguments that a longer title was written over.
    """
    text = shown.rstrip(b"\0")
    return tuple((text if b"\0" in text else text.rstrip(b" ")).split(b"\0")) if text else None


def _is_own(proc: Path) -> bool:
    """Return True if a procfs is of this process's pid namespace."""
    try:
        return os.readlink(proc / "self") == str(os.getpid())
    except OSError:
        return False
