# SPDX-License-Identifier: Apache-2.0
"""The objects of an oracle: tasks, processes, pid objects, namespaces, births."""

from dataclasses import dataclass, field
from enum import StrEnum
from signal import SIGCHLD
from typing import Literal

THREAD = "CLONE_THREAD"
PARENT = "CLONE_PARENT"
NEWPID = "CLONE_NEWPID"
VFORK = "CLONE_VFORK"
CLONE_BITS = {
    NEWPID: 0x20000000,
    PARENT: 0x8000,
    VFORK: 0x4000 | 0x100,  # with CLONE_VM
    THREAD: 0x10000 | 0x800 | 0x400 | 0x200 | 0x100 | 0x40000,  # with SIGHAND, FILES, FS, VM and SYSVSEM
}

EventKind = Literal["setsid", "setpgid", "subreaper", "exit"]


class Life(StrEnum):
    """The stages of a task's life."""

    ALIVE = "alive"
    LINGERING = "lingering"  # the init of a dying namespace, waiting inside its own exit
    DEAD = "dead"  # exited, not released: a zombie, or a leader whose threads live on
    GONE = "gone"


@dataclass(eq=False, slots=True)
class Namespace:
    """A pid namespace.

    Attributes:
        parent: the one above; None for the initial one.
        level: 0 for the initial one.
        reaper: the task orphans go to; None before the first birth in it.
        inum: as /proc shows it, once it has had a task.
    """

    parent: "Namespace | None"
    level: int
    reaper: "Task | None" = None
    inum: int | None = None

    def path(self) -> "tuple[Namespace, ...]":
        """Return this namespace and all above it, outermost first."""
        return (*self.parent.path(), self) if self.parent else (self,)


@dataclass(eq=False, slots=True)
class Pid:
    """A ``struct pid``: one number for each namespace that sees it, the initial one first."""

    numbers: tuple[int, ...]
    namespaces: tuple[Namespace, ...]

    @property
    def namespace(self) -> Namespace:
        """The innermost namespace."""
        return self.namespaces[-1]

    def number_in(self, namespace: Namespace) -> int:
        """Return the number in a namespace; 0 if there is none (``pid_nr_ns``)."""
        return self.numbers[self.namespaces.index(namespace)] if namespace in self.namespaces else 0


@dataclass(frozen=True, eq=False, slots=True)
class Birth:
    """The birth of a task; `pid` and `creator_pid` are the pid objects of that moment."""

    creator: "Task | None"
    creator_pid: Pid | None
    pid: Pid
    sid: Pid
    pgid: Pid
    flags: tuple[str, ...]
    order: int


@dataclass(frozen=True, eq=False, slots=True)
class Deed:
    """A call of a task that may shape later births. `value` is a pid object, or 1 or 0 for a subreaper."""

    kind: EventKind
    order: int
    value: Pid | int | None


@dataclass(eq=False, slots=True)
class Task:
    """A task, by the node it serves.

    Attributes:
        birth: the birth of the task that /proc shows: after an exec by a thread, the birth of the replaced leader.
        former: birth and deeds of the thread before such an exec.
        exit_code: of this thread alone, as a wait status.
        blocked_by: the vfork child that it waits for.
        successor: the thread that took over this leader's pid object by exec.
        child_namespace: the pid namespace of its next child; a property of the thread.
    """

    node: int
    pid: Pid
    process: "Process"
    birth: Birth
    child_namespace: Namespace
    life: Life = Life.ALIVE
    exit_code: int | None = None
    execs: int = 0
    blocked_by: "Task | None" = None
    vfork_parent: "Task | None" = None
    successor: "Task | None" = None
    deeds: list[Deed] = field(default_factory=list)
    former: tuple[Birth, list[Deed]] | None = None

    def as_known_by(self, pid: Pid) -> tuple[Birth, list[Deed]]:
        """Return birth and deeds of the task while its pid object was `pid`."""
        return self.former if self.former and self.former[0].pid is pid else (self.birth, self.deeds)

    @property
    def is_leader(self) -> bool:
        """True for the leader of a thread group."""
        return self.process.leader is self


@dataclass(eq=False, slots=True)
class Process:
    """A thread group. `threads` are the unreleased ones in order of creation; `parent` is the thread
    ``real_parent``."""

    leader: Task = field(init=False)
    parent: Task | None
    sid: Pid
    pgid: Pid
    threads: list[Task] = field(default_factory=list)
    leads_session: bool = False
    subreaper: bool = False
    ignores_sigchld: bool = False
    stopped: bool = False
    unkillable: bool = False
    exit_signal: int = int(SIGCHLD)
    parent_execs: int = 0  # exec calls of its parent when it was born
    ignored: set[int] = field(default_factory=set)  # signals, besides SIGCHLD and SIGHUP
    pending: list[int] = field(default_factory=list)  # deadly signals that came while it was stopped
    status: int | None = None

    def alive(self) -> Task | None:
        """Return the first thread that has not begun to exit (``find_alive_thread``); None if there is none."""
        return next((task for task in self.threads if task.life is Life.ALIVE), None)

    @property
    def is_zombie(self) -> bool:
        """True for a process whose threads have all exited, and that is not reaped."""
        return len(self.threads) == 1 and self.threads[0].life is Life.DEAD
