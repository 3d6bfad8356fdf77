# SPDX-License-Identifier: Apache-2.0
"""Measurement of one capture of a quiet tree: all methods in turn, tree by tree, in one run.

``python -m tests.bench.bench_snapshot [--tasks 100,1000,5000,20000] [--rounds 21] [--as-package] [--json]`` from the
repository's root, as root. Beside those trees: one of 10 tasks on a host that has the largest of them too, one of 1000
beside a storm, and one of 1000 in turn with another of as many. The daemon's figure is from the request to the bytes of
the image; the command line's is a whole process. A method that is repeated at once finds its data in the processor's
caches, as far as other methods have not replaced it.
"""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from tests.bench import installedstart
from tests.bench.figures import median, quantile, table
from tests.bench.idle_tree import IdleTree
from tests.bench.iterator import BareIterator
from tests.bench.options import parsed, positive, sizes
from tests.bench.scanners import scan_proc, scan_psutil
from tests.bench.storm import Storm
from tests.bench.watcher import Watcher

CALL = "ckptree, as a client sees it"
CLI = "`ckptree snapshot`, whole process"
DAEMON = "ckptree, in the daemon"
DAEMON_AGAIN = "ckptree, in the daemon, again at once"
ITERATOR = "bare task iterator"
ITERATOR_AGAIN = "bare task iterator, again at once"
ONE_SHOT = "the same without a daemon"
PROC = "C scan of /proc"
PSUTIL = "psutil"
_SLOW_MS = 50
_SMALL, _BESIDE, _STORM_RATE = 10, 1000, 2000

Figures = dict[str, dict[str, float]]


def wall_ns(call: Callable[[], object]) -> int:
    """Return the wall-clock time of a call, in ns."""
    begun = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - begun


def command(program: str, *arguments: str) -> None:
    """Run a verb of the command line."""
    ran = subprocess.run([program, *arguments], check=False, stderr=subprocess.PIPE, text=True)
    if ran.returncode:
        raise RuntimeError(f"ckptree {' '.join(arguments)}: exit code {ran.returncode}: {ran.stderr}")


class Stage(NamedTuple):
    """The rivals, and a place for files.

    Attributes:
        watcher: the daemon.
        iterator: the bare iterator.
        program: the command line's.
        image: where it writes.
    """

    watcher: Watcher
    iterator: BareIterator
    program: str
    image: Path


def methods(root: int, stage: Stage, other: int | None = None) -> dict[str, Callable[[], int]]:
    """Return the methods by name; each takes one capture and returns its duration in ns.

    Args:
        root: of the tree.
        stage: the rivals.
        other: the root of a tree that the daemon captures before each of its captures of this one.
    """

    watcher, iterator, program, image = stage

    def in_turn() -> int:
        if other is not None:
            watcher.image_ns(other)
        return watcher.image_ns(root)

    snapshot = ("snapshot", str(root), "--mode", "subtree", "-o", str(image))
    return {
        ITERATOR: lambda: iterator().duration_ns,
        ITERATOR_AGAIN: lambda: iterator().duration_ns,
        DAEMON: in_turn,
        DAEMON_AGAIN: in_turn,
        CALL: lambda: wall_ns(lambda: watcher.image_ns(root)),
        PROC: lambda: scan_proc().duration_ns,
        PSUTIL: lambda: scan_psutil().duration_ns,
        CLI: lambda: wall_ns(lambda: command(program, *snapshot, "--socket", str(watcher.socket))),
        ONE_SHOT: lambda: wall_ns(lambda: command(program, *snapshot, "--source", "bpf")),
    }


def measure(tasks: int, rounds: int, stage: Stage, other: int | None = None) -> Figures:
    """Return, for one size of tree, medians and quartiles in ms, and ckptree's share of the time of each method.

    Slow methods take part in every fifth round.
    """
    with IdleTree(tasks) as tree:
        ways = methods(tree.root, stage, other)
        times: dict[str, dict[int, float]] = {name: {} for name in ways}
        for n in range(rounds):
            for name, way in ways.items():
                if n % 5 and times[name][0] > _SLOW_MS and name not in (DAEMON, DAEMON_AGAIN):
                    continue
                times[name][n] = way() / 1e6
    return {name: _summary(times, name) for name in ways}


def _summary(times: dict[str, dict[int, float]], name: str) -> dict[str, float]:
    found = list(times[name].values())
    own = times[DAEMON_AGAIN if name == ITERATOR_AGAIN else DAEMON]
    shares = [own[n] / took for n, took in times[name].items()]  # within each round
    return {
        "median_ms": median(found),
        "q1_ms": quantile(found, 0.25),
        "q3_ms": quantile(found, 0.75),
        "p99_ms": quantile(found, 0.99),
        "scans": len(found),
        "share": median(shares),
        "share_q1": quantile(shares, 0.25),
        "share_q3": quantile(shares, 0.75),
    }


def lines(figures: dict[str, Figures]) -> list[list[str]]:
    """Return the rows of the table: medians, and the ratio of each to the daemon's snapshot."""
    names = next(iter(figures.values()))
    return [
        [
            name,
            *(
                f"{found[name]['median_ms']:.2f} ({found[name]['median_ms'] / found[DAEMON]['median_ms']:.2f}x)"
                for found in figures.values()
            ),
        ]
        for name in names
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=sizes, default="100,1000,5000,20000", help="sizes of the tree")
    parser.add_argument("--rounds", type=positive, default=21, help="for each size")
    installedstart.add_as_package(parser)
    parser.add_argument("--json", action="store_true", help="the figures as JSON on stdout")
    options = parsed(parser, arguments)
    figures: dict[str, Figures] = {}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ckptree-bench-")))
        program = str(Path(sys.executable).parent / "ckptree")
        watcher = Watcher()
        if options.as_package:
            program = stack.enter_context(installedstart.program(compiled=True))
            watcher = Watcher(program=(program, "daemon"))
        iterator = BareIterator()
        stack.callback(iterator.close)
        stage = Stage(stack.enter_context(watcher), iterator, program, directory / "image.ckpt")
        gc.disable()  # the collector would run within the measurements
        for tasks in options.tasks:
            print(f"bench_snapshot: {tasks} tasks", file=sys.stderr, flush=True)
            figures[f"{tasks} tasks"] = measure(tasks, options.rounds, stage)
        print("bench_snapshot: small beside large, two in turn, quiet beside a storm", file=sys.stderr, flush=True)
        with IdleTree(max(options.tasks)):
            figures[f"{_SMALL} of {max(options.tasks)}"] = measure(_SMALL, options.rounds, stage)
        with IdleTree(_BESIDE) as other:
            figures[f"{_BESIDE} in turn"] = measure(_BESIDE, options.rounds, stage, other.root)
        with Storm(idle=0, rate=_STORM_RATE):
            figures[f"{_BESIDE} beside a storm"] = measure(_BESIDE, options.rounds, stage)
    if options.json:
        print(json.dumps(figures))
    else:
        print("median ms (in units of the daemon's own)\n")
        print(table(("tasks", *map(str, figures)), lines(figures)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
