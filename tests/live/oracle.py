# SPDX-License-Identifier: Apache-2.0
"""The oracle: the state of a process tree, predicted by the kernel's documented rules and nothing else.

Theory
------
The oracle gets every system call that has *succeeded*, and applies its effects. Only the kernel decides that a call
succeeds, and which number a new task gets. The oracle predicts all other effects, and /proc can prove it right:

* birth (``copy_process``): the parent is the creating *thread*, or its parent with CLONE_PARENT and CLONE_THREAD;
  session and group come from the creator, always;
* exit (``exit_notify``): children go to a live thread of the group, else to the nearest subreaper on the same
  namespace level, else to the namespace's init; a zombie whose new parent ignores SIGCHLD is released at once;
* the exit signal (``do_notify_parent``): SIGCHLD once the parent has called exec; other signals have their default
  effect, and none on a namespace's init. All tasks ignore SIGHUP;
* the end of a namespace's init (``zap_pid_ns_processes``): all tasks inside are killed, and the init *lingers* until
  the last number in its namespace is free, which a session or group outside may hold;
* exec (``de_thread``): the thread that called it takes over the leader's pid object and ends the others;
* a pid object lives while any task uses it as pid, group or session (``__change_pid``).

All tasks are below a subreaper, so ``has_child_subreaper`` is set for all of them and needs no modelling.
"""

from collections.abc import Callable, Iterator, Sequence
from signal import SIGCHLD, SIGCONT, SIGHUP, SIGKILL, SIGSTOP, SIGURG, SIGWINCH

from tests.live.tasks import (
    NEWPID,
    PARENT,
    THREAD,
    VFORK,
    Birth,
    Deed,
    EventKind,
    Life,
    Namespace,
    Pid,
    Process,
    Task,
)

_UNHEEDED = (0, SIGHUP, SIGCHLD, SIGURG, SIGWINCH)


