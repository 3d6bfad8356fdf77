# SPDX-License-Identifier: Apache-2.0
"""Measurement of a whole ``ckptree restart``, until all tasks stand, beside a bare loop of clone3() and ``criu restore``.

``python -m tests.bench.bench_restart [--tasks 100 1000 5000] [--rounds 7] [--without-criu] [--as-checkout] [--json]
[--write]`` from the repository's root, as root. All by turns in one run, of the same trees: processes of a small
program, which CRIU has dumped with the tree beside its images.

* The loop makes as many children with their numbers, and its time is that of its calls alone.
* ckptree's time is that of the whole command: from its exec, as the Debian package has it, by imports, plan,
  proof on the model of the kernel, and comparison with the kernel's answers, to the line of JSON that tells that the
  tree stands. With contents the processes have their memory, registers and files by then, and run on after it.
  The package has modules compiled; a checkout (--as-checkout) has not.
* CRIU's is that of the whole command, too, until it returns. It restores memory, registers and files.

Without CRIU the trees are made up, and their images take as long to read.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from agent.model import Snapshot
from exporters.image import checkpoint
from tests.bench import dumpedtrees, installedstart
from tests.bench.bench_plan import broad
from tests.bench.bench_rebuild import bare
from tests.bench.figures import median, table
from tests.bench.options import add_write, parsed, positive
from tests.bench.report import TOP, splice
from tests.support.builders import a_snapshot, a_task, born


def mixed(tasks: int) -> Snapshot:
    """Return a tree in which each process has any earlier one as its parent; a quarter lead sessions, a quarter groups."""
    chance = random.Random(tasks)
    rows = [a_task(1, 0)]
    sid, pgid = {1: 1}, {1: 1}
    for tag in range(2, tasks + 1):
        parent, kind = chance.randint(1, tag - 1), chance.random()
        sid[tag] = tag if kind < 0.25 else sid[parent]
        pgid[tag] = tag if kind < 0.5 else pgid[parent]
        birth = born(parent, tag, sid=sid[parent], pgid=pgid[parent])
        rows.append(a_task(tag, parent, pgid=pgid[tag], sid=sid[tag], birth=birth))
    return a_snapshot([(row.pid,) for row in rows], rows, mode="container")


SHAPES: dict[str, Callable[[int], Snapshot]] = {"flat": broad, "random": mixed}


LOOP, RESTART, CONTENTS, CRIU = "loop", "restart", "contents", "criu"
METHODS = {
    LOOP: "bare loop of clone3()",
    RESTART: "`ckptree restart tree.ckpt`",
    CONTENTS: "`ckptree restart criu:DIR`, with memory and files",
    CRIU: "`criu restore`, with memory and files",
}
"""The methods, and their names in the table."""

Methods = dict[str, Callable[[], int]]
"""The ways to make one tree; each returns its time, in ns."""

Figures = dict[str, dict[int, dict[str, list[int]]]]
"""The times of each method, in ns, by shape and number of tasks."""


def restarted(ckptree: str, file: str) -> int:
    """Restart an image, and take the tree down again; return the time until it stood, in ns."""
    command = [ckptree, "restart", file, "--json"]
    begun = time.monotonic_ns()
    with subprocess.Popen(command, env=installedstart.INSTALLED, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as ran:
        line = ran.stdout.readline() if ran.stdout else b""
        took = time.monotonic_ns() - begun
        ran.send_signal(signal.SIGTERM)
        _, said = ran.communicate()
    if not line:
        raise SystemExit(f"{' '.join(command)}: exit code {ran.returncode}: {said.decode()}")
    return took


def methods(folder: Path, ckptree: str, sizes: list[int], *, with_criu: bool) -> dict[tuple[str, int], Methods]:
    """Make the trees; return the ways to measure each, by shape and number of tasks."""
    made = {(shape, tasks): make(tasks) for shape, make in SHAPES.items() for tasks in sizes}
    found: dict[tuple[str, int], Methods] = {}
    names = {f"{shape}-{tasks}": (shape, tasks) for shape, tasks in made}
    dumps = dumpedtrees.dumped(folder, [(name, made[key]) for name, key in names.items()]) if with_criu else {}
    for name, key in names.items():
        image = dumps[name] / "tree.ckpt" if with_criu else folder / f"{name}.ckpt"
        if not with_criu:
            image.write_bytes(checkpoint.dumps(made[key]))
        each = found[key] = {LOOP: partial(bare, key[1]), RESTART: partial(restarted, ckptree, os.fspath(image))}
        if with_criu:
            each[CONTENTS] = partial(restarted, ckptree, f"criu:{dumps[name]}")
            each[CRIU] = partial(dumpedtrees.criu_restored, dumps[name])
    return found


def measured(sizes: list[int], rounds: int, *, with_criu: bool, compiled: bool) -> Figures:
    """Return the times of all methods; the first round of each is a warm-up."""
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as folder, installedstart.program(compiled=compiled) as ckptree:
        for (shape, tasks), ways in methods(Path(folder), ckptree, sizes, with_criu=with_criu).items():
            found = figures.setdefault(shape, {})[tasks] = {name: [] for name in ways}
            for round_ in range(rounds + 1):
                for name, way in ways.items():
                    took = way()
                    if round_:
                        found[name].append(took)
    return figures


def shown(figures: Figures) -> str:
    """Return the table: medians in ms, and the median of the times to the loop of the same round."""
    columns = {f"{shape}, {tasks}": found for shape, sizes in figures.items() for tasks, found in sizes.items()}
    rows = []
    for name, words in METHODS.items():
        cells = []
        for found in columns.values():
            if name in found:
                times = median([one / base for base, one in zip(found[LOOP], found[name], strict=True)])
                ms = median(found[name]) / 1e6
                cells.append(f"{ms:,.0f}" if name == LOOP else f"{ms:,.0f} ({times:.1f}x)")
        if cells:
            rows.append([words, *cells])
    return table(["ms (times the loop)", *columns], rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=positive, nargs="*", default=[100, 1000, 5000])
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--without-criu", action="store_true", help="measure no restore by CRIU, and no contents")
    parser.add_argument("--as-checkout", action="store_true", help="compile no modules, as the package has them")
    parser.add_argument("--json", action="store_true")
    add_write(parser)
    options = parsed(parser)
    if options.write and (options.without_criu or options.as_checkout):
        parser.error("--write: the pages have the figures of the package, and of criu")
    figures = measured(
        options.tasks, options.rounds, with_criu=not options.without_criu, compiled=not options.as_checkout
    )
    if options.json:
        print(json.dumps(figures))
        return
    text = shown(figures)
    print(f"{options.rounds} rounds\n\n{text}")
    if options.write:
        splice(text, "restart")
        splice(text, "restart", TOP / "README.md")


if __name__ == "__main__":
    main()
