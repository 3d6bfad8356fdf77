# SPDX-License-Identifier: Apache-2.0
"""A forecast of what CRIU does with a tree: which tasks its dump or restore refuses, hangs at, or gets wrong.

The rules are those of CRIU 4.2, which are as old as 3.17 where nothing else is said; they were read from criu/pstree.c,
criu/cr-restore.c and criu/seize.c, and tried with 4.1.1 and 4.2.1. agent.restart.planning.criumodel restores the tree
on a model of CRIU. The rules here are about single tasks: facts that CRIU does not dump, or cannot make again.

`nested-namespace`      refused  dump of a pid namespace below the root's (generate_ns_id)
`zombie-with-threads`   refused  dump of an exited leader or thread in a group of several (collect_threads)
`session-from-outside`  refused  dump of a session that has no number in the root's namespace (dump_one_task)
`no-session-leader`     refused  a session whose leader is no ancestor, and no child of the root needs it alone
`two-birth-sessions`    refused  a task with children of two foreign sessions: it would be born in both
`birth-session`         refused  a task that would be born in another session than its own, and does not lead it
`group-in-session`      refused  a group whose owner comes into another session
`owner-left-group`      hangs    a group whose owner is in another group: its members wait for the owner to make it. The
                                 flag shares memory with a pointer, so by chance of addresses it fails with EPERM instead
`orphan-outside`        wrong    an orphan that the root had adopted as a subreaper. CRIU makes it a child of a helper,
                                 and sets the flag of the root after the helper has exited; so it leaves the tree
`zombie-outside`        hangs    a zombie that the root had adopted so: the root waits for it, and it has left the tree
`zombie-below-zombie`   hangs    a zombie in the session of a zombie that is no ancestor: the root waits for it, and may not
                                 notice that its helper has exited, by chance of which task exits first
`exit-status`           wrong    a zombie whose status is above 127: CRIU keeps seven bits of it
`exit-by-signal`        wrong    a zombie that a signal ended which CRIU does not send: it gets SIGABRT
`exit-signal`           wrong    a process that was born with another exit signal than SIGCHLD
`parent-thread`         wrong    a child of a thread that does not lead: it becomes a child of the leader
`pending-namespace`     wrong    a task that has unshared its pid namespace for its next child: it has not, once restored
`inherited-group`       wrong    a job whose root does not lead its group: all in it get the group of the criu that restores
"""

from collections.abc import Iterator
from typing import Final

from agent.model import OUTSIDE, Snapshot, Tag, Task, TaskState
from agent.model.signalnames import signal_in_words
from agent.restart.planning.criumodel import Forecast, restore
from agent.table.rules import SIGCHLD

VERSION: Final = "4.2"
"""The version of CRIU whose rules these are."""

_LAST_SIGNAL: Final = 64
_NOT_SENT: Final = (17, 18, 19, 20, 21, 22, 23, 28, _LAST_SIGNAL)  # of 1 to 64; SIG_FATAL_MASK of criu/cr-restore.c
_SIGNAL_BITS: Final = 0x7F
_KEPT_BITS: Final = 0x7F


def forecast(snapshot: Snapshot) -> list[Forecast]:
    """Return what CRIU would refuse, hang at or get wrong; empty for a tree that it restores.

    A dump that is refused is never restored, so it is told alone. The root may be a job of a shell: CRIU is taken to be
    called with --shell-job then.
    """
    found = list(_at_dump(snapshot))
    return found or [*restore(snapshot), *_lost(snapshot)]


def _at_dump(snapshot: Snapshot) -> Iterator[Forecast]:
    groups: dict[Tag, list[Task]] = {}
    for task in snapshot.tasks:
        groups.setdefault(task.tgid, []).append(task)
    for task in snapshot.tasks:
        pid = snapshot.number(task.pid)
        if task.depth:
            text = "is in a pid namespace below the root's, which CRIU does not dump"
            yield Forecast(task.pid, pid, "namespace", pid, "nested-namespace", text, "refused")
        elif len(groups[task.tgid]) > 1 and task.state in (TaskState.ZOMBIE, TaskState.DEAD_LEADER):
            text = "has exited while other threads of its process live, which CRIU does not dump"
            yield Forecast(task.pid, pid, "thread", pid, "zombie-with-threads", text, "refused")
        elif task.sid == OUTSIDE and task.pid == task.tgid:
            text = (
                "its session is from outside the root's namespace, which CRIU does not dump; start the root with setsid"
            )
            yield Forecast(task.pid, pid, "session", 0, "session-from-outside", text, "refused")


def _lost(snapshot: Snapshot) -> Iterator[Forecast]:
    """Yield what CRIU's images do not hold, or its restore makes otherwise."""
    tasks = {task.pid: task for task in snapshot.tasks}
    for task in snapshot.tasks:
        if task.pid != task.tgid:
            continue
        pid = snapshot.number(task.pid)
        if task.state is TaskState.ZOMBIE and task.exit_code is not None:
            yield from _status(task, pid, task.exit_code)
        if task.child_namespace is not None:
            text = "its next child is to be born into another pid namespace; once CRIU has restored it, into its own"
            yield Forecast(task.pid, pid, "namespace", pid, "pending-namespace", text, "wrong")
        if task.exit_signal not in (None, SIGCHLD):
            text = f"its end sends its parent {signal_in_words(task.exit_signal)}; CRIU gives it SIGCHLD"
            yield Forecast(task.pid, pid, "process", pid, "exit-signal", text, "wrong")
        above = tasks.get(task.ppid)
        if above is not None and above.pid != above.tgid:
            text = (
                f"its parent is the thread {snapshot.number(above.pid)}; CRIU makes it a child of the process's leader"
            )
            yield Forecast(task.pid, pid, "thread", snapshot.number(above.pid), "parent-thread", text, "wrong")


def _status(task: Task, pid: int, code: int) -> Iterator[Forecast]:
    signal = code & _SIGNAL_BITS
    if signal in _NOT_SENT:
        text = f"{signal_in_words(signal)} has ended it; CRIU ends it by SIGABRT"
        yield Forecast(task.pid, pid, "zombie", pid, "exit-by-signal", text, "wrong")
    status = code >> 8
    if not signal and status & ~_KEPT_BITS:
        text = f"it has exited {status}; CRIU has it exit {status & _KEPT_BITS}"
        yield Forecast(task.pid, pid, "zombie", pid, "exit-status", text, "wrong")
