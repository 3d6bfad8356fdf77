# SPDX-License-Identifier: Apache-2.0
"""Random programs: calls of a simulated kernel, each by an existing thread, with an allowed target."""

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from agent.table.objects import CLONE_NEWPID, CLONE_PARENT
from agent.table.wire import Kind
from tests.support.kernelobjects import EXIT_SIGNALS, Thread
from tests.support.kernelsim import Kernel
from tests.support.watched import Watched, watched

# A step is the name of a call and two numbers that choose who makes it, and with whom.
Step = tuple[str, int, int]


def choose(options: list[Any], index: int) -> Any:
    """Return one of the options, or None if there are none."""
    return options[index % len(options)] if options else None


def room(kernel: Kernel) -> int:
    """Return the largest number of tasks; some numbers belong to tasks that are gone."""
    return kernel.pid_max * 2 // 3


def may_fork(kernel: Kernel, thread: Thread) -> bool:
    """Return True if the kernel has room, and the children's namespace has a living init or none yet."""
    return len(kernel.threads) < room(kernel) and not (thread.pending or thread.space).closed


def finish(kernel: Kernel) -> None:
    """Complete every exit that has begun."""
    for thread in list(kernel.threads):
        if thread in kernel.threads and thread.exiting and not thread.exited and not thread.lingering:
            kernel.exit_notify(thread)


def played(program: list[Step], **options: Any) -> Watched:
    """Return a kernel after a program, and a table that has watched it and asked its questions.

    Args:
        program: the calls.
        options: those of the kernel.
    """
    pair = watched(**options)
    for step in program:
        make(pair.kernel, step)
    finish(pair.kernel)
    pair.ask()
    return pair


