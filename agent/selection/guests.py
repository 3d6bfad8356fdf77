# SPDX-License-Identifier: Apache-2.0
"""Guests of a container: processes that entered its pid namespace from outside, and their descendants.

A process that enters has no parent inside, and so no place in the tree. Its children get one as soon as it exits: the
namespace's init adopts them, and they look like the init's own children. Two signs tell them apart. Where births were
observed, some creator of theirs is outside. Else they have a session or group from outside, which the root has not. An
orphan without an observed birth that leads a session of its own cannot be told from a member.
"""

from collections.abc import Collection

from agent.table.objects import TaskStruct


def entered(root: TaskStruct, reached: Collection[TaskStruct]) -> list[TaskStruct]:
    """Return the processes of the root's namespace that do not descend from the root: they entered from outside.

    Args:
        root: init of a container.
        reached: select.members(root).
    """
    inside = set(reached)
    return [
        pid.task
        for pid in root.pid.namespace.numbers.values()
        if pid.task is not None and pid.task not in inside and pid.task.leader is pid.task
    ]


def left_behind(root: TaskStruct, reached: Collection[TaskStruct]) -> set[TaskStruct]:
    """Find the leaders among the root's descendants that a process which entered has left there, and their descendants.

    Args:
        root: init of a container.
        reached: select.members(root): parents come before their children.
    """
    inside = set(reached)
    found: set[TaskStruct] = set()
    for task in reached:
        parent = task.leader.parent
        if task.leader is not task or task is root or parent is None:
            continue
        # find_new_reaper() looks for subreapers in one namespace, and above a process that entered that has none
        adopted = parent.leader.pid.numbers[-1] == 1
        if parent.leader in found:
            found.add(task)
        elif not adopted or (task.order >= 0 and task.creator is not None and task.creator.leader is root):
            continue  # the common case: its parent created it
        elif _is_from_outside(root, task, inside):
            found.add(task)
    return found


def outside_ids(root: TaskStruct, leader: TaskStruct) -> bool:
    """Return True if a process, unlike the root, has a group or session without a number in the root's namespace."""
    home = root.pid.namespace
    for pid in (leader.pgid, leader.sid):
        if pid is None or pid is root.pgid or pid is root.sid or pid.namespace is home:
            continue
        if not pid.number_in(home):
            return True
    return False


def _is_from_outside(root: TaskStruct, task: TaskStruct, inside: Collection[TaskStruct]) -> bool:
    child = task
    while child.order >= 0 and (creator := child.creator) is not None:
        if creator.leader is root:
            return False
        is_there = creator.pid.task is creator
        if not creator.pid.number_in(root.pid.namespace) or (is_there and creator not in inside):
            return True
        child = creator
    return outside_ids(root, task)
