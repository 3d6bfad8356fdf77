# SPDX-License-Identifier: Apache-2.0
"""Measurement of ``ckptree restart FILE`` as a whole, until all tasks stand, against a bare loop of clone3().

``python -m tests.bench.bench_restart [--tasks 100 1000 5000] [--rounds 7] [--json]`` from the repository's root, as root.
Both by turns in one run. The loop makes as many children with their numbers, and its time is that of its calls alone. The
command's is all of it: from its exec, with the start of the installed package, by imports, plan, proof on the model of
the kernel, and comparison with the kernel's answers, to the line of JSON that tells that the tree stands.
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
from pathlib import Path

from agent.model import Snapshot
from exporters.image import checkpoint
from tests.bench import installedstart
from tests.bench.bench_plan import broad
from tests.bench.bench_rebuild import bare
from tests.bench.figures import median, table
from tests.bench.options import parsed, positive
from tests.support.builders import a_snapshot, a_task, born

INSTALLED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""The environment of the command: the warm-up leaves the byte code that an installed package has."""


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


def restarted(ckptree: str, image: Path) -> int:
    """Restart an image, and take the tree down again; return the time until it stood, in ns."""
    command = [ckptree, "restart", os.fspath(image), "--json"]
    begun = time.monotonic_ns()
    with subprocess.Popen(command, env=INSTALLED, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as ran:
        line = ran.stdout.readline() if ran.stdout else b""
        took = time.monotonic_ns() - begun
        ran.send_signal(signal.SIGTERM)
        _, said = ran.communicate()
    if not line or ran.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {ran.returncode}: {said.decode()}")
    return took


def measured(sizes: list[int], rounds: int) -> dict[str, dict[int, tuple[list[int], list[int]]]]:
    """Return the times of the loop and of the command, in ns, by shape and number of tasks; a first round is a warm-up."""
    found: dict[str, dict[int, tuple[list[int], list[int]]]] = {}
    with tempfile.TemporaryDirectory() as folder, installedstart.program() as ckptree:
        for shape, make in SHAPES.items():
            for tasks in sizes:
                image = Path(folder) / f"{shape}-{tasks}.ckpt"
                image.write_bytes(checkpoint.dumps(make(tasks)))
                loop, command = found.setdefault(shape, {}).setdefault(tasks, ([], []))
                for round_ in range(rounds + 1):
                    one, other = bare(tasks), restarted(ckptree, image)
                    if round_:
                        loop.append(one)
                        command.append(other)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=positive, nargs="*", default=[100, 1000, 5000])
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--json", action="store_true")
    options = parsed(parser)
    found = measured(options.tasks, options.rounds)
    if options.json:
        print(json.dumps(found))
        return
    rows = [
        [
            *(shape, str(tasks)),
            *(f"{median(each) / 1e6:.1f}" for each in (loop, command)),
            f"{median([b / a for a, b in zip(loop, command, strict=True)]):.1f}",
        ]
        for shape, sizes in found.items()
        for tasks, (loop, command) in sizes.items()
    ]
    print(f"{options.rounds} rounds, medians\n")
    print(table(["", "tasks", "bare loop, ms", "ckptree restart, ms", "times the loop"], rows))


if __name__ == "__main__":
    main()
