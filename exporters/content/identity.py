# SPDX-License-Identifier: Apache-2.0
"""The facts that tell processes of one name apart: command line, user, age. A fact that is not known is empty text."""

import os
from collections.abc import Callable
from typing import Final

from agent.model import Snapshot, Task
from exporters.content.fields import escape
from exporters.content.wording import NS_PER_S, plain

UserName = Callable[[int], str | None]
"""A function that returns the name of a user id on the host that a snapshot is of; None: the name is not known."""

MOST_OF_A_COMMAND: Final = 2000
"""Characters of a command line that are shown at most."""

_COMM: Final = 15  # bytes of a program's name that the kernel keeps
_UNITS: Final = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def nameless(_uid: int) -> str | None:
    """Return None: the names of users are not known."""
    return None


def word(raw: bytes, longest: int = MOST_OF_A_COMMAND) -> str:
    """Return an argument as text, in quotes where blanks or nothing would hide its bounds.

    Args:
        raw: the argument.
        longest: bytes that are looked at, at least one more than can be shown.
    """
    text = plain(escape(raw[:longest]))
    return text if text and " " not in text else f"'{text}'"


def command(task: Task) -> str:
    """Return the text that follows a task's name: its arguments.

    The program's own path is left out where the task is called like it. Else the whole command line is in parentheses:
    a script is run by an interpreter, and a process can write a title over its arguments.
    """
    argv = task.argv
    if not argv:
        return ""
    called = os.path.basename(argv[0].removeprefix(b"-")) or argv[0]
    alike = task.comm is not None and called[:_COMM] == task.comm
    text, left = "", MOST_OF_A_COMMAND
    for argument in argv[1:] if alike else argv:
        if left <= 0:
            break
        text += f" {word(argument, left + 1)}"
        left = MOST_OF_A_COMMAND - len(text)
    return text[1:] if alike else f"({text[1:]})"


def user(task: Task, above: Task | None, names: UserName = nameless) -> str:
    """Return the real user of a task where it is not that of the task above; ids are of the initial user namespace."""
    if task.uid is None or (above is not None and above.uid == task.uid):
        return ""
    name = names(task.uid)
    return f"uid {task.uid}" if name is None else f"user {plain(name)}"


def age(snapshot: Snapshot, task: Task) -> str:
    """Return the time since a task's birth at the cut, rounded down: ``3h old``."""
    if snapshot.boottime_ns is None or task.start_ns is None or task.start_ns > snapshot.boottime_ns:
        return ""
    seconds = (snapshot.boottime_ns - task.start_ns) // NS_PER_S
    size, unit = next((each for each in _UNITS if seconds >= each[0]), _UNITS[-1])
    return f"{seconds // size}{unit} old"
