# SPDX-License-Identifier: Apache-2.0
"""The kernel's answers about many tasks at once; for a large tree two processes ask, each about half of the tasks.

To read /proc, and to compare it, is nearly all of a verification's time, of which each processor has its own.
"""

import marshal
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from agent.restart.rebuild import taskanswers

LEAST: Final = 500
"""The number of tasks from which on a second process asks: to make it takes as long as to ask about a hundred."""
_FIRST_FIELD: Final = b"\nState:"

Question = tuple[int, bool]
"""A pid, and True if the task's exit signal is wanted, too."""
Answer = tuple[bytes | None, int]
"""The status of a task, or what is kept of it, None if there is none; and its exit signal, or 0."""
Kept = Callable[[int, bytes], bytes]
"""Return what is to be kept of the status in the answer to a question, which is given by its place."""


def needed(_place: int, status: bytes) -> bytes:
    """Keep the part of a status from its state to its session."""
    end = status.find(b"\n", status.find(taskanswers.LAST_FIELD) + len(taskanswers.LAST_FIELD))
    return status[max(0, status.find(_FIRST_FIELD)) : end + 1 or None]


def answers(
    questions: Sequence[Question],
    kept: Kept = needed,
    last: bytes = taskanswers.LAST_FIELD,
    *,
    small: bool = True,
) -> list[Answer]:
    """Return the answer to each question, in their order.

    Args:
        questions: about the tasks.
        kept: called by the process that has asked, for each task that is there.
        last: the beginning of the last line of a status that is needed.
        small: False: this process has so much memory that a child of it takes longer than it spares.
    """
    every = range(len(questions))
    ask = partial(_asked, questions, kept=kept, last=last)
    if not small or len(questions) < LEAST or len(os.sched_getaffinity(0)) < 2 or _has_threads():
        return ask(every)
    return _asked_twice(ask, every)


def _asked(questions: Sequence[Question], places: range, kept: Kept, last: bytes) -> list[Answer]:
    found: list[Answer] = []
    for place in places:
        pid, wants_signal = questions[place]
        status = taskanswers.read(f"{taskanswers.PROC}/{pid}/status", last)
        exit_signal = taskanswers.exit_signal(pid) if wants_signal else 0
        found.append((None if status is None else kept(place, status), exit_signal))
    return found


def _asked_twice(ask: Callable[[range], list[Answer]], places: range) -> list[Answer]:
    """Ask one half in this process, and the other one in a child; in this one, too, if the child fails."""
    middle = len(places) // 2
    here, aside = places[:middle], places[middle:]
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    held = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        child = os.fork()
    except OSError:  # the limit of processes
        child = -1
    if not child:
        _tell(theirs, ask, aside)
    os.close(theirs)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        found = ask(here)
        with open(ours, "rb", closefd=False) as told:
            data = told.read()
    finally:
        os.close(ours)
        if child > 0:
            with suppress(ChildProcessError):  # the caller of restart ignores SIGCHLD
                os.waitpid(child, 0)
    try:
        told_aside: list[Answer] = marshal.loads(data)  # noqa: S302 - the child is this program
    except (EOFError, ValueError, TypeError):
        told_aside = ask(aside)
    return found + told_aside


def _tell(out: int, ask: Callable[[range], list[Answer]], places: range) -> None:
    """Write the answers, and end the process, whatever happens."""
    try:
        data = marshal.dumps(ask(places))
        with open(out, "wb") as told:
            told.write(data)
    finally:
        os._exit(0)


def _has_threads() -> bool:
    """Return True if this process has more threads than one: a child of it would have locks that nobody opens."""
    threading = sys.modules.get("threading")
    return threading is not None and threading.active_count() > 1
