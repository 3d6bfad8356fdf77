# SPDX-License-Identifier: Apache-2.0
"""The objects of tests/support/kernelsim.py: namespaces, pid objects, thread groups, threads."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from agent.table.wire import PidState

SIGKILL, SIGCHLD, SIGCONT, SIGSTOP = 9, 17, 18, 19
UNHEEDED = (0, SIGCHLD, 23, 28)
"""Signals without an effect on a process that does not handle them, SIGURG and SIGWINCH among them."""

EXIT_SIGNALS = (*(SIGCHLD,) * 6, 0, 1, SIGKILL, 10, 15, SIGCONT, SIGSTOP, 28, 34, 64)
"""Exit signals of random processes."""


@dataclass(eq=False, slots=True)
class Space:
    """struct pid_namespace."""

    identity: int
    inum: int
    parent: "Space | None"
    last: int = 0
    init: "Thread | None" = None
    closed: bool = False  # its init has died: no task can be born here
    used: dict[int, "Number"] = field(default_factory=dict)

    def chain(self) -> "tuple[Space, ...]":
        """Return the namespaces from the initial one down to this one."""
        return (*self.parent.chain(), self) if self.parent else (self,)


@dataclass(eq=False, slots=True)
class Number:
    """struct pid."""

    identity: int
    numbers: tuple[int, ...]
    spaces: tuple[Space, ...]

    def seen_from(self, space: Space) -> int:
        """Return pid_nr_ns()."""
        return self.numbers[self.spaces.index(space)] if space in self.spaces else 0

    @property
    def state(self) -> PidState:
        """Return the pid object as a record describes it."""
        return PidState(self.numbers, tuple(s.inum for s in self.spaces), tuple(s.identity for s in self.spaces))


@dataclass(eq=False, slots=True)
class Group:
    """struct signal_struct, and the members of a leader's task_struct that stand for the whole group."""

    leader: "Thread"
    threads: "list[Thread]"  # not released, leader first
    parent: "Thread | None"
    pgid: Number
    sid: Number
    subreaper: bool = False
    under: bool = False
    ignores: bool = False  # SIGCHLD
    exit_signal: int = SIGCHLD
    parent_execs: int = 0  # of the parent at the birth of this group
    deaf: bool = False  # ignores all signals that can be ignored except SIGCHLD
    code: int | None = None  # group_exit_code, once SIGNAL_GROUP_EXIT is set

    def living(self) -> Iterator["Thread"]:
        """Return the threads that have not begun to exit."""
        return (thread for thread in self.threads if not thread.exiting)

    def sent_at_exit(self) -> int:
        """Return the exit signal; it is SIGCHLD if the parent has called exec() since the birth."""
        same = self.parent is not None and self.parent_execs == self.parent.execs
        return self.exit_signal if same else SIGCHLD

    def is_ignored(self) -> bool:
        """Return True if the parent is not told of an exit, and the group then reaps itself."""
        return self.sent_at_exit() == SIGCHLD and self.parent is not None and self.parent.group.ignores


@dataclass(eq=False, slots=True)
class Thread:
    """struct task_struct."""

    address: int
    start_ns: int
    pid: Number
    group: Group
    creator: int  # identity of the pid object of the caller of clone(); 0: none
    pending: Space | None = None
    exiting: bool = False  # PF_EXITING
    lingering: bool = False  # in zap_pid_ns_processes(), until its own is the only number in use in its namespace
    exited: bool = False  # exit_state
    traced: bool = False
    stopped: bool = False
    execs: int = 0  # self_exec_id
    code: int = 0
    ids: tuple[int, int] = (0, 0)  # real user and group id
    ties: int = 0  # bits of bpf/events.h

    @property
    def tid(self) -> int:
        """Return the number in the initial namespace."""
        return self.pid.numbers[0]

    @property
    def space(self) -> Space:
        """Return task_active_pid_ns()."""
        return self.pid.spaces[-1]

    @property
    def leads(self) -> bool:
        """Return thread_group_leader()."""
        return self.group.leader is self


def allocated(identity: int, space: Space, wanted: tuple[int, ...], pid_max: int) -> Number:
    """Return a pid object with a number at each level, which is in use from now on: the next one, or the wanted one.

    Args:
        identity: of the pid object.
        space: the innermost level.
        wanted: the numbers of the innermost levels, outermost first; 0 where any will do.
        pid_max: the last number before numbers start again from the lowest free one.
    """
    numbers = []
    for level, wish in zip(space.chain(), (*(0,) * (len(space.chain()) - len(wanted)), *wanted), strict=True):
        if wish:
            assert wish not in level.used, "EEXIST"
            assert level.init is not None or wish == 1, "EINVAL"
            numbers.append(wish)
            continue
        number = level.last + 1
        while number in level.used or number > pid_max:
            number = number + 1 if number < pid_max else 2
        level.last = number
        numbers.append(number)
    pid = Number(identity, tuple(numbers), space.chain())
    for level, number in zip(pid.spaces, numbers, strict=True):
        level.used[number] = pid
    return pid
