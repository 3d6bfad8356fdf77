# SPDX-License-Identifier: Apache-2.0
"""How often is a capture torn under a fork storm? All methods in turn, in one storm, judged by the storm's own log.

``python -m tests.bench.bench_storm [--snapshots 1000] [--without-ckptree] ...`` from the repository's root, as root.
"""

import argparse
import gc
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from agent.errors import CkptreeError
from tests.bench.figures import median, quantile, table
from tests.bench.iterator import BareIterator
from tests.bench.judge import Judge, Verdict
from tests.bench.scanners import Scan, scan_proc, scan_psutil
from tests.bench.storm import Storm
from tests.bench.watcher import Watcher

SETTLE_S = 0.5
WIDEN_NS = 100_000_000
"""A method may show a state of shortly before it was asked: that is stale, not torn."""


class Method(NamedTuple):
    """One way to capture.

    Attributes:
        name: for the table.
        times: how often in the run.
        take: one capture.
    """

    name: str
    times: int
    take: Callable[[], Scan]


class Result(NamedTuple):
    """What became of one method's captures. Torn and stale are those that it called complete."""

    name: str
    scans: int
    torn: int
    stale: int
    incomplete: int
    failed: int
    tasks: float
    median_ms: float
    p99_ms: float
    call_ms: float

    def cells(self) -> list[str]:
        """A line of the table."""
        share = f"{self.torn} ({100 * self.torn / self.scans:.1f} %)" if self.scans else "-"
        counts = [str(self.stale), str(self.incomplete), str(self.failed), f"{self.tasks:.0f}"]
        return [
            self.name,
            str(self.scans),
            share,
            *counts,
            *(f"{ms:.2f}" for ms in (self.median_ms, self.p99_ms, self.call_ms)),
        ]


HEAD = ("method", "scans", "torn", "stale", "incomplete", "failed", "tasks", "median ms", "p99 ms", "call ms")


def interleave(methods: Sequence[Method], pause_s: float) -> tuple[dict[str, list[Scan]], dict[str, int]]:
    """Take all captures, each method's spread evenly over the run."""
    rounds = max(method.times for method in methods)
    scans: dict[str, list[Scan]] = {method.name: [] for method in methods}
    failed = dict.fromkeys(scans, 0)
    for n in range(rounds):
        for method in methods:
            if n * method.times // rounds == (n + 1) * method.times // rounds:
                continue
            try:
                scans[method.name].append(method.take())
            except CkptreeError as error:
                failed[method.name] += 1
                print(f"{method.name}: {error}", file=sys.stderr)
        time.sleep(pause_s)
    return scans, failed


def evaluate(name: str, scans: Sequence[Scan], failed: int, judge: Judge, *, show: int) -> Result:
    """Judge those of one method's captures that it vouches for; the first clashes go to stderr."""
    verdicts: list[Verdict] = []
    tasks: list[int] = []
    for scan in scans:
        capture = scan.capture()
        tasks.append(len(capture.rows))
        if scan.complete:
            verdicts.append(judge.judge(capture, widen_ns=WIDEN_NS))
    torn = [verdict for verdict in verdicts if verdict.torn]
    for verdict in torn[:show]:
        print(f"{name} torn:\n  " + "\n  ".join(map(judge.explain, verdict.clash)), file=sys.stderr)
    times = [scan.duration_ns / 1e6 for scan in scans]
    return Result(
        name,
        len(scans),
        len(torn),
        sum(not verdict.torn and not verdict.fresh for verdict in verdicts),
        sum(not scan.complete for scan in scans),
        failed,
        median(tasks),
        median(times),
        quantile(times, 0.99),
        median((scan.ended_ns - scan.begun_ns) / 1e6 for scan in scans),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it once; 0 unless one of ckptree's own snapshots was torn, stale or failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snapshots", type=int, default=1000, help="of ckptree")
    parser.add_argument("--iterator", type=int, default=500, help="reads of the bare task iterator")
    parser.add_argument("--proc", type=int, default=100, help="scans of /proc in C")
    parser.add_argument("--psutil", type=int, default=20, help="walks by psutil")
    parser.add_argument("--idle", type=int, default=1000, help="tasks that sleep beside the storm")
    parser.add_argument("--rate", type=int, default=0, help="births per second; 0: all the machine can do")
    parser.add_argument("--workers", type=int, default=0, help="processes that make the storm; 0: two per CPU")
    parser.add_argument("--pause-ms", type=float, default=5, help="between two rounds")
    parser.add_argument("--show", type=int, default=3, help="clashes of each method to show")
    parser.add_argument("--without-ckptree", action="store_true", help="the rivals alone")
    parser.add_argument("--json", action="store_true", help="the figures as JSON on stdout")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    with ExitStack() as stack:
        iterator = BareIterator()
        stack.callback(iterator.close)
        rivals = [
            Method("bare iterator", options.iterator, iterator),
            Method("C scan of /proc", options.proc, scan_proc),
            Method("psutil", options.psutil, scan_psutil),
        ]
        methods = [method for method in rivals if method.times]
        watcher = None if options.without_ckptree else stack.enter_context(Watcher())
        scan_proc()  # builds the library outside the storm
        gc.disable()  # it would run within the measurements
        with Storm(idle=options.idle, rate=options.rate, workers=options.workers) as storm:
            if watcher:
                live = watcher
                methods.insert(0, Method("ckptree", options.snapshots, lambda: live.scan(storm.root)))
            time.sleep(SETTLE_S)
            scans, failed = interleave(methods, options.pause_ms / 1000)
            time.sleep(SETTLE_S)  # the widened window of the last one must be over before the end begins
    judge = Judge(storm.log)
    results = [evaluate(name, taken, failed[name], judge, show=options.show) for name, taken in scans.items() if taken]
    if options.json:
        print(json.dumps({"storm": storm.counts, "methods": [result._asdict() for result in results]}))
    else:
        print(f"{storm.counts['per_second']:.0f} births per second, {storm.counts['idle']} idle tasks beside them\n")
        print(table(HEAD, [result.cells() for result in results]))
    own = [result for result in results if result.name == "ckptree"]
    return int(any(result.torn or result.stale or result.failed for result in own))


if __name__ == "__main__":
    sys.exit(main())
