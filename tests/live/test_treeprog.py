# SPDX-License-Identifier: Apache-2.0
"""The oracle against the kernel: what is predicted of a tree is what /proc shows."""

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, note, settings

from tests.live.agreement import disagreements
from tests.live.mailbox import Node, TreeError
from tests.live.random_trees import Program, play, programs
from tests.live.scenarios import SCENARIOS
from tests.live.treeprog import Tree

_EXAMPLES = int(os.environ.get("CKPTREE_EXAMPLES", "100"))
_SOURCE = Path(__file__).with_name("treeprog.c")


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_kernel_makes_of_a_scenario_what_the_oracle_predicts(name: str) -> None:
    """Numbers, parents, groups, sessions, states and exit codes are all known beforehand."""
    with Tree() as tree:
        SCENARIOS[name](tree)

        assert disagreements(tree, tree.view()) == []


@settings(max_examples=_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs())
def test_the_kernel_makes_of_a_random_program_what_the_oracle_predicts(program: Program) -> None:
    """The rules hold in every combination that calls can make."""
    with Tree(strict=False) as tree:
        play(tree, program)
        note("; ".join(tree.log))

        assert disagreements(tree, tree.view()) == []


def test_a_vfork_child_may_end_after_its_parent_and_another_with_that_ones_number_are_there() -> None:
    """No wait call happens then."""
    with Tree() as tree:
        tree.run("fork 0 1 newpid; fork 1 2; fork 2 4 vfork; kill 2; wait 1 2; fork 1 3 like=2; exit 4")

        assert disagreements(tree, tree.view()) == []


def test_the_shared_memory_is_laid_out_alike_on_both_sides() -> None:
    """The mirror of struct node has every field where the C program has it."""
    checks = [f'_Static_assert(sizeof(struct node) == {ctypes.sizeof(Node)}, "size");']
    for name, *_ in Node._fields_:
        field = getattr(Node, name)
        checks.append(f'_Static_assert(__builtin_offsetof(struct node, {name}) == {field.offset}, "{name}");')
        checks.append(f'_Static_assert(sizeof(((struct node *)0)->{name}) == {field.size}, "size of {name}");')
    source = f'#include "{_SOURCE}"\n' + "\n".join(checks)

    subprocess.run(["gcc", "-fsyntax-only", "-x", "c", "-"], input=source, text=True, check=True)


def test_a_tree_ends_with_its_controller(tmp_path: Path) -> None:
    """Killed, the controller cannot clear up; the keeper does."""
    script = (
        "from tests.live.treeprog import Tree\n"
        "tree = Tree()\n"
        "tree.run('fork 0 1 newpid; setsid 1; fork 1 2; thread 2 3; leave 2; fork 3 4; kill 4 SIGSTOP; fork 0 5')\n"
        "print(*[task.pid.numbers[0] for task in tree.oracle.unreleased()], flush=True)\n"
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", script]
    root, env = _SOURCE.parents[2], {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    numbers = [int(word) for word in done.stdout.split()]
    assert len(numbers) == 7, done.stderr

    deadline = time.monotonic() + 10
    while left := [number for number in numbers if _runs_treeprog(number)]:
        assert time.monotonic() < deadline, f"{left} live on"
        time.sleep(0.01)


def test_every_answer_says_when_the_call_was_made() -> None:
    """A capture can be placed between two calls."""
    with Tree() as tree:
        before = time.monotonic_ns()
        result = tree.fork(0, 1)
        after = time.monotonic_ns()

        assert before <= result.before_ns <= result.after_ns <= after
        assert result.value == tree.number(1)


def test_a_step_that_would_make_an_immortal_task_is_refused() -> None:
    """A namespace's init in a group of its own namespace waits for itself when it dies."""
    with Tree() as tree:
        tree.run("fork 0 1 newpid; fork 1 2; setpgid 2 2 2")

        with pytest.raises(TreeError, match="could never end"):
            tree.run("setpgid 1 1 2")


def test_a_failing_call_has_no_effect_unless_the_tree_is_strict() -> None:
    """A strict script stops at it; the other goes on."""
    with Tree(strict=False) as tree:
        tree.run("fork 0 1; setsid 1; setsid 1; setpgid 1 1 1")

        assert tree.log == ["fork 0 1", "setsid 1", "setsid 1 -> EPERM", "setpgid 1 1 1 -> EPERM"]
        assert disagreements(tree, tree.view()) == []
    with Tree() as tree, pytest.raises(TreeError, match="not permitted"):
        tree.run("fork 0 1; setsid 1; setsid 1")


def _runs_treeprog(number: int) -> bool:
    """Return True if a task of treeprog has a number; a zombie counts."""
    try:
        return Path(f"/proc/{number}/comm").read_text(encoding="utf-8") == "treeprog\n"
    except (FileNotFoundError, ProcessLookupError):
        return False
