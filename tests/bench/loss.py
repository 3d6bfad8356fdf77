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
from tests.bench.ringgauge import (
    LEAST_BYTES,
    Reading,
    RingGauge,
    Span,
    ToldBirth,
    misjudged,
    now,
    without_loss,
    without_room,
)
from tests.bench.storm import Storm
from tests.bench.stormlog import ALWAYS, Life, StormLog
from tests.bench.torture import SETTLE_S, WIDEN_NS
from tests.bench.watcher import Watcher, rows_of

_RING = 1 << 18
_SMALL_RING = 1 << 16
_AWAY_S = 0.4  # stopped, or without a CPU: several times as long as the ring takes to fill
_READ_EVERY_S = 0.001
_PATIENCE_S = 20  # until a storm on a machine with much else to do has filled the ring
_TREE = 50
_PRIORITY = 10


class Taken(NamedTuple):
    """One snapshot, with the times of its request and its answer: CLOCK_BOOTTIME, ns."""

    data: bytes
    complete: bool
    t0: int
    t1: int


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


Stills = list[Span]
Way = Callable[[int, Stills], AbstractContextManager[None]]
"""A way to keep a daemon, by its pid, from reading. It appends each time in which the daemon surely reads nothing."""


@contextmanager
def stopped(pid: int, stills: Stills) -> Iterator[None]:
    """Stop the daemon, a child of this process, with SIGSTOP for a while."""
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED)  # reported once the last of its threads has stopped
    since = now()
    try:
        yield
    finally:
        until = now()  # before the signal: the kernel often lets the daemon run on before kill() returns
        os.kill(pid, signal.SIGCONT)
        stills.append(Span(since, until))


@contextmanager
def _starved(_: int, __: Stills) -> Iterator[None]:
    """Occupy CPU 0 with a real-time task, except for the twentieth part that the kernel reserves for others."""
    command = ["taskset", "-c", "0", "chrt", "-f", str(_PRIORITY), sys.executable, "-c", "while True: pass"]
    with subprocess.Popen(command) as hog:
        try:
            yield
        finally:
            hog.kill()


@contextmanager
def _as_it_is(_: int, __: Stills) -> Iterator[None]:
    yield


def _take(watcher: Watcher, root: int) -> Taken:
    t0 = now()
    answer = watcher.client.snapshot(str(root), mode="subtree")
    return Taken(answer.data, answer.complete, t0, now())


def _births(snapshot: Snapshot, until: int, log: StormLog, out: Outcome) -> list[ToldBirth]:
    """Compare the births in a snapshot, which was there at `until`, with those in the log; return them as they are told."""
    lives: dict[int, list[tuple[int, Life]]] = {}
    for index, life in enumerate(log.lives):
        if life is not None:
            lives.setdefault(life.tid, []).append((index, life))
    told: list[ToldBirth] = []
    for task in snapshot.tasks[1:]:
        number, start, birth = snapshot.number(task.pid), task.start_ns or 0, task.birth
        found = [(n, one) for n, one in lives.get(number, ()) if one.birth_lo <= start <= one.birth_hi]
        if not found or birth is None:
            continue
        index, life = found[0]
        parent = log.lives[life.parent if life.leader == index else life.leader]
        told.append(ToldBirth(Span(start, life.birth_hi), birth.observed, _passing(parent, until)))
        if not birth.observed:
            out.assumed += 1
            if birth.creator is not None:
                out.wrong.append(f"{number}: its birth is not known, and yet its creator is")
            continue
        out.observed += 1
        told_creator = _creator(snapshot, birth)
        if parent is not None and told_creator is not None and told_creator != parent.tid:
            out.wrong.append(f"{number}: born of {parent.tid}, told as born of {told_creator}")
    return told


def _passing(creator: Life | None, until: int) -> Span | None:
    """Return the span of a creator's birth; None where it lived at `until`; all time where nothing is known of it."""
    if creator is None:
        return Span(0, ALWAYS)
    return None if creator.must_end > until else Span(creator.birth_lo, creator.birth_hi)


