# SPDX-License-Identifier: Apache-2.0
"""The live objects: pid namespaces, pid objects, tasks. Data only; agent.table.rules changes them.

They mirror the kernel's: `PidNamespace` is ``struct pid_namespace``, `Pid` is ``struct pid``, `TaskStruct` is ``struct
task_struct``. The fields that the kernel keeps once for a thread group, in ``signal_struct``, stand in the leader's
object, which stays as long as its group does. A snapshot's tasks and namespaces are agent.model's.

A host has as many of them as it has tasks, so they are small: slots, links between siblings instead of containers, no
field that can be derived.
"""

from collections.abc import Iterator
from typing import Final, Literal, Optional

from agent.model import WaitStatus

# record_task.flags, bpf/events.h; tests/unit/table/test_wire.py compares.
SUBREAPER: Final = 1 << 0
UNDER_SUBREAPER: Final = 1 << 1
EXITED: Final = 1 << 2
RELEASED: Final = 1 << 3
EXITING: Final = 1 << 4
STOPPED: Final = 1 << 5
KERNEL: Final = 1 << 6
IO_WORKER: Final = 1 << 7
AUTOREAP: Final = 1 << 8
PTRACED: Final = 1 << 9
MOVING: Final = 1 << 11
MOVING_NOWHERE: Final = 1 << 12
CREATED: Final = 1 << 31  # no flag of the record: the task has called clone(), so a birth may refer to its exit

CLONE_VFORK: Final = 0x00004000
CLONE_PARENT: Final = 0x00008000
CLONE_THREAD: Final = 0x00010000
CLONE_NEWPID: Final = 0x20000000

NO_STATUS: Final = WaitStatus(0)


class PidNamespace:
    """A pid namespace.

    Attributes:
        identity: unique within a boot.
        inum: inode number; a later namespace may get the same.
        level: 0 for the initial one.
        parent: the namespace above; None for the initial one.
        numbers: the pid objects by their number here. Empty: the namespace is dead.
        reaper: ``child_reaper``, the thread that adopts orphans; None where it is not known, or gone.
    """

    __slots__ = ("identity", "inum", "level", "numbers", "parent", "reaper")

    def __init__(self, identity: int, inum: int, parent: Optional["PidNamespace"]) -> None:
        self.identity = identity
        self.inum = inum
        self.parent = parent
        self.level: int = parent.level + 1 if parent else 0
        self.numbers: dict[int, Pid] = {}
        self.reaper: TaskStruct | None = None

    def ancestor(self, level: int) -> "PidNamespace":
        """Return the namespace at a level at or above this one."""
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
        task: the task that has it as its own pid; None once that task is reaped.
        users: count of the tasks that use it as pid, of the groups that use it as pgid, and of those that use it as
            sid. At 0 the numbers are free.
    """

    __slots__ = ("identity", "namespace", "numbers", "task", "users")

    def __init__(self, identity: int, numbers: tuple[int, ...], namespace: PidNamespace) -> None:
        self.identity = identity
        self.numbers = numbers
        self.namespace = namespace
        self.task: TaskStruct | None = None
        self.users = 0

    @property
    def level(self) -> int:
        """Depth of the innermost namespace."""
        return len(self.numbers) - 1

    def number_in(self, namespace: PidNamespace) -> int:
        """Return its number in a namespace, 0 where it has none there, as pid_nr_ns() does."""
        if self.namespace is namespace:
            return self.numbers[-1]
        level = namespace.level
        if level < len(self.numbers) and self.namespace.ancestor(level) is namespace:
            return self.numbers[level]
        return 0


# A system call of a task that shapes its children's births: (name, number of the record, value).
DeedName = Literal["setsid", "setpgid", "subreaper", "exit"]
Deed = tuple[DeedName, int, Pid | int | None]


Strings = tuple[bytes | None, bytes | None]


class TaskStruct:
    """A thread, leader or not, alive or dead; or an ancestor that is gone, kept by the births that run through it.

    Attributes:
        pid: its own pid object.
        leader: of its thread group; itself for a leader; NOBODY once it has been released, so that only the births that
            run through it keep it in memory.
        start_ns: CLOCK_BOOTTIME at birth. With the number it is the task's identity; a thread that execs takes both
            from its leader.
        address: of the task_struct; 0 where not known. It serves questions to the kernel and is never written to a
            file.
        flags: bits of SUBREAPER and its neighbours.
        exit_code: raw wait status; meaningful with EXITED.
        exit_signal: signal to the parent at exit; -1 for a thread.
        ids: (uid, gid), shared between tasks.
        comm: as the kernel has it, NUL padded, shared between tasks.
        child_namespace: (identity, inum) of the namespace of its next child where that is not its own.
        first_child: of this thread, not of its group, as in the kernel; siblings are linked through next and previous.
        parent, pgid, sid, threads: of the group; only a leader's are set. parent is the *thread* that is real_parent;
            threads are the group's other threads, in order of birth, None when there are none.
        creator: the thread that called clone(): a task, or an ancestor that is gone; None where not observed.
        birth_sid, birth_pgid: session and group at birth; None where not observed.
        clone_flags: of its birth.
        order: number of its birth record; -1 where not observed.
        deeds: setsid, setpgid, subreaper and exit, the last of each kind, in order; None while there are none.
        strings: of a leader: the arguments and the environment that the last exec put into the group's memory, each
            from `address` on as struct record_strings has it; None where no hook told.
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
        self.exit_code = NO_STATUS
        self.exit_signal = 17
        self.ids = (0, 0)
        self.comm = b""
        self.child_namespace: tuple[int, int] | None = None
        self.first_child: TaskStruct | None = None
        self.next: TaskStruct | None = None
        self.previous: TaskStruct | None = None
        self.parent: TaskStruct | None = None
        self.pgid: Pid | None = None
        self.sid: Pid | None = None
        self.threads: dict[TaskStruct, None] | None = None
        self.creator: TaskStruct | None = None
        self.birth_sid: Pid | None = None
        self.birth_pgid: Pid | None = None
        self.clone_flags = 0
        self.order = -1
        self.deeds: tuple[Deed, ...] | None = None
        self.strings: Strings | None = None

    def __repr__(self) -> str:
        return f"<Task {'/'.join(map(str, self.pid.numbers))} start={self.start_ns} flags={self.flags:#x}>"

    def group(self) -> Iterator["TaskStruct"]:
        """Yield the leader, then the group's other threads in order of birth, as for_each_thread() does."""
        leader = self.leader
        yield leader
        if leader.threads:
            yield from leader.threads

    def children(self) -> Iterator["TaskStruct"]:
        """Yield the leaders whose real_parent is this thread, newest first; the list may change meanwhile."""
        child = self.first_child
        while child is not None:
            following = child.next
            yield child
            child = following


NOBODY: Final = TaskStruct(Pid(0, (0,), PidNamespace(0, 0, None)), 0, 0, EXITED)
"""The leader of every task that is gone: no parent, no group, no children."""
