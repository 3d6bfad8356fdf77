# SPDX-License-Identifier: Apache-2.0
"""The live process table: records in, state out. No clock, no descriptor, no thread.

Theory
------
The table follows the kernel by records (`wire`), applied in the order of their numbers (`stream` sees to that). Each
record of a task carries its whole state, so each one repairs what a lost one left wrong; the rules of what follows from
an exit or an exec are in `rules`. Nothing a kernel can send, however lossy, raises.

An event is taken to happen at its number. It lies between the start and the end of the system call it tells of, so what
the table holds after any number is a state that every process could have seen: the effects of all calls up to some
instant and of no later one. Three things have no event, and are found by asking (`RECORD_STATE`, `RECORD_GONE`):

* a reap that no wait call reports (SIGCHLD ignored later, a dying namespace): the zombie is asked about;
* a new parent where the rules could not tell it: the child is asked about;
* stop and continue, a new comm, a pending unshare: asked when a snapshot is taken.

An answer counts as an event at its own number: whatever it shows has happened by then. Where it shows more than the
events so far explain, the table takes it over and notes a *surprise*; an event that comes later and says the same
settles it (the call had begun and not yet ended). What stays is an *anomaly*.

Questions are collected in `doubts`; whoever drives the table puts them to the kernel.
"""

from dataclasses import dataclass
from typing import Literal

from agent import history, rules, wire
from agent.objects import (
    AUTOREAP,
    CLONE_NEWPID,
    CLONE_PARENT,
    CLONE_THREAD,
    CLONE_VFORK,
    CREATED,
    EXITED,
    EXITING,
    MOVING,
    PTRACED,
    RELEASED,
    STOPPED,
    SUBREAPER,
    TRACING_STOP,
    UNDER_SUBREAPER,
    Pid,
    Task,
)
from agent.pidspace import Data, PidSpace
from agent.wire import Kind, TaskState

_SHAPING = CLONE_NEWPID | CLONE_PARENT | CLONE_THREAD | CLONE_VFORK
_OF_GROUP = SUBREAPER | UNDER_SUBREAPER
# A record may have been read before an exit and be numbered after it, so being dead is not for a record to take back.
_NOT_FROM_RECORDS = EXITED | RELEASED | AUTOREAP
# What a sweep can tell of; of EXITED only that it is missing here: an exit is announced before exit_notify() sets it.
_SWEPT = SUBREAPER | UNDER_SUBREAPER | STOPPED | TRACING_STOP | PTRACED
_MAX_SHARED = 4096  # distinct comms, and distinct ids, remembered so that tasks can share them

_FORK = wire.reader(
    wire.RECORD_TASK,
    *("seq", "argument", "task", "start_ns", "parent", "pid", "tgid", "pgid", "sid", "tid", "parent_tid", "flags"),
    *("exit_signal", "uid", "gid", "by_tid", "by", "comm"),
).unpack_from
_EXIT = wire.reader(
    wire.RECORD_TASK, "argument", "start_ns", "pid", "pgid", "sid", "tid", "flags", "exit_code"
).unpack_from
_EXEC = wire.reader(wire.RECORD_TASK, "argument", "pid", "tid").unpack_from
_SESSION = wire.reader(wire.RECORD_TASK, "seq", "kind", "pid", "pgid", "sid", "tid").unpack_from
_END = wire.reader(wire.RECORD_END, "task", "start_ns", "tid", "exit_code").unpack_from
_CALL = wire.reader(wire.RECORD_CALL, "tid", "value").unpack_from
_ROWS = wire.ROW.iter_unpack
_HEAD = wire.HEAD.unpack_from
_TASK = wire.TASK.unpack_from

Surprise = Literal["exit", "gone", "group", "parent", "session"]


@dataclass(slots=True)
class Counts:
    """What went past, since the watch began.

    Attributes:
        repairs: facts that a record put right though it told of something else.
        anomalies: surprises that no event settled.
        assumed: tasks entered without a birth.
    """

    repairs: int = 0
    anomalies: int = 0
    assumed: int = 0


