# SPDX-License-Identifier: Apache-2.0
"""A check of losses: each is noticed, reported, repaired, and blamed on the right tasks.

``python -m tests.bench.loss [--seconds 5]``. Three ways to lose events of a fork storm: a ring far too small, a daemon
that is stopped for a while, a daemon whose CPU a real-time task has. The storm's log decides if each snapshot was true,
and if each birth in it is the real one. For a stopped daemon the log also has the births that must be lost. The exit
code is 0 unless something was wrong.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from agent.model import Birth, Snapshot
from exporters import registry
from tests.bench.equivalence import compare
from tests.bench.idle_tree import IdleTree
from tests.bench.iterator import BareIterator
from tests.bench.judge import Capture, Judge
from tests.bench.options import add_write, amount, parsed
from tests.bench.report import tell
from tests.bench.storm import Storm
from tests.bench.stormlog import Life, StormLog
from tests.bench.torture import SETTLE_S, WIDEN_NS
from tests.bench.watcher import Watcher, rows_of

_RING = 1 << 18
_SMALL_RING = 1 << 16
_AWAY_S = 0.4  # stopped, or without a CPU: several times as long as the ring takes to fill
_AT_THE_EDGE_NS = 20_000_000  # while the ring fills, and while it is read, some records have room and others do not
_TREE = 50
_PRIORITY = 10


class Taken(NamedTuple):
    """One snapshot, with the times of its request and its answer: CLOCK_BOOTTIME, ns."""

    data: bytes
    complete: bool
    t0: int
    t1: int


class Away(NamedTuple):
    """The time in which the ring had no reader: CLOCK_BOOTTIME, ns. `exact`: it had none in the whole interval."""

    since: int
    until: int
    exact: bool


@dataclass(slots=True)
class Outcome:
    """The result of one way to lose events.

    Attributes:
        wrong: the faults, one line each.
    """

    snapshots: int = 0
    incomplete: int = 0
    lost: int = 0
    observed: int = 0
    assumed: int = 0
    values: int = 0
    wrong: list[str] = field(default_factory=list)

    def cells(self) -> list[str]:
        """Return the row of the table."""
        counts = (self.snapshots, self.incomplete, self.lost, self.observed, self.assumed, self.values)
        return [*(f"{count:,}" for count in counts), str(len(self.wrong))]

    def said(self) -> str:
        """Return the counts of lost numbers and of faults in words."""
        return f"{self.lost:,} numbers lost, {len(self.wrong)} wrong"


HEAD = ("way", "snapshots", "said incomplete", "numbers lost", "births told", "told as lost", "values after", "wrong")


def _now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@contextmanager
def stopped(watcher: Watcher) -> Iterator[None]:
    """Stop the daemon with SIGSTOP for a while."""
    os.kill(watcher.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(watcher.pid, signal.SIGCONT)


@contextmanager
def _starved(_: Watcher) -> Iterator[None]:
    """Occupy CPU 0 with a real-time task, except for the twentieth part that the kernel reserves for others."""
    command = ["taskset", "-c", "0", "chrt", "-f", str(_PRIORITY), sys.executable, "-c", "while True: pass"]
    with subprocess.Popen(command) as hog:
        try:
            yield
        finally:
            hog.kill()


@contextmanager
def _as_it_is(_: Watcher) -> Iterator[None]:
    yield


Way = Callable[[Watcher], AbstractContextManager[None]]


def _take(watcher: Watcher, root: int) -> Taken:
    t0 = _now()
    answer = watcher.client.snapshot(str(root), mode="subtree")
    return Taken(answer.data, answer.complete, t0, _now())


def _births(
    snapshot: Snapshot, log: StormLog, lossy: Sequence[tuple[int, int]], away: Sequence[Away], out: Outcome
) -> None:
    """Compare the births in a snapshot with those in the log."""
    lives: dict[int, list[tuple[int, Life]]] = {}
    for index, life in enumerate(log.lives):
        if life is not None:
            lives.setdefault(life.tid, []).append((index, life))
    told: list[tuple[int, bool]] = []
    for task in snapshot.tasks[1:]:
        number, start, birth = snapshot.number(task.pid), task.start_ns or 0, task.birth
        found = [(n, one) for n, one in lives.get(number, ()) if one.birth_lo <= start <= one.birth_hi]
        if not found or birth is None:
            continue
        index, life = found[0]
        told.append((start, birth.observed))
        if not birth.observed:
            out.assumed += 1
            if birth.creator is not None:
                out.wrong.append(f"{number}: its birth is not known, and yet its creator is")
            continue
        out.observed += 1
        parent = log.lives[life.parent if life.leader == index else life.leader]
        creator = _creator(snapshot, birth)
        if parent is not None and creator is not None and creator != parent.tid:
            out.wrong.append(f"{number}: born of {parent.tid}, told as born of {creator}")
    _lost_births(sorted(told), lossy, away, out)


def _creator(snapshot: Snapshot, birth: Birth) -> int | None:
    if birth.creator is None:
        return None
    if birth.creator.ancestor is not None:
        return snapshot.ancestors[birth.creator.ancestor].numbers[0]
    return snapshot.number(birth.creator.tag) if birth.creator.tag is not None else None


def _lost_births(
    told: list[tuple[int, bool]], lossy: Sequence[tuple[int, int]], away: Sequence[Away], out: Outcome
) -> None:
    """Check that a birth is lost if the ring was full, and is not lost if the ring had room."""
    for start, observed in told:
        if not observed and not any(first <= start <= last for first, last in lossy):
            out.wrong.append(f"a birth at {start} is told as lost, when nothing was")
    for one in away:
        within = [(start, observed) for start, observed in told if one.since <= start <= one.until]
        full = next((start for start, observed in within if not observed), None)
        if full is None or not one.exact:
            continue
        out.wrong += [
            f"a birth at {start} is told as seen, when the ring was full since {full}"
            for start, observed in within
            if observed and start > full + _AT_THE_EDGE_NS
        ]


def suffer(way: Way, settings: str, seconds: float, *, before: Sequence[str] = (), exact: bool = False) -> Outcome:
    """Run a storm and lose events again and again; afterwards compare the whole table with the kernel."""
    out = Outcome()
    taken: list[Taken] = []
    away: list[Away] = []
    iterator = BareIterator()
    with Watcher(settings, before=before) as watcher, IdleTree(_TREE, breadth=3, threads=1) as tree:
        with Storm(idle=30) as storm:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                since = _now()
                with way(watcher):
                    time.sleep(_AWAY_S)
                away.append(Away(since, _now(), exact))
                for _ in range(4):
                    taken.append(_take(watcher, storm.root))
                    time.sleep(0.02)
            time.sleep(SETTLE_S)
        out.lost = watcher.client.status()["lost"]
        report = compare(partial(watcher.take, tree.root), iterator)
        out.values = report.values
        out.wrong += report.differences
    iterator.close()
    judge = Judge(storm.log)
    lossy: list[tuple[int, int]] = []  # between two snapshots of which the later one counts more lost numbers
    lost, since = 0, 0
    for one in taken:
        out.snapshots += 1
        out.incomplete += not one.complete
        snapshot = registry.load(one.data)
        if snapshot.completeness.lost != lost:
            lossy.append((since, one.t1))
        lost, since = snapshot.completeness.lost, one.t0
        if one.complete:
            verdict = judge.judge(Capture(rows_of(snapshot), one.t0, one.t1, closed=True), widen_ns=WIDEN_NS)
            out.wrong += [f"torn: {judge.explain(finding)}" for finding in verdict.clash]
        _births(snapshot, storm.log, lossy, away, out)
    if not out.lost:
        out.wrong.append("nothing was lost: this shows nothing")
    return out


def ways() -> dict[str, Callable[[float], Outcome]]:
    """Return the ways to lose events, by name."""
    small = f"ring_bytes = {_SMALL_RING}\nsweep_interval_s = 3600\n"
    ring = f"ring_bytes = {_RING}\nsweep_interval_s = 3600\n"
    return {
        f"a ring of {_SMALL_RING >> 10} KB": lambda seconds: suffer(_as_it_is, small, seconds),
        f"stopped for {_AWAY_S:g} s, again and again": lambda seconds: suffer(stopped, ring, seconds, exact=True),
        "its CPU taken by a real-time task": lambda seconds: suffer(
            _starved, ring, seconds, before=("taskset", "-c", "0")
        ),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=amount, default=5, help="of each storm")
    add_write(parser)
    options = parsed(parser, arguments)
    outcomes = ((name, suffered(options.seconds)) for name, suffered in ways().items())
    return tell("loss", HEAD, outcomes, write=options.write)


if __name__ == "__main__":
    sys.exit(main())
