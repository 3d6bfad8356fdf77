# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the live tests: one daemon, started before any tree, and a client of it.

A live test that cannot run fails. On a machine without root or BPF call pytest with ``-m "not live"``.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.model import Snapshot
from agent.protocol.client import Client
from exporters import registry

Capture = Callable[[int, str], Snapshot]


@pytest.fixture(scope="session")
def daemon_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Start a daemon of this checkout, and yield the path of its socket."""
    path = tmp_path_factory.mktemp("daemon") / "ckptree.sock"
    log = path.with_suffix(".log")
    with log.open("wb") as out:
        daemon = subprocess.Popen([sys.executable, "-m", "agent.daemon.main", "--socket", os.fspath(path)], stderr=out)
    try:
        deadline = time.monotonic() + 120  # emulated machines take that long
        while b"listening on" not in log.read_bytes():
            assert daemon.poll() is None, f"the daemon ended: {log.read_text()}"
            assert time.monotonic() < deadline, "the daemon is not ready after 120 s"
            time.sleep(0.02)
        yield path
        assert daemon.poll() is None, f"the daemon died during the tests: {log.read_text()}"
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(10)
    assert log.read_text().count("Traceback") == 0, log.read_text()


@pytest.fixture(scope="session")
def client(daemon_socket: Path) -> Iterator[Client]:
    """Connect to the daemon."""
    with Client(daemon_socket) as connection:
        yield connection


@pytest.fixture(scope="session")
def capture(client: Client) -> Capture:
    """Return a function that takes a snapshot and reads it back from its image.

    A host that is busy for two seconds makes a snapshot incomplete, which says so: one more is asked for.
    """

    def take(pid: int, mode: str = "auto") -> Snapshot:
        answer = client.snapshot(str(pid), mode=mode)
        if not answer.complete:
            answer = client.snapshot(str(pid), mode=mode)
        assert answer.complete, answer.reasons
        return registry.load(answer.data)

    return take
