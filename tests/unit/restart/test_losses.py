# SPDX-License-Identifier: Apache-2.0
"""Properties of the original that a rebuilt tree does not have."""

from agent.model import Shares
from agent.restart.planning.losses import losses
from agent.restart.planning.search import decide
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


def test_with_contents_nothing_is_lost_that_tasks_share() -> None:
    """They share their open files again; what they share beside is refused."""
    shares = Shares(files=1)
    alike = [a_task(1, 0, shares=shares), a_task(2, 1, shares=shares), a_task(3, 1, tgid=2, shares=shares)]
    apart = [a_task(1, 0), a_task(2, 0, tgid=1, shares=shares)]
    snapshot = a_snapshot([(1,), (2,), (3,)], alike)

    assert decide(snapshot, pidns=True, any_numbers=False, with_contents=True)[1].notes == ()
    assert len(decide(snapshot, pidns=True, any_numbers=False)[1].notes) == 1
    assert len([*losses(a_snapshot([(1,), (2,)], apart), with_contents=True)]) == 1
