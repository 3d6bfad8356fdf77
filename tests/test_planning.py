# SPDX-License-Identifier: Apache-2.0
"""What a plan is made for, and what is said where there is none."""

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
