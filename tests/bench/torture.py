# SPDX-License-Identifier: Apache-2.0
"""Measurement of the share of torn captures under a fork storm: all methods in turn, judged by the storm's log.

``python -m tests.bench.torture [--snapshots 1000] [--storms 1] [--write]`` from the repository's root, as root. Two
kinds of storm: one with all the numbers of the host, and one in a pid namespace that has so few of them that each is
used again within a fraction of a second. The exit code is 0 unless a snapshot that ckptree called complete was torn,
stale or failed.
"""

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import NamedTuple

from agent.errors import CkptreeError
from tests.bench.figures import median, quantile, table
from tests.bench.iterator import BareIterator
from tests.bench.judge import Judge
from tests.bench.options import add_storm, add_write, natural, parsed, positive
from tests.bench.report import bars, draw, splice
from tests.bench.scanners import Scan, scan_proc, scan_ps, scan_psutil
from tests.bench.storm import Storm
from tests.bench.watcher import Watcher

CKPTREE = "ckptree"
SETTLE_S = 0.2
WIDEN_NS = 100_000_000
"""Widening of the window in ns: a state from shortly before the request is stale and not torn."""
STORM_SNAPSHOTS = 1000
"""The most captures of ckptree in one storm: they stay undecoded in memory until its end."""


class Method(NamedTuple):
    """One way to capture.

    Attributes:
        name: for the table.
        times: number of captures in one storm.
        take: a function that makes one capture.
    """

    name: str
    times: int
    take: Callable[[], Scan]


@dataclass(slots=True)
class Tally:
    """The counts of one method's captures. Torn and stale captures are those that it called complete.

    Attributes:
        times_ms: the duration of each.
    """

    scans: int = 0
    torn: int = 0
    stale: int = 0
    incomplete: int = 0
    failed: int = 0
    tasks: list[int] = field(default_factory=list)
    times_ms: list[float] = field(default_factory=list)

    @property
    def judged(self) -> int:
        """Return the number of captures that the method called complete."""
        return self.scans - self.incomplete

    def add(self, name: str, scans: Sequence[Scan], judge: Judge, show: int) -> None:
        """Judge the captures of one storm; print the first clashes to stderr."""
        for scan in scans:
            capture = scan.capture()
            self.scans += 1
            self.tasks.append(len(capture.rows))
            self.times_ms.append(scan.duration_ns / 1e6)
            if not scan.complete:
                self.incomplete += 1
                continue
            verdict = judge.judge(capture, widen_ns=WIDEN_NS)
            self.torn += verdict.torn
            self.stale += not verdict.torn and not verdict.fresh
            if verdict.torn and self.torn <= show:
                print(f"{name} torn:\n  " + "\n  ".join(map(judge.explain, verdict.clash)), file=sys.stderr)
            elif not verdict.torn and not verdict.fresh and self.stale <= show:
                when = f"true at {verdict.feasible}, asked for at {capture.t0}, there at {capture.t1}"
                clash = judge.judge(capture).clash  # the findings that rule out all of the time between
                print(f"{name} stale: {when}\n  " + "\n  ".join(map(judge.explain, clash)), file=sys.stderr)

    def cells(self) -> list[str]:
        """Return the row of the table."""
        share = f"{self.torn} ({100 * self.torn / self.judged:.1f} %)" if self.judged else "-"
        counts = (self.stale, self.incomplete, self.failed)
        spread = (median(self.times_ms), quantile(self.times_ms, 0.25), quantile(self.times_ms, 0.75))
        times = "{:.1f} ({:.1f} .. {:.1f})".format(*spread)
        return [str(self.scans), share, *map(str, counts), f"{median(self.tasks):.0f}", times]


HEAD = ("method", "captures", "torn", "stale", "said incomplete", "failed", "tasks", "ms: median (quartiles)")


def interleave(methods: Sequence[Method], pause_s: float, tallies: dict[str, Tally]) -> dict[str, list[Scan]]:
    """Take all captures, each method's spread evenly over the storm."""
    rounds = max(method.times for method in methods)
    scans: dict[str, list[Scan]] = {method.name: [] for method in methods}
    for n in range(rounds):
        for method in methods:
            if n * method.times // rounds == (n + 1) * method.times // rounds:
                continue
            try:
                scans[method.name].append(method.take())
            except CkptreeError as error:
                tallies[method.name].failed += 1
                print(f"{method.name}: {error}", file=sys.stderr)
        time.sleep(pause_s)
    return scans