class ProcessTable:
    """All tasks of a host, by pid namespace and number.

    Attributes:
        pids: the pid objects and namespaces.
        doubts: tasks to be asked about.
        unknown: addresses of tasks that are not in the table and have to be: parents and leaders no record told of.
        surprises: what answers showed before any event did, by task.
        counts: see Counts.
        handlers: the method for each kind of record, called with the bytes and where in them the record starts.
    """

    def __init__(self) -> None:
        self.pids = PidSpace(self._bury)
        self.doubts: dict[Task, None] = {}
        self.unknown: set[int] = set()
        self.surprises: dict[Task, Surprise] = {}
        self.counts = Counts()
        self._numbers = self.pids.numbers
        self._orphans: dict[int, dict[Task, None]] = {}  # by the address of a parent that is not in the table
        self._leaderless: dict[int, set[int]] = {}  # addresses of threads, by that of a leader not in the table
        self._creatorless: dict[int, dict[Task, None]] = {}  # by the address of a creator that is not in the table
        self._asked: dict[tuple[int, int], Task] = {}
        self._comms: dict[bytes, bytes] = {}
        self._ids: dict[tuple[int, int], tuple[int, int]] = {}
        self.handlers = {
            Kind.FORK: self.fork,
            Kind.EXEC: self.exec,
            Kind.EXIT: self.exit,
            Kind.SESSION: self.session,
            Kind.GROUP: self.session,
            Kind.SUBREAPER: self.subreaper,
            Kind.STATE: self.state,
            Kind.GONE: self.gone,
            Kind.FREE: self.free,
            Kind.RELEASE: self.free,
            Kind.WAITED: self.waited,
            Kind.REGROUPED: self.regrouped,
            Kind.MARKER: self.marker,
        }

    # ---- looking up and asking -------------------------------------------------------------------------------------

    def task(self, tid: int) -> Task | None:
        """The task of a number in the initial namespace; None also for a number that only a group or session holds."""
        pid = self._numbers.get(tid)
        return pid.task if pid is not None else None

    def tasks(self) -> list[Task]:
        """All of them, in no particular order."""
        return [pid.task for pid in self._numbers.values() if pid.task is not None]

    def question(self, task: Task) -> tuple[int, int]:
        """What to ask about a task: (address, start_ns). The answer comes back as a record."""
        question = task.address, task.start_ns
        self._asked[question] = task
        return question

    def take_questions(self) -> list[tuple[int, int]]:
        """The open questions, as (address, start_ns; 0 for any); they count as put."""
        questions = [(address, 0) for address in self.unknown]
        questions += [self.question(task) for task in self.doubts if task.pid.task is task and task.address]
        self.unknown.clear()
        self.doubts.clear()
        return questions

    def differing(self, rows: bytes) -> list[tuple[int, int]]:
        """What a sweep gives reason to ask: rows that differ from the table, and tasks without a row.

        Args:
            rows: struct sweep_row, one after the other: every task the kernel has, each as of some moment.
        """
        questions: list[tuple[int, int]] = []
        seen: set[Pid] = set()
        numbers = self._numbers
        for address, start_ns, parent_address, identity, pgid, sid, tid, flags, uid, gid, comm in _ROWS(rows):
            pid = numbers.get(tid)
            task = pid.task if pid is not None and pid.identity == identity else None
            if pid is None or task is None or task.address != address or task.start_ns != start_ns:
                questions.append((address, start_ns))
                continue
            seen.add(pid)
            leader = task.leader
            parent = leader.parent
            if (
                (task.flags ^ flags) & _SWEPT
                or flags & ~task.flags & EXITED
                or (task.flags & EXITED and not flags & (EXITED | EXITING))
                or (leader.pgid is None or leader.pgid.identity != pgid)
                or (leader.sid is None or leader.sid.identity != sid)
                or (parent is None or parent.address != parent_address)
                or task.ids != (uid, gid)
                or comm != task.comm
                or flags & MOVING
                or task.child_namespace is not None
            ):
                questions.append(self.question(task))
        questions += [self.question(pid.task) for pid in numbers.values() if pid.task is not None and pid not in seen]
        return questions

    def settle(self) -> int:
        """Turn the surprises that no event has settled into anomalies; returns how many."""
        unsettled = len(self.surprises)
        self.counts.anomalies += unsettled
        self.surprises.clear()
        return unsettled

    # ---- birth -----------------------------------------------------------------------------------------------------

    def fork(self, data: Data, at: int) -> None:
        """RECORD_FORK."""
        (
            seq,
            clone_flags,
            address,
            start_ns,
            parent_address,
            identity,
            tgid_identity,
            pgid_identity,
            sid_identity,
            tid,
            parent_tid,
            flags,
            exit_signal,
            uid,
            gid,
            by_tid,
            by_address,
            comm,
        ) = _FORK(data, at)
        by = self._numbers.get(by_tid)
        creator = by.task if by is not None else None
        if creator is not None:
            if creator.address == by_address:
                creator.flags |= CREATED
            else:
                creator = None
        pid = self._numbers.get(tid)
        if pid is not None and pid.identity == identity and pid.task is not None and pid.task.start_ns == start_ns:
            task = pid.task  # a sweep or an answer was faster
        elif clone_flags & CLONE_THREAD and (creator is None or creator.leader.pid.identity != tgid_identity):
            entered = self._merge(data, at)  # its group is not the creator's: records were lost
            if entered is None:
                return
            task = entered
        else:
            pid = self.pids.own(data, at, tid, identity)
            task = Task(pid, start_ns, address, flags)
            if creator is not None:
                task.ids = creator.ids
                task.comm = creator.comm
            if task.ids != (uid, gid):
                task.ids = self._ids.setdefault((uid, gid), (uid, gid))
            if comm != task.comm:
                self._name(task, comm)
            if clone_flags & CLONE_THREAD and creator is not None:
                rules.add_thread(task, creator.leader)
                self._follow_group(creator.leader, pgid_identity, sid_identity, data, at)
            else:
                task.exit_signal = exit_signal
                # the child has its creator's group and session, unless one of them was announced only now
                pgid = creator.leader.pgid if creator is not None else None
                if pgid is None or pgid.identity != pgid_identity:
                    pgid = self.pids.role(data, at, 2)
                sid = creator.leader.sid if creator is not None else None
                if sid is None or sid.identity != sid_identity:
                    sid = self.pids.role(data, at, 3)
                rules.add_process(task, self._parent(task, parent_tid, parent_address), pgid, sid)
            if self._orphans or self._leaderless or self._creatorless:
                self._gather(task)
        task.order = seq
        task.clone_flags = clone_flags & _SHAPING
        leader = task.leader
        task.birth_sid = leader.sid
        task.birth_pgid = leader.pgid
        task.creator = creator
        if creator is None and by_tid:
            self._creatorless.setdefault(by_address, {})[task] = None
            self.unknown.add(by_address)
        elif creator is not None and creator.creator is not None and history.is_gone(creator.creator):
            history.contract(creator)

    def _name(self, task: Task, comm: bytes) -> None:
        if comm != task.comm:
            if len(self._comms) > _MAX_SHARED:
                self._comms.clear()
            task.comm = self._comms.setdefault(comm, comm)

    def _parent(self, task: Task, tid: int, address: int) -> Task | None:
        """The parent a record names; one that is not in the table is asked about, and the task waits for it."""
        pid = self._numbers.get(tid)
        parent = pid.task if pid is not None else None
        if parent is not None and parent.address == address:
            return parent
        if tid:  # 0 is the idle task, parent of init and kthreadd
            self._orphans.setdefault(address, {})[task] = None
            self.unknown.add(address)
        return None

    def _gather(self, task: Task) -> None:
        """Somebody may have waited for this one to be entered."""
        for child in self._orphans.pop(task.address, ()):
            if child.pid.task is child and child.parent is None:
                rules.link_child(child, task)
        for child in self._creatorless.pop(task.address, ()):
            child.creator = task
            task.flags |= CREATED
        self.unknown |= self._leaderless.pop(task.address, set())

    # ---- death -----------------------------------------------------------------------------------------------------

    def exit(self, data: Data, at: int) -> None:
        """RECORD_EXIT."""
        group_dead, start_ns, identity, pgid_identity, sid_identity, tid, flags, exit_code = _EXIT(data, at)
        pid = self._numbers.get(tid)
        task = pid.task if pid is not None and pid.identity == identity else None
        if (
            task is None
            or task.start_ns != start_ns
            or (leader := task.leader).pgid is None
            or leader.pgid.identity != pgid_identity
            or leader.sid is None
            or leader.sid.identity != sid_identity
        ):
            self.counts.repairs += 1
            task = self._merge(data, at)
            if task is None:
                return
            leader = task.leader
        if self.surprises:
            self.surprises.pop(task, None)
        task.exit_code = exit_code
        task.flags = task.flags & ~PTRACED | flags & PTRACED
        if task.flags & CREATED:
            history.remember(task, "exit", _HEAD(data, at)[0], None)
        if group_dead:
            leader.exit_code = exit_code
            leader.flags |= flags & AUTOREAP
        if not task.flags & EXITED:
            self._exit(task)

    def _exit(self, task: Task) -> None:
        """What follows from an exit: children get a new parent, and whoever nobody waits for is released."""
        leader = task.leader
        if task.first_child is None:
            rules.exit_task(task)
        else:
            children = tuple(task.children())
            reaper = rules.exit_task(task)
            for child in children:
                # a new parent that ignores SIGCHLD has the zombies it inherits reaped at once
                if reaper is None or child.flags & EXITED:
                    self.doubts[child] = None
        if rules.dies_unwaited(task):
            rules.release_task(task)
        if leader.flags & AUTOREAP and leader.flags & EXITED and rules.is_alone(leader):
            if rules.waits_for_its_namespace(leader):
                self.doubts[leader] = None
            else:
                rules.release_task(leader)

    def _bury(self, pid: Pid) -> None:
        """Its number belongs to somebody else now, so nobody can be using it: its reap has gone unseen."""
        task = pid.task
        if task is not None:
            self._end(task, task.exit_code)

    def _end(self, task: Task, exit_code: int) -> None:
        """It is gone for good, whether or not its exit was heard of."""
        self.surprises.pop(task, None)
        if not task.flags & EXITED:
            self.counts.repairs += 1
            task.exit_code = exit_code
            self._exit(task)
        rules.release_task(task)

    def free(self, data: Data, at: int) -> None:
        """RECORD_FREE, RECORD_RELEASE: an exact identity is gone for good."""
        _, start_ns, tid, exit_code = _END(data, at)
        pid = self._numbers.get(tid)
        task = pid.task if pid is not None else None
        # Mostly it has been reaped before. A leader that exec gave a thread's number to matches nobody either.
        if task is not None and task.start_ns == start_ns:
            self._end(task, exit_code)

    def waited(self, data: Data, at: int) -> None:
        """RECORD_WAITED."""
        tid, number = _CALL(data, at)
        caller = self.task(tid)
        if caller is None:
            return
        if not number:  # the caller did not want to know which one
            zombies = (child for thread in caller.group() for child in thread.children() if rules.is_zombie(child))
            self.doubts.update(dict.fromkeys(zombies))
            return
        pid = caller.pid.namespace.numbers.get(number)
        task = pid.task if pid is not None else None
        if task is None or not task.flags & EXITED:
            return  # stopped or continued; or reaped already
        parent = task.leader.parent
        if parent is not None and parent.leader is caller.leader and rules.is_zombie(task):
            self._end(task, task.exit_code)
        else:
            self.doubts[task] = None  # a tracer's wait does not reap another's child

    # ---- exec, session, group --------------------------------------------------------------------------------------

    def exec(self, data: Data, at: int) -> None:
        """RECORD_EXEC."""
        old_tid, identity, tid = _EXEC(data, at)
        if old_tid != tid:
            thread = self.task(old_tid)
            if thread is not None and thread.leader.pid.identity == identity:
                rules.de_thread(thread)
        task = self._merge(data, at)
        for thread in tuple(task.threads or ()) if task is not None else ():
            self._end(thread, 0)  # de_thread() has waited for the others to end

    def session(self, data: Data, at: int) -> None:
        """RECORD_SESSION, RECORD_GROUP."""
        seq, kind, identity, pgid, sid, tid = _SESSION(data, at)
        pid = self._numbers.get(tid)
        task = pid.task if pid is not None and pid.identity == identity else None
        if task is None:
            task = self._merge(data, at)
            if task is None:
                return
        leader = task.leader
        self._follow_group(leader, pgid, sid, data, at)
        if self.surprises and self.surprises.get(leader) in ("session", "group"):
            del self.surprises[leader]
        if kind == Kind.SESSION:
            history.remember(leader, "setsid", seq, leader.sid)
        else:
            history.remember(leader, "setpgid", seq, leader.pgid)

    def subreaper(self, data: Data, at: int) -> None:
        """RECORD_SUBREAPER."""
        task = self._merge(data, at)
        if task is None:
            return
        leader = task.leader
        on = bool(leader.flags & SUBREAPER)
        history.remember(leader, "subreaper", _HEAD(data, at)[0], int(on))
        if on:
            rules.propagate_has_child_subreaper(leader)

    def regrouped(self, data: Data, at: int) -> None:
        """RECORD_REGROUPED: whose group changed, the hook could not tell."""
        tid, number = _CALL(data, at)
        caller = self.task(tid)
        pid = caller.pid.namespace.numbers.get(number) if caller is not None else None
        if pid is not None and pid.task is not None:
            self.doubts[pid.task] = None

    # ---- answers ---------------------------------------------------------------------------------------------------

    def state(self, data: Data, at: int) -> None:
        """RECORD_STATE: how a task is, whatever the events have said."""
        state = TaskState(*_TASK(data, at))
        self._asked.pop((state.task, state.start_ns), None)
        pid = self._numbers.get(state.tid)
        known = pid.task if pid is not None and pid.identity == state.pid else None
        if known is not None:
            self._compare(known, state)
        task = self._merge(data, at)
        if task is None:
            return
        task.child_namespace = (state.child_ns_id, state.child_inum) if state.child_inum else None
        if state.flags & EXITED and not task.flags & EXITED:
            task.exit_code = state.exit_code
            self._exit(task)

    def _compare(self, task: Task, state: TaskState) -> None:
        leader = task.leader
        if state.flags & EXITED and not task.flags & EXITED:
            self.surprises[task] = "exit"
        elif leader.sid is None or leader.sid.identity != state.sid:
            self.surprises[leader] = "session"
        elif leader.pgid is None or leader.pgid.identity != state.pgid:
            self.surprises[leader] = "group"
        elif leader.parent is not None and leader.parent.address != state.parent:
            parent = self.task(state.parent_tid)
            # until exit_notify() a dead parent still stands in the kernel's record
            if parent is None or parent.address != state.parent or not parent.flags & EXITED:
                self.surprises[task] = "parent"

    def gone(self, data: Data, at: int) -> None:
        """RECORD_GONE."""
        address, start_ns, _, _ = _END(data, at)
        for child in self._orphans.pop(address, ()):
            self.doubts[child] = None
        self._leaderless.pop(address, None)
        self._creatorless.pop(address, None)
        task = self._asked.pop((address, start_ns), None)
        if task is None or task.address != address or task.pid.task is not task or task.threads:
            return  # a leader goes before its threads in one case only: one of them is about to exec in its place
        if not task.flags & EXITED:
            self._end(task, task.exit_code)
            self.surprises[task] = "gone"
        else:
            self._end(task, task.exit_code)

    def marker(self, data: Data, at: int) -> None:
        """RECORD_MARKER: nothing happens."""

    # ---- taking over a whole state ---------------------------------------------------------------------------------

    def _merge(self, data: Data, at: int) -> Task | None:
        """Make the table agree with a record_task; a task that is not there is entered, with an assumed birth.

        Returns:
            None for a thread whose leader is not in the table: it is entered once that is.
        """
        state = TaskState(*_TASK(data, at))
        if not state.pid:
            return None  # past release_task(): it has no pids any more, and is nobody
        pid = self._numbers.get(state.tid)
        task = pid.task if pid is not None and pid.identity == state.pid else None
        if task is None:
            task = self._enter(state, data, at)
            if task is None:
                return None
        task.address = state.task
        task.start_ns = state.start_ns
        # PF_EXITING is set before an exit is announced. So a record without it, numbered after, tells of another
        # task_struct under the same number: an exec by a thread that was not heard of.
        kept = _NOT_FROM_RECORDS | CREATED if state.flags & EXITING else CREATED
        task.flags = state.flags & ~_NOT_FROM_RECORDS | task.flags & kept
        self._name(task, state.comm)
        if task.ids != (state.uid, state.gid):
            task.ids = self._ids.setdefault((state.uid, state.gid), (state.uid, state.gid))
        leader = task.leader
        if leader is task:
            task.exit_signal = state.exit_signal
        else:
            leader.flags = leader.flags & ~_OF_GROUP | state.flags & _OF_GROUP
        self._follow_group(leader, state.pgid, state.sid, data, at)
        self._follow_parent(leader, state)
        if self._orphans or self._leaderless or self._creatorless:
            self._gather(task)
        return task

    def _follow_group(self, leader: Task, pgid: int, sid: int, data: Data, at: int) -> None:
        if leader.pgid is None or leader.pgid.identity != pgid:
            rules.change_pgid(leader, self.pids.role(data, at, 2))
        if leader.sid is None or leader.sid.identity != sid:
            rules.change_sid(leader, self.pids.role(data, at, 3))

    def _follow_parent(self, leader: Task, state: TaskState) -> None:
        parent = leader.parent
        if parent is not None and parent.address == state.parent:
            return
        known = self._parent(leader, state.parent_tid, state.parent) if parent is None else self.task(state.parent_tid)
        if known is None or known.address != state.parent:
            return
        # Between its exit event and exit_notify() a dead parent still stands in the kernel's record.
        if parent is None or not known.flags & EXITED:
            rules.unlink_child(leader)
            rules.link_child(leader, known)

    def _enter(self, state: TaskState, data: Data, at: int) -> Task | None:
        leader: Task | None = None
        if state.tgid != state.pid:
            leader = self.pids.task(data, at, 1)
            if leader is None:
                self._leaderless.setdefault(state.leader, set()).add(state.task)
                self.unknown.add(state.leader)
                return None
        self.counts.assumed += 1
        pid = self.pids.own(data, at, state.tid, state.pid)
        task = Task(pid, state.start_ns, state.task, state.flags & ~_NOT_FROM_RECORDS)
        if leader is not None:
            rules.add_thread(task, leader)
        else:
            pgid, sid = self.pids.role(data, at, 2), self.pids.role(data, at, 3)
            rules.add_process(task, self._parent(task, state.parent_tid, state.parent), pgid, sid)
        if state.flags & EXITED:
            task.flags |= EXITED
            task.exit_code = state.exit_code
        return task
