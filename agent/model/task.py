# SPDX-License-Identifier: Apache-2.0
"""Tasks: the rows of the tree."""

from enum import StrEnum
from typing import NewType

from agent.model.birth import Birth
from agent.model.pids import Tag
from agent.model.process import FileOwner, ProcessDetails, Shares, Terminal
from agent.record import NamedTuple

WaitStatus = NewType("WaitStatus", int)
"""A raw status as wait4(2) gives it: the exit code in bits 8 to 15, or the signal in bits 0 to 6."""


class TaskState(StrEnum):
    """The state of a task at the cut.

    Stopped is a group, by signal->flags & SIGNAL_STOP_STOPPED: what its parent learns from wait4() with WUNTRACED. What
    a tracer does with one task of it changes neither flag nor state. A task in a ptrace stop (task->__state
    __TASK_TRACED) of a group that runs is running. A task that a tracer lets run (PTRACE_CONT after the group stop) in
    a stopped group is stopped: the flag stays, and __ptrace_unlink() in the kernel's kernel/ptrace.c has the task stop
    again (JOBCTL_STOP_PENDING) as soon as the tracer goes. No rebuilt tree has the tracer, so this is the state that it
    gets.
    """

    RUNNING = "running"
    STOPPED = "stopped"  # by a signal to its whole group; a stop by a tracer does not change the state
    ZOMBIE = "zombie"
    DEAD_LEADER = "dead-leader"  # a leader that has exited while threads of its group live on


class Task(NamedTuple):
    """One row of the tree: a thread, leader or not, dead or alive.

    Attributes:
        pid, ppid, tgid, pgid, sid: tags. ppid is the tag of the *thread* that is real_parent; 0 for the root. A thread
            has its group's parent.
        depth: level of its own pid namespace below the root's.
        start_ns: CLOCK_BOOTTIME at birth; None where the image does not say.
        state: see TaskState; None where the image does not say.
        exit_code: raw wait status of a task that has exited, else None.
        exit_signal: signal sent to the parent at exit (17 is SIGCHLD); -1 for a thread; None where unknown.
        comm: at most 15 bytes, not necessarily UTF-8.
        uid, gid: real ids in the initial user namespace.
        subreaper: PR_SET_CHILD_SUBREAPER is in force.
        child_namespace: id of the namespace its next child will be born into where that is not its own (unshare or
            setns pending); -1 for one that holds no task of the tree.
        argv, cwd, env: only where they were asked for.
        tty: of the process, with its leader; None where it has none, or it was not read (see Snapshot.as_of_read).
        fown: the owners of open files, by descriptor, once for each process and table of files: with the leader, or
            with the first thread that has a table of its own. None as in tty.
        details: of the process, with its leader, only where they were asked for.
        shares: see Shares; None where nothing is shared, or it was not read (see Snapshot.as_of_read).
        child_namespace_dead: True where the init of `child_namespace` is gone, and every fork fails; else None.
        birth: see Birth.
    """

    pid: Tag
    ppid: Tag
    tgid: Tag
    pgid: Tag
    sid: Tag
    depth: int
    start_ns: int | None = None
    state: TaskState | None = None
    exit_code: WaitStatus | None = None
    exit_signal: int | None = None
    comm: bytes | None = None
    uid: int | None = None
    gid: int | None = None
    subreaper: bool | None = None
    child_namespace: int | None = None
    argv: tuple[bytes, ...] | None = None
    cwd: bytes | None = None
    env: tuple[bytes, ...] | None = None
    tty: Terminal | None = None
    fown: tuple[FileOwner, ...] | None = None
    details: ProcessDetails | None = None
    shares: Shares | None = None
    child_namespace_dead: bool | None = None
    birth: Birth | None = None
