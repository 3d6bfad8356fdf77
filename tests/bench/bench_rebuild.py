# SPDX-License-Identifier: Apache-2.0
"""Measurement of the cost of a rebuild beyond its necessary system calls, both in turn in one run.

``python -m tests.bench.bench_rebuild [--tasks 1000] [--rounds 15] [--json]`` from the repository's root, as root. A
flat tree: a root and its children, each with its number. Both figures begin with the first clone3(); the bare loop's
ends when the last one has returned, the rebuild's when all children run, have reported, and are in place.
"""

import argparse
import json
import subprocess
from typing import TYPE_CHECKING

from agent.restart.planning.plan import Op, Phase, Plan
from agent.restart.rebuild.coordinator import Rebuild
from tests.bench.compiled import compiled
from tests.bench.figures import median, quantile, table
from tests.bench.options import parsed, positive
from tests.support.plans import PlanWriter

if TYPE_CHECKING:
    from collections.abc import Callable

BARE = "bare clone3() loop with set_tid"
REBUILD = "rebuild, until all stand"


def flat(tasks: int) -> Plan:
    """Return a snapshot of a root with all other tasks as its children."""
    writer = PlanWriter()
    root = writer.actor(1)
    for n in range(tasks):
        writer.born(root, 1000 + n)
    return writer.activated().plan()


def bare(tasks: int) -> int:
    """Return the duration of the bare loop, in ns."""
    program = compiled("bare_clone3", "-static")
    return int(subprocess.run([program, str(tasks)], check=True, capture_output=True, text=True).stdout)


def rebuild(plan: Plan) -> int:
    """Return the time until all tasks of the rebuild are in place, in ns."""
    with Rebuild(plan, no_stdio=True) as made:
        made.build()
        return made.building_ns


def measured(tasks: int, rounds: int) -> dict[str, list[int]]:
    """Return all figures, in ns. The first round of each is a warm-up."""
    plan = flat(tasks)
    assert all(step.op in (Op.CLONE, Op.ACTIVATE) for step in plan.steps if step.phase <= Phase.ACTIVATE)
    methods: dict[str, Callable[[], int]] = {BARE: lambda: bare(tasks), REBUILD: lambda: rebuild(plan)}
    found: dict[str, list[int]] = {name: [] for name in methods}
    for round_ in range(rounds + 1):
        for name, method in methods.items():
            took = method()
            if round_:
                found[name].append(took)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=positive, default=1000)
    parser.add_argument("--rounds", type=positive, default=15)
    parser.add_argument("--json", action="store_true")
    options = parsed(parser)
    found = measured(options.tasks, options.rounds)
    if options.json:
        print(json.dumps({"tasks": options.tasks, "ns": found}))
        return
    base = median(found[BARE])
    print(f"{options.tasks} children, {options.rounds} rounds, milliseconds\n")
    rows = [
        [
            name,
            *(f"{quantile(values, share) / 1e6:.1f}" for share in (0.0, 0.5, 0.9)),
            f"{median(values) / options.tasks / 1e3:.1f}",
            f"{median(values) / base:.2f}",
        ]
        for name, values in found.items()
    ]
    print(table(["", "least", "median", "p90", "us a child", "times the loop"], rows))


if __name__ == "__main__":
    main()
