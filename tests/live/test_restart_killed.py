# SPDX-License-Identifier: Apache-2.0
"""A coordinator that is killed at any moment leaves nothing of its tree behind."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from agent.model import Snapshot
from agent.restart.planning import make_plan
from agent.restart.rebuild import HELPER, Rebuild
from tests.builders import a_snapshot, a_task

pytestmark = pytest.mark.live

MOMENTS = 100
NAME = b"ckpt-left-over"


def a_large_tree() -> Snapshot:
    """Three hundred processes that can be told by their name."""
    tasks = [a_task(1, 0, comm=NAME), *[a_task(tag, tag // 3 + 1, comm=NAME) for tag in range(2, 301)]]
    return a_snapshot([(1,), *[(tag + 400,) for tag in range(2, 301)]], tasks, mode="container")


def left_over(guards: set[int]) -> list[int]:
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
    return [pid for pid in found if pid not in guards]


def test_nothing_is_left_at_a_hundred_random_moments() -> None:
    """From before the guard's start to after the release."""
    plan = make_plan(a_large_tree())
    begin = time.monotonic()
    with Rebuild(plan, no_stdio=True) as made:
        made.build()
        made.activate()
        made.release()
        whole = time.monotonic() - begin
    before = set(left_over(set()))
    moments = random.Random(7)
    for _ in range(MOMENTS):
        coordinator = os.fork()
        if coordinator == 0:
            made = Rebuild(plan, no_stdio=True)
            made.build()
            made.activate()
            made.release()
            time.sleep(100)
        time.sleep(moments.uniform(0, whole * 1.3))
        os.kill(coordinator, signal.SIGKILL)
        os.waitpid(coordinator, 0)
        deadline = time.monotonic() + 10
        while left := left_over(before):
            assert time.monotonic() < deadline, f"{left} are still there"
            time.sleep(0.01)
