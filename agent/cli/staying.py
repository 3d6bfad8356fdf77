# SPDX-License-Identifier: Apache-2.0
"""The stay of a restart with its tree, until a signal or the end of the tree; or its leave."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

from agent.cli.terminal import say
from agent.errors import SIGNALLED, CkptreeError

if TYPE_CHECKING:
    from agent.cli.signals import Asked
    from agent.restart.rebuild.coordinator import Rebuild

_FORWARDED = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2),
    *(signal.SIGWINCH, signal.SIGALRM),
)

_ROOT_ENDS_S: Final = 1.0
"""Time that a root has to end by a signal before an advice is printed."""


def hold(rebuild: "Rebuild", asked: "Asked") -> int:
    """Wait until a signal comes, which raises Interrupted.

    Raises:
        CkptreeError: the root is gone before.
    """
    asked.check()
    status = rebuild.wait(asked.bell, asked.check)
    end = "" if status is None else f": wait status {status:#x}"
    raise CkptreeError(f"the root of the tree is gone, and the tree with it{end}")


def forward(rebuild: "Rebuild", release: Callable[[], None]) -> int:
    """Forward signals to the root until it ends, and return its exit code, or 128 plus the signal that ended it."""
    from threading import Timer

    from agent.cli.signals import handled

    asked = 0
    advice: list[Timer] = []

    def advise(text: str) -> None:
        """Print an advice if the root has not ended in a while."""
        advice.append(Timer(_ROOT_ENDS_S, say, [text]))
        advice[-1].daemon = True
        advice[-1].start()

    def pass_on(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked += number == signal.SIGTERM
        if number == signal.SIGINT and not advice:
            advise("the root has not ended by SIGINT: a second SIGTERM to this process kills the tree")
        if number == signal.SIGTERM and asked == 1 and rebuild.plan.pidns and not rebuild.plan.tasks[0]:
            advise(
                "SIGTERM goes to the root, an init, which ignores it unless it has a handler; a second kills the tree"
            )
        if number == signal.SIGTERM and asked > 1:
            rebuild.end()
        else:
            rebuild.signal(number)

    with handled(_FORWARDED, pass_on) as bell:
        release()
        try:
            status = rebuild.wait(bell)
        finally:
            for each in advice:
                each.cancel()
    if status is None:
        if asked > 1:
            return SIGNALLED + signal.SIGKILL
        raise CkptreeError("the tree is gone, and the wait status of its root is not known")
    return SIGNALLED + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def leave(rebuild: "Rebuild", pidfile: Path | None) -> None:
    """Leave the tree to its guard, whose pid goes to a file if one is named."""
    if pidfile is not None:
        from agent.restart.rebuild import pidfile as pidfiles

        pidfiles.write(pidfile, rebuild.guard)
    rebuild.detach(pidfile)
    say(f"the tree stays with its guard, {rebuild.guard}: SIGTERM to that ends it")
