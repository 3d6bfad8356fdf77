# SPDX-License-Identifier: Apache-2.0
"""Comparison of a tree kept by events alone with snapshots: ``python -m tests.bench.following [--events 340000]``.

A tree kept by the events of a storm (agent.protocol.livetree) is compared with a snapshot of the same number, field by
field, again and again, in three storms: with all numbers of the host, with few that are used again at once, and with a
ring so small that records are lost all the time. Where the daemon dropped events that were not read in time, the
follower starts anew, and the restarts are counted. The exit code is 0 unless something differed.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from agent.errors import CkptreeError
from agent.protocol.client import Client, Event, Subscription
from agent.protocol.livetree import LiveTree
from exporters import registry
from tests.bench.options import add_storm, add_write, kinds_of_storm, parsed, positive
from tests.bench.report import tell
from tests.bench.storm import Storm
from tests.bench.watcher import Watcher

_PATIENCE_S = 20.0
_OF_LOG = 4000  # last characters of the daemon's log, if the daemon has ended


@dataclass(slots=True)
class Outcome:
    """The result of one storm.

    Attributes:
        wrong: differences, one line each; the first ones of each comparison.
    """

    events: int = 0
    assumed: int = 0
    entered: int = 0
    comparisons: int = 0
    tasks: int = 0
    lost: int = 0
    begun_anew: int = 0
    wrong: list[str] = field(default_factory=list)

    def cells(self) -> list[str]:
        """Return the row of the table."""
        counts = (self.events, self.assumed, self.entered, self.comparisons, self.tasks, self.lost, self.begun_anew)
        return [*(f"{count:,}" for count in counts), str(len(self.wrong))]

    def said(self) -> str:
        """Return the counts of events and of differences in words."""
        return f"{self.events:,} events, {len(self.wrong)} differences"


HEAD = ("storm", "events", "assumed", "entered", "comparisons", "tasks compared", "lost", "begun anew", "differences")


class Follower:
    """A tree below a root, and its subscription.

    Args:
        watcher: the daemon.
        root: of the tree, in the initial namespace.
        out: takes the counts.
    """

    def __init__(self, watcher: Watcher, root: int, out: Outcome) -> None:
        self._watcher = watcher
        self._root = str(root)
        self._out = out
        self._held: list[Event] = []
        self._begin()

    def _begin(self) -> None:
        self._events: Subscription = Client(self._watcher.socket).subscribe(self._root)
        self._tree = LiveTree.of(self._events)
        self._held.clear()

    def close(self) -> None:
        """Close the connection."""
        self._events.close()

    def read(self, seconds: float) -> None:
        """Apply the events that arrive within this time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and (event := self._events.next_within(left)) is not None:
            self._apply(event)
            if not self._tree.whole:
                return

    def _apply(self, event: Event) -> None:
        out = self._out
        out.events += event.task is not None
        out.assumed += bool(event.details.get("assumed"))
        out.entered += bool(event.details.get("entered"))
        out.lost += event.details["count"] if event.kind == "loss" else 0
        self._tree.apply(event)

    def compare(self) -> None:
        """Take a snapshot, and compare it with the tree as of its number."""
        snapshot = registry.load(self._watcher.client.snapshot(self._root, mode="subtree").data)
        order = snapshot.completeness.order or 0
        held: list[Event] = []
        end = time.monotonic() + _PATIENCE_S
        while self._tree.whole:
            event = self._events.next_within(0.01)
            if event is None:
                if self._events.next >= order:
                    break
                if time.monotonic() > end:
                    self._out.wrong.append(f"events up to {self._events.next} for {_PATIENCE_S:g} s, asked for {order}")
                    break
            elif event.order < order or event.kind == "dropped":  # the missing event came before it
                self._apply(event)
            else:
                held.append(event)
                break
        if not self._tree.whole:
            self._out.begun_anew += 1
            self.close()
            self._begin()
            return
        found = self._tree.differences(snapshot)
        if self._tree.unheard:
            found.append(f"{self._tree.unheard} events of tasks that were not introduced")
            self._tree.unheard = 0
        self._out.wrong += [f"#{order}: {line}" for line in found[:3]]
        self._out.comparisons += 1
        self._out.tasks += len(snapshot.tasks)
        for event in held:
            self._apply(event)


def follow(options: argparse.Namespace, pid_max: int = 0, settings: str = "") -> Outcome:
    """Run one storm, until this many events have been applied."""
    out = Outcome()
    with (
        Watcher(settings) as watcher,
        Storm(idle=options.idle, rate=options.rate, workers=options.workers, pid_max=pid_max) as storm,
    ):
        follower = Follower(watcher, storm.root, out)
        try:
            while out.events < options.events and len(out.wrong) < 100:
                follower.read(options.pause_ms / 1000)
                follower.compare()
        except CkptreeError:
            print(watcher.log.read_text(errors="replace")[-_OF_LOG:], file=sys.stderr)
            raise
        follower.close()
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it once; return 0 unless something differed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=positive, default=340_000, help="of each storm")
    add_storm(parser, rate=2000, pause_ms=200, between="comparisons")
    add_write(parser)
    options = parsed(parser, arguments)
    outcomes = (
        (name, follow(options, pid_max, settings))
        for name, (pid_max, settings) in kinds_of_storm(options, "sweep_interval_s = 3600\n").items()
    )
    return tell("following", HEAD, outcomes, write=options.write)


if __name__ == "__main__":
    sys.exit(main())
