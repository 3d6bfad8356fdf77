# SPDX-License-Identifier: Apache-2.0
"""The lookup of a root by its name, and the check that the client may see it: agent.access has the rules."""

from collections.abc import Callable

from agent.errors import NoSuchRootError, NotPermittedError
from agent.model import Mode
from agent.rootname import RootName
from agent.selection import guests, select
from agent.table import rules
from agent.table.objects import PidNamespace, TaskStruct
from agent.table.processtable import ProcessTable

Sees = Callable[[tuple[int, int]], bool]
"""A test that a client may see a task of these real ids, the user's and the group's."""

_WHO = "root and members of the daemon's group may see every tree"


def process(
    table: ProcessTable, root: RootName, space: PidNamespace, seen: Callable[[TaskStruct], bool] | None = None
) -> TaskStruct:
    """Return the process that a name means.

    Args:
        table: the table, up to date.
        root: the name.
        space: the client's pid namespace: a pid counts in it, and a pid namespace is this one or below it.
        seen: returns True if the client may see a task; None: it may see all.

    Raises:
        NoSuchRootError: no process has the number, or it is a thread's.
        NotPermittedError: the client may not see the process.
    """
    if root.namespace:
        for namespace in table.pids.living():
            init = namespace.numbers.get(1) if namespace.inum == root.number else None
            if init is None or init.task is None or not init.number_in(space):
                continue
            if seen is None or seen(init.task):
                return init.task
        whose = "" if seen is None else " of yours"
        raise NoSuchRootError(f"no process{whose} lives in a pid namespace {root}; see the links /proc/PID/ns/pid")
    pid = space.numbers.get(root.number)
    task = pid.task if pid is not None else None
    if task is None:
        held = (
            " (the number is held by a group or session whose leader is dead)"
            if pid is not None and root.number
            else ""
        )
        raise NoSuchRootError(f"no such process: {root}{held}")
    if seen is not None and not seen(task):
        raise NotPermittedError(f"not permitted: {root} is not yours; {_WHO}")
    if task.leader is not task:
        leader = task.leader.pid.number_in(space)
        raise NoSuchRootError(f"{root} is a thread, not a process: its process is {leader}")
    return task


def unlisted(table: ProcessTable, root: TaskStruct) -> list[str]:
    """Return a line for each process of a tree that the kernel's task iterator passes over, with all of its threads."""
    leaders = {task.leader for task in table.unlisted if task.pid.task is task}
    return [
        f"{select.name(leader)}: the kernel's task iterator does not list it, so some of its threads may be missing"
        for leader in leaders
        if rules.descends_from(leader, root)
    ]


def refuse_others(root: TaskStruct, mode: Mode, members: list[TaskStruct], sees: Sees) -> None:
    """Refuse a tree with a task that the client may not see. The refusal names no such task and no owner.

    Args:
        root: of the tree.
        mode: in `container` mode tasks that entered from outside count too, and so do leaders of groups and sessions
            outside: the refusal of a container that leaks would name them.
        members: select.members(root), with up-to-date ids.
        sees: returns True if the client may see a task of these ids.

    Raises:
        NotPermittedError: the client may not see one of them.
    """
    found = members + guests.entered(root, members) if mode == "container" else members
    others = sum(not sees(task.ids) for task in found)
    if others:
        raise NotPermittedError(f"not permitted: {others} of the {len(found)} tasks of this tree are not yours; {_WHO}")
    if mode == "container":
        leaders = {pid.task for task in found for pid in (task.leader.pgid, task.leader.sid) if pid is not None}
        if any(task is not None and not sees(task.ids) for task in leaders):
            raise NotPermittedError(
                "not permitted: a task of this container is in a session or group of another user's task outside; "
                "start its init with setsid, or use --mode subtree, which writes ids from outside as 0"
            )
