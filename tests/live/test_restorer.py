# SPDX-License-Identifier: Apache-2.0
"""The example of a restorer: an application goes on where it was, under the pids that it had."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from exporters import registry
from tests.live.compare import Capture

if TYPE_CHECKING:
    from agent.model import Snapshot

TOP = Path(__file__).parents[2]
COUNTER = TOP / "tests/demo/counter.py"


def within(seconds: float, condition: Callable[[], bool]) -> None:
    """Wait for it."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it has not come true"
        time.sleep(0.02)


def saved(folder: Path, pids: list[int], numbers: list[int]) -> list[int]:
    """Ask each process to save its count, and return the counts."""
    for number in numbers:
        (folder / str(number)).unlink(missing_ok=True)
    for pid in pids:
        os.kill(pid, signal.SIGUSR1)
    within(10, lambda: all((folder / str(number)).exists() for number in numbers))
    return [int((folder / str(number)).read_text()) for number in numbers]


def test_a_tree_of_counters_counts_on(capture: Capture, tmp_path: Path) -> None:
    """Captured, put aside, killed, rebuilt, restored: the same numbers, and each goes on from its own count."""
    root = subprocess.Popen([sys.executable, COUNTER, tmp_path], start_new_session=True)
    snapshots: list[Snapshot] = []

    def grown() -> bool:
        snapshots.append(capture(root.pid, "subtree"))
        return len(snapshots[-1].tasks) == 3 and b"SigCgt:" in Path(f"/proc/{root.pid}/status").read_bytes()

    within(10, grown)
    time.sleep(0.5)
    snapshot = capture(root.pid, "subtree")
    numbers = [snapshot.number(task.pid) for task in snapshot.tasks]
    before = saved(tmp_path, numbers, numbers)
    for number in numbers:
        os.kill(number, signal.SIGKILL)
    root.wait()
    image = tmp_path / "tree.ckpt"
    image.write_bytes(registry.image(snapshot, "ckpt"))

    command = f"{sys.executable} {COUNTER} {tmp_path}"
    with subprocess.Popen(
        [sys.executable, "-m", "agent", "restart", image, "--run", command, "--json"], cwd=TOP, stdout=subprocess.PIPE
    ) as restart:
        assert restart.stdout is not None
        ready = json.loads(restart.stdout.readline())
        pids = [task["pid"] for task in ready["tasks"]]
        assert [task["numbers"] for task in ready["tasks"]] == [[number] for number in numbers]
        within(10, lambda: all(b"counter.py" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids))
        time.sleep(0.5)  # a signal before its handler is there would end it
        after = saved(tmp_path, pids, numbers)
        os.kill(pids[0], signal.SIGKILL)

        assert restart.wait(10) == 128 + signal.SIGKILL
    assert all(now > then for now, then in zip(after, before, strict=True))
