# SPDX-License-Identifier: Apache-2.0
"""The daemon's figures, as data. Every count starts with the daemon, and only grows, unless its description differs.

The keys are those of the answer to ``metrics``; docs/protocol.md describes each one. agent.cli.openmetrics gives them
the names of a monitoring system.
"""

import time
from bisect import bisect_left
from collections import Counter
from typing import Any, Final, Self

from agent.capture.watch import Watch
from agent.table import rules
from agent.table.objects import EXITED, STOPPED
from agent.table.wire import Kind

SNAPSHOT_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
TURN_SECONDS: Final = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class Histogram:
    """A count of values by their size.

    Args:
        bounds: upper bounds, ascending; above the last one there is one more class.
    """

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def data(self) -> dict[str, Any]:
        """Return ``buckets``, a list of [upper bound, count of values up to it], and ``count`` and ``sum`` of all."""
        buckets = []
        total = 0
        for bound, count in zip(self._bounds, self._counts, strict=False):
            total += count
            buckets.append([bound, total])
        return {"buckets": buckets, "count": total + self._counts[-1], "sum": self._sum}


class Turns:
    """The durations of the loop's turns, in which it is away from its clients and its ring.

    Attributes:
        longest_s: the longest turn so far.
        longest_in: name of the step that took most of it.
    """

    def __init__(self) -> None:
        self._seconds = Histogram(TURN_SECONDS)
        self._job_seconds = Histogram(TURN_SECONDS)
        self._longest_job_s, self._longest_job = 0.0, ""
        self._begin = self._mark = 0.0
        self._most, self._most_in = 0.0, ""
        self.longest_s = 0.0
        self.longest_in = ""

    def begin(self) -> Self:
        """Begin a turn."""
        self._begin = self._mark = time.monotonic()
        self._most = 0.0
        return self

    def spent(self, what: str) -> None:
        """Charge the time since the last such call, or since the begin of the turn, to a step."""
        now = time.monotonic()
        if now - self._mark > self._most:
            self._most, self._most_in = now - self._mark, what
        self._mark = now

    def end(self) -> None:
        """End the turn."""
        took = self._mark - self._begin
        self._seconds.add(took)
        if took > self.longest_s:
            self.longest_s, self.longest_in = took, self._most_in

    def job(self, name: str, took_s: float) -> None:
        """Count a job beside the loop that took `took_s`."""
        self._job_seconds.add(took_s)
        if took_s > self._longest_job_s:
            self._longest_job_s, self._longest_job = took_s, name

    def data(self) -> dict[str, Any]:
        """Return the keys of ``loop``."""
        return {
            "job_seconds": self._job_seconds.data(),
            "longest_job_s": self._longest_job_s,
            "longest_job": self._longest_job,
            "turn_seconds": self._seconds.data(),
            "longest_turn_s": self.longest_s,
            "longest_turn_in": self.longest_in,
        }


def states(watch: Watch) -> dict[str, int]:
    """Return the count of tasks by state, as the table has them."""
    found = Counter[str](running=0, stopped=0, zombie=0, **{"dead-leader": 0, "kernel": 0})
    for task in watch.table.tasks():
        flags = task.flags
        if flags & EXITED:
            found["zombie" if rules.is_zombie(task) else "dead-leader"] += 1
        elif flags & STOPPED:
            found["stopped"] += 1
        else:
            found["kernel" if rules.is_kernel_worker(task) else "running"] += 1
    return dict(found)


def of_watch(watch: Watch) -> dict[str, Any]:
    """Return the figures of the watch."""
    totals, table, stream, probes = watch.totals, watch.table, watch.stream, watch.probes
    return {
        "records": {kind.name.lower(): stream.kinds[kind] for kind in Kind},
        "lost": {
            "ring-full": probes.page.lost,
            "given-up": max(stream.lost - probes.page.lost, 0),
            "skipped": probes.skipped(),
        },
        "withheld": probes.page.withheld,
        "allowed_per_second": watch.allowed_per_second,
        "ring": {
            "bytes": probes.ring.size,
            "pending_bytes": probes.ring.pending,
            "most_pending_bytes": probes.ring.most_pending,
        },
        "table": {
            "tasks": states(watch),
            "pids": len(table.pids.numbers),
            "namespaces": len(table.pids.living()),
        },
        "sweeps": dict(totals.causes),
        "anomalies": dict(table.counts.kinds),
        "repairs": table.counts.repairs,
        "assumed_births": table.counts.assumed,
        "hooks": probes.hooks,
        "programs": {
            name: {"runs": use.runs, "run_s": use.run_ns / 1e9, "recursion_misses": use.recursion_misses}
            for name, use in probes.usage().items()
        },
    }
