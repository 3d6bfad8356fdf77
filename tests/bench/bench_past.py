# SPDX-License-Identifier: Apache-2.0
"""Measurement of questions about the past: the time of each over a long recording, as whole commands.

``python -m tests.bench.bench_past DIR [--questions 15] [--write]`` from the repository's root. DIR has a recording of
tests.bench.longrecording. The time is the processor time of the command, of user and kernel, so that other work on the
machine counts little; the files are in the page cache. The exit code is 1 where a command fails.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from agent.errors import INCOMPLETE, NoSuchRootError
from agent.recorder.instant import written
from agent.recorder.recording import Recording
from tests.bench.figures import median, table
from tests.bench.options import parsed, positive
from tests.bench.report import TOP, splice

_A_RECORD_NS = 1000  # the next segment has the very end
_STAYS = 4981
"""The number of a process that stays, with some 65 children that do, and others."""


class Spent(NamedTuple):
    """The time of one command, s.

    Attributes:
        cpu_s: of its processors.
        wall_s: until it ended.
    """

    cpu_s: float
    wall_s: float


def spent(*words: str) -> Spent:
    """Run a command of ckptree; its answer goes nowhere."""
    before, begun = os.times(), time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-m", "agent", *words], cwd=TOP, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
    )
    after = os.times()
    if ran.returncode not in (0, INCOMPLETE, NoSuchRootError.exit_code):  # the number may be a thread's
        sys.exit(f"bench_past: {' '.join(words)}: {ran.stderr.decode()}")
    return Spent(
        after.children_user + after.children_system - before.children_user - before.children_system,
        time.monotonic() - begun,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", type=Path, metavar="DIR")
    parser.add_argument("--questions", type=positive, default=15, help="of each kind")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/benchmarks.md")
    options = parsed(parser, arguments, root=False)
    recording = Recording(options.place)
    chance = random.Random(1)
    segments = [each for each in recording.segments if each.next - each.facts.first > 1]
    records = sum(run.last.order - run.first.order for run in recording.runs)

    def instant() -> str:
        each = chance.choice(segments)
        return written(chance.randrange(each.facts.realtime_ns, each.known_ns + each.end_ahead_ns))

    def last_instant() -> str:
        each = chance.choice(segments)
        return written(each.known_ns + each.end_ahead_ns - _A_RECORD_NS)

    def number() -> str:
        rows = chance.choice(segments).index() or []
        return str(chance.choice(list(chance.choice(rows).numbers)))

    where, stays = ("--record", str(options.place)), str(_STAYS)
    kinds: dict[str, Callable[[], tuple[str, ...]]] = {
        "a tree, any instant": lambda: ("snapshot", stays, "--at", instant(), "-o", os.devnull),
        "a tree, the last instant before a keyframe": lambda: ("tree", stays, "--at", last_instant()),
        "all tasks of the host, any instant": lambda: (
            "snapshot",
            "1",
            "--mode",
            "subtree",
            "--at",
            instant(),
            "-o",
            os.devnull,
        ),
        "`history` of a number": lambda: ("history", number()),
        f"`history` of {stays}, a task that stays": lambda: ("history", stays),
        "`events` of a process that is born later": lambda: ("events", number()),
    }
    rows = []
    for name, words in kinds.items():
        times = [spent(*words(), *where) for _ in range(options.questions)]
        cpu, wall = [each.cpu_s for each in times], [each.wall_s for each in times]
        rows.append([name, f"{median(cpu):.2f}", f"{max(cpu):.2f}", f"{median(wall):.2f}"])
        print(f"bench_past: {name}: {rows[-1][1:]}", file=sys.stderr)
    size = sum(each.path.stat().st_size for each in recording.segments)
    said = f"{records:,} records, {len(segments)} segments, {size / records:.1f} bytes a record."
    text = said + "\n\n" + table(("", "CPU, s: median", "most", "wall, s: median"), rows)
    print(text)
    if options.write:
        splice(text, "past")
    return 0


if __name__ == "__main__":
    sys.exit(main())
