# SPDX-License-Identifier: Apache-2.0
"""Which process somebody means, and whether they may see it: agent.access has the rules."""

from collections.abc import Callable

from agent import guests, rules, select
from agent.errors import NoSuchRootError, NotPermittedError
from agent.model import Mode
from agent.objects import Task
from agent.rootname import RootName
from agent.table import ProcessTable

Sees = Callable[[tuple[int, int]], bool]
"""Whether somebody may see a task of these real ids, user's and group's."""

_WHO = "root and members of the daemon's group may see every tree"


def process(
    table: ProcessTable, root: RootName, caller: Task | None, seen: Callable[[Task], bool] | None = None
) -> Task:
    """The process that a name means.

    Args:
        table: as of now.
        root: a pid counts as in the caller's pid namespace.
        caller: who asks; None: the initial namespace is meant.
        seen: whether the caller may see a task; None: any.

    Raises:
        NoSuchRootError: nobody has it, or it is a thread's.
        NotPermittedError: the caller may not see it.
    """
    if root.namespace:
        for namespace in table.pids.living():
            init = namespace.numbers.get(1) if namespace.inum == root.number else None
            if init is not None and init.task is not None and (seen is None or seen(init.task)):
                return init.task
        whose = "" if seen is None else " of yours"
        raise NoSuchRootError(f"no process{whose} lives in a pid namespace {root}; see the links /proc/PID/ns/pid")
    namespace = caller.pid.namespace if caller is not None else table.pids.initial
    pid = namespace.numbers.get(root.number)
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
        leader = task.leader.pid.number_in(namespace)
        raise NoSuchRootError(f"{root} is a thread, not a process: its process is {leader}")
    return task


def unlisted(table: ProcessTable, root: Task) -> list[str]:
    """Processes of a tree that the kernel's walk passes over; it then does so with all of their threads."""
    leaders = {task.leader for task in table.unlisted if task.pid.task is task}
    return [
        f"{select.name(leader)}: the kernel's task iterator does not list it, so some of its threads may be missing"
        for leader in leaders
        if rules.descends_from(leader, root)
    ]


def refuse_others(root: Task, mode: Mode, members: list[Task], sees: Sees) -> None:
    """A tree is shown whole or not at all. Whose the others are, and what they are called, is not said.

    Args:
        root: of the tree.
        mode: in `container` mode who entered from outside counts too, and so does who leads a group or session there: the
            refusal of a container that leaks has their names.
        members: select.members(root), their ids as of now.
        sees: what the caller may see.

    Raises:
        NotPermittedError: they may not.
    """
    found = members + guests.entered(root, members) if mode == "container" else members
    others = sum(not sees(task.ids) for task in found)
    if others:
        raise NotPermittedError(f"not permitted: {others} of the {len(found)} tasks of this tree are not yours; {_WHO}")
    if mode == "container":
        leaders = {pid.task for task in found for pid in (task.leader.pgid, task.leader.sid) if pid is not None}
        if any(task is not None and not sees(task.ids) for task in leaders):
            raise NotPermittedError(
                "not permitted: a task of this container is in a session or group of somebody else, outside; "
                "start its init with setsid, or use --mode subtree, which writes ids from outside as 0"
            )
