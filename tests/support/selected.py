# SPDX-License-Identifier: Apache-2.0
"""Selections of trees of a simulated kernel."""

from agent.selection import select
from agent.selection.select import Selection
from agent.table.objects import CLONE_NEWPID
from tests.support.kernelobjects import Thread
from tests.support.watched import Watched


def selected(pair: Watched, root: Thread, *, first_tag: int = 1, without_entered: bool = False) -> Selection:
    """Return the selection in mode `auto` below a root."""
    task = pair.task(root)
    mode = select.resolve_mode(task, "auto")
    return select.select(task, mode, first_tag=first_tag, without_entered=without_entered)


def ids(selection: Selection) -> list[tuple[int, ...]]:
    """Return (pid, ppid, tgid, pgid, sid) of each task."""
    return [(task.pid, task.ppid, task.tgid, task.pgid, task.sid) for task in selection.tasks]


def a_root(pair: Watched) -> Thread:
    """Return a process that leads a session of its own."""
    root = pair.kernel.fork(pair.kernel.init)
    pair.kernel.setsid(root)
    return root


def a_container(pair: Watched) -> Thread:
    """Return an init that leads a session of its own."""
    root = pair.kernel.fork(pair.kernel.init, CLONE_NEWPID)
    pair.kernel.setsid(root)
    return root


def watched_from_now(pair: Watched) -> Watched:
    """Return the same kernel with a table that has seen no birth."""
    late = Watched()
    pair.kernel.emit = late.feed
    late.kernel = pair.kernel
    late.stream.give_up_below(late.kernel.writer.seq)
    late.sweep()
    return late
