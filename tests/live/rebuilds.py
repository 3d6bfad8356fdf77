# SPDX-License-Identifier: Apache-2.0
"""Trees of hand-written plans, and helpers that look at them."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from agent.model import Snapshot
from agent.restart.planning.plan import Plan
from agent.restart.rebuild.beginning import beginning
from agent.restart.rebuild.coordinator import Rebuild
from agent.restart.rebuild.preflight import preflight
from agent.restart.rebuild.taskanswers import Status, read_status
from agent.restart.rebuild.verify import Standing, verify, verify_active


def status(pid: int) -> Status:
    """Return the status of a process that must exist."""
    found = read_status(pid)
    assert found is not None, f"{pid} is not there"
    return found


def eventually(pid: int, state: str) -> None:
    """Wait until a process is in a state, for 5 seconds at most."""
    deadline = time.monotonic() + 5
    while status(pid).state != state:
        assert time.monotonic() < deadline, f"{pid} is in state {status(pid).state}, not {state}"
        time.sleep(0.005)


def exit_code(pid: int) -> int:
    """Return the raw wait status of a zombie, without the core bit."""
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[49]) & ~0x80


def is_gone(pid: int) -> bool:
    """Return True if there is no process of this pid, or a zombie that its new parent has yet to reap."""
    found = read_status(pid)
    return found is None or found.state in "ZX"


def assert_gone(pids: list[int], *, within: float = 5) -> None:
    """Assert that all processes are gone within some seconds."""
    deadline = time.monotonic() + within
    while left := [pid for pid in pids if pid and not is_gone(pid)]:
        assert time.monotonic() < deadline, f"{left} are still there"
        time.sleep(0.005)


@contextmanager
def rebuilt(plan: Plan, *, any_numbers: bool = False) -> Iterator[Rebuild]:
    """Build a plan's tree, take it down afterwards, and assert that no process of it is left."""
    with Rebuild(plan, any_numbers=any_numbers, no_stdio=True) as made:
        made.build()
        yield made
    assert_gone([*made.pids, made.guard])


@contextmanager
def verified(snapshot: Snapshot, plan: Plan, *, pidns: bool, any_numbers: bool) -> Iterator[Rebuild]:
    """Build the tree of a snapshot; compare it with /proc before and after its tasks have become active, and let them
    hold."""
    preflight(plan, any_numbers=any_numbers)
    begin = beginning(snapshot, pidns=pidns)
    with Rebuild(plan, any_numbers=any_numbers, no_stdio=True, begin=begin) as made:
        made.build()
        standing = Standing(snapshot, plan, made.pids, made.numbers, made.guard)
        assert verify(standing) == []
        active(made)
        assert verify_active(standing, stopped=True) == []
        yield made


def active(made: Rebuild) -> None:
    """Activate a tree and let its tasks hold."""
    made.activate()
    made.release()


def free_number(count: int = 8) -> int:
    """Return the first of `count` numbers in a row that are free here now, far from the next one that the kernel
    will choose: no task has them, nor any session or group."""
    last = int(Path("/proc/loadavg").read_text().split()[-1])
    pid_max = int(Path("/proc/sys/kernel/pid_max").read_text())
    first = max((last + pid_max // 2) % (pid_max - count), 400)
    held = {number for pid in psutil.pids() for number in _session_and_group(pid)}
    return next(
        start
        for start in range(first, pid_max - count)
        if not any(number in held or Path(f"/proc/{number}").exists() for number in range(start, start + count))
    )


def _session_and_group(pid: int) -> tuple[int, ...]:
    try:
        return os.getsid(pid), os.getpgid(pid)
    except ProcessLookupError:
        return ()
