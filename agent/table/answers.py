# SPDX-License-Identifier: Apache-2.0
"""Comparison of an answer with the table: it may confirm a task's state, or show a change that no event has told.

The rules by which a table takes an answer over are in agent.table.handlers and agent.table.merge.
"""

from agent.table import departure
from agent.table.objects import CREATED, EXITED, TaskStruct
from agent.table.processtable import ProcessTable
from agent.table.wire import TaskRecord


def confirms(table: ProcessTable, task: TaskStruct, state: TaskRecord) -> bool:
    """Return True if an answer agrees with every field of a task in the table, so that applying it changes nothing."""
    leader = task.leader
    parent, pgid, sid = leader.parent, leader.pgid, leader.sid
    return (
        pgid is not None
        and sid is not None
        and (parent.address == state.parent if parent is not None else not state.parent_tid)
        and pgid.identity == state.pgid
        and sid.identity == state.sid
        and task.address == state.task
        and task.start_ns == state.start_ns
        and task.flags & ~CREATED == state.flags
        and task.comm == state.comm
        and task.ids == (state.uid, state.gid)
        and leader.pid.identity == state.tgid
        and (task.exit_signal == state.exit_signal or leader is not task)
        and task.child_namespace == ((state.child_ns_id, state.child_inum) if state.child_inum else None)
        and table.noted.get(task, 0) == state.by
        and not (table.orphans or table.leaderless or table.creatorless)  # no task waits for it to be entered
    )


def compare(table: ProcessTable, task: TaskStruct, state: TaskRecord) -> None:
    """Note a change of a task that an answer shows and no event has told; an event that comes later may settle it."""
    leader = task.leader
    if state.flags & EXITED and not task.flags & EXITED:
        table.surprises[task] = "exit"
    elif leader.sid is None or leader.sid.identity != state.sid:
        table.surprises[leader] = "session"
    elif leader.pgid is None or leader.pgid.identity != state.pgid:
        table.surprises[leader] = "group"
    elif leader.parent is not None and leader.parent.address != state.parent:
        parent = table.task(state.parent_tid)
        # until exit_notify() the kernel's record still names a dead parent
        if parent is None or parent.address != state.parent or not parent.flags & EXITED:
            table.surprises[task] = "parent"


def may_be_last_of_init(leader: TaskStruct | None) -> bool:
    """Return True if an unknown thread may be the last of a namespace's init: all known threads of that have exited.

    Args:
        leader: of the thread's group; None where that is not known either.
    """
    return leader is not None and departure.is_last_of_init(leader) and bool(leader.flags & EXITED)
