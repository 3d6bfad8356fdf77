# SPDX-License-Identifier: Apache-2.0
"""Measurement of the time to find a plan and to prove it on the model of the kernel, for trees of several shapes.

Each tree is planned with the observed births, and without any. Time is CPU time of this process, best of several runs.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, os.fspath(Path(__file__).parents[2]))

from agent.model import Ancestor, AncestorEvent, Creator, Snapshot
from agent.restart.planning.search import make_plan
from tests.bench.figures import table
from tests.bench.options import parsed, positive
from tests.support.builders import a_snapshot, a_task, born


def broad(tasks: int) -> Snapshot:
    """Return a tree in which all processes are children of one."""
    rows = [a_task(tag, 1 if tag > 1 else 0, birth=born(1, tag) if tag > 1 else None) for tag in range(1, tasks + 1)]
    return a_snapshot([(row.pid,) for row in rows], rows, mode="container")


def deep(tasks: int) -> Snapshot:
    """Return a tree in which each process is the child of the one before."""
    rows = [a_task(tag, tag - 1, birth=born(tag - 1, tag) if tag > 1 else None) for tag in range(1, tasks + 1)]
    return a_snapshot([(row.pid,) for row in rows], rows, mode="container")


def threads(tasks: int) -> Snapshot:
    """Return a tree of one process with many threads."""
    rows = [a_task(tag, 0, tgid=1, birth=born(1, tag) if tag > 1 else None) for tag in range(1, tasks + 1)]
    return a_snapshot([(row.pid,) for row in rows], rows, mode="container")


def sessions(tasks: int) -> Snapshot:
    """Return a tree in which each process leads a session."""
    rows = [
        a_task(tag, 1 if tag > 1 else 0, pgid=tag, sid=tag, birth=born(1, tag) if tag > 1 else None)
        for tag in range(1, tasks + 1)
    ]
    return a_snapshot([(row.pid,) for row in rows], rows, mode="container")


def daemons(tasks: int) -> Snapshot:
    """Return a tree of double forks: each process is in the session of a dead one, and the init has adopted it."""
    numbers, rows, gone = [(1,)], [a_task(1, 0)], []
    for index in range(tasks - 1):
        tag, leader = 2 + 2 * index, 3 + 2 * index  # tags come in the order of discovery, numbers in that of births
        numbers += [(leader,), (tag,)]
        order = 10 * index
        events = (AncestorEvent("setsid", order + 2, leader), AncestorEvent("exit", order + 4, None))
        gone.append(Ancestor(index, (tag,), (0,), born(1, order + 1), events))
        birth = born(Creator(None, index), order + 3, sid=leader, pgid=leader)
        rows.append(a_task(tag, 1, pgid=leader, sid=leader, birth=birth))
    return a_snapshot(numbers, rows, mode="container", ancestors=tuple(gone))


def orphans(tasks: int) -> Snapshot:
    """Return a tree in which every other process is in the session of the one before, and the init has adopted it."""
    numbers, rows = [(1,)], [a_task(1, 0)]
    for leader in range(2, tasks, 2):
        numbers += [(leader,), (leader + 1,)]
        rows.append(a_task(leader, 1, pgid=leader, sid=leader, birth=born(1, leader)))
        birth = born(leader, leader + 1, sid=leader, pgid=leader)
        rows.append(a_task(leader + 1, 1, pgid=leader, sid=leader, birth=birth))
    return a_snapshot(numbers, rows, mode="container")


SHAPES: tuple[Callable[[int], Snapshot], ...] = (broad, deep, threads, sessions, daemons, orphans)


def unobserved(snapshot: Snapshot) -> Snapshot:
    """Return the same tree without any observed birth."""
    return replace(snapshot, tasks=tuple(task._replace(birth=None) for task in snapshot.tasks), ancestors=())


def measure(snapshot: Snapshot, runs: int) -> tuple[int, float]:
    """Return the number of steps of the plan, and the CPU time to find it, in seconds."""
    best = float("inf")
    for _ in range(runs):
        begin = time.process_time()
        plan = make_plan(snapshot)
        best = min(best, time.process_time() - begin)
    return len(plan.steps), best


def main() -> None:
    """Print milliseconds for each shape and size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=positive, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--runs", type=positive, default=3)
    parser.add_argument("--json", action="store_true")
    options = parsed(parser, root=False)
    figures = []
    for shape in SHAPES:
        for tasks in options.tasks:
            made = shape(tasks)
            steps, observed = measure(made, options.runs)
            _, found = measure(unobserved(made), options.runs)
            figures.append(
                {"shape": shape.__name__, "tasks": tasks, "steps": steps, "observed": observed, "found": found}
            )
    if options.json:
        print(json.dumps(figures))
        return
    rows = [
        (
            f"{one['shape']}",
            f"{one['tasks']}",
            f"{one['steps']}",
            f"{one['observed'] * 1e3:.1f}",
            f"{one['found'] * 1e3:.1f}",
        )
        for one in figures
    ]
    print(table(("shape", "tasks", "steps", "births observed, ms", "births found, ms"), rows))


if __name__ == "__main__":
    main()
