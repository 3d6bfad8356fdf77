# SPDX-License-Identifier: Apache-2.0
"""What events say of a task, and the facts by which it is noticed that one has to be told."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from agent import rules
from agent.births import flag_names
from agent.objects import EXITED, STOPPED, SUBREAPER, Namespace, Pid, Task

Details = Callable[[Task, Namespace], dict[str, Any]]
Clock = Callable[[], tuple[int, int]]
"""CLOCK_REALTIME now, and how far it is ahead of CLOCK_BOOTTIME, both ns."""

Marks = dict[str, bool]
ASSUMED: Final[Marks] = {"assumed": True}
ENTERED: Final[Marks] = {"entered": True}


class Facts(NamedTuple):
    """All that is told of a task. Of a thread that is no leader the fields of the group are empty.

    Attributes:
        leader: of its group; a task that is gone has none any more.
        parent, pgid, sid, subreaper: of the group.
        exited, exit_code, stopped, exit_signal, ids, comm: its own; exit_code is None while it has not exited.
    """

    leader: Task
    parent: Task | None
    pgid: Pid | None
    sid: Pid | None
    subreaper: int
    exited: int
    exit_code: int | None
    stopped: bool
    exit_signal: int
    ids: tuple[int, int]
    comm: bytes


def facts_of(task: Task) -> Facts:
    """Facts of a task that is there."""
    flags = task.flags
    exited = flags & EXITED
    leads = task.leader is task
    return Facts(
        task.leader,
        task.parent if leads else None,
        task.pgid if leads else None,
        task.sid if leads else None,
        flags & SUBREAPER if leads else 0,
        exited,
        task.exit_code if exited else None,
        not exited and bool(flags & STOPPED),
        task.exit_signal,
        task.ids,
        task.comm,
    )


# ---- what an event says --------------------------------------------------------------------------------------------


def who(task: Task, leader: Task, namespace: Namespace) -> dict[str, Any]:
    """What every event says of its task."""
    return {
        "pid": leader.pid.number_in(namespace),
        "tid": task.pid.number_in(namespace),
        "numbers": task.pid.numbers[namespace.level :],
        "start_ns": task.start_ns,
        "uid": task.ids[0],
        "gid": task.ids[1],
        "comm": task.comm.rstrip(b"\0"),
    }


def birth(task: Task, namespace: Namespace) -> dict[str, Any]:
    """A task that begins."""
    said = {
        "parent": thread(task.leader.parent, namespace),
        "creator": thread(task.creator, namespace),
        **ids(task, namespace),
        "flags": flag_names(task.clone_flags),
        "exit_signal": task.exit_signal,
    }
    if task.flags & STOPPED and not task.flags & EXITED:  # a thread: its tracer lets a stopped group run on
        said["stopped"] = True
    return {**said, "kernel": True} if rules.is_kernel_worker(task) else said


def presence(task: Task, namespace: Namespace) -> dict[str, Any]:
    """A task that has been there for some time: as a birth, and what else it has become since."""
    return {
        **birth(task, namespace),
        **condition(task, namespace),
        "subreaper": bool(task.leader.flags & SUBREAPER),
    }


def execution(old: Pid | None) -> Details:
    """An exec by the thread that had this pid object."""
    return lambda task, namespace: {"old_tid": number(old, namespace), "exit_signal": task.exit_signal}


def death(*, dead: bool) -> Details:
    """An exit; `dead`: no thread of the group is left."""
    return lambda task, _namespace: {"exit_code": task.exit_code, "group_dead": dead}


def parent(task: Task, namespace: Namespace) -> dict[str, Any]:
    """Another parent, to which it sends another signal perhaps."""
    return {"parent": thread(task.leader.parent, namespace), "exit_signal": task.exit_signal}


def ids(task: Task, namespace: Namespace) -> dict[str, Any]:
    """Group and session."""
    leader = task.leader
    return {"pgid": number(leader.pgid, namespace), "sid": number(leader.sid, namespace)}


def subreaper(task: Task, _namespace: Namespace) -> dict[str, Any]:
    """Orphans come to it, or do so no more."""
    return {"on": bool(task.leader.flags & SUBREAPER)}


def condition(task: Task, _namespace: Namespace) -> dict[str, Any]:
    """What no other kind of event tells."""
    exited = bool(task.flags & EXITED)
    return {
        "stopped": not exited and bool(task.flags & STOPPED),
        "exit_code": task.exit_code if exited else None,
        "exit_signal": task.exit_signal,
    }


def nothing(_task: Task, _namespace: Namespace) -> dict[str, Any]:
    """Nothing but whom it is about."""
    return {}


def row(task: Task, namespace: Namespace) -> list[Any]:
    """Numbers, pid, parent, group and session, for whoever begins with a snapshot."""
    leader = task.leader
    return [
        task.pid.numbers[namespace.level :],
        number(leader.pid, namespace),
        thread(leader.parent, namespace),
        *ids(task, namespace).values(),
    ]


def number(pid: Pid | None, namespace: Namespace) -> int:
    """As a namespace counts; 0: it does not see it."""
    return pid.number_in(namespace) if pid is not None else 0


def thread(task: Task | None, namespace: Namespace) -> int:
    """The number of a task, as above."""
    return number(task.pid if task is not None else None, namespace)
