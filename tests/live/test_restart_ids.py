# SPDX-License-Identifier: Apache-2.0
"""Rebuilt trees whose tasks are of several users: the comparison with the kernel's answers finds another user or group."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.model import ProcessDetails, Snapshot, TaskState, WaitStatus
from agent.record import replace
from agent.restart.planning.search import make_plan
from agent.restart.rebuild.commands import endings, holding
from agent.restart.rebuild.coordinator import Rebuild
from agent.restart.rebuild.userids import UserIds
from agent.restart.rebuild.verify import Standing, verify_active
from agent.restart.rebuild.verifyheld import verify_held
from exporters.image import checkpoint
from tests.live.restartverb import TOP
from tests.support.builders import a_snapshot, a_task

NOBODY, NOGROUP = 65534, 65533
WITHOUT_PTRACE = "setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"


def dead_leader(**facts: Any) -> Snapshot:
    """Return a process whose leader has exited, and was of another user; `facts` are of its thread that goes on."""
    rows = [
        a_task(1, 0),
        a_task(2, 1, state=TaskState.DEAD_LEADER, uid=NOBODY, gid=NOGROUP),
        a_task(3, 1, tgid=2, **facts),
    ]
    return a_snapshot([(1,), (20,), (21,)], rows, mode="container")


def zombies() -> Snapshot:
    """Return a root with zombies of two users, of root, and of a process whose ids are of four users."""
    exited, killed = WaitStatus(3 << 8), WaitStatus(15)
    rows = [
        a_task(1, 0),
        a_task(2, 1, state=TaskState.ZOMBIE, exit_code=exited, uid=NOBODY, gid=NOGROUP),
        a_task(3, 1, state=TaskState.ZOMBIE, exit_code=killed, uid=1001, gid=1002),
        a_task(4, 1, state=TaskState.ZOMBIE, exit_code=exited),
    ]
    return a_snapshot([(1,), (20,), (21,), (22,)], rows, mode="container")


def found(snapshot: Snapshot, ids: Mapping[int, UserIds]) -> list[str]:
    """Build a tree whose zombies take these ids, and return the differences of the active tree."""
    plan = make_plan(snapshot)
    with Rebuild(plan, ids=ids, no_stdio=True) as made:
        made.build()
        made.activate()
        return verify_active(Standing(snapshot, plan, made.pids, made.numbers, made.guard), stopped=False)


def test_a_zombie_that_keeps_the_callers_ids_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parent would be told another user. Those that take their own have no difference."""
    monkeypatch.setattr("agent.restart.rebuild.verify._SETTLING", 0.1)
    snapshot = zombies()
    ids = endings(snapshot, make_plan(snapshot)).ids
    index = make_plan(snapshot).tasks[2]

    assert found(snapshot, ids) == []
    assert found(snapshot, {one: ids[one] for one in ids if one != index}) == [
        "task 3 (21): has the user ids 0 instead of 1001 and the group ids 0 instead of 1002"
    ]


def test_a_zombie_has_all_four_ids_of_each_kind() -> None:
    """An image with the rights of its processes has them."""
    snapshot = zombies()
    details = ProcessDetails(uids=(1001, 0, 1003, 0), gids=(1002, 7, 8, 7))
    tasks = [*snapshot.tasks[:2], snapshot.tasks[2]._replace(details=details), *snapshot.tasks[3:]]
    other = replace(snapshot, tasks=tuple(tasks))

    assert found(other, endings(other, make_plan(other)).ids) == []


@pytest.mark.parametrize("kept", [None, 2], ids=["all", "all but one"])
def test_tasks_that_hold_have_their_own_ids_and_another_is_found(kept: int | None) -> None:
    """Two users, a thread and a stopped process among them, once all have been released."""
    rows = [
        a_task(1, 0),
        a_task(2, 1, uid=1001, gid=1002),
        a_task(3, 1, uid=1003, gid=1004, state=TaskState.STOPPED),
        a_task(4, 1, tgid=2, uid=1003, gid=1004),
        a_task(5, 2, uid=1001, gid=1002, details=ProcessDetails(uids=(1001, 0, 0, 0), gids=(7,) * 4, groups=(8, 9))),
    ]
    snapshot = a_snapshot([(1,), (20,), (21,), (22,), (23,)], rows, mode="container")
    plan = make_plan(snapshot)
    held, without = holding(snapshot, plan, ())
    with Rebuild(plan, no_stdio=True) as made:
        made.build()
        made.activate()
        made.release({index: program for index, program in held.items() if kept is None or index != plan.tasks[kept]})
        standing = Standing(snapshot, plan, made.pids, made.numbers, made.guard)
        differences = verify_held(standing, held)

    assert not without
    assert differences == (
        [] if kept is None else ["task 3 (21): has the user ids 0 instead of 1003 and the group ids 0 instead of 1004"]
    )


@pytest.mark.parametrize("caller", [(), WITHOUT_PTRACE], ids=["all rights", "without CAP_SYS_PTRACE"])
def test_a_difference_beside_a_leader_that_has_exited_is_found(caller: tuple[str, ...], tmp_path: Path) -> None:
    """The change of its ids has closed the memory that its threads share with it, and with that their links in /proc."""
    built, compared = tmp_path / "built.ckpt", tmp_path / "compared.ckpt"
    built.write_bytes(checkpoint.dumps(dead_leader()))
    compared.write_bytes(checkpoint.dumps(dead_leader(child_namespace=-1)))
    command = [*caller, sys.executable, "-m", "tests.live.comparedrebuild", str(built), str(compared)]
    ran = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=60, check=True)

    assert ran.stdout == "task 3 (21): its next child stays in its pid namespace\n"
