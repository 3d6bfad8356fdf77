# SPDX-License-Identifier: Apache-2.0
"""The rights of the tasks of a restart: the terminal that they may have, and their ids; exceptions are told."""

from typing import TYPE_CHECKING

from agent.cli.restartwish import RestartWish
from agent.cli.terminal import say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.model import Snapshot
    from agent.restart.planning.plan import Plan
    from agent.restart.rebuild.helperabi import Program
    from agent.restart.rebuild.helperprogram import Ids


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


def ending(snapshot: "Snapshot", plan: "Plan") -> "Mapping[int, Ids]":
    """Return the ids that tasks take before they exit; say which ones cannot have theirs."""
    if all(actor.status is None for actor in plan.actors):
        return {}
    from agent.restart.rebuild import commands

    found, without = commands.ending(snapshot, plan)
    for line in without:
        say(line)
    return found


def holding(snapshot: "Snapshot", plan: "Plan", programs: "dict[int, Program]") -> "dict[int, Program]":
    """Return the entries of tasks that hold under their own ids; say which ones cannot have theirs."""
    from agent.restart.rebuild import commands

    found, without = commands.holding(snapshot, plan, programs.keys())
    for line in without:
        say(line)
    return found
