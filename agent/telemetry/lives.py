# SPDX-License-Identifier: Apache-2.0
"""The knowledge of processes that their events give: each event of a process is then told with all of it.

Nothing is known of a process that has had no event: a subscription without a snapshot tells none of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agent.protocol.replies import Event, EventTask

MOST: Final = 1 << 17
"""Processes that are remembered; of more, those that had the fewest events of late are forgotten."""

Executable = Callable[[EventTask], str | None]
"""Returns the path of the program that a process runs; None where it cannot be known."""


@dataclass(slots=True)
class Life:
    """A process.

    Attributes:
        pid: in the subscriber's pid namespace.
        start_ns: CLOCK_BOOTTIME at birth; None where no event of its leader has come.
        parent: number of its parent; None where unknown.
        executable: path of its program; None where unknown.
        arguments: of its last exec, bytes each; None where they are not told.
        cut: True where `arguments` lacks the last ones.
        status: raw wait status of its leader; None while that runs.
    """

    pid: int
    start_ns: int | None = None
    parent: int | None = None
    executable: str | None = None
    arguments: tuple[bytes, ...] | None = None
    cut: bool = False
    status: int | None = None


class Lives:
    """The processes that events have told of, by their numbers.

    Args:
        executable: finds the program after an exec.
        most: processes to remember.
    """

    def __init__(self, executable: Executable = lambda _task: None, most: int = MOST) -> None:
        self._executable = executable
        self._most = most
        self._lives: dict[int, Life] = {}

    def get(self, pid: int | None) -> Life | None:
        """Return a process by its number; None where it is not known."""
        return self._lives.get(pid) if pid is not None else None

    def note(self, event: Event) -> Life | None:
        """Take an event in; return its process as of the event, None for an event of no task."""
        task = event.task
        if task is None:
            return None
        leads = task.pid == task.tid
        life = self._lives.pop(task.pid, None)
        if life is None or (
            leads and life.start_ns not in (None, task.start_ns)
        ):  # the number is another process's now
            life = Life(task.pid)
        told = event.details
        if leads:
            life.start_ns = task.start_ns
            if event.kind in ("birth", "reparent"):
                life.parent = told["parent"]
            if told.get("exit_code") is not None:
                life.status = told["exit_code"]
        if event.kind == "exec":
            life.executable = self._executable(task)
            words = told.get("arguments")
            life.arguments = None if words is None else tuple(words)
            life.cut = bool(told.get("arguments_cut"))
        if not (event.kind == "reap" and leads):
            self._lives[task.pid] = life  # at the end: the first ones are those without events for the longest time
            if len(self._lives) > self._most:
                del self._lives[next(iter(self._lives))]
        return life


def exit_code(status: int) -> int:
    """Return the number that shells have for a raw wait status: the exit status, or 128 and the signal's number."""
    number = status & 0x7F
    return 128 + number if number else status >> 8 & 0xFF
