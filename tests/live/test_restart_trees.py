# SPDX-License-Identifier: Apache-2.0
"""Captured, planned, rebuilt in another pid namespace, captured again: the same tree."""

import os
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings

from agent.errors import HostError, NotRebuildableError
from agent.model import Snapshot
from agent.restart.planning.search import make_plan
from agent.restart.rebuild.coordinator import Rebuild
from agent.restart.rebuild.preflight import preflight
from agent.restart.rebuild.verify import Standing, verify, verify_active
from exporters.comparing.comparison import difference
from exporters.comparing.difference import lines
from tests.live.conftest import Capture
from tests.live.expectation import Expectation
from tests.live.random_trees import ROOT, WEIGHTS, Draw, Program, play, programs
from tests.live.scenarios import SCENARIOS
from tests.live.treeprog import Tree

TOO_DEEP = "deepest_namespace"
"""It has all levels that there are, and a namespace of its own above them is one too many."""


NAMED = {"init-in-inner-group", "zombie-thread", "exit-signal", "exit-status"}
"""Rules by which a random tree may be refused. They name what the plans here cannot do, not what no kernel can."""

UNEXPLAINED = {
    "search-bound",
    "refused-call",
    "session-of-another-line",
    "simulation",
    "ghost-without-maker",
    "circular-births",
}
"""No way to make it was found, which does not say that there is none."""

SEEDS = int(os.environ.get("CKPTREE_SEEDS", "60"))
REBUILT = 0.98
"""The least share of independent random trees that comes again."""


def allowed(births: str) -> set[str]:
    """Return the rules by which a random tree may be refused."""
    return NAMED if births == "observed" else NAMED | UNEXPLAINED


def unobserved(snapshot: Snapshot) -> Snapshot:
    """Return the same snapshot without births, as a daemon that starts late takes it."""
    return replace(snapshot, tasks=tuple(task._replace(birth=None) for task in snapshot.tasks), ancestors=())


def assert_comes_again(snapshot: Snapshot, capture: Capture) -> None:
    """Rebuild it, and compare what is captured of that."""
    plan = make_plan(snapshot)
    with Rebuild(plan, no_stdio=True) as made:
        made.build()
        standing = Standing(snapshot, plan, made.pids, made.numbers, made.guard)
        assert verify(standing) == []
        made.activate()
        assert verify_active(standing, stopped=False) == []
        made.release()
        assert verify_active(standing, stopped=True) == []
        again = capture(made.pids[plan.tasks[0]], snapshot.mode)

    found = difference(snapshot, again)
    assert found.equal, "\n".join(lines(found))


@pytest.mark.parametrize("births", ["observed", "unobserved"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_comes_again(name: str, births: str, capture: Capture) -> None:
    """With the births that were seen, and without any."""
    with Tree() as tree:
        target = SCENARIOS[name](tree)
        mode = "subtree" if target.leaks else target.mode
        snapshot = capture(tree.number(target.root), mode)
    if births == "unobserved":
        snapshot = unobserved(snapshot)
    if name == TOO_DEEP:
        with pytest.raises(HostError, match="nest 32 deep"):
            preflight(make_plan(snapshot))
        return
    assert_comes_again(snapshot, capture)


def refusal(snapshot: Snapshot) -> str | None:
    """The rule by which no plan is made."""
    try:
        make_plan(snapshot)
    except NotRebuildableError as error:
        return error.rule
    return None


_EXAMPLES = int(os.environ.get("CKPTREE_EXAMPLES", "30"))


def seeded(seed: int) -> Program:
    """One of the same kind of programs, and no relative of the others, as examples of Hypothesis are."""
    chance = random.Random(seed)
    verbs = sorted(WEIGHTS.elements())
    draws = [
        Draw(chance.choice(verbs), *(chance.randrange(256) for _ in range(3))) for _ in range(chance.randint(20, 90))
    ]
    return Program(chance.choice(("container", "subtree")), tuple(draws))


def captured(program: Program, births: str, capture: Capture) -> Snapshot:
    """The tree that a program makes, which is over when this returns."""
    with Tree(strict=False) as tree:
        play(tree, program)
        root = tree.task(ROOT)
        mode = "container" if root.process.unkillable else "subtree"
        if mode == "container" and Expectation(tree, tree.view(), ROOT, "container").leaks:
            mode = "subtree"
        snapshot = capture(root.pid.numbers[0], mode)
    return unobserved(snapshot) if births == "unobserved" else snapshot


@pytest.mark.parametrize("births", ["observed", "unobserved"])
def test_of_independent_random_trees_most_come_again(births: str, capture: Capture) -> None:
    """And what comes again is the same tree, each time."""
    outcomes: Counter[str] = Counter()
    for seed in range(SEEDS):
        snapshot = captured(seeded(seed), births, capture)
        rule = refusal(snapshot)
        outcomes[rule or "rebuilt"] += 1
        if rule is None:
            assert_comes_again(snapshot, capture)

    print(f"{births}: {dict(outcomes)}")
    assert outcomes.keys() <= {"rebuilt"} | allowed(births)
    assert outcomes["rebuilt"] > SEEDS * REBUILT, outcomes


@pytest.mark.parametrize("births", ["observed", "unobserved"])
def test_a_random_tree_comes_again(births: str, capture: Capture) -> None:
    """Or is refused by a rule that names why; where births are not known, also because no way was found."""

    @settings(
        max_examples=_EXAMPLES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.reuse, Phase.generate),
    )
    @given(programs(20, 90))
    def judged(program: Program) -> None:
        snapshot = captured(program, births, capture)
        rule = refusal(snapshot)
        note(f"refused: {rule}")
        assert rule is None or rule in allowed(births)
        if rule is None:
            assert_comes_again(snapshot, capture)

    judged()
