# SPDX-License-Identifier: Apache-2.0
"""The cut of a snapshot, where something happens between a question and the reading of its answer."""

import math
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from agent.capture.probes import Probes
from agent.capture.snapshots import Snapshots
from agent.capture.watch import Watch
from agent.config import Config
from agent.rootname import parse
from agent.table.objects import EXITED

PATIENCE_S = 20.0
# A parent that ignores SIGCHLD; by a line it has another child, or tells the one it has to end. What the first child
# holds takes the kernel long to give back: all that time it is past its exit's event, and not yet a zombie.
PARENT = f"""
import mmap, os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
reader, writer = os.pipe()
child = os.fork()
if not child:
    memory = mmap.mmap(-1, 1 << 28)
    memory.madvise({mmap.MADV_NOHUGEPAGE})
    for at in range(0, len(memory), 4096):
        memory[at] = 1
    os.write(1, b"%d\\n" % os.getpid())
    os.read(reader, 1)
    os.kill(os.getpid(), signal.SIGKILL)
for line in sys.stdin:
    if line.startswith("end"):
        os.write(writer, b".")
    else:
        new = os.fork()
        if not new:
            while True:
                signal.pause()
        print(new, flush=True)
"""


def wait_until(true: Callable[[], bool]) -> None:
    """Or fail."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline


def is_gone(pid: int) -> bool:
    """Return True if the kernel has no process of this pid, not even a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_who_vanishes_without_an_event_is_not_shown_beside_who_was_born_after() -> None:
    """A child without a wait call was still in its exit at the question, and was released before the next birth."""
    watch = Watch.begin(Probes(Config().ring_bytes))
    snapshots = Snapshots(watch)
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as it:
        assert it.stdin
        assert it.stdout
        try:
            first = int(it.stdout.readline())
            watch.drain()
            task = watch.table.task(first)
            assert task is not None
            it.stdin.write("end\n")
            it.stdin.flush()

            def is_exiting() -> bool:
                watch.tend()
                return bool(task.flags & EXITED)

            wait_until(is_exiting)
            catch_up, asked = watch._intake.catch_up, []
            ask = watch.probes.ask
            second: list[int] = []

            def note(address: int, start_ns: int) -> None:
                ask(address, start_ns)
                asked.append(address)

            def read_late(deadline: float = math.inf) -> bool:
                if asked and not second:
                    wait_until(lambda: is_gone(first))
                    it.stdin.write("fork\n")  # type: ignore[union-attr]  # it has one
                    it.stdin.flush()  # type: ignore[union-attr]
                    second.append(int(it.stdout.readline()))  # type: ignore[union-attr]
                return catch_up(deadline)

            watch.probes.ask, watch._intake.catch_up = note, read_late  # type: ignore[assignment, method-assign]  # to be late
            snapshot = snapshots.take(snapshots.find(parse(str(it.pid))), "subtree")
        finally:
            it.kill()
            watch.close()
            for pid in second:
                os.kill(pid, signal.SIGKILL)
    shown = {snapshot.number(each.pid) for each in snapshot.tasks}

    assert second
    assert not {first, second[0]} <= shown
