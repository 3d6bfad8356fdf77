# SPDX-License-Identifier: Apache-2.0
"""Capture, rebuild, capture again: each scripted tree comes back as it was, by the kernel's own answers."""

import pytest

from agent.errors import HostError, NotRebuildableError
from agent.model import Snapshot
from agent.restart.planning import make_plan
from agent.restart.preflight import preflight
from agent.restart.rebuild import Rebuild
from agent.restart.verify import Standing, in_session_group, verify, verify_active
from exporters import difference
from tests.live.compare import Capture
from tests.live.scenarios import SCENARIOS
from tests.live.treeprog import Tree

pytestmark = pytest.mark.live


def again(capture: Capture, snapshot: Snapshot, *, pidns: bool, any_numbers: bool = False) -> Snapshot:
    """The tree rebuilt, compared with /proc, and captured."""
    plan = make_plan(snapshot, pidns=pidns)
    preflight(plan, any_numbers=any_numbers)
    group = in_session_group(snapshot, pidns=pidns)
    with Rebuild(plan, any_numbers=any_numbers, no_stdio=True, session_group=group) as rebuild:
        rebuild.build()
        standing = Standing(snapshot, plan, rebuild.pids, rebuild.numbers, rebuild.guard)
        assert verify(standing) == []
        rebuild.activate()
        rebuild.release()
        assert verify_active(standing, stopped=True) == []
        return capture(rebuild.pids[plan.tasks[0]], snapshot.mode)


@pytest.mark.parametrize("pidns", [True, False], ids=["pidns", "here"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_comes_back_as_it_was(name: str, capture: Capture, *, pidns: bool) -> None:
    """In a namespace of its own, and with the numbers that it had here, which are free again."""
    with Tree() as tree:
        target = SCENARIOS[name](tree)
        if target.leaks:
            pytest.skip("cannot be captured")
        snapshot = capture(tree.number(target.root), target.mode)
    try:
        made = again(capture, snapshot, pidns=pidns)
    except (NotRebuildableError, HostError) as error:
        pytest.skip(str(error))

    found = difference.difference(snapshot, made)
    assert found.equal, list(difference.lines(found, unicode=False))
