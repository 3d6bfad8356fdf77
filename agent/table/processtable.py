# SPDX-License-Identifier: Apache-2.0
"""The live process table: all tasks of a host, and the open questions about them. No clock, no descriptor, no thread.

Theory
------
The table follows the kernel by records (agent.table.wire), in the order of their numbers (agent.table.stream). Each
record of a task carries its whole state, so it repairs the error that a lost record left (agent.table.merge);
agent.table.handlers has the change that each kind of record brings, agent.table.rules the effects of an exit or an
exec. No sequence of records that a kernel can send, however lossy, makes the table raise.

Three kinds of change have no event; answers of the kernel show them (`RECORD_STATE`, `RECORD_GONE`):

* a reap that no wait call reports (SIGCHLD ignored later, a dying namespace): the table asks about the zombie;
* a new parent that the rules cannot tell: the table asks about the child;
* stop and continue, a new comm, a pending unshare: the watch asks when it takes a snapshot.

The table collects doubts in `doubts`; the watch puts them to the kernel. The attribute `changes` has the tasks that any
record but a confirming answer changes: a result about other tasks still holds.

The table holds all that one watch leaves to the next (agent.capture.memorywriter).
"""

import itertools
import sys
from collections.abc import Iterable
from typing import Final

from agent.model import WaitStatus
from agent.table import departure, history, rules
from agent.table.changes import Changes
from agent.table.counters import Counts, Surprise
from agent.table.inputs import Input, Note, ignore
from agent.table.objects import AUTOREAP, EXITED, EXITING, Pid, PidNamespace, TaskStruct
from agent.table.pidspace import PidSpace

_MAX_SHARED: Final = 4096  # distinct comms, and distinct ids, remembered so that tasks can share them


