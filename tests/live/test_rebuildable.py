# SPDX-License-Identifier: Apache-2.0
"""A snapshot says at once whether its tree can be rebuilt, while the original still lives."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.scenario import CONTAINER, Target
from tests.live.scenarios import SCENARIOS
from tests.live.treeprog import Tree

TOP = Path(__file__).parents[2]


def snapshot(root: int, socket: Path, *options: str | Path) -> "subprocess.CompletedProcess[str]":
    """By the daemon, as JSON."""
    command = [sys.executable, "-m", "agent", "snapshot", str(root), "--socket", socket, "-f", "json", *options]
    return subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False)


def a_namespace_whose_init_is_a_child_of_somebody_outside(tree: Tree) -> Target:
    """5 is in it. The root is an init itself, so no task of the tree's namespace can be beside it."""
    tree.run(CONTAINER + "setns 0 1; fork 0 2; setns 0 0; fork 2 3 sibling newpid; fork 1 4; setns 4 3; fork 4 5")
    return Target()


def a_parent_that_outlived_the_sigkill_of_its_child(tree: Tree) -> Target:
    """It has called exec() since the birth, so the kernel sent SIGCHLD; the zombie's exit signal is SIGKILL still."""
    tree.run(CONTAINER + "fork 1 2; fork 2 3 signal=9; exec 2; exit 3")
    return Target()


@pytest.mark.parametrize(
    ("scenario", "rule"),
    [
        (SCENARIOS["double_fork_daemons"], None),
        (a_namespace_whose_init_is_a_child_of_somebody_outside, "namespace-without-init"),
        (a_parent_that_outlived_the_sigkill_of_its_child, "exit-signal"),
    ],
)
def test_what_stands_in_the_way_is_said_and_written(
    scenario: Callable[[Tree], Target], rule: str | None, daemon_socket: Path, tmp_path: Path
) -> None:
    """Or refused, or not looked for, as one likes."""
    strict = tmp_path / "strict.json"
    with Tree() as tree:
        root = tree.number(scenario(tree).root)
        plain = snapshot(root, daemon_socket, "--mode", "subtree")
        required = snapshot(root, daemon_socket, "--mode", "subtree", "--require-rebuildable", "-o", strict)
        unasked = snapshot(root, daemon_socket, "--mode", "subtree", "--no-plan")

    told = json.loads(plain.stdout)["not_rebuildable"]
    assert [row["rule"] for row in told] == ([rule] if rule else [])
    assert all(row["text"].endswith("a limit of ckptree") for row in told)
    assert ("not rebuildable, because" in plain.stderr) == bool(rule)
    assert plain.returncode == unasked.returncode == 0
    assert json.loads(unasked.stdout)["not_rebuildable"] == []
    assert required.returncode == (7 if rule else 0)
    assert strict.exists() == (rule is None)


def test_to_forbid_a_plan_and_to_require_one_is_a_contradiction(daemon_socket: Path) -> None:
    """Told before anything is captured."""
    assert snapshot(1, daemon_socket, "--no-plan", "--require-rebuildable").returncode == 2
