# SPDX-License-Identifier: Apache-2.0
"""A simulated kernel of a few hundred lines: it takes system calls and emits the records of bpf/events.h.

It describes processes in another way than agent/table/rules.py does: it keeps nothing that a search through all tasks
can find (children, users of a pid object). That is slow and hard to get wrong, so a comparison of the two is worth
while.

Calls are whole, except where the gap between an effect and its record matters: `begin_exit` announces an exit and
`exit_notify` performs it; with `quiet` a call leaves its record to a later `announce`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from agent.table import objects
from agent.table.objects import CLONE_NEWPID, CLONE_PARENT, CLONE_THREAD
from agent.table.wire import Kind
from tests.support import kernelrecords
from tests.support.kernelobjects import (
    SIGCHLD,
    SIGCONT,
    SIGKILL,
    SIGSTOP,
    UNHEEDED,
    Group,
    Number,
    Space,
    Thread,
    allocated,
)
from tests.support.records import INITIAL_INUM, RecordWriter


class Kernel:
    """A simulated kernel: tasks and their system calls.

    Args:
        emit: takes each record.
        pid_max: the last number before numbers start again from the lowest free one.
        tells_release: True if release_task() can be hooked.
        lingers: an init waits within its exit while a number of its namespace is in use; else the zombies are reaped.
    """

    def __init__(
        self,
        emit: Callable[[bytes], None],
        *,
        pid_max: int = 32768,
        tells_release: bool = False,
        lingers: bool = False,
    ) -> None:
        self.emit = emit
        self.writer = RecordWriter()
        self.pid_max = pid_max
        self.tells_release = tells_release
        self.lingers = lingers
        self.root = Space(1, INITIAL_INUM, None)
        self.spaces = 1
        self.threads: dict[Thread, None] = {}
        self.corpses: list[tuple[int, int, int, int]] = []  # released, not freed: address, start, tid, code
        self._addresses: list[int] = []
        self._clock = 1000
        self._zapping = 0
        self._calls = 0
        self._signals: list[tuple[Group, int]] = []  # sent and not delivered
        self._lingering: list[Thread] = []
        self._identity = 0
        number = self._number(self.root)
        self.init = self._thread(number, None)
        self.init.group = Group(self.init, [self.init], None, number, number)
        self.root.init = self.init

    # ---- queries ---------------------------------------------------------------------------------------------------

    def children(self, thread: Thread) -> list[Group]:
        """Return the groups whose real_parent is this thread."""
        return [other.group for other in self.threads if other.leads and other.group.parent is thread]

    def alive(self) -> list[Thread]:
        """Return the threads that can make calls."""
        return [thread for thread in self.threads if not thread.exiting]

    def zombies(self) -> list[Thread]:
        """Return the leaders that a parent may wait for."""
        return [t for t in self.threads if t.leads and t.exited and t.group.threads == [t]]

    def in_use(self, number: Number) -> bool:
        """Return True if a thread has the number as pid, group or session."""
        return any(number in (t.pid, t.group.pgid, t.group.sid) for t in self.threads)

    # ---- records ---------------------------------------------------------------------------------------------------

    def announce(self, kind: Kind, thread: Thread, argument: int = 0, by: Thread | None = None, flags: int = 0) -> None:
        """Emit a record_task with the thread's present state."""
        self.emit(kernelrecords.task(self.writer, kind, thread, argument, by, flags))

    def answer(self, address: int, start_ns: int) -> None:
        """Run the program `state`: one task by address."""
        for thread in self.threads:
            if thread.address == address and start_ns in (0, thread.start_ns):
                self.announce(Kind.STATE, thread)
                return
        self.emit(self.writer.end(Kind.GONE, address, start_ns))

    def rows(self) -> bytes:
        """Run the program `on_task`: every task."""
        return b"".join(map(kernelrecords.row, sorted(self.threads, key=lambda each: each.tid)))

    def _call(self, kind: Kind, caller: Thread, value: int) -> None:
        self.emit(self.writer.call(kind, caller.address, caller.tid, value))

    # ---- birth -----------------------------------------------------------------------------------------------------

    def _number(self, space: Space, wanted: tuple[int, ...] = ()) -> Number:
        """Run alloc_pid(); with set_tid the innermost numbers are the wanted ones."""
        self._identity += 1
        return allocated(self._identity, space, wanted, self.pid_max)

    def _thread(self, pid: Number, creator: Thread | None) -> Thread:
        self._clock += 1
        address = self._addresses.pop() if self._addresses else 0x1000 + 0x40 * self._clock
        thread = Thread(address, self._clock, pid, None, creator.pid.identity if creator else 0)  # type: ignore[arg-type]  # set by the caller
        if creator is not None:
            thread.ids, thread.execs = creator.ids, creator.execs
        self.threads[thread] = None
        return thread

    def fork(self, by: Thread, flags: int = 0, wanted: tuple[int, ...] = (), exit_signal: int = SIGCHLD) -> Thread:
        """Run clone() for a process."""
        space = by.pending or by.space
        assert not flags & CLONE_PARENT or by.space.init is None or by.space.init.group is not by.group, "EINVAL"
        if flags & CLONE_NEWPID:
            space = self.new_space(space)
        child = self._thread(self._number(space, wanted), by)
        parent = by.group.parent if flags & CLONE_PARENT else by
        under = by.group.under or by.group.subreaper
        child.group = Group(child, [child], parent, by.group.pgid, by.group.sid, under=under, ignores=by.group.ignores)
        sibling = flags & CLONE_PARENT
        child.group.exit_signal = by.group.exit_signal if sibling else exit_signal
        child.group.parent_execs = by.group.parent_execs if sibling else by.execs
        child.group.deaf = by.group.deaf
        if space.init is None:
            space.init = child
        self.announce(Kind.FORK, child, flags | exit_signal, by)
        return child

    def thread(self, by: Thread, wanted: tuple[int, ...] = ()) -> Thread:
        """Run clone(CLONE_THREAD)."""
        thread = self._thread(self._number(by.space, wanted), by)
        thread.group = by.group
        thread.stopped = by.stopped
        by.group.threads.append(thread)
        self.announce(Kind.FORK, thread, CLONE_THREAD, by)
        return thread

    def new_space(self, above: Space) -> Space:
        """Run create_pid_namespace(); the inode number is one that another namespace had before."""
        self.spaces += 1
        return Space(self.spaces, 0xF0000000 + len(above.chain()), above)

    def unshare(self, thread: Thread) -> Space:
        """Run unshare(CLONE_NEWPID), which makes no record."""
        thread.pending = self.new_space(thread.space)
        return thread.pending

    def setns(self, thread: Thread, space: Space) -> None:
        """Run setns(CLONE_NEWPID), which makes no record."""
        thread.pending = None if space is thread.space else space

    # ---- session and group -----------------------------------------------------------------------------------------

    def setsid(self, thread: Thread, *, quiet: bool = False) -> None:
        """Run setsid() of a process that leads no group."""
        old = thread.group.pgid, thread.group.sid
        thread.group.pgid = thread.group.sid = thread.group.leader.pid
        self._drop(*old)
        if not quiet:
            self.announce(Kind.SESSION, thread)

    def setpgid(self, caller: Thread, group: Group, pgid: Number, *, quiet: bool = False) -> None:
        """Run setpgid(); the hook does not find a child that another thread of the caller's process forked."""
        old = group.pgid
        group.pgid = pgid
        self._drop(old)
        if quiet:
            return
        if group is caller.group or group.parent is caller:
            self.announce(Kind.GROUP, group.leader)
        else:
            self._call(Kind.REGROUPED, caller, group.leader.pid.seen_from(caller.space))

    def subreaper(self, thread: Thread, *, on: bool = True) -> None:
        """Run prctl(PR_SET_CHILD_SUBREAPER)."""
        thread.group.subreaper = on
        if on:
            self._mark_below(thread.group)
        self.announce(Kind.SUBREAPER, thread)

    def _mark_below(self, group: Group) -> None:
        for thread in group.threads:
            for child in self.children(thread):
                if not child.under and child.leader.pid.numbers[-1] != 1:  # is_child_reaper()
                    child.under = True
                    self._mark_below(child)

    # ---- death -----------------------------------------------------------------------------------------------------

    def begin_exit(self, thread: Thread, code: int = 0) -> None:
        """Run do_exit() up to the tracepoint."""
        group = thread.group
        thread.exiting = True
        thread.code = code
        last = all(other.exiting for other in group.threads)
        if last and group.code is None:
            group.code = code
        flags = objects.AUTOREAP if last and group.is_ignored() else 0
        self.announce(Kind.EXIT, thread, int(last), flags=flags)

    def exit_notify(self, thread: Thread) -> None:
        """Run the rest of do_exit(); the init of a namespace may have to wait in it."""
        with self._signals_wait():
            self._exit_notify(thread)

    def _exit_notify(self, thread: Thread) -> None:
        if thread.space.init is thread:
            thread.space.init = next(thread.group.living(), thread)
            if thread.space.init is thread:
                thread.lingering = self.lingers
                self._zap(thread)
                if thread.lingering:
                    self._lingering.append(thread)
                    self._wake()
                    return
        self._end(thread)

    def _wake(self) -> None:
        """Wake an init that waits for this number, as free_pid() does."""
        for init in () if self._zapping else tuple(self._lingering):
            own = {init.pid, init.group.leader.pid}
            if init in self._lingering and not set(init.space.used.values()) - own:
                self._lingering.remove(init)
                init.lingering = False
                self._end(init)

    def _end(self, thread: Thread) -> None:
        reaper = self._new_reaper(thread)
        for child in self.children(thread):
            child.parent = reaper
            if reaper.group is not thread.group:
                child.exit_signal = SIGCHLD
                self._notify_parent(child)
        thread.exited = True
        if thread.leads:
            self._notify_parent(thread.group)
        elif not thread.traced:
            self.release(thread)

    def exit(self, thread: Thread, code: int = 0) -> None:
        """Run exit() of one thread."""
        self.begin_exit(thread, code)
        self.exit_notify(thread)

    def exit_group(self, thread: Thread, code: int = 0) -> None:
        """Run exit_group(), or a signal that kills."""
        if thread.group.code is None:
            thread.group.code = code
        with self._signals_wait():
            for other in sorted(thread.group.threads, key=lambda t: t is thread):
                if not other.exiting:
                    self.begin_exit(other, code)
                if not other.exited and not other.lingering:
                    self.exit_notify(other)

    def _new_reaper(self, father: Thread) -> Thread:
        if (thread := next(father.group.living(), None)) is not None:
            return thread
        if father.group.under:
            above = father.group.parent
            while above is not None and len(above.pid.numbers) == len(father.pid.numbers) and above is not self.init:
                if above.group.subreaper and (thread := next(above.group.living(), None)) is not None:
                    return thread
                above = above.group.parent
        reaper = father.space.init
        assert reaper is not None
        return reaper

    def _notify_parent(self, group: Group) -> None:
        """Run do_notify_parent() of a zombie."""
        if not group.leader.exited or group.threads != [group.leader]:
            return
        if group.is_ignored():
            self.release(group.leader)
        elif group.parent is not None and group.parent.lingering:
            self.release(group.leader)  # within its exit an init reaps all children it has, by no system call
        elif group.parent is not None:
            self._signals.append((group.parent.group, group.sent_at_exit()))

    @contextmanager
    def _signals_wait(self) -> Iterator[None]:
        """Deliver signals at the end of the outermost of these calls."""
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1
        while self._signals and not self._calls:
            self._deliver(*self._signals.pop(0))

    def _deliver(self, group: Group, number: int) -> None:
        """Do the signal's default action; the init of a namespace ignores such signals."""
        if number in UNHEEDED or group.leader.pid.numbers[-1] == 1 or all(each.exiting for each in group.threads):
            return
        if number == SIGSTOP or (number == SIGCONT and not group.deaf):
            for thread in group.threads:
                thread.stopped = number == SIGSTOP and not thread.exited
        elif number == SIGKILL or not group.deaf:
            self.exit_group(next(group.living()), number)

    def _zap(self, init: Thread) -> None:
        """Run zap_pid_ns_processes(): the namespace dies with its init."""
        init.space.closed = True
        init.group.ignores = True
        self._zapping += 1
        inside = [t for t in self.threads if init.space in t.pid.spaces and t.group is not init.group]
        for thread in inside:
            if thread in self.threads and not thread.exited and not thread.lingering:
                self.exit_group(thread, 9)
        for thread in inside:
            if thread in self.threads and not thread.leads and not thread.lingering:
                self.wait(self.init, thread)  # its tracer reaps it
        for thread in inside:
            parent = thread.group.parent
            reaps = parent is not None and (parent.group is init.group or not init.lingering)
            alone = thread.group.threads == [thread]  # delay_group_leader(): else the last thread reaps it
            if thread in self.threads and parent is not None and reaps and thread.exited and alone:
                if parent.group is init.group:
                    self.release(thread)  # within its exit, by no system call
                else:
                    self.wait(parent, thread)
        self._zapping -= 1

    def release(self, thread: Thread) -> None:
        """Run release_task()."""
        group = thread.group
        if self.tells_release:
            self.emit(self.writer.end(Kind.RELEASE, thread.address, thread.start_ns, thread.tid, thread.code))
        del self.threads[thread]
        group.threads.remove(thread)
        self._drop(thread.pid, *((group.pgid, group.sid) if thread.leads else ()))
        self.corpses.append((thread.address, thread.start_ns, thread.tid, thread.code))
        if not thread.leads:
            self._notify_parent(group)

    def _drop(self, *pids: Number) -> None:
        """Run free_pid() for the unused ones of these numbers."""
        for pid in pids:
            if not self.in_use(pid):
                for space, number in zip(pid.spaces, pid.numbers, strict=True):
                    if space.used.get(number) is pid:
                        del space.used[number]
                self._wake()

    def wait(self, caller: Thread, zombie: Thread, *, nameless: bool = False) -> None:
        """Reap a zombie; nameless: the record of the call does not name it, and the free is the first record
        that does.
        """
        number = zombie.pid.seen_from(caller.space)
        with self._signals_wait():
            self.release(zombie)
            if nameless:
                self.free(len(self.corpses) - 1)
            else:
                self._call(Kind.WAITED, caller, number)

    def free(self, index: int = 0) -> None:
        """Free the memory of a released task, an RCU grace period later."""
        address, start_ns, tid, code = self.corpses.pop(index)
        self._addresses.append(address)
        self.emit(self.writer.end(Kind.FREE, address, start_ns, tid, code))

    # ---- exec ------------------------------------------------------------------------------------------------------

    def exec(self, thread: Thread) -> None:
        """Run execve(): the other threads end; a thread that is not the leader becomes the leader."""
        group, old, old_tid = thread.group, thread.group.leader, thread.tid
        for other in list(group.threads):
            if other is not thread and not other.exiting:
                self.exit(other)
        for other in [t for t in group.threads if t is not thread and t is not old]:
            self.release(other)  # its tracer has let go of it
        if old is not thread:
            thread.start_ns, thread.creator = old.start_ns, old.creator
            thread.pid, old.pid = old.pid, thread.pid
            group.leader = thread
            if self.init is old:
                self.init = thread  # it is the process that the number stands for
            self.release(old)
        group.exit_signal = SIGCHLD
        thread.execs += 1
        self.announce(Kind.EXEC, thread, old_tid)
