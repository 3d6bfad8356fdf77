# SPDX-License-Identifier: Apache-2.0
"""Daemons for single tests, the command line, and trees that commands make."""

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from agent.model import Snapshot
from tests.demo.demo import kernel_rows, snapshot_row

TOP = Path(__file__).parents[2]
HARDTREE = TOP / "tests" / "demo" / "hardtree.py"
PATIENCE_S = 180.0


class Daemon(NamedTuple):
    """A daemon that runs and listens."""

    process: "subprocess.Popen[bytes]"
    socket: Path
    log: Path


class Ran(NamedTuple):
    """The result of a run of the command line."""

    code: int
    out: bytes
    err: str


def ckptree(
    *arguments: str | Path,
    before: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    python: str = sys.executable,
) -> Ran:
    """Run the command line, behind the words `before`, as those of unshare(1)."""
    command = [*before, python, "-m", "agent", *map(str, arguments)]
    ran = subprocess.run(
        command,
        cwd=TOP,
        env=None if env is None else {**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=PATIENCE_S,
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr.decode())


def wait_for(process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until the daemon's log says that it listens."""
    deadline = time.monotonic() + PATIENCE_S
    while b"listening on" not in log.read_bytes():
        assert process.poll() is None, f"the daemon ended: {log.read_text()}"
        assert time.monotonic() < deadline, "the daemon is not ready"
        time.sleep(0.01)


@contextmanager
def a_daemon(folder: Path, *arguments: str | Path, before: Sequence[str] = ()) -> Iterator[Daemon]:
    """Start a daemon on a socket in a folder, behind the words `before`, and end it afterwards."""
    socket, log = folder / "own.sock", folder / "own.log"
    command = [*before, sys.executable, "-m", "agent", "daemon", "--socket", os.fspath(socket), *map(str, arguments)]
    with log.open("wb") as out:
        # In a session of its own, as every service: if the kernel groups processes by session, a nice value counts
        # within its session only.
        process = subprocess.Popen(command, cwd=TOP, stdin=subprocess.DEVNULL, stderr=out, start_new_session=True)
    try:
        wait_for(process, log)
        yield Daemon(process, socket, log)
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait(20)
    assert "Traceback" not in log.read_text(), log.read_text()


@contextmanager
def a_hard_tree() -> Iterator[int]:
    """Make the tree that ``make demo`` shows, and yield the number of its root."""
    command = [sys.executable, os.fspath(HARDTREE)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as keeper:
        assert keeper.stdin
        assert keeper.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(keeper.stdout, selectors.EVENT_READ)
            assert selector.select(PATIENCE_S), "the tree has not grown"
        try:
            yield int(keeper.stdout.readline())
        finally:
            keeper.stdin.close()


@contextmanager
def a_container(*command: str) -> Iterator[int]:
    """Run a command as init of a new pid namespace, and yield its number; kill the namespace afterwards."""
    with subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", *command]) as outer:
        try:
            yield only_child(outer.pid, command[-2])
        finally:
            outer.kill()


def only_child(pid: int, name: str) -> int:
    """Return the number of a process's only child, once it has a name."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        children = psutil.Process(pid).children()
        if [child.name() for child in children] == [name]:
            return children[0].pid
        assert time.monotonic() < deadline, f"{pid} has no child that is called {name}"
        time.sleep(0.01)


def differences(snapshot: Snapshot, root: int) -> list[str]:
    """Return a line for each task that /proc shows otherwise than the snapshot."""
    kernel = kernel_rows(root)
    found = {snapshot.number(task.pid): snapshot_row(snapshot, task) for task in snapshot.tasks}
    lines = []
    for number in sorted(kernel.keys() | found.keys()):
        ours = found[number]._asdict() if number in found else {}
        theirs = kernel[number]._asdict() if number in kernel else {}
        told = {key: value for key, value in theirs.items() if value is not None}  # a zombie has no value for some
        if not told or {key: ours.get(key) for key in told} != told:
            lines.append(f"{number}: {ours}, the kernel: {theirs}")
    return lines
