# SPDX-License-Identifier: Apache-2.0
"""The state of a task of treeprog.c in /proc, and its comparison with the oracle.

Effects of a call may come after its return: an exit runs on after kill() has returned, and other tasks stop or continue
a moment later.
"""

import time
from pathlib import Path

from tests.live.kernelview import parse_stat
from tests.live.mailbox import TIMEOUT_S, TreeError
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


def settle(changed: list[Task]) -> None:
    """Wait until /proc shows the predicted state of each of the tasks, and take it from the list.

    Raises:
        TreeError: a task does not get there in time; the list is empty then.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while changed:
        task = changed[-1]
        shown = shown_state(task)
        if is_as_expected(task, shown):
            changed.pop()
        elif time.monotonic() > deadline:
            changed.clear()
            raise TreeError(f"node {task.node} should be {task.life}, and /proc shows {shown} of it")
        else:
            time.sleep(0.00005)
