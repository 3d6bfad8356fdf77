# SPDX-License-Identifier: Apache-2.0
"""What a plan is made for, and what is said where there is none."""

import gc
from typing import Any

import pytest

from agent.errors import NotRebuildableError
from agent.model import Obstacle, Task, TaskState
from agent.restart.plan import Op
from agent.restart.planning import make_plan, obstacles
from tests.builders import a_snapshot, a_task


def test_a_zombie_whose_status_nobody_may_read_is_rebuilt_with_0() -> None:
    """Who may not look has null in its place."""
    snapshot = a_snapshot([(1,), (5,)], [a_task(1, 0), a_task(2, 1, state=TaskState.ZOMBIE)], mode="container")

    assert obstacles(snapshot) == ()
    (end,) = [step for step in make_plan(snapshot).steps if step.op is Op.EXIT]
    assert end.value == 0


def test_a_core_that_was_dumped_is_not_rebuilt_and_the_plan_says_so() -> None:
    """No call makes a zombie say that again; the tasks are named by their numbers."""
    core: dict[str, Any] = {"state": TaskState.ZOMBIE, "exit_code": 11 | 0x80}
    rows = [a_task(1, 0), *[a_task(tag, 1, **core) for tag in range(2, 14)]]
    snapshot = a_snapshot([(1,), *[(number,) for number in range(302, 314)]], rows, mode="container")
    plain = a_snapshot(
        [(1,), (5,)], [a_task(1, 0), a_task(2, 1, state=TaskState.ZOMBIE, exit_code=11)], mode="container"
    )
    (note,) = make_plan(snapshot).notes

    assert note.startswith("that a core was dumped is not rebuilt: whoever waits for 302, 303, ")
    assert "311 and 2 more sees the same signal" in note
    assert make_plan(plain).notes == ()


def dying(*rows: Task, numbers: list[tuple[int, ...]]) -> NotRebuildableError:
    """Why there is no plan for a root and an init that has exited, which are tags 1 and 2, with others."""
    init = a_task(2, 1, depth=1, state=TaskState.ZOMBIE, exit_code=0)
    with pytest.raises(NotRebuildableError) as caught:
        make_plan(a_snapshot([(100,), (101, 1), *numbers], [a_task(1, 0), init, *rows]))
    return caught.value


@pytest.mark.parametrize("state", [TaskState.RUNNING, TaskState.STOPPED])
def test_that_nobody_lives_where_the_init_has_exited_is_proven(state: TaskState) -> None:
    """zap_pid_ns_processes() kills all."""
    error = dying(a_task(3, 1, depth=1, state=state), numbers=[(102, 2)])

    assert (error.tag, error.rule, error.proven) == (3, "dying-namespace", True)
    assert "lives in the pid namespace of 101/1" in error.text
    assert error.text.endswith(NotRebuildableError.PROVEN)


def test_that_an_init_that_has_exited_has_no_zombies_of_its_own_is_proven() -> None:
    """It reaps them; a dead init below, which waits as it does, is no zombie yet."""
    corpse: dict[str, Any] = {"state": TaskState.ZOMBIE, "exit_code": 0}
    error = dying(a_task(3, 2, depth=1, **corpse), numbers=[(102, 2)])
    assert (error.tag, error.rule, error.proven) == (3, "dying-namespace", True)
    below = [a_task(3, 2, depth=2, **corpse), a_task(4, 1, depth=2, **corpse)]
    root = [a_task(1, 0), a_task(2, 1, depth=1, **corpse)]

    assert obstacles(a_snapshot([(100,), (101, 1), (102, 2, 1), (103, 3, 2)], [*root, *below])) == ()


def test_a_limit_says_that_it_is_one() -> None:
    """No more is claimed than is known."""
    thread = a_task(2, 0, tgid=1, state=TaskState.ZOMBIE, exit_code=0)
    with pytest.raises(NotRebuildableError, match=NotRebuildableError.LIMIT) as caught:
        make_plan(a_snapshot([(100,), (101,)], [a_task(1, 0), thread]))

    assert not caught.value.proven


def test_what_stands_in_the_way_is_one_task_and_one_rule() -> None:
    """A namespace has nobody in it before its init."""
    snapshot = a_snapshot([(1,), (5, 3)], [a_task(1, 0), a_task(2, 1, depth=1)], mode="container")
    (found,) = obstacles(snapshot)

    assert isinstance(found, Obstacle)
    assert (found.tag, found.rule) == (2, "namespace-without-init")
    assert found.text.startswith("5/3 ")


@pytest.mark.parametrize("numbers", [(6,), (5, 3)], ids=["a plan", "none"])
@pytest.mark.parametrize("wanted", [True, False])
def test_garbage_is_looked_for_afterwards_as_it_was_before(numbers: tuple[int, ...], *, wanted: bool) -> None:
    """Whether there is a plan or not."""
    tasks = [a_task(1, 0), a_task(2, 1, depth=len(numbers) - 1)]
    snapshot = a_snapshot([(1,), numbers], tasks, mode="container")
    before = gc.isenabled()
    try:
        if not wanted:
            gc.disable()
        assert bool(obstacles(snapshot)) == (len(numbers) > 1)
        assert gc.isenabled() == wanted
    finally:
        (gc.enable if before else gc.disable)()
