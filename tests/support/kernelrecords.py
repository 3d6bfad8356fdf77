# SPDX-License-Identifier: Apache-2.0
"""The records of a simulated kernel: the state of a task, as the programs of bpf/ tell of it."""

from agent.table import objects, wire
from agent.table.wire import Kind
from tests.support.kernelobjects import Thread
from tests.support.records import RecordWriter

_NO_PARENT = 0xFFFF0000
"""The address of what is no task of a tree: the parent of the first init."""


def flags_of(thread: Thread) -> int:
    """Return record_task.flags."""
    group = thread.group
    bits = (
        (objects.SUBREAPER, group.subreaper),
        (objects.UNDER_SUBREAPER, group.under),
        (objects.EXITED, thread.exited),
        (objects.EXITING, thread.exiting),
        (objects.STOPPED, thread.stopped),
        (objects.PTRACED, thread.traced),
        (objects.MOVING, thread.pending is not None),
    )
    return sum(bit for bit, on in bits if on)


def task(writer: RecordWriter, kind: Kind, thread: Thread, argument: int, by: Thread | None, flags: int) -> bytes:
    """Return a record_task with the thread's present state."""
    group, parent, pending = thread.group, thread.group.parent, thread.pending
    return writer.task(
        kind,
        argument,
        roles=tuple((n.identity, n.state) for n in (thread.pid, group.leader.pid, group.pgid, group.sid)),
        task=thread.address,
        start_ns=thread.start_ns,
        parent=parent.address if parent else _NO_PARENT,
        leader=group.leader.address,
        tid=thread.tid,
        parent_tid=parent.tid if parent else 0,
        flags=flags_of(thread) | (objects.MOVING_NOWHERE if pending and pending.closed else 0) | flags,
        exit_code=thread.code if group.code is None else group.code,
        exit_signal=group.exit_signal if thread.leads else -1,
        uid=thread.ids[0],
        gid=thread.ids[1],
        by=thread.ties if kind is Kind.STATE else by.address if by else 0,
        by_tid=by.tid if by else 0,
        child_inum=pending.inum if pending else 0,
        child_ns_id=pending.identity if pending else 0,
    )


def row(thread: Thread) -> bytes:
    """Return the row of a sweep."""
    group = thread.group
    signal = (group.exit_signal if thread.leads else -1) & 0xFF
    return wire.ROW.pack(
        *(thread.address, thread.start_ns, group.parent.address if group.parent else _NO_PARENT),
        *(thread.pid.identity, group.pgid.identity, group.sid.identity, thread.tid),
        flags_of(thread) | signal << wire.ROW_SIGNAL_SHIFT,
        *thread.ids,
        b"task",
        thread.ties,
    )
