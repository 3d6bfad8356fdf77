# SPDX-License-Identifier: Apache-2.0
"""Measurement of what ckptree costs as a host grows: the daemon's start, its snapshots, its image and its memory.

``python -m tests.bench.bench_scale [--tasks 1000,10000,100000] [--namespaces 1000] [--write]`` from the repository's root,
as root. The tasks are those of processes with 50 threads each, all in one session; those of namespaces are 10 threads in
each of so many pid namespaces below one root. Where the host has too few numbers ``kernel.pid_max`` is raised, and set
back at the end.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.bench.figures import median, table
from tests.bench.idle_tree import IdleTree
from tests.bench.options import add_write, natural, parsed, sizes
from tests.bench.report import draw, lines, splice
from tests.bench.watcher import Watcher

_THREADS = 49
_INSIDE = 9  # threads beside the first of each pid namespace
_BREADTH = 10
_AGAIN = 5
_PID_MAX = Path("/proc/sys/kernel/pid_max")
_OTHERS = 8000  # numbers for all else on the host
_SETTLE_S = 0.5


class Cost(NamedTuple):
    """The cost of one tree.

    Attributes:
        tasks: of the tree.
        start_ms: from the daemon's exec to its first answer.
        first_ms, again_ms: of snapshots, as the daemon has it.
        cpu_ms: CPU time of the daemon for its start and the first snapshot.
        image_bytes: of the image.
        resident_mb: of the daemon, without the ring, after all snapshots.
    """

    tasks: int
    start_ms: float
    first_ms: float
    again_ms: float
    cpu_ms: float
    image_bytes: int
    resident_mb: float


@contextmanager
def numbers(count: int) -> Iterator[None]:
    """Have room for so many tasks beside all others, for the time of the block."""
    before = _PID_MAX.read_text()
    if int(before) >= count + _OTHERS:
        yield
        return
    _PID_MAX.write_text(str(count + _OTHERS))
    try:
        yield
    finally:
        _PID_MAX.write_text(before)


def measured(tree: IdleTree, tasks: int) -> Cost:
    """Measure beside a tree that stands."""
    watcher = Watcher(before=("setsid",))
    begun = time.perf_counter_ns()
    with watcher:
        start_ms = (time.perf_counter_ns() - begun) / 1e6
        first = watcher.client.snapshot(str(tree.root), mode="subtree")
        if not first.complete or first.tasks != tasks:
            raise RuntimeError(f"a snapshot of {first.tasks} tasks, not of {tasks}: {first.reasons}")
        cpu_ms = 1e3 * watcher.cpu_s()
        again = [watcher.image_ns(tree.root) / 1e6 for _ in range(_AGAIN)]
        return Cost(
            tasks,
            start_ms,
            first.elapsed_ns / 1e6,
            median(again),
            cpu_ms,
            len(first.data),
            watcher.resident_bytes() / 1e6,
        )


def row(name: str, cost: Cost) -> list[str]:
    """Return the cells of a tree."""
    return [
        name,
        f"{cost.start_ms:,.0f}",
        f"{cost.cpu_ms:,.0f}",
        f"{cost.first_ms:,.0f} ({1e3 * cost.first_ms / cost.tasks:.1f})",
        f"{cost.again_ms:,.1f} ({1e3 * cost.again_ms / cost.tasks:.2f})",
        f"{cost.image_bytes / 1e6:.2f} ({cost.image_bytes / cost.tasks:.0f})",
        f"{cost.resident_mb:.0f}",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=sizes, default=[1000, 10_000, 100_000])
    parser.add_argument("--namespaces", type=natural, default=1000)
    parser.add_argument("--json", action="store_true", help="the figures as JSON on stdout")
    add_write(parser, picture=True)
    options = parsed(parser, arguments)
    found: dict[str, Cost] = {}
    for count in options.tasks:
        with numbers(count), IdleTree(count, breadth=_BREADTH, threads=_THREADS) as tree:
            time.sleep(_SETTLE_S)
            found[f"{count:,} tasks"] = measured(tree, count)
        print(f"bench: {found[f'{count:,} tasks']}", file=sys.stderr, flush=True)
    curves: dict[str, dict[float, float]] = {
        "the daemon's start": {cost.tasks: cost.start_ms for cost in found.values()},
        "snapshot, the first": {cost.tasks: cost.first_ms for cost in found.values()},
        "snapshot, again": {cost.tasks: cost.again_ms for cost in found.values()},
    }
    if options.namespaces:
        count = (options.namespaces + 1) * (_INSIDE + 1)
        with numbers(count), IdleTree(count, threads=_INSIDE, namespaces=True) as tree:
            time.sleep(_SETTLE_S)
            name = f"{count:,} in {options.namespaces:,} pid namespaces"
            found[name] = measured(tree, count)
        print(f"bench: {found[name]}", file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps({name: cost._asdict() for name, cost in found.items()}))
        return 0
    text = table(
        (
            "",
            "start, ms",
            "CPU of start and first, ms",
            "first snapshot, ms (us a task)",
            "again, ms (us a task)",
            "image, MB (bytes a task)",
            "resident, MB",
        ),
        [row(name, cost) for name, cost in found.items()],
    )
    print(text)
    if options.write:
        splice(f"![Cost as a host grows](scale.svg)\n\n{text}", "scale")
        draw("scale", lines("One session as it grows", curves, ("tasks", "ms"), own="snapshot"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
