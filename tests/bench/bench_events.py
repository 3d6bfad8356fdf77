# SPDX-License-Identifier: Apache-2.0
"""Measurement of the daemon's CPU time for the life of one process, with and without a subscriber.

``python -m tests.bench.bench_events [--lives 3000] [--rounds 7] [--json]`` from the repository's root; no rights
needed.

A life is six records of a simulated kernel: birth, exec, exit, release, wait and free. They are applied as in the
daemon; time is CPU time of this process. A subscriber fetches its events as often as the daemon reads its ring.
"""

import argparse
import gc
import json
import time
from typing import Final

from agent.events.subscriber import KINDS, Subscriber
from tests.bench.figures import median, table
from tests.bench.options import parsed, positive
from tests.support.kernelobjects import Thread
from tests.support.kernelsim import Kernel
from tests.support.simwatch import ROOT, Scene

_DEPTH = 3
_AT_ONCE = 500  # records between two reads of the ring

NOBODY: Final = "nobody listens"
CASES: Final = (NOBODY, "of a tree that is not followed", "of a followed tree", "everybody is followed")


class Lives:
    """A host with two processes below its init, and the records of lives below the first one.

    Args:
        count: the number of lives.
    """

    def __init__(self, count: int) -> None:
        self.scene = Scene()
        self.top, self.other = self.scene.child(), self.scene.child()
        maker = self.top
        for _ in range(_DEPTH):
            maker = self.scene.kernel.fork(maker)
        self.scene.watch.catch_up()
        self.records: list[bytes] = []
        kernel = self.scene.kernel
        kernel.tells_release = True
        kernel.emit = self.records.append
        for _ in range(count):
            _live(kernel, maker)

    def subscribe(self, case: str) -> Subscriber | None:
        """Subscribe, as the case requires."""
        service = self.scene.service
        roots = {CASES[1]: (self.other,), CASES[2]: (self.top,), CASES[3]: ()}.get(case)
        if roots is None:
            return None
        found = tuple(task for root in roots if (task := self.scene.watch.table.task(root.tid)) is not None)
        initial = self.scene.watch.table.pids.initial
        subscription = Subscriber(ROOT, initial, found, KINDS, self.scene.watch.stream.next)
        service.feed.add(subscription, int)
        return subscription


def _live(kernel: Kernel, maker: Thread) -> None:
    child = kernel.fork(maker)
    kernel.exec(child)
    kernel.exit(child)
    kernel.wait(maker, child)
    kernel.free()


def life_us(case: str, count: int) -> float:
    """Return the CPU time for one life, in us."""
    lives = Lives(count)
    subscription = lives.subscribe(case)
    stream, changes = lives.scene.watch.stream, lives.scene.watch.table.changes
    gc.collect()
    gc.disable()  # as the daemon does
    begin = time.process_time()
    for at in range(0, len(lives.records), _AT_ONCE):
        for record in lives.records[at : at + _AT_ONCE]:
            stream.feed(record, 0)
        changes.gather().clear()
        if subscription is not None and subscription.waiting:
            subscription.take(stream.next)
    took = time.process_time() - begin
    gc.enable()
    return took / count * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lives", type=positive, default=3000)
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--json", action="store_true")
    options = parsed(parser)
    found: dict[str, list[float]] = {case: [] for case in CASES}
    for _ in range(options.rounds):
        for case, values in found.items():
            values.append(life_us(case, options.lives))
    if options.json:
        print(json.dumps({"us": found}))
        return
    rows = [[case, f"{median(values):.1f}", f"{min(values):.1f}"] for case, values in found.items()]
    print(table(("us for one life", "median", "best"), rows))


if __name__ == "__main__":
    main()
