# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the live tests: one daemon, started before any tree, and a client of it.

A live test that cannot run fails. On a machine without root or BPF call pytest with ``-m "not live"``.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from agent.model import Snapshot
from agent.protocol.client import Client
from exporters import registry
from tests.live.apiclients import an_open_folder
from tests.live.daemons import Daemon, a_daemon

Capture = Callable[[int, str], Snapshot]
_BEGUN_S: Final = 600.0
"""Seconds, which only a daemon at fault takes: on an emulated machine the compiler needs 20 s alone, and minutes beside
other work of its host.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder: it is what makes them live."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.live)


@pytest.fixture(scope="session")
def daemon_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Start a daemon of this checkout, and yield the path of its socket."""
    path = tmp_path_factory.mktemp("daemon") / "ckptree.sock"
    log = path.with_suffix(".log")
    with log.open("wb") as out:
        daemon = subprocess.Popen([sys.executable, "-m", "agent.daemon.main", "--socket", os.fspath(path)], stderr=out)
    try:
        deadline = time.monotonic() + _BEGUN_S
        while b"listening on" not in log.read_bytes():
            assert daemon.poll() is None, f"the daemon ended: {log.read_text()}"
            assert time.monotonic() < deadline, f"the daemon is not ready after {_BEGUN_S:.0f} s: {log.read_text()}"
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


@pytest.fixture(scope="module")
def running() -> Iterator[Daemon]:
    """A daemon whose socket others can reach."""
    with an_open_folder() as folder, a_daemon(folder) as daemon:
        yield daemon
        assert daemon.process.poll() is None, daemon.log.read_text()


@pytest.fixture
def sleeper() -> Iterator[int]:
    """A process of root's; its name would be a leak."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            yield process.pid
        finally:
            process.kill()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Make a folder that all users may read."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)
