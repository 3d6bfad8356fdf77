# SPDX-License-Identifier: Apache-2.0
"""Properties of the original that a rebuilt tree does not have."""

from agent.model import Shares
from agent.restart.planning.losses import losses
from tests.support.builders import a_snapshot, a_task


def test_a_tree_that_shares_nothing_and_dumped_nothing_loses_nothing() -> None:
    """Nothing is said of it."""
    assert list(losses(a_snapshot([(1,)], [a_task(1, 0)]))) == []


def test_tasks_that_share_without_being_threads_of_one_group_are_named() -> None:
    """The tenth is the last to be named; the others are counted."""
    tasks = [a_task(1, 0), *[a_task(tag, 1, shares=Shares(vm=1)) for tag in range(2, 14)]]
    (line,) = losses(a_snapshot([(tag + 100,) for tag in range(1, 14)], tasks))

    named = ", ".join(str(number) for number in range(102, 112))
    assert line.startswith(f"what {named} and 2 more share, ")
    assert line.endswith("is not rebuilt without contents: each has its own")
