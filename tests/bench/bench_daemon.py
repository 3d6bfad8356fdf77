# SPDX-License-Identifier: Apache-2.0
"""Measurement of the daemon's own cost: idle, after a million records, and beside thousands of tasks.

``python -m tests.bench.bench_daemon [--idle-s 20] [--forks 250000] [--tasks 20000] [--json]`` from the repository's
root, as root. A process that is born, dies and is waited for makes four records; one subscriber receives births and
deaths. A turn is the work of the loop between two waits; long work is a job in a thread. On a busy machine a turn
includes the time in which the daemon did not run, and the idle figure means nothing.
"""

import argparse
import json
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from agent.protocol.client import Client
from tests.bench.compiled import compiled
from tests.bench.figures import median, table
from tests.bench.idle_tree import IdleTree
from tests.bench.options import amount, parsed, positive
from tests.bench.watcher import Watcher

Figures = dict[str, Any]


def _switches(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in status if line.startswith("voluntary_ctxt_switches"))


def _resident_kb(pid: int) -> int:
    """Return the anonymous memory of a process, in KiB; the ring is shared with the kernel and not counted."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))


def idle(seconds: float) -> Figures:
    """Measure a daemon without clients."""
    with Watcher() as watcher:
        pid = watcher.client.status()["pid"]
        records = watcher.client.metrics()["records"]
        time.sleep(3)  # the waits of the loop grow
        cpu, switches, begun = watcher.cpu_s(), _switches(pid), time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - begun
        figures = {
            "cpu_share": (watcher.cpu_s() - cpu) / took,
            "wakeups_per_s": (_switches(pid) - switches) / took,
            "resident_kb": _resident_kb(pid),
        }
        now = watcher.client.metrics()["records"]
        return figures | {"records_per_s": sum(now[kind] - records[kind] for kind in now) / (took + 3)}


class _Hearer:
    """A subscriber in a thread."""

    def __init__(self, path: Path) -> None:
        self._client = Client(path)
        self._events = self._client.subscribe(str(os.getpid()), kinds=["birth", "death"])
        self.heard = self.dropped = 0
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while (event := self._events.next_within(1)) is not None:
            self.heard += 1
            self.dropped += event.details["count"] if event.kind == "dropped" else 0

    def close(self) -> None:
        """End the subscription when no more events arrive."""
        self._thread.join()
        self._events.close()


def forks(count: int) -> Figures:
    """Measure the daemon's memory before and after this number of processes."""
    with Watcher() as watcher:
        pid = watcher.client.status()["pid"]
        program = str(compiled("bench_hooks"))
        subprocess.run([program, "fork", "20000"], check=True, stdout=subprocess.DEVNULL)
        _Hearer(watcher.socket).close()
        before, cpu = _resident_kb(pid), watcher.cpu_s()
        hearer = _Hearer(watcher.socket)
        begun = time.monotonic()
        subprocess.run([program, "fork", str(count)], check=True, stdout=subprocess.DEVNULL)
        took = time.monotonic() - begun
        hearer.close()
        figures = watcher.client.metrics()
        return {
            "records": sum(figures["records"].values()),
            "lost": sum(figures["lost"].values()),
            "heard": hearer.heard,
            "dropped": hearer.dropped,
            "seconds": took,
            "cpu_s": watcher.cpu_s() - cpu,
            "resident_kb_before": before,
            "resident_kb_after": _resident_kb(pid),
        }


def tasks(count: int) -> Figures:
    """Measure the longest turns of the loop, and the jobs that run beside it."""
    with IdleTree(count, breadth=10, threads=3) as tree, Watcher() as watcher:
        client = watcher.client
        taken = {fmt: client.snapshot(str(tree.root), fmt=fmt).elapsed_ns / 1e6 for fmt in ("ckpt", "msgpack", "json")}
        again = [client.snapshot(str(tree.root)).elapsed_ns / 1e6 for _ in range(5)]
        with Client(watcher.socket) as other, other.subscribe(str(tree.root)):
            pass
        loop = client.metrics()["loop"]
        return {
            "snapshot_ms": taken,
            "snapshot_again_ms": median(again),
            "longest_turn_ms": loop["longest_turn_s"] * 1e3,
            "longest_turn_in": loop["longest_turn_in"],
            "longest_job_ms": loop["longest_job_s"] * 1e3,
            "longest_job": loop["longest_job"],
        }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--idle-s", type=amount, default=20.0)
    parser.add_argument("--forks", type=positive, default=250_000)
    parser.add_argument("--tasks", type=positive, default=20_000)
    parser.add_argument("--json", action="store_true")
    options = parsed(parser)
    figures: Figures = {
        "idle": idle(options.idle_s),
        "forks": forks(options.forks),
        "tasks": tasks(options.tasks),
    }
    if options.json:
        print(json.dumps(figures, indent=1))
        return
    rows = [[f"{name}: {key}", f"{value}"] for name, found in figures.items() for key, value in found.items()]
    print(table(("", "measured"), rows))


if __name__ == "__main__":
    main()