def fork(kernel: Kernel, thread: Thread, other: int) -> None:
    """Fork: mostly plain, sometimes into a new namespace, sometimes with CLONE_PARENT."""
    flags = (0, 0, 0, CLONE_NEWPID, CLONE_PARENT)[other % 5]
    if flags == CLONE_NEWPID and thread.pending is not None:
        return  # EINVAL of copy_pid_ns(): one new namespace at a time
    init = thread.space.init
    may_be_parents = (init is None or init.group is not thread.group) and thread.group.parent is not None
    if may_fork(kernel, thread) and (flags != CLONE_PARENT or may_be_parents):
        depth = len((thread.pending or thread.space).chain())
        signal = EXIT_SIGNALS[other // 5 % len(EXIT_SIGNALS)]
        kernel.fork(thread, flags if depth < 4 or flags != CLONE_NEWPID else 0, exit_signal=signal)


def new_thread(kernel: Kernel, thread: Thread, _other: int) -> None:
    """Start a thread, unless unshare() or setns() has changed the namespace of the children."""
    if len(kernel.threads) < room(kernel) and thread.pending is None and not thread.space.closed:
        kernel.thread(thread)


def leave(kernel: Kernel, thread: Thread, other: int) -> None:
    """Run exit() of one thread, whole or only begun; the exit of an init is always whole."""
    if thread.group is kernel.init.group:
        return
    if other % 3 or thread.space.init is thread:
        kernel.exit(thread, other % 256 << 8)
    else:
        kernel.begin_exit(thread, other % 256 << 8)


def leave_all(kernel: Kernel, thread: Thread, other: int) -> None:
    """Run exit_group()."""
    if thread.group is not kernel.init.group:
        finish(kernel)
        if thread in kernel.threads and not thread.exiting:
            kernel.exit_group(thread, other % 256 << 8)


def wait(kernel: Kernel, thread: Thread, other: int) -> None:
    """Wait for a zombie of any thread of the group."""
    zombie = choose([z for z in kernel.zombies() if z.group.parent and z.group.parent.group is thread.group], other)
    if zombie is not None:
        kernel.wait(thread, zombie, nameless=other % 4 == 0)


def free(kernel: Kernel, _thread: Thread, other: int) -> None:
    """Free a released task; the order is random, some time after the release."""
    if kernel.corpses:
        kernel.free(other % len(kernel.corpses))


def setsid(kernel: Kernel, thread: Thread, other: int) -> None:
    """Run setsid(), unless the number is a group's; sometimes ask about the task before the record comes."""
    group = thread.group
    if not any(t.group.pgid is group.leader.pid for t in kernel.threads):
        kernel.setsid(thread, quiet=other % 3 == 0)
        if other % 3 == 0:
            kernel.answer(thread.address, thread.start_ns)
            kernel.announce(Kind.SESSION, thread)


def setpgid(kernel: Kernel, thread: Thread, other: int) -> None:
    """Run setpgid() for the process itself or a child, into a group of its session."""
    mine = [t.group for t in kernel.threads if t.leads and t.group.parent and t.group.parent.group is thread.group]
    target = choose([thread.group, *mine], other)
    if target.sid is not thread.group.sid or target.sid is target.leader.pid:
        return
    groups = [target.leader.pid] + [t.group.pgid for t in kernel.threads if t.group.sid is target.sid]
    pgid = choose([pid for pid in groups if pid.seen_from(thread.space)], other // 2)
    if pgid is not None:
        kernel.setpgid(thread, target, pgid, quiet=other % 3 == 0)
        if other % 3 == 0:
            kernel.answer(target.leader.address, target.leader.start_ns)
            kernel.announce(Kind.GROUP, target.leader)


def subreaper(kernel: Kernel, thread: Thread, other: int) -> None:
    """Set the flag of a subreaper, mostly on; not within an exit, whose record already has the adopter."""
    finish(kernel)
    if thread in kernel.threads and not thread.exiting:
        kernel.subreaper(thread, on=other % 4 != 0)


def execute(kernel: Kernel, thread: Thread, _other: int) -> None:
    """Run execve() by any thread."""
    finish(kernel)
    if thread in kernel.threads and not thread.exiting:
        kernel.exec(thread)


def unshare(kernel: Kernel, thread: Thread, other: int) -> None:
    """Run unshare(), so that the next child is an init, or setns() into a namespace below."""
    below = {t.space for t in kernel.threads if thread.space in t.pid.spaces}
    space = choose(sorted(below, key=lambda s: s.identity), other // 2)
    if other % 2 and space is not None:
        kernel.setns(thread, space)
    elif len(thread.space.chain()) < 4 and thread.pending is None:
        kernel.unshare(thread)


def ignore(kernel: Kernel, thread: Thread, other: int) -> None:
    """Ignore SIGCHLD, or not; not while a group ends, whose record already says if its parent will wait."""
    finish(kernel)
    if not any(t.exited and t.traced for t in kernel.threads):
        thread.group.ignores = other % 2 == 0


def trace(kernel: Kernel, thread: Thread, other: int) -> None:
    """Attach to a thread that the caller has a number for, or let go of it; that reaps a dead one."""
    target = choose([t for t in kernel.threads if not t.leads and t.pid.seen_from(thread.space)], other)
    if target is None:
        return
    if not target.exiting:
        target.traced = not target.traced
    elif target.exited:
        kernel.wait(thread, target)


def answer(kernel: Kernel, thread: Thread, other: int) -> None:
    """Answer a question about any task at any time, also in the middle of its exit; or about one that is gone."""
    target = choose(list(kernel.threads), other)
    kernel.answer(target.address, target.start_ns if other % 3 else 0)


CALLS: dict[str, Callable[[Kernel, Thread, int], None]] = {
    call.__name__: call
    for call in (
        *(
            fork,
            new_thread,
            leave,
            leave_all,
            wait,
            free,
            setsid,
            setpgid,
            subreaper,
            execute,
            unshare,
            ignore,
            trace,
            answer,
        ),
    )
}
NAMES = (*CALLS, *("fork",) * 8, *("new_thread",) * 3, *("leave",) * 4, *("wait",) * 3)
STEPS = st.tuples(st.sampled_from(NAMES), st.integers(0, 999), st.integers(0, 999))
PROGRAMS = st.lists(STEPS, max_size=15) | st.lists(STEPS, min_size=40, max_size=80)


def make(kernel: Kernel, step: Step) -> None:
    """Make one step of a program."""
    name, who, other = step
    callers = kernel.alive()
    CALLS[name](kernel, callers[who % len(callers)], other)
