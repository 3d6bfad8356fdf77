# SPDX-License-Identifier: Apache-2.0
"""A long run of the daemon, which must stay right and small.

``python -m tests.bench.soak [--duration 60] [--write]``, as root. Storms of both kinds follow one another. Ten
snapshots a second are taken and judged by the storm's log. About every other second the table is compared with the task
iterator and with /proc in every field, and the daemon's memory and descriptors are measured. The exit code is 0 unless
a snapshot was torn, a field differed, or the daemon grew.
"""

import argparse
import gc
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from agent.errors import CkptreeError
from tests.bench.equivalence import compare
from tests.bench.figures import median, table
from tests.bench.iterator import BareIterator
from tests.bench.judge import Judge
from tests.bench.options import add_write, amount, natural, parsed
from tests.bench.report import splice
from tests.bench.storm import Storm
from tests.bench.torture import SETTLE_S, Tally
from tests.bench.watcher import Watcher

_SNAPSHOT_S = 0.1
_COMPARE_EVERY = 20  # snapshots
_STORM_S = 15.0  # then the judge reads the log, and the next storm begins
_PROC_SHARE = 4  # one process in this many is read in /proc at each comparison
_WARM = 0.4  # share of the run after which memory should not grow any more
_MAY_GROW = 512 << 10  # bytes of resident memory that are noise


@dataclass(slots=True)
class Totals:
    """The counts of the run.

    Attributes:
        resident: (seconds, bytes) of the daemon, at intervals.
        descriptors: of the daemon, at the same times.
    """

    storms: int = 0
    births: float = 0
    tally: Tally = field(default_factory=Tally)
    tasks: int = 0
    values: int = 0
    comparisons: int = 0
    differences: list[str] = field(default_factory=list)
    resident: list[tuple[float, int]] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def grown(self, duration: float) -> int:
        """Return the bytes by which the daemon's memory grew, from the warm state to the end."""
        warm = [size for at, size in self.resident if at >= _WARM * duration]
        if len(warm) <= 1:
            return 0
        half = len(warm) // 2
        return int(median(warm[half:]) - median(warm[:half]))

    def wrong(self, duration: float) -> list[str]:
        """Return the faults, one line each."""
        lines = list(self.differences)
        lines += [f"{self.tally.torn} snapshots torn"] * (self.tally.torn > 0)
        lines += [f"{self.tally.stale} snapshots stale"] * (self.tally.stale > 0)
        lines += [f"{self.tally.failed} snapshots failed"] * (self.tally.failed > 0)
        grown = self.grown(duration)
        lines += [f"the daemon grew by {grown} bytes"] * (grown > _MAY_GROW)
        more = self.descriptors[-1] - self.descriptors[0] if self.descriptors else 0
        lines += [f"the daemon has {more} descriptors more than at first"] * (more > 0)
        return lines


def _one_storm(
    totals: Totals, watcher: Watcher, iterator: BareIterator, options: argparse.Namespace, begun: float, pid_max: int
) -> None:
    scans = []
    until = min(time.monotonic() + _STORM_S, begun + options.duration)
    with Storm(idle=options.idle, rate=options.rate, pid_max=pid_max) as storm:
        time.sleep(SETTLE_S)
        due = time.monotonic()
        while (now := time.monotonic()) < until:
            try:
                scans.append(watcher.scan(storm.root))
            except CkptreeError as error:
                totals.tally.failed += 1
                print(f"soak: {error}", file=sys.stderr)
            if len(scans) % _COMPARE_EVERY == 1:
                take = partial(watcher.take, storm.top)
                report = compare(take, iterator, every=_PROC_SHARE, turn=totals.comparisons)
                totals.comparisons += 1
                totals.tasks += report.tasks
                totals.values += report.values
                totals.differences += report.differences
                totals.resident.append((now - begun, watcher.resident_bytes()))
                totals.descriptors.append(watcher.descriptors())
            due = max(due + _SNAPSHOT_S, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
        time.sleep(SETTLE_S)
    totals.storms += 1
    totals.births += storm.counts["storm"]
    totals.tally.add("ckptree", scans, Judge(storm.log), 3)


def _cells(totals: Totals, watcher: Watcher, options: argparse.Namespace) -> list[list[str]]:
    status = watcher.client.status()
    sizes = [size for _, size in totals.resident] or [watcher.resident_bytes()]
    return [
        ["seconds", f"{options.duration:.0f}"],
        ["storms, births in them", f"{totals.storms}, {totals.births:,.0f}"],
        ["records, of these lost", f"{status['records']:,}, {status['lost']:,}"],
        ["snapshots judged, torn, stale", f"{totals.tally.judged:,}, {totals.tally.torn}, {totals.tally.stale}"],
        ["table against iterator and /proc: values, different", f"{totals.values:,}, {len(totals.differences)}"],
        ["anomalies that no event explained", f"{status['anomalies']:,}"],
        ["resident without the ring, MB: first, last", f"{sizes[0] / 1e6:.1f}, {sizes[-1] / 1e6:.1f}"],
        ["open descriptors: first, last", ", ".join(map(str, totals.descriptors[:1] + totals.descriptors[-1:]))],
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--duration", type=amount, default=60, help="seconds")
    parser.add_argument("--idle", type=natural, default=300, help="tasks that sleep beside each storm")
    parser.add_argument("--rate", type=natural, default=2000, help="births per second; 0: all the machine can do")
    parser.add_argument("--pid-max", type=natural, default=1500, help="numbers of every second storm")
    add_write(parser)
    options = parsed(parser, arguments)
    totals = Totals()
    with ExitStack() as stack:
        iterator = BareIterator()
        stack.callback(iterator.close)
        watcher = stack.enter_context(Watcher())
        begun = time.monotonic()
        while time.monotonic() - begun < options.duration:
            pid_max = options.pid_max if totals.storms % 2 else 0
            _one_storm(totals, watcher, iterator, options, begun, pid_max)
            gc.collect()
            seen = f"{totals.tally.judged} snapshots, {totals.tally.torn} torn; {totals.values} values, "
            differ = f"{len(totals.differences)} differ; {watcher.resident_bytes() / 1e6:.1f} MB"
            print(f"soak: {time.monotonic() - begun:.0f} s: {seen}{differ}", file=sys.stderr)
        cells = _cells(totals, watcher, options)
    text = table(("soak", "figures"), cells)
    print(text)
    wrong = totals.wrong(options.duration)
    for line in wrong[:20]:
        print(f"soak: {line}", file=sys.stderr)
    if options.write:
        splice(text, "soak")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
