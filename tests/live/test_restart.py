# SPDX-License-Identifier: Apache-2.0
"""Capture, rebuild, capture again: each scripted tree comes back as it was, by the kernel's own answers."""

import os
from dataclasses import replace
from typing import Any

import pytest

from agent.model import Snapshot, Tag, TaskState, WaitStatus
from agent.restart.planning.search import make_plan
from agent.restart.rebuild import manyanswers
from agent.restart.rebuild.coordinator import Rebuild
from agent.restart.rebuild.verify import Standing, verify, verify_active
from exporters.comparing import difference
from tests.live.compare import Capture
from tests.live.rebuilds import verified
from tests.live.scenarios import SCENARIOS
from tests.live.treeprog import Tree
from tests.support.builders import a_snapshot, a_task


def again(capture: Capture, snapshot: Snapshot, *, pidns: bool, any_numbers: bool = False) -> Snapshot:
    """The tree rebuilt, compared with /proc, and captured."""
    plan = make_plan(snapshot, pidns=pidns)
    with verified(snapshot, plan, pidns=pidns, any_numbers=any_numbers) as rebuild:
        return capture(rebuild.pids[plan.tasks[0]], snapshot.mode)


HERE = ("job_of_a_shell", "terminal_of_a_subtree", "terminal_of_a_subtrees_session")


def captured(name: str, capture: Capture) -> Snapshot:
    """A scenario, which is over when this returns."""
    with Tree() as tree:
        target = SCENARIOS[name](tree)
        return capture(tree.number(target.root), target.mode)


def assert_equal(a: Snapshot, b: Snapshot) -> None:
    """By what the image says; when they were born is no part of it."""
    found = difference.difference(a, b)
    assert found.equal, "\n".join(difference.lines(found, unicode=False))


@pytest.mark.parametrize("name", HERE)
def test_a_scenario_comes_back_with_the_numbers_it_had_here(name: str, capture: Capture) -> None:
    """They are free again."""
    snapshot = captured(name, capture)

    assert_equal(snapshot, again(capture, snapshot, pidns=False))


def test_with_any_numbers_all_but_those_is_as_it_was(capture: Capture) -> None:
    """Parents, sessions and groups are the same."""
    snapshot = captured("double_fork_daemons", capture)
    made = again(capture, snapshot, pidns=True, any_numbers=True)

    assert [task[:6] for task in made.tasks] == [task[:6] for task in snapshot.tasks]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pgid": 1}, "has the group"),
        ({"sid": 1}, "has the session"),
        ({"ppid": 1}, "has the parent"),
    ],
)
def test_what_differs_from_the_image_is_told(change: dict[str, Any], said: str) -> None:
    """Each by name; here the image is another than the one that was rebuilt."""
    tasks = [
        a_task(1, 0),
        a_task(2, 1, pgid=2, sid=2),
        a_task(3, 2, pgid=3, sid=2),
    ]
    snapshot = a_snapshot([(1,), (20,), (30,)], tasks, mode="container")
    plan = make_plan(snapshot)
    with Rebuild(plan, no_stdio=True) as rebuild:
        rebuild.build()
        standing = Standing(snapshot, plan, rebuild.pids, rebuild.numbers, rebuild.guard)
        other = replace(snapshot, tasks=(*snapshot.tasks[:2], snapshot.tasks[2]._replace(**change)))
        numbers = (*rebuild.numbers[:-1], (31,))

        assert verify(standing) == []
        (only,) = verify(standing._replace(snapshot=other))
        assert only.startswith(f"task 3 (30): {said}")
        assert any("has the numbers 30 instead of 31" in line for line in verify(standing._replace(numbers=numbers)))


def test_two_processes_find_what_one_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a tree that is as its image has it, and in another one."""
    tasks = [a_task(tag, 0 if tag == 1 else 1, pgid=2 - tag % 2, sid=1) for tag in range(1, 31)]
    numbers = [(number,) for number in (1, *range(20, 49))]
    snapshot = a_snapshot(numbers, tasks, mode="container")
    other = replace(snapshot, tasks=(*tasks[:20], *(task._replace(pgid=Tag(1)) for task in tasks[20:])))
    plan = make_plan(snapshot)
    with Rebuild(plan, no_stdio=True) as rebuild:
        rebuild.build()
        places = plan, rebuild.pids, rebuild.numbers, rebuild.guard
        alone = [verify(Standing(each, *places)) for each in (snapshot, other)]
        monkeypatch.setattr(manyanswers, "LEAST", 2)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
        together = [verify(Standing(each, *places)) for each in (snapshot, other)]
    assert alone[0] == []
    assert len(alone[1]) == 5
    assert together == alone


def test_states_that_differ_from_the_image_are_told() -> None:
    """A zombie of another status, one that is not stopped, one that is alive."""
    tasks = [a_task(1, 0), a_task(2, 1, state=TaskState.ZOMBIE, exit_code=3 << 8), a_task(3, 1)]
    snapshot = a_snapshot([(1,), (20,), (30,)], tasks, mode="container")
    plan = make_plan(snapshot)
    with Rebuild(plan, no_stdio=True) as rebuild:
        rebuild.build()
        standing = Standing(snapshot, plan, rebuild.pids, rebuild.numbers, rebuild.guard)
        rebuild.activate()
        rebuild.release()
        zombie = snapshot.tasks[1]._replace(exit_code=WaitStatus(9))
        stopped = snapshot.tasks[2]._replace(state=TaskState.STOPPED)
        other = standing._replace(snapshot=replace(snapshot, tasks=(snapshot.tasks[0], zombie, stopped)))

        assert verify_active(standing, stopped=True) == []
        assert verify_active(other, stopped=True) == [
            "task 2 (20): has the wait status 768 instead of 9",
            "task 3 (30): is in state S, and was stopped",
        ]
