# SPDX-License-Identifier: Apache-2.0
"""Trees that are made by hand-written plans, and how they are looked at."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.restart.planning.plan import Plan
from agent.restart.rebuild.coordinator import Rebuild
from agent.restart.rebuild.verify import Status, read_status


def status(pid: int) -> Status:
    """Of somebody who is there."""
    found = read_status(pid)
    assert found is not None, f"{pid} is not there"
    return found


def eventually(pid: int, state: str) -> None:
    """Whom a signal has reached changes a moment later."""
    deadline = time.monotonic() + 5
    while status(pid).state != state:
        assert time.monotonic() < deadline, f"{pid} is in state {status(pid).state}, not {state}"
        time.sleep(0.005)


def exit_code(pid: int) -> int:
    """The raw wait status of a zombie, without the core bit."""
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[49]) & ~0x80


def is_gone(pid: int) -> bool:
    """No process, and no zombie but one that its new parent has yet to see."""
    found = read_status(pid)
    return found is None or found.state in "ZX"


def assert_gone(pids: list[int], *, within: float = 5) -> None:
    """All of them, soon."""
    deadline = time.monotonic() + within
    while left := [pid for pid in pids if pid and not is_gone(pid)]:
        assert time.monotonic() < deadline, f"{left} are still there"
        time.sleep(0.005)


@contextmanager
def rebuilt(plan: Plan, *, any_numbers: bool = False) -> Iterator[Rebuild]:
    """It stands; afterwards nobody is left of it, each time."""
    with Rebuild(plan, any_numbers=any_numbers, no_stdio=True) as made:
        made.build()
        yield made
    assert_gone([*made.pids, made.guard])


def active(made: Rebuild) -> None:
    """Everybody has had its turn and holds."""
    made.activate()
    made.release()


def free_number() -> int:
    """One that nobody has here now; far from where the kernel is counting."""
    last = int(Path("/proc/loadavg").read_text().split()[-1])
    pid_max = int(Path("/proc/sys/kernel/pid_max").read_text())
    start = (last + pid_max // 2) % pid_max
    return next(number for number in range(max(start, 400), pid_max) if not Path(f"/proc/{number}").exists())
