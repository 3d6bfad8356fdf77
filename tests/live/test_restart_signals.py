# SPDX-License-Identifier: Apache-2.0
"""Exit signals of a rebuilt tree: each process has its own, and an exit while the tree is made disturbs no task."""

import os
import signal
from dataclasses import replace

import pytest

from agent.model import Snapshot, TaskState
from agent.restart.planning.search import make_plan
from agent.restart.rebuild.failure import RebuildError
from agent.restart.rebuild.verify import Standing, verify, verify_active
from tests.live.rebuilds import active, exit_code, rebuilt, status
from tests.support.builders import a_snapshot, a_task

ALL = (0, 1, 9, 10, 15, 17, 18, 19, 20, 34, 64)
_SIGSYS = 31


def test_a_wrong_exit_signal_is_found() -> None:
    """The kernel is asked for each."""
    snapshot = a_snapshot([(1,), (5,)], [a_task(1, 0), a_task(2, 1, exit_signal=10)], mode="container")
    plan = make_plan(snapshot)
    with rebuilt(plan) as made:
        other = replace(snapshot, tasks=(snapshot.tasks[0], snapshot.tasks[1]._replace(exit_signal=0)))
        standings = [Standing(each, plan, made.pids, made.numbers, made.guard) for each in (snapshot, other)]

        assert verify(standings[0]) == []
        assert verify(standings[1]) == ["task 2 (5): has the exit signal SIGUSR1 instead of none"]


@pytest.mark.parametrize("pidns", [True, False], ids=["own namespace", "caller's namespace"])
def test_zombies_of_one_that_is_no_init_leave_it_alone_whatever_they_send(pidns: bool) -> None:  # noqa: FBT001
    """But for SIGKILL; SIGSTOP stops it for a moment. A reaper with a handler of its own above hands that on to
    nobody."""
    signals = [number for number in ALL if number != signal.SIGKILL]
    tasks = [a_task(1, 0)]
    tasks += [
        a_task(tag, 1, exit_signal=number, state=TaskState.ZOMBIE, exit_code=tag << 8)
        for tag, number in enumerate(signals, 2)
    ]
    snapshot = a_snapshot([(30000 + tag,) for tag in range(len(tasks))], tasks)
    stands(snapshot, pidns=pidns)


def stands(snapshot: Snapshot, *, pidns: bool = True) -> None:
    """It is rebuilt, and as it was."""
    plan = make_plan(snapshot, pidns=pidns)
    with rebuilt(plan, any_numbers=not pidns) as made:
        standing = Standing(snapshot, plan, made.pids, made.numbers, made.guard)
        if pidns:  # else its numbers are others
            assert verify(standing) == []
        active(made)
        assert verify_active(standing, stopped=True) == []


def test_zombies_of_an_init_send_what_they_like() -> None:
    """All there are."""
    tasks = [a_task(1, 0)]
    tasks += [
        a_task(tag, 1, exit_signal=number, state=TaskState.ZOMBIE, exit_code=0) for tag, number in enumerate(ALL, 2)
    ]
    stands(a_snapshot([(tag,) for tag in range(1, len(tasks) + 1)], tasks, mode="container"))


@pytest.mark.parametrize("number", [0, 10, 15, 34])
def test_the_guard_sees_the_end_of_a_root_whatever_that_sends(number: int) -> None:
    """Nothing at all, or a signal that means something to a guard."""
    snapshot = a_snapshot([(1,)], [a_task(1, 0, exit_signal=number)], mode="container")
    with rebuilt(make_plan(snapshot)) as made:
        active(made)
        os.kill(made.pids[0], signal.SIGKILL)

        assert made.wait() == signal.SIGKILL


def test_an_init_is_ended_by_sigsys() -> None:
    """As by all faults."""
    init = a_task(2, 1, depth=1, state=TaskState.ZOMBIE, exit_code=_SIGSYS)
    plan = make_plan(a_snapshot([(100,), (101, 1)], [a_task(1, 0), init]))
    with rebuilt(plan) as made:
        try:
            active(made)
        except RebuildError as error:
            pytest.fail(str(error))
        pid = made.pids[plan.tasks[1]]

        assert (status(pid).state, exit_code(pid)) == ("Z", _SIGSYS)