def _creator(snapshot: Snapshot, birth: Birth) -> int | None:
    if birth.creator is None:
        return None
    if birth.creator.ancestor is not None:
        return snapshot.ancestors[birth.creator.ancestor].numbers[0]
    return snapshot.number(birth.creator.tag) if birth.creator.tag is not None else None


def _pass(gauge: RingGauge, seconds: float, *, fills: bool = False) -> Iterator[Reading]:
    """Let some time pass, and more until the ring is full where it `fills`; read the gauge again and again."""
    end = time.monotonic() + seconds
    patience = end + (_PATIENCE_S if fills else 0)
    while True:
        reading = gauge.read()
        yield reading
        if time.monotonic() > (end if reading.room <= LEAST_BYTES else patience):
            return
        time.sleep(_READ_EVERY_S)


def suffer(way: Way, settings: str, seconds: float, *, before: Sequence[str] = (), fills: bool = False) -> Outcome:
    """Run a storm and lose events again and again; afterwards compare the whole table with the kernel.

    Args:
        way: to lose them.
        settings: of the daemon.
        seconds: of the storm, at least.
        before: words before the daemon's command.
        fills: True where nobody reads the ring meanwhile, so that it is full in the end.
    """
    out = Outcome()
    taken: list[Taken] = []
    readings: list[Reading] = []
    stills: Stills = []
    iterator = BareIterator()
    with Watcher(settings, before=before) as watcher, IdleTree(_TREE, breadth=3, threads=1) as tree:
        gauge = RingGauge(watcher.pid)
        with Storm(idle=30) as storm:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                with way(watcher.pid, stills):
                    readings += _pass(gauge, _AWAY_S, fills=fills)
                for _ in range(4):
                    taken.append(_take(watcher, storm.root))
                    readings += _pass(gauge, 0.02)
            time.sleep(SETTLE_S)
        gauge.close()
        out.lost = watcher.client.status()["lost"]
        report = compare(partial(watcher.take, tree.root), iterator)
        out.values = report.values
        out.wrong += report.differences
    iterator.close()
    judge = Judge(storm.log)
    written, full = list(without_loss(readings)), list(without_room(readings, stills))
    counted: list[Span] = []  # between two snapshots of which the later one counts more lost numbers
    lost, since = 0, 0
    for one in taken:
        out.snapshots += 1
        out.incomplete += not one.complete
        snapshot = registry.load(one.data)
        if snapshot.completeness.lost != lost:
            counted.append(Span(since, one.t1))
        lost, since = snapshot.completeness.lost, one.t0
        if one.complete:
            verdict = judge.judge(Capture(rows_of(snapshot), one.t0, one.t1, closed=True), widen_ns=WIDEN_NS)
            out.wrong += [f"torn: {judge.explain(finding)}" for finding in verdict.clash]
        births = _births(snapshot, one.t1, storm.log, out)
        out.wrong += misjudged(births, written, full)
        out.wrong += [
            f"a birth from {begun} to {ended} is told as lost, when the snapshots count no loss"
            for (begun, ended), observed, _ in births
            if not observed and not any(span.since <= ended and begun <= span.until for span in counted)
        ]
    if not out.lost:
        out.wrong.append("nothing was lost: this shows nothing")
    if fills and not full:
        out.wrong.append("the ring was never full while its reader stood still: this shows nothing")
    return out


def ways() -> dict[str, Callable[[float], Outcome]]:
    """Return the ways to lose events, by name."""
    small = f"ring_bytes = {_SMALL_RING}\nsweep_interval_s = 3600\n"
    ring = f"ring_bytes = {_RING}\nsweep_interval_s = 3600\n"
    return {
        f"a ring of {_SMALL_RING >> 10} KB": lambda seconds: suffer(_as_it_is, small, seconds),
        f"stopped for {_AWAY_S:g} s, again and again": lambda seconds: suffer(stopped, ring, seconds, fills=True),
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
