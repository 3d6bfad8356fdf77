# SPDX-License-Identifier: Apache-2.0
"""The state of a task of treeprog.c in /proc, and its comparison with the oracle.

Effects of a call may come after its return: an exit runs on after kill() has returned, and other tasks stop or continue
a moment later.
"""

from pathlib import Path

from tests.live.kernelview import parse_stat
from tests.live.tasks import Life, Task

_PF_EXITING = 4


def shown_state(task: Task) -> tuple[str, int] | None:
    """Return state letter and flags of a task; None if it is gone."""
    try:
        text = Path(f"/proc/{task.process.leader.pid.numbers[0]}/task/{task.pid.numbers[0]}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = parse_stat(text)
    if fields[2] != b"treeprog":
        return None  # another task has the number by now: forks come fast on a busy machine
    return fields[3].decode(), int(fields[9])


def is_as_expected(task: Task, shown: tuple[str, int] | None) -> bool:
    """Return True if /proc shows a task in the state that the oracle predicts."""
    if task.life is Life.GONE:
        return shown is None or task.successor is not None
    if shown is None:
        return False
    state, flags = shown
    if task.life is Life.DEAD:
        return state == "Z"
    if task.life is Life.LINGERING:
        return bool(flags & _PF_EXITING) and state in "SDI"  # I: up to 6.1 or so it waits as idle tasks do
    return not flags & _PF_EXITING and (state == "T") == task.process.stopped
