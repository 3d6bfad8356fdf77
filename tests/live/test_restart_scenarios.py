# SPDX-License-Identifier: Apache-2.0
"""Captured, planned, rebuilt in another pid namespace, captured again: the same tree."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from agent.errors import NotRebuildableError
from agent.model import Snapshot
from agent.restart.planning import make_plan
from agent.restart.rebuild import Rebuild
from agent.restart.verify import Standing, verify, verify_active
from exporters.difference import lines
from exporters.comparison import difference
from tests.live.conftest import Capture
from tests.live.random_trees import Program, play, programs
from tests.live.scenarios import SCENARIOS
from tests.live.treeprog import Tree

pytestmark = pytest.mark.live

HOPELESS: dict[str, str] = {}
"""Scenarios that no kernel can be brought to again, and the rule that says so."""


def unobserved(snapshot: Snapshot) -> Snapshot:
    """The same, as one who came too late has it."""
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
    if name in HOPELESS:
        with pytest.raises(NotRebuildableError, match=HOPELESS[name]):
            make_plan(snapshot)
        return
    assert_comes_again(snapshot, capture)
