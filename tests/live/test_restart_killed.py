# SPDX-License-Identifier: Apache-2.0
"""A coordinator that is killed or interrupted at any moment leaves nothing of its tree behind.

CKPTREE_MOMENTS=100 tries that many moments in each way.
"""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.model import Snapshot
from agent.restart import pidfile, preflight, programs, verb, verify
from agent.restart.plan import Plan
from agent.restart.planning import make_plan
from agent.restart.rebuild import HELPER, Rebuild
from exporters import registry
from tests.builders import a_snapshot, a_task

pytestmark = pytest.mark.live

MOMENTS = os.environ.get("CKPTREE_MOMENTS")
IMPORTED = (pidfile, preflight, programs, verify)
"""What the verb imports when it is called: here that would be in each process again."""
NAME = b"ckpt-left-over"


def a_large_tree() -> Snapshot:
    """Three hundred processes that can be told by their name."""
    tasks = [a_task(1, 0, comm=NAME), *[a_task(tag, tag // 3 + 1, comm=NAME) for tag in range(2, 301)]]
    return a_snapshot([(1,), *[(tag + 400,) for tag in range(2, 301)]], tasks, mode="container")


def left_over(others: set[int]) -> list[int]:
    """Whoever is there of it, guard or task; zombies wait for somebody else's init."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_bytes()
            except OSError:
                continue
            comm, state = stat[stat.index(b"(") + 1 : stat.rindex(b")")], stat.rpartition(b")")[2].split()[0]
            if state not in (b"Z", b"X") and (comm == NAME or comm == HELPER.name.encode()[:15]):
                found.append(int(entry.name))
    return [pid for pid in found if pid not in others]


def forked(body: Callable[[], None]) -> int:
    """A process in a group of its own that does something, and its pid; whatever it says, nobody hears."""
    pid = os.fork()
    if pid:
        os.setpgid(pid, pid)
        return pid
    try:
        os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        body()
    finally:
        os._exit(0)


def assert_nothing_is_left(begin: Callable[[], None], end: Callable[[int], None], whole: float, moments: int) -> None:
    """Begin a tree and end its coordinator some time later, again and again: nobody is left, each time."""
    others = set(left_over(set()))
    chance = random.Random(7)
    begun = 0
    for _ in range(int(MOMENTS or moments)):
        coordinator = forked(begin)
        time.sleep(chance.uniform(0, whole * 1.3))
        begun += bool(left_over(others))
        end(coordinator)
        os.waitpid(coordinator, 0)
        deadline = time.monotonic() + 10
        while left := left_over(others):
            assert time.monotonic() < deadline, f"{left} are still there"
            time.sleep(0.01)
    assert begun > moments / 4, "hardly ever was there anything of the tree"


def made(plan: Plan) -> Rebuild:
    """All of the tree, released; it is for the caller to end it."""
    rebuild = Rebuild(plan, no_stdio=True, any_numbers=not plan.pidns)
    rebuild.build()
    rebuild.activate()
    rebuild.release()
    return rebuild


def seconds_to_make(pidns: bool) -> tuple[float, float]:  # noqa: FBT001
    """For a plan, and for the tree."""
    begin = time.monotonic()
    plan = make_plan(a_large_tree(), pidns=pidns)
    planned = time.monotonic()
    with made(plan):
        return planned - begin, time.monotonic() - planned


@pytest.mark.parametrize(("pidns", "moments"), [(True, 100), (False, 25)], ids=["pidns", "here"])
def test_nothing_is_left_of_a_coordinator_that_is_killed(*, pidns: bool, moments: int) -> None:
    """From before the guard's start to after the release."""
    plan = make_plan(a_large_tree(), pidns=pidns)

    def held() -> None:
        made(plan)
        time.sleep(100)

    _, whole = seconds_to_make(pidns)
    assert_nothing_is_left(held, lambda pid: os.kill(pid, signal.SIGKILL), whole, moments)


@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["alone", "with its group"])
@pytest.mark.parametrize("pidns", [True, False], ids=["pidns", "here"])
def test_nothing_is_left_of_a_restart_that_is_interrupted(
    *, pidns: bool, send: Callable[[int, int], None], tmp_path: Path
) -> None:
    """The verb, from its beginning. A terminal interrupts the tasks with it, for they are in its group."""
    image = tmp_path / "tree.ckpt"
    image.write_bytes(registry.image(a_large_tree(), "ckpt"))
    assert_nothing_is_left(
        lambda: verb.restart(os.fspath(image), pids=pidns, pidns=pidns),
        lambda pid: send(pid, signal.SIGINT),
        2 * sum(seconds_to_make(pidns)),
        10,
    )
