# SPDX-License-Identifier: Apache-2.0
"""The model of the kernel for plans: it applies system calls to live objects, and refuses those that a kernel refuses.

The objects are the process table's (agent.table.objects), and so are the rules (agent.table.rules): a plan comes to the
state that the table would have after the same calls. The model adds the rules that a table does not need, since a table
sees only calls that have succeeded: the rules for which calls fail, and for which numbers are free.

All tasks ignore every signal that can be ignored except SIGCHLD, which they leave at its default (`ignore_signals` in
the helper in C). So do_notify_parent() can affect a parent by two exit signals: SIGKILL and SIGSTOP. A namespace's init
is immune to both. No plan may rely on a death, so the model refuses an exit that would kill the parent. The guard
continues a stopped parent while it has to wait for that child.

Each call notes in `touched` the things that it reads and changes: two calls of different tasks may change places unless
they touch one thing and at least one of them changes it (agent.restart.planning.conflicts).
"""

from typing import Final

from agent.model import WaitStatus
from agent.restart.planning.conflicts import Thing, Touched
from agent.table import departure, rules
from agent.table.objects import (
    EXITED,
    MOVING_NOWHERE,
    STOPPED,
    SUBREAPER,
    UNDER_SUBREAPER,
    Pid,
    PidNamespace,
    TaskStruct,
)

_OUTSIDE_NUMBERS: Final = 1 << 30
"""Numbers that no image has, for tasks that may have any."""

_ADDRESS_STEP: Final = 0x1000

SIGKILL: Final = 9
SIGSTOP: Final = 19


class CallRefusedError(Exception):
    """A call that the kernel would refuse.

    Attributes:
        errno: the name of the error, as ESRCH.
        text: the rule that the call breaks.
    """

    def __init__(self, errno: str, text: str) -> None:
        super().__init__(f"{errno}: {text}")
        self.errno = errno
        self.text = text


