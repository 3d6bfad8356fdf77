# SPDX-License-Identifier: Apache-2.0
"""A context that runs ckptree's daemon, with its snapshots as scans for the judge."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from agent.errors import NoDaemonError
from agent.model import CKPT_PID_ROOT, Snapshot, Tag, TaskState
from agent.protocol.client import Client
from exporters import registry
from tests.bench.judge import Row
from tests.bench.scanners import Scan
from tests.support.dying import die_with_parent

_REPOSITORY = Path(__file__).parents[2]
CHECKOUT = (sys.executable, "-m", "agent.daemon.main")
"""The words that start the checkout's daemon."""

_PATIENCE_S = 20.0
_DEAD = (TaskState.ZOMBIE, TaskState.DEAD_LEADER)


def rows_of(snapshot: Snapshot) -> list[Row]:
    """Return a snapshot's tasks by their numbers. An id from outside the tree is None, which the judge skips."""

    def number(tag: int) -> int | None:
        return snapshot.number(Tag(tag)) or None if tag != CKPT_PID_ROOT else None

    group = {task.pid: task.tgid for task in snapshot.tasks}  # a parent is a thread; /proc and the log name its process
    return [
        Row(
            tid=snapshot.number(task.pid),
            tgid=number(task.tgid),
            ppid=number(group.get(task.ppid, task.ppid)),
            sid=number(task.sid),
            pgid=number(task.pgid),
            zombie=None if task.state is None else task.state in _DEAD,
            start_lo=task.start_ns,
            start_hi=task.start_ns,
        )
        for task in snapshot.tasks
    ]


def _decode(data: bytes) -> list[Row]:
    return rows_of(registry.load(data))


class Watcher:
    """A daemon of its own, on a socket of its own.

    Args:
        settings: its configuration file.
        before: words before its command, for example those of taskset(1).
        leads: True: it leads a session of its own, as where a service manager starts it; the kernel's grouping of processes
            by session (sched(7), autogroup) then leaves it its priority.
        program: the words before its options, those of an installed one for example.

    Attributes:
        socket: its path.
        log: its standard error so far.
    """

    def __init__(
        self,
        settings: str = "",
        *,
        before: Sequence[str] = (),
        leads: bool = False,
        program: Sequence[str] = CHECKOUT,
    ) -> None:
        self._settings = settings
        self._program = program
        self._before = before
        self._leads = leads
        self._directory = tempfile.TemporaryDirectory(prefix="ckptree-watcher-")
        self.socket = Path(self._directory.name) / "ckptree.sock"
        self.log = self.socket.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None
        self._client: Client | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._directory.cleanup()

    @property
    def client(self) -> Client:
        """Return a connection that stays open."""
        if self._client is None:
            raise RuntimeError("the daemon is not running")
        return self._client

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        config = self.socket.with_name("config.toml")
        config.write_text(self._settings)
        command = [*self._before, *self._program, "--config", str(config)]
        with self.log.open("ab") as log:  # a line for each snapshot
            command += ["--socket", str(self.socket)]
            self._process = subprocess.Popen(
                command, cwd=_REPOSITORY, stderr=log, start_new_session=self._leads, preexec_fn=die_with_parent
            )
        end = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self._client = Client(self.socket)
                self._client.status()
            except NoDaemonError:
                if self._process.poll() is not None or time.monotonic() > end:
                    self.stop()
                    print(self.log.read_text(errors="replace"), file=sys.stderr)
                    raise
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """End the daemon and wait for its end."""
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait()
            self._process = None

    def scan(self, root: int) -> Scan:
        """Take one snapshot of the tree under root, timed by the client."""
        begun = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        answer = self.client.snapshot(str(root), mode="subtree")
        ended = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return Scan(
            begun,
            ended,
            partial(_decode, answer.data),
            closed=True,
            elapsed_ns=answer.elapsed_ns,
            complete=answer.complete,
        )

    def image_ns(self, root: int) -> int:
        """Return the daemon's time for one checkpoint image, from request to bytes, in ns."""
        return self.client.snapshot(str(root), mode="subtree").elapsed_ns

    def take(self, root: int) -> Snapshot:
        """Take one snapshot of the tree under root."""
        return registry.load(self.client.snapshot(str(root), mode="subtree").data)

    @property
    def pid(self) -> int:
        """Return the daemon's pid."""
        if self._process is None:
            raise RuntimeError("the daemon is not running")
        return self._process.pid

    def resident_bytes(self) -> int:
        """Return the daemon's resident memory in bytes without the ring, which is mapped twice and would count
        twice.
        """
        total, is_ring = 0, False
        for line in Path(f"/proc/{self.pid}/smaps").read_text().splitlines():
            name, _, value = line.partition(":")
            if "-" in name.partition(" ")[0]:  # the head of a mapping: its addresses and its file
                is_ring = "bpf-map" in line
            elif name == "Rss" and not is_ring:
                total += 1024 * int(value.split()[0])
        return total

    def descriptors(self) -> int:
        """Return the number of open descriptors of the daemon."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def cpu_s(self) -> float:
        """Return the CPU time of the daemon in seconds, user and system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
