# SPDX-License-Identifier: Apache-2.0
"""The live objects: pid namespaces, pid objects, tasks. Data only; what may happen to them is said in `rules`.

They mirror the kernel's: `Namespace` is ``struct pid_namespace``, `Pid` is ``struct pid``, `Task` is ``struct
task_struct``. What the kernel keeps once for a thread group, in ``signal_struct``, lives in the group's leader here, for
a leader's Task stays as long as its group does.

A host has as many of these as it has tasks, so they are small: slots, links between siblings instead of containers,
nothing that can be derived.
"""

from collections.abc import Iterator
from typing import Literal, Optional

# record_task.flags, bpf/events.h; tests/test_wire.py compares.
SUBREAPER = 1 << 0
UNDER_SUBREAPER = 1 << 1
EXITED = 1 << 2
RELEASED = 1 << 3
EXITING = 1 << 4
STOPPED = 1 << 5
KERNEL = 1 << 6
IO_WORKER = 1 << 7
AUTOREAP = 1 << 8
PTRACED = 1 << 9
MOVING = 1 << 11
MOVING_NOWHERE = 1 << 12
CREATED = 1 << 31  # ours alone: it has called clone(), so its exit belongs to a history

CLONE_VFORK = 0x00004000
CLONE_PARENT = 0x00008000
CLONE_THREAD = 0x00010000
CLONE_NEWPID = 0x20000000


class Namespace:
    """A pid namespace.

    Attributes:
        identity: unique within a boot.
        inum: inode number; the next namespace may get the same.
        level: 0 for the initial one.
        parent: the namespace above; None for the initial one.
        numbers: the pid objects by their number here. Empty: the namespace holds nothing and is dead to us.
        reaper: ``child_reaper``, the thread that adopts orphans; None where not known or past.
    """

    __slots__ = ("identity", "inum", "level", "numbers", "parent", "reaper")

    def __init__(self, identity: int, inum: int, parent: Optional["Namespace"]) -> None:
        self.identity = identity
        self.inum = inum
        self.parent = parent
        self.level: int = parent.level + 1 if parent else 0
        self.numbers: dict[int, Pid] = {}
        self.reaper: Task | None = None

    def ancestor(self, level: int) -> "Namespace":
        """The namespace at a level at or above this one."""
        namespace = self
        while namespace.level > level and namespace.parent is not None:
            namespace = namespace.parent
        return namespace


class Pid:
    """A pid object: one number at each level.

    Attributes:
        identity: unique within a boot.
        numbers: outermost first; ``numbers[i]`` is its number at level i.
        namespace: the innermost one.
        task: who has it as its own pid; None once that task is reaped.
        users: how many tasks use it as pid, plus how many groups use it as pgid, plus as sid. At 0 the numbers are free.
    """

    __slots__ = ("identity", "namespace", "numbers", "task", "users")

    def __init__(self, identity: int, numbers: tuple[int, ...], namespace: Namespace) -> None:
        self.identity = identity
        self.numbers = numbers
        self.namespace = namespace
        self.task: Task | None = None
        self.users = 0

    @property
    def level(self) -> int:
        """Depth of the innermost namespace."""
        return len(self.numbers) - 1

    def number_in(self, namespace: Namespace) -> int:
        """pid_nr_ns(): its number as that namespace counts, 0 where it has none."""
        if self.namespace is namespace:
            return self.numbers[-1]
        level = namespace.level
        if level < len(self.numbers) and self.namespace.ancestor(level) is namespace:
            return self.numbers[level]
        return 0


# What a task did that shapes its children's births: (what, order, value).
DeedName = Literal["setsid", "setpgid", "subreaper", "exit"]
Deed = tuple[DeedName, int, Pid | int | None]


Strings = tuple[bytes | None, bytes | None]


class Task:
    """A thread, leader or not, alive or dead; or an ancestor that is gone, kept by the births that run through it.

    Attributes:
        pid: its own pid object.
        leader: of its thread group; itself for a leader; NOBODY once it has been released, so that nothing but the births
            that run through it keeps it.
        start_ns: CLOCK_BOOTTIME at birth. With the number it is the task's identity; a thread that execs takes both
            from its leader.
        address: of the task_struct; 0 where not known. For asking the kernel, never for files.
        flags: the bits above.
        exit_code: raw wait status; meaningful with EXITED.
        exit_signal: signal to the parent at exit; -1 for a thread.
        ids: (uid, gid), shared between tasks.
        comm: as the kernel has it, NUL padded, shared between tasks.
        child_namespace: (identity, inum) of the namespace of its next child where that is not its own.
        first_child: of this very thread, as in the kernel; siblings are linked through next and previous.
        parent, pgid, sid, threads: of the group; only a leader's are set. parent is the *thread* that is real_parent;
            threads are the group's others, in order of birth, None when there are none.
        creator: who called clone(): a task, or an ancestor that is gone; None where not observed.
        birth_sid, birth_pgid: session and group it was born into; None where not observed.
        clone_flags: of its birth.
        order: number of its birth event; -1 where not observed.
        deeds: setsid, setpgid, subreaper and exit, the last of each kind, in order; None while there are none.
        strings: of the group's program, a leader's: what its last exec put into its memory, arguments and environment,
            each from `address` on as struct record_strings has it; None where no hook told.
    """

    __slots__ = (
        "address",
        "birth_pgid",
        "birth_sid",
        "child_namespace",
        "clone_flags",
        "comm",
        "creator",
        "deeds",
        "exit_code",
        "exit_signal",
        "first_child",
        "flags",
        "ids",
        "leader",
        "next",
        "order",
        "parent",
        "pgid",
        "pid",
        "previous",
        "sid",
        "start_ns",
        "strings",
        "threads",
    )

    def __init__(self, pid: Pid, start_ns: int, address: int, flags: int) -> None:
        self.pid = pid
        self.start_ns = start_ns
        self.address = address
        self.flags = flags
        self.leader = self
        self.exit_code = 0
        self.exit_signal = 17
        self.ids = (0, 0)
        self.comm = b""
        self.child_namespace: tuple[int, int] | None = None
        self.first_child: Task | None = None
        self.next: Task | None = None
        self.previous: Task | None = None
        self.parent: Task | None = None
        self.pgid: Pid | None = None
        self.sid: Pid | None = None
        self.threads: dict[Task, None] | None = None
        self.creator: Task | None = None
        self.birth_sid: Pid | None = None
        self.birth_pgid: Pid | None = None
        self.clone_flags = 0
        self.order = -1
        self.deeds: tuple[Deed, ...] | None = None
        self.strings: Strings | None = None

    def __repr__(self) -> str:
        return f"<Task {'/'.join(map(str, self.pid.numbers))} start={self.start_ns} flags={self.flags:#x}>"

    def group(self) -> Iterator["Task"]:
        """for_each_thread(): the leader, then the others in order of birth."""
        leader = self.leader
        yield leader
        if leader.threads:
            yield from leader.threads

    def children(self) -> Iterator["Task"]:
        """The leaders whose real_parent is this very thread, newest first; the list may change meanwhile."""
        child = self.first_child
        while child is not None:
            following = child.next
            yield child
            child = following


NOBODY = Task(Pid(0, (0,), Namespace(0, 0, None)), 0, 0, EXITED)
"""The leader of whoever is gone: no parent, no group, no children."""
