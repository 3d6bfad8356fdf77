# SPDX-License-Identifier: Apache-2.0
"""Captures of random trees against the kernel's answer and the oracle's births."""

import os

from hypothesis import HealthCheck, assume, given, note, settings

from tests.live.compare import Capture, assert_matches, assert_refused, events_lost
from tests.live.expectation import Expectation
from tests.live.random_trees import ROOT, Program, chosen, play, programs
from tests.live.treeprog import Tree

_EXAMPLES = int(os.environ.get("CKPTREE_EXAMPLES", "100"))


@settings(max_examples=_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs())
def test_a_capture_of_a_random_tree_is_the_tree(capture: Capture, program: Program) -> None:
    """The whole of it and a part, whatever calls made it; a container with leaks is refused by name, then a subtree."""
    before = events_lost(capture)
    with Tree(strict=False) as tree:
        play(tree, program)
        note("; ".join(tree.log))
        for root in {tree.task(ROOT), chosen(tree, program)}:
            mode = "container" if root.process.unkillable else "subtree"
            if mode == "container" and Expectation(tree, tree.view(), root.node, "container").leaks:
                assert_refused(capture, tree, root.node)
                mode = "subtree"
            snapshot = capture(tree.number(root.node), mode)
            assume(snapshot.completeness.lost == before)
            note(f"captured: node {root.node} as {mode}")

            assert_matches(snapshot, tree, root.node)
