# SPDX-License-Identifier: Apache-2.0
"""What a plan is made for, and what is said where there is none."""

import gc

import pytest

from agent.model import Obstacle, TaskState
from agent.restart.plan import Op
from agent.restart.planning import make_plan, obstacles
from tests.builders import a_snapshot, a_task


def test_a_zombie_whose_status_nobody_may_read_is_rebuilt_with_0() -> None:
    """Who may not look has null in its place."""
    snapshot = a_snapshot([(1,), (5,)], [a_task(1, 0), a_task(2, 1, state=TaskState.ZOMBIE)], mode="container")

    assert obstacles(snapshot) == ()
    (end,) = [step for step in make_plan(snapshot).steps if step.op is Op.EXIT]
    assert end.value == 0


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
