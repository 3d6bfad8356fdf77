# SPDX-License-Identifier: Apache-2.0
"""The tasks and pid objects of a host by number, and the merge of a record of a task's whole state into them.

A record may name a parent, leader or creator that the table lacks. The table then notes its address, asks the kernel
about it, and completes the waiting tasks when it is added. agent.table.processtable has the handlers of the events.
"""

import itertools
import sys

from agent.table import departure, history, rules, wire
from agent.table.changes import Changes
from agent.table.counters import Counts, Surprise
from agent.table.objects import (
    AUTOREAP,
    CREATED,
    EXITED,
    EXITING,
    RELEASED,
    SUBREAPER,
    UNDER_SUBREAPER,
    Namespace,
    Pid,
    Task,
)
from agent.table.pidspace import Data, PidSpace
from agent.table.wire import Kind, TaskState

_OF_GROUP = SUBREAPER | UNDER_SUBREAPER
# A hook may read a task before its exit and number the record after it, so no record clears the flags of an exit.
_NOT_FROM_RECORDS = EXITED | RELEASED | AUTOREAP
_MAX_SHARED = 4096  # distinct comms, and distinct ids, remembered so that tasks can share them
_TASK = wire.TASK.unpack_from


class Roster:
    """All tasks of a host, by pid namespace and number.

    Attributes:
        pids: the pid objects and namespaces.
        doubts: tasks about which the kernel is to be asked.
        lingering: by namespace, the last threads of its init that have exited and may wait for other tasks to be
            released (departure.lingers).
        unknown: addresses of parents, leaders and creators that records name and the table lacks.
        surprises: changes that answers showed before any event did, by task.
        moved: identities of the groups from which founders were moved into the group that they founded, until the
            kernel has told their own.
        astray: True where an answer showed a subreaper that no event had told of. Orphans may have gone to it that have
            another parent in the table: only a sweep finds them, and resets it.
        unlisted: living tasks that the last sweep's walk should have listed and did not.
        noted: the ties (bpf/events.h) of the tasks that have any, as of the last answer about each, or else the last
            sweep.
        orphans: tasks without a parent, by the address of the parent that the table lacks.
        leaderless: addresses of threads, by that of a leader that the table lacks.
        creatorless: tasks without a creator, by the address of the creator that the table lacks.
        unanswered: the task of each question that has been put.
        idle: address of the idle task, the parent of init and kthreadd, which no snapshot shows. 0 where not known.
        counts: see Counts.
        changes: the tasks touched since the last look.
    """

    def __init__(self) -> None:
        self.pids = PidSpace(self._bury)
        self.doubts: dict[Task, None] = {}
        self.lingering: dict[Namespace, dict[Task, None]] = {}
        self.unknown: set[int] = set()
        self.surprises: dict[Task, Surprise] = {}
        self.moved: dict[Task, int] = {}
        self.astray = False
        self.unlisted: set[Task] = set()
        self.noted: dict[Task, int] = {}
        self.counts = Counts()
        self._numbers = self.pids.numbers
        self.orphans: dict[int, dict[Task, None]] = {}
        self.leaderless: dict[int, set[int]] = {}
        self.creatorless: dict[int, dict[Task, None]] = {}
        self.unanswered: dict[tuple[int, int], Task] = {}
        self.idle = 0
        self.changes = Changes()
        self._touch = self.changes.add
        self._comms: dict[bytes, bytes] = {}
        self._ids: dict[tuple[int, int], tuple[int, int]] = {}

    # ---- looking up and asking -------------------------------------------------------------------------------------

    def task(self, tid: int) -> Task | None:
        """Return the task of a number in the initial namespace; None also for a number that only a group or session
        holds.
        """
        pid = self._numbers.get(tid)
        return pid.task if pid is not None else None

    def tasks(self) -> list[Task]:
        """Return all tasks, in no particular order."""
        return [pid.task for pid in self._numbers.values() if pid.task is not None]

    def question(self, task: Task) -> tuple[int, int]:
        """Return the question about a task, (address, start_ns), noted as put. The answer comes back as a record."""
        question = task.address, task.start_ns
        self.unanswered[question] = task
        return question

    def take_questions(self, most: int = sys.maxsize) -> list[tuple[int, int]]:
        """Return open questions as (address, start_ns), start_ns 0 for any task there; they count as put."""
        questions: list[tuple[int, int]] = []
        while self.unknown and len(questions) < most:
            questions.append((self.unknown.pop(), 0))
        doubts = list(itertools.islice(self.doubts, most - len(questions)))
        for task in doubts:
            del self.doubts[task]
            if task.pid.task is task and task.address:
                questions.append(self.question(task))
        return questions

    def strike_off(self, mark: int) -> None:
        """Take off `unlisted` the tasks that have ended, or were born as number `mark` or later, after the answers.

        An answer that has not come by now was lost.
        """
        self.unanswered.clear()
        self.unlisted = {task for task in self.unlisted if task.pid.task is task and task.order < mark}

    def reunite(self) -> None:
        """Make births name the pid objects that live, once all tasks are entered after loss or at the start."""
        history.reunite(self.tasks(), self.pids.living_one)

    def settle(self) -> int:
        """Turn the surprises that no event has settled into anomalies; return their count."""
        unsettled = len(self.surprises)
        self.counts.kinds.update(self.surprises.values())
        self.surprises.clear()
        return unsettled

    # ---- taking over a whole state ---------------------------------------------------------------------------------

    def _merge(self, data: Data, at: int) -> Task | None:
        """Make the table agree with a record_task; a task that the table lacks is entered, with an assumed birth.

        Returns:
            None for a thread whose leader is not in the table: it is entered once that is.
        """
        state = TaskState(*_TASK(data, at))
        if not state.pid:
            return None  # past release_task(): it has no pid objects any more
        pid = self._numbers.get(state.tid)
        task = pid.task if pid is not None and pid.identity == state.pid else None
        if task is None and state.kind == Kind.GROUP and state.flags & EXITING and not state.flags & EXITED:
            self.unknown.add(state.task)  # moved within its exit: the kernel is asked if it stays as a zombie
            return None
        if task is None:
            task = self._enter(state, data, at)
            if task is None:
                return None
        elif state.flags & ~task.leader.flags & _OF_GROUP and state.kind != Kind.SUBREAPER:
            self.astray = True
        self._touch(task)
        if task.address != state.task:
            self.changes.address(task)
        task.address = state.task
        task.start_ns = state.start_ns
        # PF_EXITING is set before an exit is announced. So a later record without it tells of another task_struct under
        # the same number: an exec by a thread, whose record was lost.
        kept = _NOT_FROM_RECORDS | CREATED if state.flags & EXITING else CREATED
        task.flags = state.flags & ~_NOT_FROM_RECORDS | task.flags & kept
        # The flag MOVING_NOWHERE describes this namespace, so both are always taken from the same record.
        task.child_namespace = (state.child_ns_id, state.child_inum) if state.child_inum else None
        self._name(task, state.comm)
        if task.ids != (state.uid, state.gid):
            task.ids = self._ids.setdefault((state.uid, state.gid), (state.uid, state.gid))
        leader = task.leader
        if leader is not task:
            leader.flags = leader.flags & ~_OF_GROUP | state.flags & _OF_GROUP
            self._touch(leader)
        self._follow_group(leader, state.pgid, state.sid, data, at)
        if task.pid.task is not task:
            return None  # a record that no kernel writes: its own number is another group's; the task was ended above
        self._follow_parent(leader, state)
        # A record that still names a dead parent also has the exit signal from before reparent_leader().
        if leader is task and (leader.parent is None or leader.parent.address == state.parent):
            task.exit_signal = state.exit_signal
        if self.orphans or self.leaderless or self.creatorless:
            self._gather(task)
        return task

    def _follow_group(self, leader: Task, pgid: int, sid: int, data: Data, at: int) -> None:
        moved_from = self.moved.pop(leader, 0) if self.moved else 0
        if leader.pgid is None or leader.pgid.identity != pgid:
            group = self.pids.role(data, at, 2)
            if pgid != moved_from:  # else its founder was known before, wherever that one is by now
                self._found(group, leader)
            rules.change_pgid(leader, group)
            self.changes.group(leader)
        if leader.sid is None or leader.sid.identity != sid:
            session = self.pids.role(data, at, 3)
            self._found(session, leader, session=True)
            rules.change_sid(leader, session)
            self.changes.group(leader)

    def _found(self, pid: Pid, member: Task, *, session: bool = False) -> None:
        """Move the founder into a group or session that has a member: only the process of that pid can have founded it.

        A session's leader stays in it to the end. A group's leader may have left it since, so the kernel is asked.

        Args:
            pid: of the group or session.
            member: another process that is in it.
            session: True for a session, False for a group.
        """
        founder = pid.task
        if founder is None or founder is member or founder.leader is not founder:
            return
        if session:
            if founder.sid is pid:
                return
            rules.change_sid(founder, pid)
        elif pid.users > 1:
            return  # it has members already
        else:
            self.doubts[founder] = None
        if founder.pgid is not pid:
            if not session and founder.pgid is not None:
                self.moved[founder] = founder.pgid.identity
            rules.change_pgid(founder, pid)
        self.changes.group(founder)

    def _follow_parent(self, leader: Task, state: TaskState) -> None:
        parent = leader.parent
        if parent is not None and parent.address == state.parent:
            return
        known = self._parent(leader, state.parent_tid, state.parent) if parent is None else self.task(state.parent_tid)
        if known is None or known.address != state.parent:
            if parent is not None and state.parent_tid:  # ask about the new parent first, then about the child again
                self.unknown.add(state.parent)
                self.doubts[leader] = None
            return
        # Between its exit event and exit_notify() the kernel's record still names a dead parent.
        if parent is None or not known.flags & EXITED:
            if parent is not None:
                self._touch(parent)
            rules.unlink_child(leader)
            self.changes.adopt(known, leader)

    def _enter(self, state: TaskState, data: Data, at: int) -> Task | None:
        pid = self.pids.own(data, at, state.tid, state.pid)  # first, for it may end the task that had the number before
        leader: Task | None = None
        if state.tgid != state.pid:
            leader = self.pids.task(data, at, 1)
            if leader is None:
                rules.attach_pid(pid)
                rules.detach_pid(pid)  # frees the numbers: the thread is not entered yet
                self.leaderless.setdefault(state.leader, set()).add(state.task)
                self.unknown.add(state.leader)
                return None
        self.counts.assumed += 1
        task = Task(pid, state.start_ns, state.task, state.flags & ~_NOT_FROM_RECORDS)
        if leader is not None:
            rules.add_thread(task, leader)
        else:
            pgid, sid = self.pids.role(data, at, 2), self.pids.role(data, at, 3)
            rules.add_process(task, self._parent(task, state.parent_tid, state.parent), pgid, sid)
            if task.parent is not None:
                self._touch(task.parent)
        if state.flags & EXITED:
            task.flags |= EXITED
            task.exit_code = state.exit_code
        return task

    def _parent(self, task: Task, tid: int, address: int) -> Task | None:
        """Return the parent that a record names; about one that the table lacks the kernel is asked, and the task
        waits.
        """
        pid = self._numbers.get(tid)
        parent = pid.task if pid is not None else None
        if parent is not None and parent.address == address:
            # between its exit event and exit_notify() it still gets children, which then get a new parent with the
            # others
            if not parent.flags & EXITED:
                return parent
            reaper = rules.find_new_reaper(parent) or parent
            if reaper.leader is not parent.leader:
                task.exit_signal = rules.SIGCHLD  # reparent_leader()
            return reaper
        if tid:  # 0 is the idle task, parent of init and kthreadd
            self.orphans.setdefault(address, {})[task] = None
            self.unknown.add(address)
        return None

    def _gather(self, task: Task) -> None:
        """Complete the tasks that have waited for this one to be entered."""
        for child in self.orphans.pop(task.address, ()):
            if child.pid.task is child and child.parent is None:
                self.changes.adopt(task, child)
        for child in self.creatorless.pop(task.address, ()):
            if task.start_ns <= child.start_ns:  # else another task at the same address
                child.creator = task
                task.flags |= CREATED
                self._touch(child)
        self.unknown |= self.leaderless.pop(task.address, set())

    def call(self, task: Task, ids: tuple[int, int], comm: bytes) -> None:
        """Take over ids and name from a record of another kind."""
        if task.ids != ids or task.comm != comm:
            task.ids = self._ids.setdefault(ids, ids)
            self._name(task, comm)
            self._touch(task)

    def _name(self, task: Task, comm: bytes) -> None:
        if comm != task.comm:
            if len(self._comms) > _MAX_SHARED:
                self._comms.clear()
            task.comm = self._comms.setdefault(comm, comm)

    # ---- consequences of an end ------------------------------------------------------------------------------------

    def _exit(self, task: Task) -> None:
        """Apply an exit: the children get a new parent, and a thread that needs no wait is released."""
        leader = task.leader
        if task.first_child is None:
            rules.exit_task(task)  # the caller has touched it
        else:
            children = tuple(task.children())
            reaper = self.changes.exit(task)
            for child in children:
                # a new parent that ignores SIGCHLD has the zombies it inherits reaped at once
                if reaper is None or child.flags & EXITED:
                    self.doubts[child] = None
        if departure.dies_unwaited(task):
            self.changes.release(task)
        elif departure.lingers(task):
            self.lingering.setdefault(task.pid.namespace, {})[task] = None
        self._reap_unwaited(leader)
        if leader.pid.level:
            self._doubt_last_of_init(leader)
        if self.lingering:
            self._doubt_lingering(task.pid)

    def _doubt_lingering(self, *pids: Pid | None) -> None:
        """Doubt the last thread of an init that may have waited for one of these pid objects: its release has no event.

        Only the namespaces in which they have a number are visited, at most 33 for each, however many others linger.
        """
        for pid in pids:
            space = pid.namespace if pid is not None else None
            while space is not None:
                waiting = self.lingering.pop(space, None)
                if waiting is not None:
                    here = {task: None for task in waiting if task.pid.task is task}
                    self.doubts |= here
                    here = {task: None for task in here if departure.lingers(task)}
                    if here:
                        self.lingering[space] = here
                space = space.parent

    def _doubt_last_of_init(self, leader: Task) -> None:
        """Doubt the only living thread of an init if it is within its exit: it may wait there for good, untold.

        The search ends with the second living thread, so that the exits of an init's many threads do not each visit
        all.
        """
        if leader.pid.numbers[-1] != 1 or leader.pid.task is not leader:
            return
        living = list(itertools.islice((task for task in leader.group() if not task.flags & EXITED), 2))
        if len(living) == 1 and living[0].flags & EXITING:
            self.doubts[living[0]] = None

    def _reap_unwaited(self, leader: Task) -> None:
        """Doubt a group that is over and whose parent ignores SIGCHLD: the kernel mostly releases it at once."""
        if leader.flags & AUTOREAP and leader.flags & EXITED and rules.is_alone(leader):
            # Its parent may exit before exit_notify() looks, and the next parent may want the zombie; or an init's own
            # namespace keeps it. So the kernel is asked.
            self.doubts[leader] = None

    def _end(self, task: Task, exit_code: int) -> None:
        """Release a task for good, with or without an exit record."""
        self.surprises.pop(task, None)
        if self.moved:
            self.moved.pop(task, None)
        if not task.flags & EXITED:
            self.counts.repairs += 1
            task.exit_code = exit_code
            self._exit(task)
        leader = task.leader
        freed = (task.pid, task.pgid, task.sid) if self.lingering else ()
        if task.first_child is not None:  # only after loss, or of an init, which reaps without events within its exit
            self.doubts.update(dict.fromkeys(task.children()))
        self.changes.release(task)
        self._reap_unwaited(leader)
        if leader.pid.level:
            self._doubt_last_of_init(leader)
        self._doubt_lingering(*freed)
        if leader is not task and leader.flags & EXITED and leader.pid.task is leader and rules.is_alone(leader):
            self.doubts[leader] = None  # only now the kernel decides if the leader becomes a zombie

    def _bury(self, pid: Pid) -> None:
        """End the task of a pid object whose number another one has taken: its reap was lost."""
        task = pid.task
        if task is not None:
            self._end(task, task.exit_code)
