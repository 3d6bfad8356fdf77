# SPDX-License-Identifier: Apache-2.0
"""Measurement of the daemon's own work for one snapshot: the CPU time of its Python, without the kernel's part.

``python -m tests.bench.bench_again [--tasks 100,1000,5000] [--rounds 41] [--as-package] [--json]`` from the
repository's root, as any user: the kernel is a simulated one, whose time does not count. All cases take their turns in
one run, medians:

* *unchanged*: nothing has happened since the last snapshot of the tree;
* *first*: nothing is kept of the tree;
* *in turn*: another tree of as many tasks has been asked for in between;
* *storm behind*, *storm before*: of 100 more tasks, 50 have gone since the last snapshot, and 50 others have come. In
  tree order they stand behind the tasks that stay, or before them, so that each of those gets another tag.

The figure is from the request to the packed answer.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence

from agent.daemon import heap
from agent.daemon.asker import Asker
from exporters import gcpause
from tests.bench import installedstart
from tests.bench.figures import median, table
from tests.bench.options import parsed, positive, sizes
from tests.support.kernelobjects import Thread
from tests.support.simwatch import ROOT, Scene

_GUESTS, _CHANGED = 100, 50


class Stage:
    """A tree on a simulated kernel, and a clock that leaves out the kernel.

    Args:
        tasks: of the tree.
    """

    def __init__(self, tasks: int) -> None:
        self._scene = scene = Scene()
        self._asker = Asker(ROOT)
        self._kernel_ns = 0
        scene.kernel.pid_max = 1 << 22
        self.root = scene.child()
        self.before, holder, self.behind = (scene.child(self.root) for _ in range(3))
        for _ in range(tasks - 4):
            scene.child(holder)
        self._guests: list[Thread] = []
        answer = scene.kernel.answer

        def ask(address: int, start_ns: int) -> None:
            begun = time.thread_time_ns()
            answer(address, start_ns)
            self._kernel_ns += time.thread_time_ns() - begun

        scene.watch.probes.ask = ask  # type: ignore[assignment]
        self.take(self.root)

    def another(self, tasks: int) -> Thread:
        """Return the root of another tree of so many tasks."""
        other = self._scene.child()
        for _ in range(tasks - 1):
            self._scene.child(other)
        return other

    def replace_guests(self, parent: Thread) -> None:
        """Let some guests go, children of a parent, and as many others come."""
        kernel = self._scene.kernel
        for guest in self._guests[:_CHANGED]:
            kernel.exit(guest)
            kernel.wait(parent, guest)
        del self._guests[:_CHANGED]
        self._guests += [self._scene.child(parent) for _ in range(_GUESTS - len(self._guests))]

    def forget(self) -> None:
        """Drop what is kept of all trees, as the daemon does of those that nobody asks for."""
        self._scene.service.rest(0)

    def take(self, root: Thread) -> float:
        """Take one snapshot; return the CPU time of the service, in us."""
        service, probes = self._scene.service, self._scene.watch.probes
        self._scene.watch.drain()
        rows = self._scene.kernel.rows()
        probes.rows = lambda: rows  # type: ignore[method-assign]
        request = {"verb": "snapshot", "root": str(root.tid), "mode": "subtree"}
        self._kernel_ns = 0
        begun = time.thread_time_ns()
        answer = service.packed(request, self._asker)
        took = time.thread_time_ns() - begun - self._kernel_ns
        self._scene.log()
        if len(answer) < 100:
            raise RuntimeError(f"no snapshot: {answer!r}")
        return took / 1000


def cases(tasks: int) -> dict[str, Callable[[], float]]:
    """Return the cases by name, each with a stage of its own; a call takes one snapshot."""
    still, fresh, shared, behind, before = (Stage(tasks) for _ in range(5))
    other = shared.another(tasks)

    def first() -> float:
        fresh.forget()
        return fresh.take(fresh.root)

    def in_turn() -> float:
        shared.take(other)
        return shared.take(shared.root)

    def storm_behind() -> float:
        behind.replace_guests(behind.behind)
        return behind.take(behind.root)

    def storm_before() -> float:
        before.replace_guests(before.before)
        return before.take(before.root)

    return {
        "unchanged": lambda: still.take(still.root),
        "first": first,
        "in turn": in_turn,
        "storm behind": storm_behind,
        "storm before": storm_before,
    }


def measure(tasks: int, rounds: int) -> dict[str, float]:
    """Return the median of each case, in us."""
    ways = cases(tasks)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            times[name].append(way())
    return {name: median(found[1:]) for name, found in times.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=sizes, default="100,1000,5000", help="sizes of the tree")
    parser.add_argument("--rounds", type=positive, default=41)
    parser.add_argument("--json", action="store_true", help="the figures as JSON on stdout")
    installedstart.add_as_package(parser)
    options = parsed(parser, arguments, root=False)
    if options.as_package:
        words = ["--tasks", ",".join(map(str, options.tasks)), "--rounds", str(options.rounds)]
        return installedstart.run_compiled("tests.bench.bench_again", [*words, *["--json"] * options.json])
    heap.share()  # as in the daemon, and so is the pause
    with gcpause.paused():
        figures = {f"{tasks} tasks": measure(tasks, options.rounds) for tasks in options.tasks}
    if options.json:
        print(json.dumps(figures))
    else:
        rows = [[name, *(f"{found[name]:,.0f}" for found in figures.values())] for name in next(iter(figures.values()))]
        print(table(("us of CPU: median", *figures), rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