class Oracle:
    """The state of a tree; each method is one system call that the kernel has let pass."""

    def __init__(self, on_change: Callable[[Task], None]) -> None:
        self.initial = Namespace(None, 0)
        self.processes: list[Process] = []
        self.tasks: dict[int, Task] = {}
        self.order = 0
        self._signals: list[tuple[Process, int]] = []
        self._on_change = on_change

    def next_order(self) -> int:
        """Return a number for the next event; later events have larger ones."""
        self.order += 1
        return self.order

    def found(self, node: int, number: int, parent: Task | None) -> Task:
        """Add a task from before the script's start: the first leads session and group, the others inherit them."""
        pid = Pid((number,), (self.initial,))
        sid, pgid = (parent.process.sid, parent.process.pgid) if parent else (pid, pid)
        process = Process(parent, sid, pgid, subreaper=True)
        creator_pid = parent.pid if parent else None
        birth = Birth(parent, creator_pid, pid, sid, pgid, (), self.next_order())
        task = process.leader = self.tasks[node] = Task(node, pid, process, birth, self.initial)
        process.threads.append(task)
        self.processes.append(process)
        return task

    def born(
        self,
        creator: Task,
        node: int,
        numbers: tuple[int, ...],
        flags: frozenset[str],
        exit_signal: int = int(SIGCHLD),
    ) -> Task:
        """Apply a clone() by `creator`; `numbers` are those that the kernel has given, outermost first."""
        namespace = creator.child_namespace
        if NEWPID in flags:
            namespace = Namespace(namespace, namespace.level + 1)
        if len(numbers) != namespace.level + 1:
            raise AssertionError(f"node {node}: numbers {numbers} on namespace level {namespace.level}")
        origin = creator.process
        pid = Pid(numbers, namespace.path())
        birth = Birth(creator, creator.pid, pid, origin.sid, origin.pgid, tuple(sorted(flags)), self.next_order())
        if THREAD in flags:
            process = origin
            task = Task(node, pid, process, birth, namespace)
        else:
            parent = origin.parent if PARENT in flags else creator
            process = Process(parent, origin.sid, origin.pgid, ignores_sigchld=origin.ignores_sigchld)
            process.ignored = set(origin.ignored)
            process.exit_signal = origin.exit_signal if PARENT in flags else exit_signal
            process.parent_execs = origin.parent_execs if PARENT in flags else creator.execs
            task = process.leader = Task(node, pid, process, birth, namespace)
            self.processes.append(process)
        process.threads.append(task)
        task.execs = creator.execs
        if namespace.reaper is None and numbers[-1] == 1:
            namespace.reaper = task
            process.unkillable = True
        if VFORK in flags:
            task.vfork_parent = creator
            creator.blocked_by = task
        self.tasks[node] = task
        return task

    def setsid(self, task: Task) -> None:
        """Apply a setsid() by any thread, for the whole process."""
        process = task.process
        process.sid = process.pgid = process.leader.pid
        process.leads_session = True
        self._did(process, "setsid", process.sid)
        self._settle_namespaces()

    def setpgid(self, target: Task, group: Pid) -> None:
        """Apply a setpgid() of the target's process, by itself or its parent."""
        target.process.pgid = group
        self._did(target.process, "setpgid", group)
        self._settle_namespaces()

    @staticmethod
    def could_never_end(target: Task, group: Pid) -> bool:
        """Return True if a process that joins a group could never end.

        A namespace's init that is a member of a group whose number is in its own namespace (or in one beside it, whose
        init may be in the same position) waits, when it dies, for that number to be free: for itself.
        """
        own = target.process.leader.pid
        return target.process.unkillable and group is not own and group.namespace not in own.namespaces[:-1]

    def subreaper(self, task: Task, value: int) -> None:
        """Apply a prctl(PR_SET_CHILD_SUBREAPER)."""
        task.process.subreaper = bool(value)
        self._did(task.process, "subreaper", int(bool(value)))

    def _did(self, process: Process, kind: EventKind, value: Pid | int | None) -> None:
        order = self.next_order()
        for task in process.threads:
            task.deeds.append(Deed(kind, order, value))

    def unshare(self, task: Task) -> None:
        """Apply an unshare(CLONE_NEWPID), which concerns this thread's children only."""
        task.child_namespace = Namespace(task.pid.namespace, task.pid.namespace.level + 1)

    def setns(self, task: Task, target: Task) -> None:
        """Apply a setns(CLONE_NEWPID) to the namespace of `target`."""
        task.child_namespace = target.pid.namespace

    def exec(self, task: Task) -> None:
        """Apply an execve() by any thread: it alone is left, with the leader's pid."""
        process = task.process
        leader = process.leader
        for other in [thread for thread in process.threads if thread is not task]:
            if other.life is Life.ALIVE:
                self._unblock(other)
                if other.pid.namespace.reaper is other:
                    other.pid.namespace.reaper = task
            self._change_parent(other, task)
            other.life = Life.GONE
            if other is not leader:
                other.deeds.append(Deed("exit", self.next_order(), None))
            self._on_change(other)
        process.threads = [task]
        process.leader = task
        process.exit_signal = int(SIGCHLD)
        task.execs += 1
        if leader is not task:
            leader.successor = task
            task.former = task.birth, [*task.deeds, Deed("exit", self.next_order(), None)]
            task.pid, task.birth, task.deeds = leader.pid, leader.birth, leader.deeds
        self._unblock(task)
        self._settle_namespaces()

    def leave(self, task: Task, code: int) -> None:
        """Apply an exit() of one thread."""
        self._exit(task, code << 8)
        self._settle_namespaces()

    def end(self, process: Process, status: int) -> None:
        """Apply an exit_group() or a deadly signal; `status` is a raw wait status."""
        self._end(process, status)
        self._settle_namespaces()

    def stop(self, process: Process, *, stopped: bool) -> None:
        """Apply a SIGSTOP or SIGCONT."""
        process.stopped = stopped
        for task in process.threads:
            self._on_change(task)
        if process.pending and not stopped:
            self._signals.append((process, min(process.pending)))
            self._settle_namespaces()

    def reaped(self, process: Process) -> None:
        """Apply a wait call by the parent of a zombie."""
        if not process.is_zombie:
            raise AssertionError(f"node {process.leader.node} was reaped but is no zombie")
        self._release(process.leader)
        self._settle_namespaces()

    def unreleased(self) -> Iterator[Task]:
        """Yield every task that /proc must show."""
        for process in self.processes:
            yield from process.threads

    def _end(self, process: Process, status: int) -> None:
        if process.status is None:
            process.status = status
        process.stopped = False
        living = [task for task in process.threads if task.life is Life.ALIVE]
        for task in sorted(living, key=lambda task: task.is_leader):
            self._exit(task, process.status)

    def _exit(self, task: Task, code: int) -> None:
        task.exit_code = code
        task.life = Life.DEAD
        process = task.process
        task.deeds.append(Deed("exit", self.next_order(), None))
        self._unblock(task)
        if process.alive() is None and process.status is None:
            process.status = code  # the status of the last thread is the group's (synchronize_group_exit)
        namespace = task.pid.namespace
        if namespace.reaper is task:
            heir = process.alive()
            if heir:
                namespace.reaper = heir
            else:
                self._zap(namespace, process)
                task.life = Life.LINGERING
                self._on_change(task)
                return
        self._notify(task)

    def _zap(self, namespace: Namespace, init: Process) -> None:
        init.ignores_sigchld = True
        for process in reversed([each for each in self.processes if namespace in each.leader.pid.namespaces]):
            if process is not init:
                self._end(process, int(SIGKILL))
        for process in [each for each in self.processes if each.parent and each.parent.process is init]:
            if process.is_zombie:
                self._release(process.leader)

    def _deliver(self, process: Process, number: int) -> None:
        if process.alive() is None or not self.heeds(process, number):
            return
        if number in (SIGSTOP, SIGCONT):
            self.stop(process, stopped=number == SIGSTOP)
        elif process.stopped and number != SIGKILL:
            process.pending.append(number)
        else:
            self._end(process, number)

    @staticmethod
    def heeds(process: Process, number: int) -> bool:
        """Return True if a signal from a process's own namespace has an effect on it."""
        return not process.unkillable and number not in _UNHEEDED and number not in process.ignored

    def _settle_namespaces(self) -> None:
        """Deliver exit signals, and let each lingering init go whose namespace holds no other number any more."""
        while self._signals:
            self._deliver(*self._signals.pop(0))
        for task in [task for task in self.unreleased() if task.life is Life.LINGERING]:
            own = {id(task.pid), id(task.process.leader.pid)}
            if not any(task.pid.namespace in pid.namespaces and id(pid) not in own for pid in self.held()):
                task.life = Life.DEAD
                self._notify(task)
                self._settle_namespaces()
                return

    def held(self) -> Iterator[Pid]:
        """Yield every pid object in use, some more than once."""
        for process in self.processes:
            yield process.sid
            yield process.pgid
            for task in process.threads:
                yield task.pid

    def holds(self, namespace: Namespace, numbers: Sequence[int]) -> bool:
        """Return True if one of the numbers, outermost first, is still in use in that namespace or above."""
        wanted = list(zip(namespace.path(), numbers, strict=False))
        return any(pid.number_in(each) == number for pid in self.held() for each, number in wanted)

    def _notify(self, task: Task) -> None:
        """Apply exit_notify(): children get a new parent; the task becomes a zombie or is released."""
        process = task.process
        self._change_parent(task, self._new_reaper(task))
        if process.alive() is None and not any(each.life is Life.LINGERING for each in process.threads):
            self._continue_orphans(process, None)
        if not task.is_leader:
            self._release(task)
        if process.is_zombie:
            if self._ignored(process):
                self._release(process.leader)
            else:
                self._on_change(process.leader)
                if process.parent is not None:
                    self._signals.append((process.parent.process, self._sent_at_exit(process)))
        elif task.is_leader:
            self._on_change(task)

    def _new_reaper(self, father: Task) -> Task | None:
        heir = father.process.alive()
        up = father.process.parent
        while heir is None and up and up.pid.namespace.level == father.pid.namespace.level:
            heir = up.process.alive() if up.process.subreaper else None
            up = up.process.parent
        return heir or father.pid.namespace.reaper

    def _change_parent(self, father: Task, reaper: Task | None) -> None:
        for child in [process for process in self.processes if process.parent is father]:
            child.parent = reaper
            if reaper and reaper.process is not father.process:
                child.exit_signal = int(SIGCHLD)
                if child.is_zombie and self._ignored(child):
                    self._release(child.leader)
                self._continue_orphans(child, father)

    @staticmethod
    def _sent_at_exit(process: Process) -> int:
        parent = process.parent
        heard = parent is not None and parent.execs == process.parent_execs
        return process.exit_signal if heard else int(SIGCHLD)

    def _ignored(self, process: Process) -> bool:
        parent = process.parent
        if parent is not None and parent.life is Life.LINGERING:
            return True  # an init that waits within its exit reaps all children it has
        return parent is not None and parent.process.ignores_sigchld and self._sent_at_exit(process) == SIGCHLD

    def _continue_orphans(self, process: Process, parent: Task | None) -> None:
        """Apply kill_orphaned_pgrp(): a stopped group that loses its last link to its session is continued."""
        ignored = None if parent else process
        parent = parent or process.parent
        group = [each for each in self.processes if each.pgid is process.pgid]
        if parent is None or parent.process.pgid is process.pgid or parent.process.sid is not process.sid:
            return
        for member in group:
            if member is ignored or member.is_zombie or member.parent is None:
                continue
            above = member.parent.process
            if above.pgid is not process.pgid and above.sid is member.sid:
                return
        if any(member.stopped for member in group):
            for member in group:
                self.stop(member, stopped=False)

    def _unblock(self, task: Task) -> None:
        if task.vfork_parent:
            task.vfork_parent.blocked_by = None
            if task.vfork_parent.life is not Life.GONE:  # else another task may have its number by now
                self._on_change(task.vfork_parent)
            task.vfork_parent = None

    def _release(self, task: Task) -> None:
        task.life = Life.GONE
        task.process.threads.remove(task)
        if not task.process.threads:
            self.processes.remove(task.process)
        self._on_change(task)
