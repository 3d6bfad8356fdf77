# SPDX-License-Identifier: Apache-2.0
"""The rights of the tasks of a restart: the terminal that they may have, and their ids; exceptions are told."""

import os
from typing import TYPE_CHECKING

from agent.cli.restartwish import RestartWish
from agent.cli.terminal import say

if TYPE_CHECKING:
    from agent.model import Snapshot
    from agent.restart.planning.plan import Plan
    from agent.restart.rebuild.commands import Endings
    from agent.restart.rebuild.coordinator import Rebuild
    from agent.restart.rebuild.helperabi import Program
    from agent.restart.rebuild.verify import Standing


def without_terminal(
    wish: RestartWish, snapshot: "Snapshot", plan: "Plan", programs: "dict[int, Program] | None", *, told: bool
) -> bool:
    """Return True if this process has a terminal that the tasks must not have; say so if `told`."""
    from agent.restart.rebuild import terminals

    if wish.allowed.terminal or not terminals.within_reach():
        return False
    from agent.restart.rebuild.commands import rights_of_tasks

    rights = rights_of_tasks(snapshot, plan, programs, runs=wish.run != "hold", keep_rights=wish.keep_rights)
    fewer = terminals.any_exceeded(rights)
    if fewer and told and terminals.streams():
        say(terminals.NOTE)
    return fewer


def own_keyring(wish: RestartWish, snapshot: "Snapshot") -> bool:
    """Return True if the tree must leave the session keyring of this process: who possesses that may read the keys in it.

    A command, and tasks that keep the rights of this process, keep the keyring, too.
    """
    if wish.command or wish.keep_rights:
        return False
    own = os.geteuid()
    return not own or any(task.uid not in (None, own) for task in snapshot.tasks)


def endings(snapshot: "Snapshot", plan: "Plan") -> "Endings | None":
    """Return the ids that tasks take before they exit, and say which ones cannot have theirs; None if no task exits."""
    if all(actor.status is None for actor in plan.actors):
        return None
    from agent.restart.rebuild import commands
    from agent.restart.rebuild.failure import name_of

    found = commands.endings(snapshot, plan)
    for index, text in found.refused.items():
        say(f"{name_of(plan.actors[index])} has the ids of the caller: {text}")
    return found


def holding(snapshot: "Snapshot", plan: "Plan", programs: "dict[int, Program]") -> "dict[int, Program]":
    """Return the entries of tasks that hold under their own ids; say which ones cannot have theirs."""
    from agent.restart.rebuild import commands

    found, without = commands.holding(snapshot, plan, programs.keys())
    for line in without:
        say(line)
    return found


def release(
    rebuild: "Rebuild",
    standing: "Standing",
    held: "dict[int, Program]",
    programs: "dict[int, Program]",
    *,
    compared: bool,
) -> None:
    """Let the tasks hold or run their programs.

    Args:
        rebuild, standing: the tree.
        held: the entries of tasks that hold under their own ids.
        programs: of the others.
        compared: True: compare these ids with the kernel's answers. A task that keeps rights may have been given others.

    Raises:
        RebuildError: a task has other ids; the tree must be taken down.
    """
    rebuild.release({**held, **programs})
    if not held or not compared:
        return
    from agent.restart.rebuild.failure import differs
    from agent.restart.rebuild.verifyheld import verify_held

    if found := verify_held(standing, held):
        raise differs(found)
