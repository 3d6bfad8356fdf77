# SPDX-License-Identifier: Apache-2.0
"""Measurement of a take-over: the time from the command to the moment at which all tasks stand and are verified.

``python -m tests.bench.bench_standby [--tasks 100] [--rounds 15] [--write]`` from the repository's root, as root. A relay
publishes the recording of a simulated kernel into a real server of NATS, a stand-by keeps it, and the relay is killed. Then
the tree is taken over again and again; it is made of real processes. The parts of the time are measured by themselves, in
turns with the whole.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

from agent.fleet import standbylink
from tests.bench.options import add_write, parsed, positive
from tests.bench.report import tell
from tests.live.daemons import TOP
from tests.support import servers
from tests.support.relays import RelayProcess
from tests.support.standbys import Original, StandbyProcess, a_standby

HEAD = ("part", "ms: median", "quartiles")
ROOT = "1"
WHOLE = "a take-over, from its command to the last task that stands"
SILENT = "the same, where the server of NATS does not know that the host is dead"
_MOST = 4
_SILENT_S = 5.0  # by then the stand-by has asked the relay in vain


@dataclass(slots=True)
class Part:
    """The times of one part.

    Attributes:
        times_ms: of each round.
        wrong: the faults.
    """

    times_ms: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def add(self, took_ms: float, wrong: str) -> None:
        """Add a round, and what is wrong with it; empty: nothing."""
        self.times_ms.append(took_ms)
        self.wrong += [wrong] if wrong else []

    def cells(self) -> list[str]:
        """Return its cells of the table."""
        low, _, high = quantiles(self.times_ms, n=4) if len(self.times_ms) > 1 else (self.times_ms[0],) * 3
        return [f"{median(self.times_ms):.0f}", f"{low:.0f} .. {high:.0f}"]

    def said(self) -> str:
        """Return its figures in words."""
        return f"{median(self.times_ms):.0f} ms, {len(self.wrong)} faults"


def grow(original: Original, tasks: int) -> None:
    """Give the simulated host's init a tree: sessions with a process group each, `_MOST` processes in a group."""
    kernel = original.taped.kernel
    kernel.pid_max = 10 * tasks
    leader = init = kernel.init
    for number in range(tasks - len(kernel.threads)):
        child = kernel.fork(init if number % _MOST == 0 else leader)
        if number % _MOST == 0:
            kernel.setsid(child)
            leader = child
        original.taped.hear()


def until_it_stands(words: Sequence[str], tasks: int) -> tuple[float, str]:
    """Run a command that makes the tree; return the time until it stands, ms, and what is wrong. The tree is ended."""
    begin_s = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "agent", *words, "--json"],
        cwd=TOP,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        took_ms = 1e3 * (time.monotonic() - begin_s)
        process.terminate()
        _, said = process.communicate()
    stand = len(json.loads(line)["tasks"]) if line else 0
    return took_ms, "" if stand == tasks else f"{stand} of {tasks} tasks stand: {said.decode()}"


def timed(work: Callable[[], object]) -> tuple[float, str]:
    """Do some work; return the time it took, ms, and no fault."""
    begin_s = time.monotonic()
    work()
    return 1e3 * (time.monotonic() - begin_s), ""


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Part]:
    """Measure all parts in turns."""
    with (
        servers.nats(folder / "nats") as nats,
        closing(Original(folder)) as original,
    ):
        url = f"nats://{nats.address}"
        with original.relay(url) as relay, a_standby(folder, "new", url, "old", ROOT) as standby:
            grow(original, options.tasks)
            standby.await_have(original.flushed())
            return _rounds(options, folder, standby, relay)


def _rounds(options: argparse.Namespace, folder: Path, standby: StandbyProcess, relay: RelayProcess) -> dict[str, Part]:
    image = folder / "tree.ckpt"

    def ask() -> None:
        answer = standbylink.ask(standby.place, {"do": "takeover", "root": ROOT, "mode": "subtree"})
        assert answer is not None
        image.write_bytes(answer["data"])

    parts: dict[str, Part] = defaultdict(Part)
    while standby.told()["silent_s"] is None:
        time.sleep(0.1)
    relay.process.send_signal(signal.SIGSTOP)
    while standby.told()["silent_s"] < _SILENT_S:
        time.sleep(0.1)
    ask()
    place = os.fspath(standby.place)
    takeover = ["fleet", "takeover", "old", "--record", place, "--mode", "subtree"]
    for _ in range(options.rounds):
        parts[SILENT].add(*until_it_stands(takeover, options.tasks))
    relay.process.kill()
    relay.process.wait()
    works: dict[str, Callable[[], tuple[float, str]]] = {
        WHOLE: lambda: until_it_stands(takeover, options.tasks),
        "an empty program of Python, from start to end": lambda: timed(
            lambda: subprocess.run([sys.executable, "-c", ""], check=True)
        ),
        "the stand-by's answer: the image, and if the host lives": lambda: timed(ask),
        "`restart` of the same image out of a file": lambda: until_it_stands(["restart", str(image)], options.tasks),
    }
    for _ in range(options.rounds):
        for name, work in works.items():
            parts[name].add(*work())
    return parts


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; return 0 unless a tree did not stand."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=positive, default=100, help="processes of the tree")
    parser.add_argument("--rounds", type=positive, default=15, help="of each part")
    add_write(parser)
    options = parsed(parser, arguments)
    with tempfile.TemporaryDirectory(prefix="ckptree-standby-") as folder:
        parts = measure(options, Path(folder))
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    return tell("standby", HEAD, parts.items(), write=options.write)


if __name__ == "__main__":
    sys.exit(main())
