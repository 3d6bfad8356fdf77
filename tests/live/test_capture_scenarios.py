# SPDX-License-Identifier: Apache-2.0
"""Captures of scripted trees against the kernel's answer and the oracle's births."""

import re

import pytest

from agent.errors import RefusedError
from tests.live.compare import Capture, assert_matches, assert_refused, events_lost
from tests.live.expectation import Expectation
from tests.live.scenarios import SCENARIOS
from tests.live.treeprog import Tree

_ATTEMPTS = 5


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_capture_of_a_scenario_is_the_tree(name: str, capture: Capture) -> None:
    """Every task, pid object, tag, namespace and birth; or a refusal that names every leak and nothing else."""
    for _ in range(_ATTEMPTS):
        before = events_lost(capture)
        with Tree() as tree:
            target = SCENARIOS[name](tree)
            if target.leaks:
                assert Expectation(tree, tree.view(), target.root, target.mode).leaks == set(target.leaks)
                assert_refused(capture, tree, target.root)
                return
            snapshot = capture(tree.number(target.root), target.mode)
            if snapshot.completeness.lost == before:
                assert_matches(snapshot, tree, target.root)
                return
    pytest.fail(f"events were lost in each of {_ATTEMPTS} attempts: the machine is too busy for this test")


def test_a_refusal_names_sessions_from_outside_along_with_what_entered(capture: Capture) -> None:
    """One kind of leak does not hide the other."""
    with Tree() as tree:
        tree.run("fork 0 1 newpid; fork 1 2; setsid 2; fork 0 3; setns 3 1; fork 3 4; setsid 4")

        assert_refused(capture, tree, 1)


def test_what_one_that_entered_has_left_behind_is_refused_with_all_its_descendants(capture: Capture) -> None:
    """The one that entered is gone: its child is init's now, and was made by a dead stranger."""
    with Tree() as tree:
        tree.run("fork 0 1 newpid; setsid 1; fork 0 2; setns 2 1; fork 2 3; setsid 3; fork 3 4; fork 4 5; setsid 5")
        tree.run("exit 3; wait 2 3; fork 1 6")

        with pytest.raises(RefusedError) as refused:
            capture(tree.number(1), "container")

        named = {int(re.findall(r"\d+", line)[0]) for line in refused.value.leaks}
        assert named == {tree.number(node) for node in (4, 5)}


def test_nothing_is_left_of_a_namespace_whose_end_was_reaped(capture: Capture) -> None:
    """Its tasks die all at once and in any order, some without a reap: the race needs many tries."""
    for _ in range(60):
        with Tree() as tree:
            tree.run("fork 0 1 newpid; setsid 1; unshare 1; fork 1 2; fork 1 3; setpgid 3 3 3; fork 3 4; leave 2 3")
            tree.run("wait 1 3 waitid; wait 1 2; setns 1 1; fork 1 5")

            snapshot = capture(tree.number(1), "container")

            assert [task.pid for task in snapshot.tasks] == [1, 2]
