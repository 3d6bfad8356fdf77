# SPDX-License-Identifier: Apache-2.0
"""The states of a task within a life, as the events of a history have them. Pure."""

from typing import Any, TypeAlias

from agent.table import wire
from agent.table.objects import EXITED, Pid, TaskStruct

Said: TypeAlias = dict[str, Any]
"""An event as the protocol has it."""


def role_number(task: wire.TaskRecord, numbers: list[wire.PidState | None], role: int) -> int | None:
    """Return the number in a role, in the initial namespace: an object is told with its first role."""
    identities = (task.pid, task.tgid, task.pgid, task.sid)
    for each in range(role + 1):
        state = numbers[each]
        if identities[each] == identities[role] and state is not None:
            return state.numbers[0]
    return None


def state_of_record(task: wire.TaskRecord, numbers: list[wire.PidState | None]) -> Said:
    """Return the state that a record of a task has.

    Args:
        task: the record.
        numbers: of its pid, thread group, group and session, as the record has them.
    """
    return {
        "start_ns": task.start_ns,
        "uid": task.uid,
        "gid": task.gid,
        "comm": task.comm.rstrip(b"\0"),
        "numbers": list(numbers[0].numbers) if numbers[0] is not None else [task.tid],
        "parent": task.parent_tid,
        "pid": role_number(task, numbers, 1),
        "pgid": role_number(task, numbers, 2),
        "sid": role_number(task, numbers, 3),
    }


def state_of_task(task: TaskStruct, run: int) -> Said:
    """Return the state that a table has of a task.

    Args:
        task: the task.
        run: index of the run that the table is of.
    """
    leader = task.leader
    return {
        "run": run,
        "start_ns": task.start_ns,
        "uid": task.ids[0],
        "gid": task.ids[1],
        "comm": task.comm.rstrip(b"\0"),
        "numbers": list(task.pid.numbers),
        "parent": leader.parent.pid.numbers[0] if leader.parent is not None else 0,
        "pid": leader.pid.numbers[0],
        "pgid": _first(leader.pgid),
        "sid": _first(leader.sid),
        **({"exit_code": task.exit_code} if task.flags & EXITED else {}),
    }


def kept_names(last: Said) -> Said:
    """Return the names of a task as of its last event."""
    return {key: last[key] for key in ("run", "start_ns", "uid", "gid", "comm", "numbers", "pid") if key in last}


def last_told(life: list[Said]) -> Said:
    """Return the last event that is no gap."""
    return next(event for event in reversed(life) if event["event"] != "gap")


def ahead_of(event: Said) -> int:
    """Return by how much CLOCK_REALTIME was ahead of CLOCK_BOOTTIME at an event, ns."""
    return int(event["time_ns"] - event["boottime_ns"])


def _first(pid: Pid | None) -> int | None:
    return pid.numbers[0] if pid is not None else None


def assumed(is_so: bool) -> Said:  # noqa: FBT001 - it is the value
    """Return the mark of an event whose moment no record tells."""
    return {"assumed": True} if is_so else {}


def called(of: Said) -> Said:
    """Return name and ids of an event."""
    return {"uid": of["uid"], "gid": of["gid"], "comm": of["comm"]}


def times_of(of: Said) -> Said:
    """Return the times of an event."""
    return {"time_ns": of["time_ns"], "boottime_ns": of["boottime_ns"]}