class ProcessTable:
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
        contracting: the task from which the contraction of a long chain of births goes on (agent.table.history); None:
            no walk waits.
        keeps_text: True where the text of arguments and environments is kept; False: only their hashes.
        note: takes note of the inputs beside records.
    """

    def __init__(self) -> None:
        self.pids: Final = PidSpace(self._bury)
        self.doubts: Final[dict[TaskStruct, None]] = {}
        self.lingering: Final[dict[PidNamespace, dict[TaskStruct, None]]] = {}
        self.unknown: Final[dict[int, None]] = {}
        self.surprises: Final[dict[TaskStruct, Surprise]] = {}
        self.moved: Final[dict[TaskStruct, int]] = {}
        self.astray = False
        self.unlisted: set[TaskStruct] = set()
        self.noted: dict[TaskStruct, int] = {}
        self.counts = Counts()
        self.orphans: Final[dict[int, dict[TaskStruct, None]]] = {}
        self.leaderless: Final[dict[int, set[int]]] = {}
        self.creatorless: Final[dict[int, dict[TaskStruct, None]]] = {}
        self.unanswered: Final[dict[tuple[int, int], TaskStruct]] = {}
        self.idle = 0
        self.changes: Final = Changes()
        self.contracting: TaskStruct | None = None
        self.keeps_text = True
        self.note: Note = ignore
        self._comms: dict[bytes, bytes] = {}
        self._ids: dict[tuple[int, int], tuple[int, int]] = {}
        self._numbers = self.pids.numbers
        self._touch = self.changes.add

    # ---- looking up and asking -------------------------------------------------------------------------------------

    def task(self, tid: int) -> TaskStruct | None:
        """Return the task of a number in the initial namespace; None also for a number that only a group or session
        holds.
        """
        pid = self._numbers.get(tid)
        return pid.task if pid is not None else None

    def tasks(self) -> list[TaskStruct]:
        """Return all tasks, in no particular order."""
        return [pid.task for pid in self._numbers.values() if pid.task is not None]

    def question(self, task: TaskStruct) -> tuple[int, int]:
        """Return the question about a task, (address, start_ns), noted as put. The answer comes back as a record.

        One about a task that is gone is not noted: no answer changes it, and its number may be another's by now.
        """
        if task.pid.task is not task:
            return task.address, task.start_ns
        self.note(Input.QUESTION, task.pid.numbers[0])
        return self._put(task)

    def _put(self, task: TaskStruct) -> tuple[int, int]:
        question = task.address, task.start_ns
        self.unanswered[question] = task
        return question

    def take_questions(self, most: int = sys.maxsize) -> list[tuple[int, int]]:
        """Return open questions as (address, start_ns), start_ns 0 for any task there; they count as put."""
        if not self.unknown and not self.doubts:
            return []
        self.note(Input.TAKE, most)
        questions: list[tuple[int, int]] = []
        for address in list(itertools.islice(self.unknown, most)):
            del self.unknown[address]
            questions.append((address, 0))
        doubts = list(itertools.islice(self.doubts, most - len(questions)))
        for task in doubts:
            del self.doubts[task]
            if task.pid.task is task and task.address:
                questions.append(self._put(task))
        return questions

    def miss(self, tasks: Iterable[TaskStruct]) -> None:
        """Note the living tasks that a sweep's walk has not listed, until `strike_off`."""
        self.note(Input.MISS_NONE, 0)
        self.unlisted = set(tasks)
        for task in self.unlisted:
            self.note(Input.MISS, task.pid.numbers[0])

    def strike_off(self, mark: int) -> None:
        """Take off `unlisted` the tasks that have ended, or were born as number `mark` or later, after the answers.

        An answer that has not come by now was lost.
        """
        self.note(Input.STRIKE_OFF, mark)
        self.unanswered.clear()
        if self.unlisted:
            self.unlisted = {task for task in self.unlisted if task.pid.task is task and task.order < mark}

    def reunite(self) -> None:
        """Make births name the pid objects that live, once all tasks are entered after loss or at the start."""
        self.note(Input.REUNITE, 0)
        history.reunite(self.tasks(), self.pids.living_one)

    def settle(self) -> int:
        """Turn the surprises that no event has settled into anomalies; return their count."""
        self.note(Input.SETTLE, 0)
        unsettled = len(self.surprises)
        self.counts.kinds.update(self.surprises.values())
        self.surprises.clear()
        return unsettled

    # ---- values that tasks share -----------------------------------------------------------------------------------

    def set_ids(self, task: TaskStruct, ids: tuple[int, int]) -> None:
        """Give a task its ids, in an object that all tasks with these ids share."""
        if len(self._ids) > _MAX_SHARED:
            self._ids.clear()
        task.ids = self._ids.setdefault(ids, ids)

    def set_comm(self, task: TaskStruct, comm: bytes) -> None:
        """Give a task its name, in an object that all tasks of this name share."""
        if len(self._comms) > _MAX_SHARED:
            self._comms.clear()
        task.comm = self._comms.setdefault(comm, comm)

    def call(self, task: TaskStruct, ids: tuple[int, int], comm: bytes) -> None:
        """Take over ids and name from a record of another kind."""
        if task.ids != ids or task.comm != comm:
            self.set_ids(task, ids)
            self.set_comm(task, comm)
            self._touch(task)

    # ---- consequences of an end ------------------------------------------------------------------------------------

    def exit(self, task: TaskStruct) -> None:
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
            self.doubt_lingering(task.pid)

    def doubt_lingering(self, *pids: Pid | None) -> None:
        """Doubt the last thread of an init that may have waited for one of these pid objects: its release has no event.

        Only the namespaces in which they have a number are visited, at most 33 for each, however many others linger.
        """
        for pid in pids:
            space = pid.namespace if pid is not None else None
            while space is not None:
                waiting = self.lingering.pop(space, None)
                if waiting is not None:
                    here = {task: None for task in waiting if task.pid.task is task}
                    self.doubts.update(here)
                    here = {task: None for task in here if departure.lingers(task)}
                    if here:
                        self.lingering[space] = here
                space = space.parent

    def _doubt_last_of_init(self, leader: TaskStruct) -> None:
        """Doubt the only living thread of an init if it is within its exit: it may wait there for good, untold.

        The search ends with the second living thread, so that the exits of an init's many threads do not each visit
        all.
        """
        if leader.pid.numbers[-1] != 1 or leader.pid.task is not leader:
            return
        living: TaskStruct | None = None
        for task in leader.group():
            if not task.flags & EXITED:
                if living is not None:
                    return
                living = task
        if living is not None and living.flags & EXITING:
            self.doubts[living] = None

    def _reap_unwaited(self, leader: TaskStruct) -> None:
        """Doubt a group that is over and whose parent ignores SIGCHLD: the kernel mostly releases it at once."""
        if leader.flags & AUTOREAP and leader.flags & EXITED and rules.is_alone(leader):
            # Its parent may exit before exit_notify() looks, and the next parent may want the zombie; or an init's own
            # namespace keeps it. So the kernel is asked.
            self.doubts[leader] = None

    def end(self, task: TaskStruct, exit_code: WaitStatus) -> None:
        """Release a task for good, with or without an exit record."""
        self.surprises.pop(task, None)
        if self.moved:
            self.moved.pop(task, None)
        if not task.flags & EXITED:
            self.counts.repairs += 1
            task.exit_code = exit_code
            self.exit(task)
        leader = task.leader
        freed = (task.pid, task.pgid, task.sid) if self.lingering else ()
        if task.first_child is not None:  # only after loss, or of an init, which reaps without events within its exit
            self.doubts.update(dict.fromkeys(task.children()))
        self.changes.release(task)
        self._reap_unwaited(leader)
        if leader.pid.level:
            self._doubt_last_of_init(leader)
        self.doubt_lingering(*freed)
        if leader is not task and leader.flags & EXITED and leader.pid.task is leader and rules.is_alone(leader):
            self.doubts[leader] = None  # only now the kernel decides if the leader becomes a zombie

    def _bury(self, pid: Pid) -> None:
        """End the task of a pid object whose number another one has taken: its reap was lost."""
        task = pid.task
        if task is not None:
            self.end(task, task.exit_code)
