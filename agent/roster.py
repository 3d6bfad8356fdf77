# SPDX-License-Identifier: Apache-2.0
"""Who is there: tasks and pid objects by number, and how a record of a whole state is made to agree with them.

What a task, a parent, a leader or a creator is not there for is remembered by the address that the records name, asked
about, and made good when it is entered. The events themselves are in `table`.
"""

import itertools
import sys

from agent import history, rules, wire
from agent.changes import Changes
from agent.objects import (
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
from agent.pidspace import Data, PidSpace
from agent.totals import Counts, Surprise
from agent.wire import Kind, TaskState

_OF_GROUP = SUBREAPER | UNDER_SUBREAPER
# A record may have been read before an exit and be numbered after it, so being dead is not for a record to take back.
_NOT_FROM_RECORDS = EXITED | RELEASED | AUTOREAP
_MAX_SHARED = 4096  # distinct comms, and distinct ids, remembered so that tasks can share them
_TASK = wire.TASK.unpack_from


class Roster:
    """All tasks of a host, by pid namespace and number.

    Attributes:
        pids: the pid objects and namespaces.
        doubts: tasks to be asked about.
        lingering: by namespace, the last of its init, which has exited: it may wait there for others to go (rules.lingers).
        unknown: addresses of tasks that are not here and have to be: parents, leaders and creators no record told of.
        surprises: what answers showed before any event did, by task.
        astray: a subreaper came to light that no event had told of. Orphans may have gone to it that are somewhere else
            here: only a sweep finds them. Whoever sweeps sets it back.
        unlisted: tasks that live, and that the last sweep's walk should have listed and did not.
        noted: the ties (bpf/events.h) of the tasks that have any, as of the last answer about each, or else the last sweep.
        orphans: by the address of a parent that is not here, who waits for it.
        leaderless: addresses of threads, by that of a leader that is not here.
        creatorless: by the address of a creator that is not here, who waits for it.
        unanswered: whom each question that has been put is about.
        idle: address of the idle task, which is nobody's to show: the parent of whoever has none. 0 where not known.
        counts: see Counts.
        changes: of which tasks something may be other than when somebody looked last.
    """

    def __init__(self) -> None:
        self.pids = PidSpace(self._bury)
        self.doubts: dict[Task, None] = {}
        self.lingering: dict[Namespace, dict[Task, None]] = {}
        self.unknown: set[int] = set()
        self.surprises: dict[Task, Surprise] = {}
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
        """The task of a number in the initial namespace; None also for a number that only a group or session holds."""
        pid = self._numbers.get(tid)
        return pid.task if pid is not None else None

    def tasks(self) -> list[Task]:
        """All of them, in no particular order."""
        return [pid.task for pid in self._numbers.values() if pid.task is not None]

    def question(self, task: Task) -> tuple[int, int]:
        """What to ask about a task: (address, start_ns). The answer comes back as a record."""
        question = task.address, task.start_ns
        self.unanswered[question] = task
        return question

    def take_questions(self, most: int = sys.maxsize) -> list[tuple[int, int]]:
        """Open questions, as (address, start_ns; 0 for any), about so many at most; they count as put."""
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
        """Once the answers are in: what has ended, or was born as number `mark` or later, is rightly not listed.

        An answer that is not in by now was lost.
        """
        self.unanswered.clear()
        self.unlisted = {task for task in self.unlisted if task.pid.task is task and task.order < mark}

    def reunite(self) -> None:
        """Once all are entered after loss, or at the start: births then name the pid objects that live."""
        history.reunite(self.tasks(), self.pids.living_one)

    def settle(self) -> int:
        """Turn the surprises that no event has settled into anomalies; returns how many."""
        unsettled = len(self.surprises)
        self.counts.kinds.update(self.surprises.values())
        self.surprises.clear()
        return unsettled

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
        if task is None and state.kind == Kind.GROUP and state.flags & EXITING and not state.flags & EXITED:
            self.unknown.add(state.task)  # moved in the middle of its exit: whether it stays as a zombie is to be asked
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
        # PF_EXITING is set before an exit is announced. So a record without it, numbered after, tells of another
        # task_struct under the same number: an exec by a thread that was not heard of.
        kept = _NOT_FROM_RECORDS | CREATED if state.flags & EXITING else CREATED
        task.flags = state.flags & ~_NOT_FROM_RECORDS | task.flags & kept
        # MOVING_NOWHERE is about this one: the two come together, and go together.
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
            return None  # its own number is another group's, says the record: no kernel does, and nobody has it now
        self._follow_parent(leader, state)
        # A record that still has a dead parent has the exit signal that goes with it, too.
        if leader is task and (leader.parent is None or leader.parent.address == state.parent):
            task.exit_signal = state.exit_signal
        if self.orphans or self.leaderless or self.creatorless:
            self._gather(task)
        return task

    def _follow_group(self, leader: Task, pgid: int, sid: int, data: Data, at: int) -> None:
        if leader.pgid is None or leader.pgid.identity != pgid:
            group = self.pids.role(data, at, 2)
            self._found(group, leader)
            rules.change_pgid(leader, group)
            self.changes.group(leader)
        if leader.sid is None or leader.sid.identity != sid:
            session = self.pids.role(data, at, 3)
            self._found(session, leader, session=True)
            rules.change_sid(leader, session)
            self.changes.group(leader)

    def _found(self, pid: Pid, member: Task, *, session: bool = False) -> None:
        """Take over what a member proves: nobody but its own process founds a group or session, heard of or not.

        A session's leader stays in it to the end. A group's may have left it since, so that one is asked.

        Args:
            pid: of the group or session.
            member: somebody else, who is in it.
            session: it is a session's.
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
            rules.change_pgid(founder, pid)
        self.changes.group(founder)

    def _follow_parent(self, leader: Task, state: TaskState) -> None:
        parent = leader.parent
        if parent is not None and parent.address == state.parent:
            return
        known = self._parent(leader, state.parent_tid, state.parent) if parent is None else self.task(state.parent_tid)
        if known is None or known.address != state.parent:
            if parent is not None and state.parent_tid:  # first who that is, then this one again
                self.unknown.add(state.parent)
                self.doubts[leader] = None
            return
        # Between its exit event and exit_notify() a dead parent still stands in the kernel's record.
        if parent is None or not known.flags & EXITED:
            if parent is not None:
                self._touch(parent)
            rules.unlink_child(leader)
            self.changes.adopt(known, leader)

    def _enter(self, state: TaskState, data: Data, at: int) -> Task | None:
        pid = self.pids.own(data, at, state.tid, state.pid)  # first, for it may bury whoever had the number before
        leader: Task | None = None
        if state.tgid != state.pid:
            leader = self.pids.task(data, at, 1)
            if leader is None:
                rules.attach_pid(pid)
                rules.detach_pid(pid)  # nobody uses it yet
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
        """The parent a record names; one that is not in the table is asked about, and the task waits for it."""
        pid = self._numbers.get(tid)
        parent = pid.task if pid is not None else None
        if parent is not None and parent.address == address:
            # between its exit event and exit_notify() it still gets children, who then move on with the others
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
        """Somebody may have waited for this one to be entered."""
        for child in self.orphans.pop(task.address, ()):
            if child.pid.task is child and child.parent is None:
                self.changes.adopt(task, child)
        for child in self.creatorless.pop(task.address, ()):
            if task.start_ns <= child.start_ns:  # else another one, at the same address
                child.creator = task
                task.flags |= CREATED
                self._touch(child)
        self.unknown |= self.leaderless.pop(task.address, set())

    def call(self, task: Task, ids: tuple[int, int], comm: bytes) -> None:
        """Take over ids and name from a record that is about something else."""
        if task.ids != ids or task.comm != comm:
            task.ids = self._ids.setdefault(ids, ids)
            self._name(task, comm)
            self._touch(task)

    def _name(self, task: Task, comm: bytes) -> None:
        if comm != task.comm:
            if len(self._comms) > _MAX_SHARED:
                self._comms.clear()
            task.comm = self._comms.setdefault(comm, comm)

    # ---- what follows from an end ----------------------------------------------------------------------------------

    def _exit(self, task: Task) -> None:
        """What follows from an exit: children get a new parent, and whoever nobody waits for is released."""
        leader = task.leader
        if task.first_child is None:
            rules.exit_task(task)  # whoever calls this has touched it
        else:
            children = tuple(task.children())
            reaper = self.changes.exit(task)
            for child in children:
                # a new parent that ignores SIGCHLD has the zombies it inherits reaped at once
                if reaper is None or child.flags & EXITED:
                    self.doubts[child] = None
        if rules.dies_unwaited(task):
            self.changes.release(task)
        elif rules.lingers(task):
            self.lingering.setdefault(task.pid.namespace, {})[task] = None
        self._reap_unwaited(leader)
        if leader.pid.level:
            self._doubt_last_of_init(leader)
        if self.lingering:
            self._doubt_lingering(task.pid)

    def _doubt_lingering(self, *pids: Pid | None) -> None:
        """Doubt the last thread of an init that may have waited for one of these pid objects: no event tells that it goes.

        Only namespaces in which they have a number are looked at, 33 for each at most: how many others wait costs nothing.
        """
        for pid in pids:
            space = pid.namespace if pid is not None else None
            while space is not None:
                waiting = self.lingering.pop(space, None)
                if waiting is not None:
                    here = {task: None for task in waiting if task.pid.task is task}
                    self.doubts |= here
                    here = {task: None for task in here if rules.lingers(task)}
                    if here:
                        self.lingering[space] = here
                space = space.parent

    def _doubt_last_of_init(self, leader: Task) -> None:
        """Doubt a thread of an init that was within its exit when others were still there: by now it may be the last one.

        It may wait there for good, untold. The last one is it only if nobody else of the group lives, so the look ends with
        the second that does: an init of ten thousand threads is none to go through at the exit of each.
        """
        if leader.pid.numbers[-1] != 1 or leader.pid.task is not leader:
            return
        living = list(itertools.islice((task for task in leader.group() if not task.flags & EXITED), 2))
        if len(living) == 1 and living[0].flags & EXITING:
            self.doubts[living[0]] = None

    def _reap_unwaited(self, leader: Task) -> None:
        """A group that is over, and whose parent ignores SIGCHLD, mostly goes at once."""
        if leader.flags & AUTOREAP and leader.flags & EXITED and rules.is_alone(leader):
            # Its parent may exit before exit_notify() looks, and the next one may want the zombie; or its own namespace
            # keeps it: it is asked which.
            self.doubts[leader] = None

    def _end(self, task: Task, exit_code: int) -> None:
        """It is gone for good, whether or not its exit was heard of."""
        self.surprises.pop(task, None)
        if not task.flags & EXITED:
            self.counts.repairs += 1
            task.exit_code = exit_code
            self._exit(task)
        leader = task.leader
        freed = (task.pid, task.pgid, task.sid) if self.lingering else ()
        if task.first_child is not None:  # only after loss, or of an init: within its exit it has reaped them, untold
            self.doubts.update(dict.fromkeys(task.children()))
        self.changes.release(task)
        self._reap_unwaited(leader)
        if leader.pid.level:
            self._doubt_last_of_init(leader)
        self._doubt_lingering(*freed)
        if leader is not task and leader.flags & EXITED and leader.pid.task is leader and rules.is_alone(leader):
            self.doubts[leader] = None  # only now the kernel looks whether anybody will wait for it

    def _bury(self, pid: Pid) -> None:
        """Its number belongs to somebody else now, so nobody can be using it: its reap has gone unseen."""
        task = pid.task
        if task is not None:
            self._end(task, task.exit_code)
