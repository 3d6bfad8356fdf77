# SPDX-License-Identifier: Apache-2.0
"""Measurement of short verbs as whole processes, beside ``python3 -c pass``: all in turn, in one run, medians.

``python -m tests.bench.bench_verbs [--tasks 100] [--rounds 15] [--json]`` from the repository's root, as root. CPU time
is that of the process, user and system; what other processes do disturbs it less than the time from exec to exit. The
verbs start as the installed package does, beside the system's Python, and all modules have their byte code: that of a
developer's environment runs files of other packages at each start, which take several times as long.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench import installedstart
from tests.bench.figures import median, table
from tests.bench.idle_tree import IdleTree
from tests.bench.options import parsed, positive
from tests.bench.watcher import Watcher

PASS = "python3 -c pass"  # noqa: S105 - a statement

Figures = dict[str, dict[str, float]]


def ran_ms(command: list[str], null: int) -> tuple[float, float]:
    """Run a command; return its CPU time and the time from exec to exit, in ms.

    Raises:
        RuntimeError: it fails.
    """
    quiet: Any = [(os.POSIX_SPAWN_DUP2, null, number) for number in range(3)]
    begun = time.perf_counter()
    pid = os.posix_spawn(command[0], command, installedstart.INSTALLED, file_actions=quiet)
    _, status, usage = os.wait4(pid, 0)
    took = time.perf_counter() - begun
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"{' '.join(command)}: exit code {os.waitstatus_to_exitcode(status)}")
    return 1000 * (usage.ru_utime + usage.ru_stime), 1000 * took


def commands(ckptree: str, root: int, socket: Path, image: Path) -> dict[str, list[str]]:
    """Return the command lines by name; the second one writes the image that others read."""
    daemon, file = ["--socket", os.fspath(socket)], os.fspath(image)
    verbs = {
        "status": ["status", *daemon],
        "snapshot": ["snapshot", str(root), "-o", file, *daemon],
        "tree": ["tree", str(root), *daemon],
        "show": ["show", file],
        "check": ["check", file],
        "plan": ["plan", file],
        "diff": ["diff", file, file],
        "snapshot --source bpf": ["snapshot", str(root), "--source", "bpf", "-o", file],
    }
    bare = [os.path.realpath(sys.executable), "-c", "pass"]
    return {PASS: bare} | {name: [ckptree, *words] for name, words in verbs.items()}


def measure(tasks: int, rounds: int) -> Figures:
    """Return for each command the medians: ``cpu_ms`` and ``wall_ms``."""
    null = os.open(os.devnull, os.O_RDWR)
    cpu: dict[str, list[float]] = {}
    wall: dict[str, list[float]] = {}
    try:
        with (
            installedstart.program() as ckptree,
            IdleTree(tasks) as tree,
            Watcher() as watcher,
            tempfile.TemporaryDirectory() as folder,
        ):
            lines = commands(ckptree, tree.root, watcher.socket, Path(folder) / "tree.ckpt")
            for turn in range(rounds + 1):
                for name, command in lines.items():
                    took = ran_ms(command, null)
                    if turn:  # the first one fills caches of byte code and of compiled programs
                        cpu.setdefault(name, []).append(took[0])
                        wall.setdefault(name, []).append(took[1])
    finally:
        os.close(null)
    return {name: {"cpu_ms": median(each), "wall_ms": median(wall[name])} for name, each in cpu.items()}


def shown(figures: Figures) -> str:
    """Return the table."""
    bare = figures[PASS]["cpu_ms"]
    rows = [
        [f"`{name}`", f"{each['cpu_ms']:.0f}", f"{each['wall_ms']:.0f}", f"{each['cpu_ms'] / bare:.1f}x"]
        for name, each in figures.items()
    ]
    return table(["whole process", "CPU, ms", "exec to exit, ms", f"CPU, times `{PASS}`"], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=positive, default=100)
    parser.add_argument("--rounds", type=positive, default=15)
    parser.add_argument("--json", action="store_true")
    options = parsed(parser, arguments)
    figures = measure(options.tasks, options.rounds)
    print(json.dumps(figures) if options.json else shown(figures))


if __name__ == "__main__":
    main()
