# SPDX-License-Identifier: Apache-2.0
"""What /proc shows of a task of treeprog.c, and whether that is what it is to be by now.

A call that returns has happened, but not all that it brings about: an exit runs on after kill() has returned, and
others stop or continue in their own time.
"""

from pathlib import Path

from tests.live.kernelview import parse_stat
from tests.live.tasks import Life, Task

_PF_EXITING = 4


def shown_state(task: Task) -> tuple[str, int] | None:
    """State letter and flags of a task; None where it is gone."""
    try:
        text = Path(f"/proc/{task.process.leader.pid.numbers[0]}/task/{task.pid.numbers[0]}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = parse_stat(text)
    if fields[2] != b"treeprog":
        return None  # the number is another's by now: forks come fast on a busy machine
    return fields[3].decode(), int(fields[9])


def is_as_expected(task: Task, shown: tuple[str, int] | None) -> bool:
    """Whether that is how a task looks which is what the oracle says."""
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
