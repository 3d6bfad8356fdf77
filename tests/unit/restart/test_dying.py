# SPDX-License-Identifier: Apache-2.0
"""A tree without what the kernel was about to end: what is left is what the kernel would have left, and can be rebuilt."""

from dataclasses import replace
from typing import Any, Final

import pytest

from agent.errors import NotRebuildableError
from agent.model import Namespace, PidObject, Snapshot, Task, TaskState
from agent.restart.planning.dying import without_dying
from agent.restart.planning.search import make_plan, obstacles
from tests.support.builders import a_snapshot, a_task

ZOMBIE: Final[dict[str, Any]] = {"state": TaskState.ZOMBIE, "exit_code": 0}


def placed(rows: list[Task], pids: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> Snapshot:
    """Return a snapshot of these tasks, with numbers and namespaces of their pids; a namespace has one above it."""
    chains = {chain[: level + 1] for _, chain in pids for level in range(len(chain))}
    levels = sorted((chain[-1], len(chain) - 1, chain[-2] if len(chain) > 1 else None) for chain in chains)
    namespaces = tuple(Namespace(space, 4026531836 + space, level, above) for space, level, above in levels)
    objects = tuple(PidObject(*each) for each in pids)
    return replace(a_snapshot(tasks=rows), pids=objects, namespaces=namespaces)


def left(snapshot: Snapshot) -> tuple[list[int], list[int], list[int]]:
    """Return the tags of the tasks that stay, of the processes that are left out, and of those that are killed."""
    with pytest.raises(NotRebuildableError, match="--drop-dying") as refused:
        make_plan(snapshot)
    assert refused.value.rule == "dying-namespace"
    rest, gone, killed = without_dying(snapshot)
    assert obstacles(rest) == ()
    return [task.pid for task in rest.tasks], [task.pid for task in gone], [task.pid for task in killed]


def test_the_children_of_an_init_that_has_exited_are_left_out_with_all_below() -> None:
    """Threads and zombies of them, and a namespace below; the init is a zombie then, and its sibling stays."""
    rows = [
        a_task(1, 0),
        a_task(2, 1, depth=1, **ZOMBIE),
        a_task(3, 2, depth=1),
        a_task(4, 2, tgid=3, depth=1),
        a_task(5, 3, depth=1, **ZOMBIE),
        a_task(6, 3, depth=2),
        a_task(7, 6, depth=2),
        a_task(8, 1),
    ]
    outer, inner = (0, 1), (0, 1, 2)
    pids = [((100,), (0,)), ((101, 1), outer), ((102, 2), outer), ((103, 3), outer), ((104, 4), outer)]
    pids += [((105, 5, 1), inner), ((106, 6, 2), inner), ((107,), (0,))]
    assert left(placed(rows, pids)) == ([1, 2, 8], [3, 5, 6, 7], [])


def test_a_task_that_entered_from_outside_is_a_zombie_of_its_parent() -> None:
    """The init waits for that one within its exit; what it had started itself is gone."""
    rows = [a_task(1, 0), a_task(2, 1, depth=1, **ZOMBIE), a_task(3, 1, depth=1), a_task(4, 3, depth=1)]
    snapshot = a_snapshot([(100,), (101, 1), (102, 2), (103, 3)], rows)
    assert left(snapshot) == ([1, 2, 3], [4], [3])
    rest, _, _ = without_dying(snapshot)
    entered = rest.tasks[2]
    assert (entered.state, entered.exit_code, entered.ppid) == (TaskState.ZOMBIE, 9, 1)
    plan = make_plan(rest)
    assert [plan.actors[actor].tag for actor in plan.lingering()] == [2]


def test_an_init_below_stays_where_it_still_waits_for_something() -> None:
    """Of two, each a child of an init that has exited, one waits for a zombie of a process outside."""
    rows = [
        a_task(1, 0),
        a_task(2, 1, depth=1, **ZOMBIE),
        a_task(3, 2, depth=2, **ZOMBIE),
        a_task(4, 1, depth=2, **ZOMBIE),
        a_task(5, 2, depth=2, **ZOMBIE),
        a_task(6, 5, depth=2),
    ]
    first, second = (0, 1, 2), (0, 1, 3)
    pids = [((100,), (0,)), ((101, 1), (0, 1)), ((102, 2, 1), first), ((103, 3, 2), first)]
    pids += [((104, 4, 1), second), ((105, 5, 2), second)]
    assert left(placed(rows, pids)) == ([1, 2, 3, 4], [5, 6], [])


def test_a_tree_in_which_nothing_ends_stays_as_it_is() -> None:
    """So does one whose init waits for a zombie of a process outside: that is no moment, but a state that may last."""
    alive = a_snapshot([(100,), (101, 1), (102, 2)], [a_task(1, 0), a_task(2, 1, depth=1), a_task(3, 2, depth=1)])
    assert without_dying(alive) == (alive, [], [])
    waits = [a_task(1, 0), a_task(2, 1, depth=1, **ZOMBIE), a_task(3, 1, depth=1, **ZOMBIE)]
    lasting = a_snapshot([(100,), (101, 1), (102, 2)], waits)
    assert without_dying(lasting) == (lasting, [], [])


def test_the_root_that_ends_itself_is_refused_all_the_same() -> None:
    """No process of the tree stands above it, so the option is not named either."""
    snapshot = a_snapshot([(1,), (2,)], [a_task(1, 0, **ZOMBIE), a_task(2, 1)], mode="container")
    rest, gone, killed = without_dying(snapshot)
    assert (rest, gone, killed) == (snapshot, [], [])
    with pytest.raises(NotRebuildableError) as refused:
        make_plan(rest)
    assert "--drop-dying" not in str(refused.value)