class Kernel:
    """Tasks and the calls they make.

    Attributes:
        initial: the caller's pid namespace.
        guard: the process, there, that makes the top of the tree.
        touched: by the last call.
    """

    def __init__(self) -> None:
        self._fresh = _OUTSIDE_NUMBERS
        self._spaces = 0
        self._clock = 0
        self._pending: dict[TaskStruct, PidNamespace] = {}
        self._members: dict[Pid, dict[TaskStruct, None]] = {}
        self._closed: set[PidNamespace] = set()
        self._moved: dict[TaskStruct, Touched] = {}  # by an exit
        self._stopped: set[TaskStruct] = set()  # by an exit signal
        self.touched = Touched()
        self.initial = PidNamespace(0, 0, None)
        init = self._enter_task(self.initial, (self._next(),), None, None)
        self.initial.reaper = init
        self.guard = self._enter_task(self.initial, (self._next(),), init, init)
        self.guard.flags |= SUBREAPER

    # ---- birth -----------------------------------------------------------------------------------------------------

    def clone(
        self,
        by: TaskStruct,
        numbers: tuple[int, ...],
        *,
        thread: bool = False,
        parent: bool = False,
        newpid: bool = False,
        exit_signal: int = rules.SIGCHLD,
    ) -> TaskStruct:
        """Make the call clone3(), and return the child.

        Args:
            by: the caller.
            numbers: those of the innermost levels, outer levels first; the kernel chooses those above.
            thread, parent, newpid: CLONE_THREAD, CLONE_PARENT, CLONE_NEWPID.
            exit_signal: of a process; ignored with CLONE_PARENT: the child has the caller's.

        Raises:
            CallRefusedError: clone3() would fail.
        """
        touched = self.touched = Touched()
        own, space = by.pid.namespace, self._pending.get(by, by.pid.namespace)
        if by.flags & EXITED:
            raise CallRefusedError("ESRCH", "the caller is dead")
        if (thread or newpid) and space is not own:
            raise CallRefusedError("EINVAL", "after setns or unshare there are neither threads nor new pid namespaces")
        if parent and own.reaper is not None and own.reaper.leader is by.leader:
            raise CallRefusedError("EINVAL", "the init of a pid namespace has no siblings")
        if newpid:
            self._spaces += 1
            space = PidNamespace(self._spaces, self._spaces, space)
        if space in self._closed:
            raise CallRefusedError("ENOMEM", "the init of that pid namespace is dead")
        task = self._enter_task(space, numbers, by, by.leader.parent if parent else by, thread=thread)
        leader = by.leader
        touched.reads += [("sid", leader), ("pgid", leader), ("space", space)]
        touched.writes += [("task", task)]
        if space.reaper is task:
            touched.writes.append(("space", space))
        if thread:
            touched.adds.append(("threads", leader))
        else:
            task.exit_signal = leader.exit_signal if parent else exit_signal
            born_of = task.parent
            if parent:
                touched.reads.append(("parent", leader))
            if born_of is not None:
                touched.adds.append(("children", born_of))
            if task.pgid is not None:
                touched.adds.append(("members", task.pgid))
        return task

    def _enter_task(
        self,
        space: PidNamespace,
        numbers: tuple[int, ...],
        by: TaskStruct | None,
        parent: TaskStruct | None,
        *,
        thread: bool = False,
    ) -> TaskStruct:
        missing = space.level + 1 - len(numbers)
        if missing < 0:
            raise CallRefusedError("EINVAL", f"{len(numbers)} numbers for a pid of {space.level + 1} levels")
        fresh = self._next()
        full = (fresh,) * missing + numbers
        if space.reaper is None and space.level and full[-1] != 1:
            if numbers:
                raise CallRefusedError("EINVAL", f"the first task of a pid namespace has number 1, not {full[-1]}")
            full = (*full[:-1], 1)
        at: PidNamespace | None = space
        for number in reversed(full):
            if at is not None and number in at.numbers:
                raise CallRefusedError("EEXIST", f"number {number} is in use at level {at.level}")
            at = at.parent if at is not None else None
        self._clock += 1
        pid = Pid(self._clock, full, space)
        rules.hash_pid(pid)
        task = TaskStruct(pid, self._clock, self._clock * _ADDRESS_STEP, 0)
        task.order = self._clock
        if by is None:
            rules.add_process(task, None, pid, pid)
        elif thread:
            rules.add_thread(task, by.leader)
        else:
            leader = by.leader
            if leader.flags & (SUBREAPER | UNDER_SUBREAPER):
                task.flags |= UNDER_SUBREAPER
            if leader.pgid is None or leader.sid is None:
                raise CallRefusedError("ESRCH", "the caller has been reaped")
            rules.add_process(task, parent, leader.pgid, leader.sid)
        if task.leader is task and task.pgid is not None:
            self._members.setdefault(task.pgid, {})[task] = None
        return task

    def _next(self) -> int:
        self._fresh += 1
        return self._fresh

    # ---- namespaces ------------------------------------------------------------------------------------------------

    def setns(self, by: TaskStruct, init: TaskStruct) -> None:
        """Make the call setns(CLONE_NEWPID): the next child is born in the namespace of `init`, or the caller's own."""
        self.touched = Touched(reads=[("task", init)])
        space = init.pid.namespace
        if space.ancestor(by.pid.namespace.level) is not by.pid.namespace:
            raise CallRefusedError("EINVAL", "only one's own pid namespace and those below it can be entered")
        if space is by.pid.namespace:
            self._pending.pop(by, None)
        else:
            self._pending[by] = space
        self._tell_pending(by)

    def unshare(self, by: TaskStruct) -> None:
        """Make the call unshare(CLONE_NEWPID)."""
        self.touched = Touched()
        if by in self._pending:
            raise CallRefusedError("EINVAL", "the next child's pid namespace is not the caller's own any more")
        self._spaces += 1
        self._pending[by] = PidNamespace(self._spaces, self._spaces, by.pid.namespace)
        self._tell_pending(by)

    def _tell_pending(self, by: TaskStruct) -> None:
        space = self._pending.get(by)
        by.child_namespace = (space.identity, space.inum) if space is not None else None
        if space in self._closed:
            by.flags |= MOVING_NOWHERE
        else:
            by.flags &= ~MOVING_NOWHERE

    # ---- session and group -----------------------------------------------------------------------------------------

    def setsid(self, by: TaskStruct) -> None:
        """Make the call setsid()."""
        leader = by.leader
        self.touched = Touched(writes=[("sid", leader), ("pgid", leader), ("group", leader.pid)])
        if not rules.may_setsid(leader):
            raise CallRefusedError("EPERM", "it leads a session, or its pid is in use as a process group")
        self._leave(leader)
        rules.setsid(leader)
        self._members[leader.pid] = {leader: None}

    def setpgid(self, by: TaskStruct, target: TaskStruct, owner: Pid) -> None:
        """Make the call setpgid(): `target` joins the group of `owner`, or founds it if `owner` is its own pid."""
        leader = target.leader
        touched = self.touched = Touched(
            reads=[("task", leader), ("sid", by.leader), ("sid", leader), ("parent", leader)], writes=[("pgid", leader)]
        )
        for pid in (leader.pid, owner):
            if not pid.number_in(by.pid.namespace):
                raise CallRefusedError("ESRCH", f"{_known(pid)} has no number where the caller lives")
        members = self._members.get(owner)
        founds = owner is leader.pid
        if not founds and not members:
            raise CallRefusedError("EPERM", "there is no such group")
        if not rules.may_setpgid(by.leader, leader, None if founds else next(iter(members or ()))):
            raise CallRefusedError("EPERM", "a session leader, another session, or neither oneself nor a child")
        if founds:
            touched.writes.append(("group", owner))
        else:
            touched.reads.append(("group", owner))
            touched.adds.append(("members", owner))
        if leader.pgid is not None and leader.pgid is not owner and self._holds_group(leader):
            touched.writes.append(("members", leader.pgid))  # tasks that join that group must do so before
        if leader.pgid is not owner:
            self._leave(leader)
            rules.change_pgid(leader, owner)
            self._members.setdefault(owner, {})[leader] = None

    def _leave(self, leader: TaskStruct) -> None:
        members = self._members.get(leader.pgid) if leader.pgid is not None else None
        if members is not None:
            members.pop(leader, None)
            if not members and leader.pgid is not None:
                del self._members[leader.pgid]

    # ---- subreapers ------------------------------------------------------------------------------------------------

    def subreaper(self, by: TaskStruct, *, on: bool) -> None:
        """Make the call prctl(PR_SET_CHILD_SUBREAPER)."""
        leader = by.leader
        self.touched = Touched(writes=[("subreaper", leader)])
        leader.flags = leader.flags | SUBREAPER if on else leader.flags & ~SUBREAPER
        if on:
            rules.propagate_has_child_subreaper(leader)

    # ---- death -----------------------------------------------------------------------------------------------------

    def exit(self, by: TaskStruct, status: WaitStatus) -> None:
        """End one thread, and with its last thread the process; `status` is a raw wait status."""
        touched = self.touched = Touched()
        children = tuple(by.children())
        inside: list[Thing] = [("inside", space) for space in _spaces(by.pid.namespace)]
        zaps = by.pid.namespace.reaper is by and all(thread.flags & EXITED for thread in by.group() if thread is not by)
        if zaps:
            self._zap(by)
            by.leader.exit_code = status
            touched.writes.append(inside.pop(0))
        touched.adds += inside
        touched.reads.append(("children", by))
        by.exit_code = status
        reaper = rules.exit_task(by)
        changed: list[Thing] = [("task", by), *[("parent", child) for child in children]]
        if children and reaper is not None:
            above = by.leader.parent
            while above is not None:
                touched.reads += [("subreaper", above.leader), ("parent", above.leader)]
                if above.leader is reaper.leader:
                    break
                above = above.leader.parent
            touched.adds.append(("children", reaper))
        if by.leader is by and by.pgid is not None and self._holds_group(by):
            changed.append(("members", by.pgid))
        touched.writes += changed
        self._moved[by] = Touched(touched.reads, inside, changed)
        self._notify_parent(by.leader)
        if by.leader is not by and not self.lingers(by):
            rules.release_task(by)

    def _notify_parent(self, leader: TaskStruct) -> None:
        """Send the exit signal of a process once all its threads have exited: do_notify_parent()."""
        parent = leader.parent.leader if leader.parent is not None else None
        gone = all(thread.flags & EXITED and not self.lingers(thread) for thread in leader.group())
        if not gone or parent is None or departure.is_immune(parent):
            return
        if leader.exit_signal == SIGKILL:
            raise CallRefusedError("SIGKILL", "that is its exit signal, and its parent would die of it")
        if leader.exit_signal == SIGSTOP:
            for thread in parent.group():
                thread.flags |= STOPPED
            self._stopped.add(parent)

    def _zap(self, init: TaskStruct) -> None:
        """Close a pid namespace: zap_pid_ns_processes(). Refuse it if a task would be killed or reaped by that."""
        space = init.pid.namespace
        others = [
            pid.task for pid in space.numbers.values() if pid.task is not None and pid.task.leader is not init.leader
        ]
        if not all(task.flags & EXITED for task in others):
            raise CallRefusedError("EBUSY", "with the init its pid namespace dies, and others live in it")
        if any(rules.is_zombie(child) and not self.lingers(child) for child in init.children()):
            raise CallRefusedError("EBUSY", "a zombie whose parent is the init goes with it")
        self._closed.add(space)
        for by, pending in self._pending.items():
            if pending is space:
                self._tell_pending(by)

    def lingers(self, task: TaskStruct) -> bool:
        """Return True for an init that waits within its exit, since other numbers of its namespace are in use."""
        space = task.pid.namespace
        return space in self._closed and space.reaper is task and len(space.numbers) > len({task.pid, task.leader.pid})

    def linger(self, target: TaskStruct) -> None:
        """Wait until an init waits within its exit for the release of its namespace's other numbers."""
        moved = self._moved.get(target, Touched())
        self.touched = Touched(moved.reads, moved.adds, moved.writes)
        if not self.lingers(target):
            raise CallRefusedError("ESRCH", "nothing keeps it within its exit")

    def _holds_group(self, leader: TaskStruct) -> bool:
        """Return True for a process that keeps its group alive: the founder, or any member if the founder has left."""
        pgid = leader.pgid
        return pgid is leader.pid or pgid is None or pgid.task not in self._members.get(pgid, ())

    def wait(self, by: TaskStruct, target: TaskStruct, *, reap: bool) -> None:
        """Make the call waitid() for one child, with WNOWAIT unless `reap`."""
        # An exit takes time: it counts as done at the return of the wait, not at its own call.
        moved = self._moved.get(target, Touched())
        touched = self.touched = Touched(moved.reads, moved.adds, moved.writes)
        if target.parent is None or target.parent.leader is not by.leader:
            raise CallRefusedError("ECHILD", "it is no child of the one that waits")
        if not rules.is_zombie(target):
            raise CallRefusedError("EAGAIN", "it has not exited")
        if self.lingers(target):
            raise CallRefusedError("EAGAIN", "it waits within its exit until no number of its namespace is in use")
        if by.leader in self._stopped:  # SIGCONT, from the guard
            self._stopped.discard(by.leader)
            for thread in by.group():
                thread.flags &= ~STOPPED
        if reap:
            touched.writes.append(("task", target))
            self._leave(target)
            rules.release_task(target)

    def stop(self, by: TaskStruct) -> None:
        """Make the call kill(getpid(), SIGSTOP)."""
        self.touched = Touched()
        for thread in by.group():
            if not thread.flags & EXITED:
                thread.flags |= STOPPED


def _known(pid: Pid) -> str:
    """Return the numbers of a pid object as text, without those that the model has made up."""
    return "/".join([str(number) for number in pid.numbers if number < _OUTSIDE_NUMBERS]) or "a process outside"


def _spaces(space: PidNamespace) -> list[PidNamespace]:
    """Return a namespace and those above it, except the initial one."""
    found = []
    at: PidNamespace | None = space
    while at is not None and at.parent is not None:
        found.append(at)
        at = at.parent
    return found
