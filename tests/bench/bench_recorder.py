# SPDX-License-Identifier: Apache-2.0
"""Measurement of the recorder's cost: a daemon with and without a recording, in turn, under the same kind of storm.

``python -m tests.bench.bench_recorder [--pairs 5] [--write]`` from the repository's root, as root. CPU time is that of the
daemon, of its writer and of its forks, for each record that the daemon took; the machine's speed drifts, so the figure is
the median over pairs of neighbours. The longest time that the loop was held up is that of a fork for a keyframe: some of it
may be waiting for a processor. The daemon leads a session of its own, as a service does.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.bench.figures import median, table
from tests.bench.options import add_write, amount, natural, parsed, positive
from tests.bench.report import splice
from tests.bench.storm import Storm
from tests.bench.watcher import Watcher

_WRITTEN_S = 1.0
_MAX_BYTES = 1 << 32


class Cost(NamedTuple):
    """The cost of one storm.

    Attributes:
        records: that the daemon took.
        daemon_us, writer_us: CPU time a record, us.
        written: bytes on disk a record.
        fork_ms: the longest time that the loop took to begin a keyframe.
    """

    records: int
    daemon_us: float
    writer_us: float = 0.0
    written: float = 0.0
    fork_ms: float = 0.0

    @property
    def all_us(self) -> float:
        """CPU time a record of all processes, us."""
        return self.daemon_us + self.writer_us


def _cpu_s(pid: int) -> float:
    """Return the CPU time of a process and of its children that have ended, s."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def measured(options: argparse.Namespace, *, recorded: bool) -> Cost:
    """Run one storm."""
    with tempfile.TemporaryDirectory(prefix="ckptree-recorder-") as place:
        settings = f'[record]\ndir = "{place}/recording"\nmax_bytes = {_MAX_BYTES}\n' if recorded else ""
        with Watcher(settings, leads=True) as watcher:
            time.sleep(_WRITTEN_S)
            writers = _children(watcher.pid)
            begun = watcher.client.status()["records"]
            before, before_writers = _cpu_s(watcher.pid), sum(map(_cpu_s, writers))
            with Storm(idle=options.idle, rate=options.rate):
                time.sleep(options.seconds)
            time.sleep(_WRITTEN_S)
            status = watcher.client.status()
            records = max(1, status["records"] - begun)
            spent, by_writers = _cpu_s(watcher.pid) - before, sum(map(_cpu_s, writers)) - before_writers
            said = status.get("recording", {})
            return Cost(
                records,
                1e6 * spent / records,
                1e6 * by_writers / records,
                said.get("written_bytes", 0) / records,
                1e3 * said.get("longest_fork_s", 0),
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=positive, default=5)
    parser.add_argument("--seconds", type=amount, default=10.0, help="of each storm")
    parser.add_argument("--idle", type=natural, default=300, help="tasks that sleep beside the storm")
    parser.add_argument("--rate", type=natural, default=0, help="births per second; 0: all the machine can do")
    add_write(parser)
    options = parsed(parser, arguments)
    pairs = []
    for number in range(options.pairs):
        sides = {recorded: measured(options, recorded=recorded) for recorded in (bool(number % 2), not number % 2)}
        pairs.append((sides[False], sides[True]))
        print(f"recorder: {sides[False].all_us:.2f} us a record, {sides[True].all_us:.2f} recorded", file=sys.stderr)
    rows = [
        [
            "daemon, us a record",
            *(f"{median(side.daemon_us for side in sides):.2f}" for sides in zip(*pairs, strict=True)),
        ],
        [
            "writer, us a record",
            *(f"{median(side.writer_us for side in sides):.2f}" for sides in zip(*pairs, strict=True)),
        ],
        ["more CPU time", "", f"{100 * median(on.all_us / off.all_us - 1 for off, on in pairs):+.0f} %"],
        ["bytes a record on disk", "", f"{median(on.written for _, on in pairs):.1f}"],
        ["longest fork, ms", "", f"{max(on.fork_ms for _, on in pairs):.1f}"],
    ]
    text = table(("", "not recorded", "recorded"), rows)
    print(text)
    if options.write:
        splice(text, "recorder")
    return 0


if __name__ == "__main__":
    sys.exit(main())
