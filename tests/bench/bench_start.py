# SPDX-License-Identifier: Apache-2.0
"""Measurement of a daemon's start, from exec to READY=1, and of the memory that it leaves to its successor.

Four ways to begin, in turn: programs compiled, programs from the store of compiled ones, hooks and ring taken over
after a crash, and hooks, ring and memory taken over at a restart. The service manager is the tests' own; medians.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, os.fspath(Path(__file__).parents[2]))

from tests.bench.figures import median, table
from tests.bench.idle_tree import IdleTree
from tests.bench.options import parsed, positive
from tests.live.servicemanager import ServiceManager

_THREADS = 9
_MEMORY = "ckptree/memory"


class Measured(ServiceManager):
    """A service manager that measures starts and ends.

    Attributes:
        ended_ms: from the last signal to the end.
        memory_bytes: size of the memory that the last end left; 0: none.
    """

    ended_ms = 0.0
    memory_bytes = 0

    def begin(self) -> float:
        """Start the daemon; return the time until READY=1, in ms."""
        begun = time.monotonic()
        self.start()
        return 1000 * (max(at for at, line in self.said if line == "READY=1") - begun)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End the daemon, and measure the end."""
        begun = time.monotonic()
        status = super().end(number)
        self.ended_ms = 1000 * (time.monotonic() - begun)
        left = dict(self.store).get(_MEMORY)
        self.memory_bytes = os.fstat(left).st_size if left is not None else 0
        return status


def compiled(manager: Measured) -> float:
    """Start with an empty store."""
    manager.stop()
    with tempfile.TemporaryDirectory() as empty:
        os.environ["CACHE_DIRECTORY"] = empty
        try:
            return manager.begin()
        finally:
            del os.environ["CACHE_DIRECTORY"]


def loaded(manager: Measured) -> float:
    """Start with stored bytecode."""
    manager.stop()
    return manager.begin()


def crashed(manager: Measured) -> float:
    """Start with the hooks and the ring of a daemon that crashed."""
    manager.end(signal.SIGKILL)
    return manager.begin()


def restarted(manager: Measured) -> float:
    """Start with hooks, ring and memory of a daemon that ended."""
    manager.end()
    return manager.begin()


WAYS: dict[str, Callable[[Measured], float]] = {
    "first start, programs compiled": compiled,
    "start, programs compiled before": loaded,
    "after a crash": crashed,
    "restart": restarted,
}


def measure(tasks: int, turns: int) -> dict[str, float]:
    """Return the medians for one size."""
    took: dict[str, list[float]] = {way: [] for way in WAYS}
    ends: list[float] = []
    sizes: list[int] = []
    tree = IdleTree(tasks, threads=_THREADS) if tasks else nullcontext()
    with tree, tempfile.TemporaryDirectory() as folder, Measured(Path(folder)) as manager:
        loaded(manager)  # so that the store has the bytecode
        for _ in range(turns):
            for way, start in WAYS.items():
                took[way].append(start(manager))
                if way == "restart":
                    ends.append(manager.ended_ms)
                    sizes.append(manager.memory_bytes)
        if complaints := manager.complaints():
            raise RuntimeError(f"the daemon complains: {complaints}")
    return {way: median(each) for way, each in took.items()} | {"end_ms": median(ends), "memory_bytes": median(sizes)}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=positive, nargs="*", default=[1000, 20_000])
    parser.add_argument("--turns", type=positive, default=7)
    parser.add_argument("--json", action="store_true")
    options = parsed(parser)
    found = {tasks: measure(tasks, options.turns) for tasks in options.tasks}
    if options.json:
        print(json.dumps(found))
        return
    print(
        table(
            ["ms from exec to READY=1", *(f"{tasks} tasks" for tasks in found)],
            [
                *([way, *(f"{each[way]:.0f}" for each in found.values())] for way in WAYS),
                ["an end that leaves its memory", *(f"{each['end_ms']:.0f}" for each in found.values())],
                ["size of that, KB", *(f"{each['memory_bytes'] / 1000:.0f}" for each in found.values())],
            ],
        )
    )


if __name__ == "__main__":
    main()
