# SPDX-License-Identifier: Apache-2.0
"""Measurement of a restart with contents against ``criu restore`` of the same images, by turns in one run.

``python -m tests.bench.bench_contents [--mib 1024] [--processes 1] [--rounds 7] [--as-checkout] [--json]`` from the
repository's root, as root. Both commands return when all processes run. ckptree starts as the installed package does, with
modules compiled; a checkout (--as-checkout) has not. Each process has its own
memory, which was written.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from agent.restart.rebuild import orphans
from tests.bench import installedstart
from tests.bench.figures import median, quantile, table
from tests.bench.options import parsed, positive
from tests.live.daemons import a_daemon
from tests.live.dumps import dump, eventually, program
from tests.support.suitepackages import criu

OURS = "ckptree restart criu:DIR"
THEIRS = "criu restore"
MEMORY = """
import mmap, os, signal, sys
size, count = int(sys.argv[1]) << 20, int(sys.argv[2])
for number in range(1, count):
    if not os.fork():
        break
else:
    number = 0
data = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
block = os.urandom(1 << 20)
for at in range(0, size, 1 << 20):
    data[at : at + (1 << 20)] = block
open(f"ready-{number}", "w").close()
while True:
    signal.pause()
"""


class Took(NamedTuple):
    """The cost of a restart: its duration in seconds, and the most memory of the command itself in KiB."""

    seconds: float
    kib: int


def dumped(folder: Path, mib: int, processes: int) -> Path:
    """Dump processes that each have so much memory; return the folder of the images."""
    with (
        a_daemon(folder) as daemon,
        program([sys.executable, "-c", MEMORY, str(mib), str(processes)], folder) as pid,
    ):
        eventually(lambda: len(list(folder.glob("ready-*"))) == processes, "all have written their memory")
        time.sleep(0.5)
        return dump(pid, folder / "images", daemon.socket)


def run(command: list[str]) -> Took:
    """Run a command, and return its cost."""
    with tempfile.TemporaryFile() as said:
        streams: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
        streams += [(os.POSIX_SPAWN_DUP2, said.fileno(), number) for number in (1, 2)]
        begin = time.monotonic()
        pid = os.posix_spawn(command[0], command, installedstart.INSTALLED, file_actions=streams)
        _, status, usage = os.wait4(pid, 0)
        took = time.monotonic() - begin
        if status:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)}: wait status {status:#x}: {said.read().decode()}")
        return Took(took, usage.ru_maxrss)


def ours(ckptree: str, images: Path) -> Took:
    """Restart by ckptree, and take the tree down again."""
    pidfile = images.with_name("guard")
    command = [ckptree, "restart", f"criu:{images}", "--no-pidns", "--detach"]
    took = run([*command, "--pidfile", os.fspath(pidfile)])
    os.kill(int(pidfile.read_text()), signal.SIGTERM)
    reap()
    return took


def theirs(images: Path) -> Took:
    """Restore by criu, and kill the tree."""
    pidfile = images.with_name("restored")
    options = ["-D", os.fspath(images), "-d", "-o", "restore.log", "--pidfile", os.fspath(pidfile)]
    took = run([os.fspath(criu()), "restore", *options])
    os.killpg(int(pidfile.read_text()), signal.SIGKILL)
    pidfile.unlink()
    reap()
    return took


def reap() -> None:
    """Wait for all children: the orphans of a tree are among them."""
    with suppress(ChildProcessError):
        while True:
            os.wait()


def measured(mib: int, processes: int, rounds: int, *, compiled: bool) -> dict[str, list[Took]]:
    """Return the costs of all rounds; the first round of each is a warm-up."""
    found: dict[str, list[Took]] = {OURS: [], THEIRS: []}
    with tempfile.TemporaryDirectory() as name, installedstart.program(compiled=compiled) as ckptree:
        images = dumped(Path(name), mib, processes)
        subprocess.run(["sync"], check=True)
        orphans.adopt(wanted=True)
        for round_ in range(rounds + 1):
            for method, restart in ((OURS, partial(ours, ckptree)), (THEIRS, theirs)):
                took = restart(images)
                if round_:
                    found[method].append(took)
        orphans.adopt(wanted=False)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=positive, default=1024, help="of memory that each process has")
    parser.add_argument("--processes", type=positive, default=1)
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--as-checkout", action="store_true", help="compile no modules, as the package has them")
    parser.add_argument("--json", action="store_true")
    options = parsed(parser)
    found = measured(options.mib, options.processes, options.rounds, compiled=not options.as_checkout)
    if options.json:
        print(json.dumps({"mib": options.mib, "processes": options.processes, "took": found}))
        return
    base = median(one.seconds for one in found[THEIRS])
    print(f"{options.processes} processes of {options.mib} MiB, {options.rounds} rounds, until all run\n")
    rows = []
    for name, costs in found.items():
        seconds = [one.seconds for one in costs]
        shares = [f"{quantile(seconds, share):.3f}" for share in (0.0, 0.5, 0.9)]
        most = max(one.kib for one in costs) / 1024
        rows.append([name, *shares, f"{median(seconds) / base:.2f}", f"{most:.0f}"])
    print(table(["", "least, s", "median, s", "p90, s", "times criu", "its own memory, MiB"], rows))


if __name__ == "__main__":
    main()