class Torture:
    """One kind of storm, repeated.

    Args:
        options: of the command line.
        pid_max: as Storm has it.

    Attributes:
        tallies: by method.
        births: per second, for each storm.
    """

    def __init__(self, options: argparse.Namespace, pid_max: int) -> None:
        self._options = options
        self._pid_max = pid_max
        self.tallies: dict[str, Tally] = {}
        self.births: list[float] = []

    def _methods(self, storm: Storm, watcher: Watcher | None, iterator: BareIterator) -> list[Method]:
        options = self._options
        init = storm.root if self._pid_max else 0
        methods = [
            Method("C scan of /proc", options.proc, lambda: scan_proc(init)),
            Method("psutil", options.psutil, lambda: scan_psutil(init)),
        ]
        if not init:  # these two show the host's numbers alone
            methods.insert(0, Method("bare task iterator", options.iterator, iterator))
            methods.append(Method("ps -eL", options.ps, scan_ps))
        if watcher is not None:
            methods.insert(0, Method(CKPTREE, options.snapshots, lambda: watcher.scan(storm.root)))
        return [method for method in methods if method.times]

    def run(self, watcher: Watcher | None, iterator: BareIterator) -> None:
        """Run one storm."""
        options = self._options
        with Storm(idle=options.idle, rate=options.rate, workers=options.workers, pid_max=self._pid_max) as storm:
            methods = self._methods(storm, watcher, iterator)
            for method in methods:
                self.tallies.setdefault(method.name, Tally())
            time.sleep(SETTLE_S)
            scans = interleave(methods, options.pause_ms / 1000, self.tallies)
            time.sleep(SETTLE_S)  # the widened window of the last one must be over before the end begins
        self.births.append(storm.counts["per_second"])
        judge = Judge(storm.log)
        for name, taken in scans.items():
            self.tallies[name].add(name, taken, judge, options.show)

    @property
    def heading(self) -> str:
        """Return the heading for this kind of storm."""
        numbers = f"no more than {self._pid_max} numbers, used again and again" if self._pid_max else "all numbers free"
        return f"{median(self.births):,.0f} births a second beside {self._options.idle} idle tasks, {numbers}"

    @property
    def wrong(self) -> int:
        """Return ckptree's own faults: captures that it called complete and that were not."""
        own = self.tallies.get(CKPTREE, Tally())
        return own.torn + own.stale + own.failed


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snapshots", type=natural, default=STORM_SNAPSHOTS, help="of ckptree, in each storm")
    parser.add_argument("--iterator", type=natural, default=200, help="reads of the bare task iterator, in each storm")
    parser.add_argument("--proc", type=natural, default=40, help="scans of /proc in C")
    parser.add_argument("--psutil", type=natural, default=20, help="walks by psutil")
    parser.add_argument("--ps", type=natural, default=20, help="runs of ps")
    parser.add_argument("--storms", type=positive, default=1, help="of each kind, one after the other")
    add_storm(parser, idle=1000, pause_ms=5, between="rounds")
    parser.add_argument("--show", type=natural, default=3, help="clashes of each method to show")
    parser.add_argument("--without-ckptree", action="store_true", help="the rivals alone")
    add_write(parser, picture=True)
    parser.add_argument("--json", action="store_true", help="the figures as JSON on stdout")
    options = parsed(parser, arguments)
    if options.snapshots > STORM_SNAPSHOTS:
        parser.error(f"--snapshots: {STORM_SNAPSHOTS} at most, for all are kept until the storm is over; use --storms")
    return options


def picture(kinds: Sequence[Torture]) -> str:
    """Draw the shares of torn captures."""
    groups = {
        kind.heading: [
            (name, tally.torn / max(1, tally.judged), f"{tally.torn} of {tally.judged}")
            for name, tally in kind.tallies.items()
        ]
        for kind in kinds
    }
    return bars("Captures that show a state that never was", groups, own=CKPTREE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it once; return 0 unless one of ckptree's own snapshots was torn, stale or failed."""
    options = parse(arguments)
    kinds = [Torture(options, 0), Torture(options, options.pid_max)]
    with ExitStack() as stack:
        iterator = BareIterator()
        stack.callback(iterator.close)
        watcher = None if options.without_ckptree else stack.enter_context(Watcher())
        scan_proc()  # builds the library outside the storm
        gc.disable()  # the collector would run within the measurements
        for n in range(options.storms):
            for kind in kinds:
                kind.run(watcher, iterator)
                gc.collect()
                own = kind.tallies.get(CKPTREE, Tally())
                words = f"{own.torn} of {own.judged} snapshots torn" if watcher else "done"
                print(f"torture: storm {n + 1} of {options.storms}: {kind.heading}: {words}", file=sys.stderr)
    text = "\n\n".join(
        f"{kind.heading}:\n\n" + table(HEAD, [[name, *tally.cells()] for name, tally in kind.tallies.items()])
        for kind in kinds
    )
    if options.json:
        print(json.dumps([{name: tally.cells() for name, tally in kind.tallies.items()} for kind in kinds]))
    else:
        print(text)
    if options.write:
        splice("![Shares of torn captures](torture.svg)\n\n" + text, "torture")
        draw("torture", picture(kinds))
    return int(any(kind.wrong for kind in kinds))


if __name__ == "__main__":
    sys.exit(main())
