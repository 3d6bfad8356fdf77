# SPDX-License-Identifier: Apache-2.0
"""The merge of a record of a task's whole state into the table.

A record may name a parent, leader or creator that the table lacks. The merge then notes its address, so that the kernel
is asked about it, and completes the waiting tasks when it is added.
"""

from typing import Final

from agent.table import rules, wire
from agent.table.objects import (
    AUTOREAP,
    CREATED,
    EXITED,
    EXITING,
    RELEASED,
    SUBREAPER,
    UNDER_SUBREAPER,
    Pid,
    TaskStruct,
)
from agent.table.pidspace import Data
from agent.table.processtable import ProcessTable
from agent.table.wire import Kind, TaskRecord

_OF_GROUP: Final = SUBREAPER | UNDER_SUBREAPER
# A hook may read a task before its exit and number the record after it, so no record clears the flags of an exit.
_NOT_FROM_RECORDS: Final = EXITED | RELEASED | AUTOREAP
_TASK: Final = wire.TASK.unpack_from


class Merge:
    """The merge of whole states into one table.

    Args:
        table: the table; its maps are bound here once.
    """

    def __init__(self, table: ProcessTable) -> None:
        self._table = table
        self._pids = table.pids
        self._numbers = table.pids.numbers
        self._changes = table.changes
        self._touch = table.changes.add
        self._doubts = table.doubts
        self._unknown = table.unknown
        self._moved = table.moved
        self._orphans = table.orphans
        self._leaderless = table.leaderless
        self._creatorless = table.creatorless

    def state(self, data: Data, at: int) -> TaskStruct | None:
        """Make the table agree with a record_task; a task that the table lacks is entered, with an assumed birth.

        Returns:
            None for a thread whose leader is not in the table: it is entered once that is.
        """
        state = TaskRecord(*_TASK(data, at))
        if not state.pid:
            return None  # past release_task(): it has no pid objects any more
        pid = self._numbers.get(state.tid)
        task = pid.task if pid is not None and pid.identity == state.pid else None
        if task is None and state.kind == Kind.GROUP and state.flags & EXITING and not state.flags & EXITED:
            self._unknown[state.task] = None  # moved within its exit: the kernel is asked if it stays as a zombie
            return None
        if task is None:
            task = self._enter(state, data, at)
            if task is None:
                return None
        elif state.flags & ~task.leader.flags & _OF_GROUP and state.kind != Kind.SUBREAPER:
            self._table.astray = True
        self._touch(task)
        if task.address != state.task:
            self._changes.address(task)
        task.address = state.task
        task.start_ns = state.start_ns
        # PF_EXITING is set before an exit is announced. So a later record without it tells of another task_struct under
        # the same number: an exec by a thread, whose record was lost.
        kept = _NOT_FROM_RECORDS | CREATED if state.flags & EXITING else CREATED
        task.flags = state.flags & ~_NOT_FROM_RECORDS | task.flags & kept
        # The flag MOVING_NOWHERE describes this namespace, so both are always taken from the same record.
        task.child_namespace = (state.child_ns_id, state.child_inum) if state.child_inum else None
        if state.comm != task.comm:
            self._table.set_comm(task, state.comm)
        if task.ids != (state.uid, state.gid):
            self._table.set_ids(task, (state.uid, state.gid))
        leader = task.leader
        if leader is not task:
            leader.flags = leader.flags & ~_OF_GROUP | state.flags & _OF_GROUP
            self._touch(leader)
        self.follow_group(leader, state.pgid, state.sid, data, at)
        if task.pid.task is not task:
            return None  # a record that no kernel writes: its own number is another group's; the task was ended above
        self._follow_parent(leader, state)
        # A record that still names a dead parent also has the exit signal from before reparent_leader().
        if leader is task and (leader.parent is None or leader.parent.address == state.parent):
            task.exit_signal = state.exit_signal
        if self._orphans or self._leaderless or self._creatorless:
            self.gather(task)
        return task

    def follow_group(self, leader: TaskStruct, pgid: int, sid: int, data: Data, at: int) -> None:
        """Put a process into the group and session that a record_task names by identity."""
        moved_from = self._moved.pop(leader, 0) if self._moved else 0
        if leader.pgid is None or leader.pgid.identity != pgid:
            group = self._pids.role(data, at, 2)
            if pgid != moved_from:  # else its founder was known before, wherever that one is by now
                self.found(group, leader)
            rules.change_pgid(leader, group)
            self._changes.group(leader)
        if leader.sid is None or leader.sid.identity != sid:
            session = self._pids.role(data, at, 3)
            self.found(session, leader, session=True)
            rules.change_sid(leader, session)
            self._changes.group(leader)

    def found(self, pid: Pid, member: TaskStruct, *, session: bool = False) -> None:
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
            self._doubts[founder] = None
        if founder.pgid is not pid:
            if not session and founder.pgid is not None:
                self._moved[founder] = founder.pgid.identity
            rules.change_pgid(founder, pid)
        self._changes.group(founder)

    def _follow_parent(self, leader: TaskStruct, state: TaskRecord) -> None:
        parent = leader.parent
        if parent is not None and parent.address == state.parent:
            return
        known = (
            self.parent(leader, state.parent_tid, state.parent)
            if parent is None
            else self._table.task(state.parent_tid)
        )
        if known is None or known.address != state.parent or not rules.may_have(known, leader):
            if parent is not None and state.parent_tid:  # ask about the new parent first, then about the child again
                self._unknown[state.parent] = None
                self._doubts[leader] = None
            return
        # Between its exit event and exit_notify() the kernel's record still names a dead parent.
        if parent is None or not known.flags & EXITED:
            if parent is not None:
                self._touch(parent)
            rules.unlink_child(leader)
            self._changes.adopt(known, leader)

    def _enter(self, state: TaskRecord, data: Data, at: int) -> TaskStruct | None:
        # first, for it may end the task that had the number before
        pid = self._pids.own(data, at, state.tid, state.pid)
        leader: TaskStruct | None = None
        if state.tgid != state.pid:
            leader = self._pids.task(data, at, 1)
            if leader is None:
                rules.attach_pid(pid)
                rules.detach_pid(pid)  # frees the numbers: the thread is not entered yet
                self._leaderless.setdefault(state.leader, set()).add(state.task)
                self._unknown[state.leader] = None
                return None
        self._table.counts.assumed += 1
        task = TaskStruct(pid, state.start_ns, state.task, state.flags & ~_NOT_FROM_RECORDS)
        if leader is not None:
            rules.add_thread(task, leader)
        else:
            pgid, sid = self._pids.role(data, at, 2), self._pids.role(data, at, 3)
            rules.add_process(task, self.parent(task, state.parent_tid, state.parent), pgid, sid)
            if task.parent is not None:
                self._touch(task.parent)
        if state.flags & EXITED:
            task.flags |= EXITED
            task.exit_code = state.exit_code
        return task

    def parent(self, task: TaskStruct, tid: int, address: int) -> TaskStruct | None:
        """Return the parent that a record names; about one that the table lacks the kernel is asked, and the task
        waits.
        """
        pid = self._numbers.get(tid)
        parent = pid.task if pid is not None else None
        if parent is not None and parent.address == address and rules.may_have(parent, task):
            # between its exit event and exit_notify() it still gets children, which then get a new parent with the
            # others
            if not parent.flags & EXITED:
                return parent
            reaper = rules.find_new_reaper(parent) or parent
            if reaper.leader is not parent.leader:
                task.exit_signal = rules.SIGCHLD  # reparent_leader()
            return reaper
        if tid:  # 0 is the idle task, parent of init and kthreadd
            self._orphans.setdefault(address, {})[task] = None
            self._unknown[address] = None
        return None

    def gather(self, task: TaskStruct) -> None:
        """Complete the tasks that have waited for this one to be entered."""
        for child in self._orphans.pop(task.address, ()):
            if child.pid.task is child and child.parent is None:
                if rules.may_have(task, child):
                    self._changes.adopt(task, child)
                else:  # its parent is gone, and this is the next task at the address
                    self._doubts[child] = None
        for child in self._creatorless.pop(task.address, ()):
            if task.start_ns <= child.start_ns:  # else another task at the same address
                child.creator = task
                task.flags |= CREATED
                self._touch(child)
        self._unknown.update(dict.fromkeys(sorted(self._leaderless.pop(task.address, ()))))
