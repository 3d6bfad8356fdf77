# SPDX-License-Identifier: Apache-2.0
"""The cost of a plan, in calls and search steps instead of seconds."""

import sys
from types import FrameType

import pytest

from agent.errors import NotRebuildableError
from agent.model import PidObject, Snapshot
from agent.restart.planning import solver
from agent.restart.planning.lineage import Paths
from agent.restart.planning.search import make_plan
from tests.support.builders import a_bare_task


def sessions_below_each_other(depth: int, wide: int, choices: int, *, hopeless: bool) -> Snapshot:
    """Return `depth` processes in a chain, each a session leader, and `wide` processes below the root in the last
    session.

    There are `choices` places with two ways for the search, and with `hopeless` two processes without any way.
    """
    rows = {1: (0, 1)}
    rows |= {n: (n - 1, n) for n in range(2, depth + 2)}
    rows |= dict.fromkeys(range(depth + 2, depth + wide + 2), (1, depth + 1))
    for _ in range(choices):
        first = len(rows) + 1
        rows |= {first: (1, first), first + 1: (1, first + 1), first + 2: (first, first + 1)}
    if hopeless:
        first = len(rows) + 1
        rows |= {first: (1, first), first + 1: (first, first + 1)}
        rows |= {first + 2: (first + 1, depth // 2), first + 3: (first + 2, depth + 1)}
    order = sorted(rows, key=lambda n: (rows[n][0], n))
    tasks = [a_bare_task(n, rows[n][0], n, rows[n][1], rows[n][1], 0) for n in order]
    return Snapshot("subtree", 0, tuple([PidObject((100 + n,), (0,)) for n in sorted(rows)]), tuple(tasks))


def calls(snapshot: Snapshot) -> int:
    """Return the number of function calls that a plan takes."""
    count = 0

    def called(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(called)
    try:
        make_plan(snapshot)
    finally:
        sys.setprofile(before)
    return count


def test_twice_as_many_processes_take_about_twice_the_calls() -> None:
    """The depth does not matter."""
    small, large = (calls(sessions_below_each_other(n, n // 2, 5, hopeless=False)) for n in (200, 400))

    assert large < 2.3 * small


def test_a_search_ends_after_so_many_steps_for_each_process_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal names the bound."""
    monkeypatch.setattr(solver, "WORK", 20_000)
    snapshot = sessions_below_each_other(100, 50, 10, hopeless=True)
    bound = 20_000 + solver.WORK_EACH * len(snapshot.tasks)
    paths: list[Paths] = []

    def made(budget: int) -> Paths:
        paths.append(Paths(budget))
        return paths[-1]

    monkeypatch.setattr(solver, "Paths", made)
    with pytest.raises(NotRebuildableError, match=f"no order of births was found in {bound} steps") as caught:
        make_plan(snapshot)

    assert (caught.value.rule, caught.value.proven) == ("search-bound", False)
    assert [path.budget for path in paths] == [bound]
    assert -2 * len(snapshot.tasks) < paths[0].left < 0  # the search ends with the step beyond the limit
