# SPDX-License-Identifier: Apache-2.0
"""Random programs: calls of a simulated kernel, each made by whoever is there, with whomever it can be made."""

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from agent.table.objects import CLONE_NEWPID, CLONE_PARENT
from agent.table.wire import Kind
from tests.support.kernelobjects import EXIT_SIGNALS, Thread
from tests.support.kernelsim import Kernel

# A step is the name of a call and two numbers that choose who makes it, and with whom.
Step = tuple[str, int, int]


def choose(options: list[Any], index: int) -> Any:
    """One of them, or None if there are none."""
    return options[index % len(options)] if options else None


def room(kernel: Kernel) -> int:
    """How many tasks there may be; some numbers are of those that are gone."""
    return kernel.pid_max * 2 // 3


def may_fork(kernel: Kernel, thread: Thread) -> bool:
    """Its children's namespace has an init that lives, or none yet, and there is room."""
    return len(kernel.threads) < room(kernel) and not (thread.pending or thread.space).closed


def finish(kernel: Kernel) -> None:
    """Let every exit that has begun be completed."""
    for thread in list(kernel.threads):
        if thread in kernel.threads and thread.exiting and not thread.exited and not thread.lingering:
            kernel.exit_notify(thread)


def fork(kernel: Kernel, thread: Thread, other: int) -> None:
    """Mostly plain; sometimes into a new namespace, sometimes for the parent."""
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
    """Not while its children belong elsewhere."""
    if len(kernel.threads) < room(kernel) and thread.pending is None and not thread.space.closed:
        kernel.thread(thread)


def leave(kernel: Kernel, thread: Thread, other: int) -> None:
    """exit() of one thread, at once or with a pause before its end; a namespace does not die by halves."""
    if thread.group is kernel.init.group:
        return
    if other % 3 or thread.space.init is thread:
        kernel.exit(thread, other % 256 << 8)
    else:
        kernel.begin_exit(thread, other % 256 << 8)


def leave_all(kernel: Kernel, thread: Thread, other: int) -> None:
    """exit_group()."""
    if thread.group is not kernel.init.group:
        finish(kernel)
        if thread in kernel.threads and not thread.exiting:
            kernel.exit_group(thread, other % 256 << 8)


def wait(kernel: Kernel, thread: Thread, other: int) -> None:
    """For a zombie of any thread of the group."""
    zombie = choose([z for z in kernel.zombies() if z.group.parent and z.group.parent.group is thread.group], other)
    if zombie is not None:
        kernel.wait(thread, zombie, nameless=other % 4 == 0)


def free(kernel: Kernel, _thread: Thread, other: int) -> None:
    """In any order, some time later."""
    if kernel.corpses:
        kernel.free(other % len(kernel.corpses))


def setsid(kernel: Kernel, thread: Thread, other: int) -> None:
    """Unless its number is a group's; asked about at times before the record comes."""
    group = thread.group
    if not any(t.group.pgid is group.leader.pid for t in kernel.threads):
        kernel.setsid(thread, quiet=other % 3 == 0)
        if other % 3 == 0:
            kernel.answer(thread.address, thread.start_ns)
            kernel.announce(Kind.SESSION, thread)


def setpgid(kernel: Kernel, thread: Thread, other: int) -> None:
    """Itself or a child, into a group of its session."""
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
    """On, mostly; not within an exit, whose record has told already who would adopt."""
    finish(kernel)
    if thread in kernel.threads and not thread.exiting:
        kernel.subreaper(thread, on=other % 4 != 0)


def execute(kernel: Kernel, thread: Thread, _other: int) -> None:
    """By any thread."""
    finish(kernel)
    if thread in kernel.threads and not thread.exiting:
        kernel.exec(thread)


def unshare(kernel: Kernel, thread: Thread, other: int) -> None:
    """The next child is to be an init; or setns() into a namespace there is below."""
    below = {t.space for t in kernel.threads if thread.space in t.pid.spaces}
    space = choose(sorted(below, key=lambda s: s.identity), other // 2)
    if other % 2 and space is not None:
        kernel.setns(thread, space)
    elif len(thread.space.chain()) < 4 and thread.pending is None:
        kernel.unshare(thread)


def ignore(kernel: Kernel, thread: Thread, other: int) -> None:
    """SIGCHLD; not while a group is at its end, whose record has told already whether somebody will wait."""
    finish(kernel)
    if not any(t.exited and t.traced for t in kernel.threads):
        thread.group.ignores = other % 2 == 0


def trace(kernel: Kernel, thread: Thread, other: int) -> None:
    """Attach to, or let go of, a thread that the caller has a number for; a dead one is reaped by that."""
    target = choose([t for t in kernel.threads if not t.leads and t.pid.seen_from(thread.space)], other)
    if target is None:
        return
    if not target.exiting:
        target.traced = not target.traced
    elif target.exited:
        kernel.wait(thread, target)


def answer(kernel: Kernel, thread: Thread, other: int) -> None:
    """Anybody may be asked about at any time, in the middle of an exit too; or is gone."""
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
    """One step of a program."""
    name, who, other = step
    callers = kernel.alive()
    CALLS[name](kernel, callers[who % len(callers)], other)
