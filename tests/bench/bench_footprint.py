# SPDX-License-Identifier: Apache-2.0
"""Measurement of the daemon's footprint: start time, memory, and CPU time during a storm.

``python -m tests.bench.bench_footprint [--forks 200000] [--as-package] [--json]`` from the repository's root, as root.
With ten million forks it tests that living tasks alone determine the memory.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

from tests.bench import installedstart
from tests.bench.compiled import compiled
from tests.bench.figures import median, table
from tests.bench.idle_tree import IdleTree
from tests.bench.options import amount, parsed, positive
from tests.bench.storm import Storm
from tests.bench.watcher import CHECKOUT, Watcher

_STARTS = 5
_SETTLE_S = 0.3  # several times the interval at which the daemon empties the ring


def started_ms(watcher: Watcher) -> float:
    """Return the time from the command to the first answer, in ms; the programs are compiled before."""
    begun = time.perf_counter_ns()
    watcher.start()
    took = (time.perf_counter_ns() - begun) / 1e6
    watcher.stop()
    return took


def forks(count: int) -> None:
    """Fork this many processes, one after the other."""
    subprocess.run([str(compiled("bench_hooks")), "vfork", str(count)], check=True, stdout=subprocess.DEVNULL)


def memory(watcher: Watcher, count: int, tasks: int) -> dict[str, float]:
    """Return resident bytes without the ring: of a fresh daemon, for each task, and after many forks."""
    empty = watcher.resident_bytes()
    with IdleTree(tasks):
        time.sleep(_SETTLE_S)
        watcher.client.status()
        full = watcher.resident_bytes()
    forks(count // 10)
    before = watcher.resident_bytes()
    forks(count)
    watcher.client.status()
    return {
        "forks": float(count),
        "resident_mb": empty / 1e6,
        "bytes_per_task": (full - empty) / tasks,
        "grown_by_forks_kb": (watcher.resident_bytes() - before) / 1e3,
    }


def under_storm(watcher: Watcher, duration_s: float) -> dict[str, float]:
    """Return the CPU time during a storm without requests."""
    with Storm(idle=100):
        time.sleep(_SETTLE_S)
        records, cpu, begun = watcher.client.status()["records"], watcher.cpu_s(), time.monotonic()
        time.sleep(duration_s)
        cpu = watcher.cpu_s() - cpu
        seconds = time.monotonic() - begun
        records = watcher.client.status()["records"] - records
        lost = watcher.client.status()["lost"]
    return {
        "storm_records_per_s": records / seconds,
        "storm_cpu_share": cpu / seconds,
        "storm_cpu_us_per_record": cpu * 1e6 / records,
        "storm_lost": float(lost),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forks", type=positive, default=200_000, help="processes after which the memory is measured")
    parser.add_argument("--tasks", type=positive, default=10_000, help="tasks for the figure per task")
    parser.add_argument("--seconds", type=amount, default=4.0, help="of a storm at full rate")
    installedstart.add_as_package(parser)
    parser.add_argument("--json", action="store_true", help="the figures as JSON on stdout")
    options = parsed(parser, arguments)
    with ExitStack() as stack:
        program: tuple[str, ...] = CHECKOUT
        if options.as_package:
            program = (stack.enter_context(installedstart.program(compiled=True)), "daemon")
        watcher = Watcher(program=program)
        figures = {"start_ms": median(started_ms(watcher) for _ in range(_STARTS))}
        with watcher:
            figures |= memory(watcher, options.forks, options.tasks)
        with Watcher(program=program) as another:
            figures |= under_storm(another, options.seconds)
    if options.json:
        print(json.dumps(figures))
    else:
        print(table(("daemon", "figure"), [[name, f"{value:,.2f}"] for name, value in figures.items()]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
