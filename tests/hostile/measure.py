# SPDX-License-Identifier: Apache-2.0
"""Measurement of the daemon's service to root during attacks.

Beside every attack three honest users are at work: root asks for a snapshot of one process again and again; another
user's process forks at a steady pace; root follows that process and counts the events. Root uses the private socket, as
every client of root's does for which no socket is named.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.environment import private_socket
from agent.protocol.client import Client
from tests.bench.figures import median, quantile
from tests.bench.report import TOP
from tests.hostile import clients
from tests.hostile.compiled import noise
from tests.support.dying import die_with_parent

NOISE: Final = ("same-subreaper", "same-group", "flip-subreaper", "flip-group", "others-child", "reaps", "burns")
ATTACKS: Final = (*NOISE, *clients.KINDS)
_BETWEEN_S = 0.01
_FORKS_PER_SECOND = 100
_HONEST_USER = 65533
_HEARD_WITHIN_S = 10.0
_WARM_UP_S = 0.5
_LOOK_S = 0.5  # between two readings of the daemon's memory
_BACK_WITHIN_S = 60.0
_BACK = 1.1  # the largest ratio that counts as the former size
# An honest user's program: it forks and reaps this many children, one after the other.
_FORKER = f"""
import os, sys, time
sys.stdin.readline()
for _ in range(int(sys.argv[1])):
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    time.sleep({1 / _FORKS_PER_SECOND})
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one attack.

    Attributes:
        attack: names of the attackers.
        snapshots: number of snapshots.
        median_ms, p99_ms, worst_ms: from root's request to its answer.
        lost: records that had no room in the ring, or that the daemon gave up.
        longest_turn_ms: the longest time that the daemon's loop was away from its clients.
        resident_mb: of the daemon, the most during the attack.
        before_mb, after_mb: the same before the attack, and after it when the memory has shrunk again, or a minute later.
        untold: births and deaths of an honest user's children that root follows and has no event of.
    """

    attack: str
    snapshots: int
    median_ms: float
    p99_ms: float
    worst_ms: float
    lost: int
    longest_turn_ms: float
    resident_mb: float
    before_mb: float
    after_mb: float
    untold: int

    def failings(self, bounds: "Bounds") -> list[str]:
        """Return the promises to root that were broken, one line each."""
        kept = {
            "the median of root's snapshots": self.median_ms <= bounds.median_ms,
            "the slowest hundredth of root's snapshots": self.p99_ms <= bounds.p99_ms,
            "records of others": not self.lost,
            "the longest turn of the loop": self.longest_turn_ms <= bounds.turn_ms,
            "the daemon's memory": self.resident_mb <= bounds.resident_mb,
            "the daemon's memory a minute later": self.after_mb <= self.before_mb * _BACK,
            "events of others": not self.untold,
        }
        return [name for name, right in kept.items() if not right]


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits of a good outcome, in its units."""

    median_ms: float
    p99_ms: float
    turn_ms: float
    resident_mb: float


PROMISED: Final = Bounds(median_ms=50, p99_ms=50, turn_ms=250, resident_mb=60)
"""The limits on two otherwise idle cores."""


@contextlib.contextmanager
def attacked(path: Path, kinds: Iterable[str], seconds: float) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Run attackers for this many seconds, each as an ordinary user's process; give the processes."""
    running: list[subprocess.Popen[bytes]] = []
    with contextlib.ExitStack() as ends:
        for kind in kinds:
            if kind in clients.KINDS:
                command = [sys.executable, "-m", "tests.hostile.clients", kind, str(path), str(seconds)]
                user = {}
            else:
                command = [os.fspath(noise()), str(seconds), kind]
                user = {"user": clients.USER, "group": clients.USER, "extra_groups": []}
            process = subprocess.Popen(
                command,
                cwd=TOP,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                preexec_fn=die_with_parent,
                start_new_session=True,
                **user,  # type: ignore[call-overload]  # the keywords depend on whether it becomes that user itself
            )
            running.append(ends.enter_context(process))
        try:
            yield running
        finally:
            for process in running:
                process.terminate()


def measure(path: Path, daemon: int, kinds: tuple[str, ...], seconds: float) -> Outcome:
    """Attack a daemon while three honest users use it.

    Args:
        path: the daemon's public socket, which is attacked.
        daemon: its pid.
        kinds: of `ATTACKS`; empty: no attack.
        seconds: the duration.
    """
    forks = int(seconds * _FORKS_PER_SECOND / 2)
    command = [os.path.realpath(sys.executable), "-S", "-c", _FORKER, str(forks)]
    honest = {"user": _HONEST_USER, "group": _HONEST_USER, "extra_groups": ()}
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, preexec_fn=die_with_parent, **honest) as forker,  # type: ignore[call-overload]  # as above
        subprocess.Popen(["sleep", "infinity"], preexec_fn=die_with_parent) as asked_for,
        Client(private_socket(path)) as client,
        Client(private_socket(path)) as follower,
    ):
        before = client.metrics()
        before_mb = resident = resident_mb(daemon)
        events = follower.subscribe(str(forker.pid), kinds=["birth", "death"], snapshot=False)
        with attacked(path, kinds, seconds + _WARM_UP_S):
            time.sleep(_WARM_UP_S)
            forker.stdin.write(b"go\n")
            forker.stdin.close()
            took: list[float] = []
            end = time.monotonic() + seconds
            while (now := time.monotonic()) < end:
                took += _asked(client, asked_for.pid, min(now + _LOOK_S, end))
                resident = max(resident, resident_mb(daemon))
            after = client.metrics()
        asked_for.terminate()
        forker.wait()
        told = 0
        deadline = time.monotonic() + _HEARD_WITHIN_S
        while time.monotonic() < deadline and (event := events.next_within(1.0)) is not None:
            told += event.task is not None and event.task.pid != forker.pid
            if event.kind == "end":
                break
        after_mb = _back(daemon, before_mb)
    return Outcome(
        " + ".join(kinds) or "none",
        len(took),
        median(took) * 1e3,
        quantile(took, 0.99) * 1e3,
        max(took) * 1e3,
        sum(after["lost"].values()) - sum(before["lost"].values()),
        after["loop"]["longest_turn_s"] * 1e3,
        resident,
        before_mb,
        after_mb,
        2 * forks - told,
    )


def _asked(client: Client, pid: int, end: float) -> Iterator[float]:
    """Yield the seconds that each snapshot of a process took, in turn over one connection and over a new one."""
    while (begin := time.monotonic()) < end:
        client.snapshot(str(pid))
        yield time.monotonic() - begin
        begin = time.monotonic()
        with Client(client.path) as fresh:
            fresh.snapshot(str(pid))
        yield time.monotonic() - begin
        time.sleep(_BETWEEN_S)


def _back(daemon: int, before_mb: float) -> float:
    """Wait until the daemon's memory is back at this size, a minute at most; return its size, in MB."""
    deadline = time.monotonic() + _BACK_WITHIN_S
    while (now_mb := resident_mb(daemon)) > before_mb * _BACK and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
    return now_mb


def resident_mb(pid: int) -> float:
    """Return VmRSS in MB without the ring's pages, which belong to the kernel and are mapped twice."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("Rss")
    )
    return sum(int(fields[key].split()[0]) for key in ("RssAnon", "RssFile")) / 1024
