# SPDX-License-Identifier: Apache-2.0
"""The program of a process, at a moment when it may have run another one."""

import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

from agent.proc import host
from agent.proc.statfile import stat_fields
from agent.protocol.replies import EventTask
from agent.telemetry import thishost


def told(pid: int, comm: bytes) -> EventTask:
    """Return a process as an event has it."""
    ticks = int(stat_fields(Path(f"/proc/{pid}/stat").read_bytes())[19])
    return EventTask(pid, pid, (pid,), ticks * host.ns_per_tick() - host.boottime_offset_ns(), 0, 0, comm)


def test_the_program_is_told_of_the_process_that_the_event_means() -> None:
    """Not of one with another name or another start: it has run something else, or its number was given out again."""
    find = thishost.Executables().find
    with subprocess.Popen(["sleep", "100"]) as process:
        task = told(process.pid, b"sleep")
        deadline = time.monotonic() + 20
        while find(task) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        found = [find(each) for each in (task, replace(task, comm=b"other"), replace(task, start_ns=1))]
        process.kill()
    gone = find(task)

    assert found[0] is not None
    assert os.path.samefile(found[0], f"/proc/self/root{found[0]}")
    assert Path(found[0]).name in ("sleep", "busybox", "coreutils")
    assert (found[1:], gone) == ([None, None], None)


def test_the_facts_of_this_host_are_the_kernels() -> None:
    """The start of a process by the wall clock is its start since boot and the difference of the clocks."""
    facts = thishost.facts()

    assert (facts.name, facts.kernel) == (os.uname().nodename, os.uname().release)
    assert abs(time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME) - facts.ahead_ns) < 1_000_000_000
