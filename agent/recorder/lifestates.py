# SPDX-License-Identifier: Apache-2.0
"""The states of a task within a life, as far as events tell them, and the parts of events that a history repeats. Pure."""

from collections.abc import Hashable
from typing import Any, Final, TypeAlias

from agent.table.objects import EXITED, STOPPED, SUBREAPER, Pid, TaskStruct

Said: TypeAlias = dict[str, Any]
"""An event as the protocol has it."""

_TOLD_FLAGS: Final = EXITED | STOPPED | SUBREAPER
_OF_EXITS: Final = ("birth", "present", "exec", "death", "change")
"""Kinds of events that tell if a task has exited."""


def state_of_task(task: TaskStruct) -> Hashable:
    """Return what events tell of a task: equal where nothing is to be told of it. A thread has no parent of its own."""
    leader = task.leader
    own = (
        *(task.pid.numbers, task.start_ns, task.flags & _TOLD_FLAGS),
        *(task.exit_code, task.exit_signal, task.ids, task.comm),
    )
    if leader is not task:
        return own, leader.pid.numbers
    parent = leader.parent
    above = None if parent is None else (parent.pid.numbers, parent.start_ns)
    return own, (_numbers(leader.pgid), _numbers(leader.sid)), above


def _numbers(pid: Pid | None) -> tuple[int, ...] | None:
    return None if pid is None else pid.numbers


def kept_names(last: Said) -> Said:
    """Return the names of a task as of its last event."""
    return {key: last[key] for key in ("run", "start_ns", "uid", "gid", "comm", "numbers", "pid") if key in last}


def ahead_of(event: Said) -> int:
    """Return by how much CLOCK_REALTIME was ahead of CLOCK_BOOTTIME at an event, ns."""
    return int(event["time_ns"] - event["boottime_ns"])


def is_over(life: list[Said]) -> bool:
    """Return True if a life has come to its end, or has not begun."""
    return not life or life[-1]["event"] == "reap"


def is_dead(life: list[Said]) -> bool:
    """Return True if the last event of a life that tells of it says that the task has exited."""
    last = next(each for each in reversed(life) if each["event"] in _OF_EXITS)
    return last["event"] == "death" or last.get("exit_code") is not None
