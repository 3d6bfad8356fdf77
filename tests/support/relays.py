# SPDX-License-Identifier: Apache-2.0
"""Relays for tests: processes of their own, as on their hosts."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).parents[2]
READY_S = 60.0


@dataclass
class RelayProcess:
    """A relay.

    Attributes:
        host: the name of its host.
        process: its own.
        log: what it has said.
        command: starts it again.
    """

    host: str
    process: "subprocess.Popen[bytes]"
    log: Path
    command: Sequence[str]

    def start_again(self) -> None:
        """Start it, after its end, and wait until it is connected."""
        said = self.log.read_text().count("listening on")
        self.process = _started(self.command, self.log)
        await_line(self, said + 1)


def settings(folder: Path, host: str, nats: str, socket: Path | str = "/nonexistent", more: str = "") -> Path:
    """Write the configuration of a relay, and return its path."""
    path = folder / f"{host}.toml"
    path.write_text(f'[relay]\nnats = "{nats}"\nhost = "{host}"\nsocket = "{socket}"\n{more}')
    return path


@contextmanager
def a_relay(
    folder: Path,
    host: str,
    nats: str,
    socket: Path | str = "/nonexistent",
    more: str = 'allow = ["snapshot"]\n',
    *,
    ahead_s: float = 0.0,
    before: Sequence[str] = (),
    image: bool = False,
    recording: Path | None = None,
) -> Iterator[RelayProcess]:
    """Run a relay, once it is connected.

    Args:
        folder: for its configuration and its log.
        host: the name of its host.
        nats: address of the server.
        socket: of the daemon.
        more: further lines of the configuration.
        ahead_s: its clock is so far ahead of the machine's.
        before: words before its command, as those of setpriv(1).
        image: it has no daemon, but an image (tests.support.imagework).
        recording: it has no daemon, but an image and the recording in this folder.
    """
    config = settings(folder, host, nats, socket, more)
    module = ["-m", "tests.support.skewedrelay", str(ahead_s)] if ahead_s else ["-m", "agent", "relay"]
    module = ["-m", "tests.support.imagework"] if image or recording else module
    command = [*before, sys.executable, *module, "--config", os.fspath(config)]
    command += [os.fspath(recording)] if recording else []
    log = folder / f"{host}.log"
    relay = RelayProcess(host, _started(command, log), log, command)
    try:
        await_line(relay, 1)
        yield relay
    finally:
        relay.process.kill()
        relay.process.wait()
    assert "Traceback" not in log.read_text(), log.read_text()


def await_line(relay: RelayProcess, count: int, line: str = "listening on") -> None:
    """Wait until a relay has said a line so many times."""
    until = time.monotonic() + READY_S
    while relay.log.read_text().count(line) < count:
        assert relay.process.poll() is None, relay.log.read_text()
        assert time.monotonic() < until, relay.log.read_text()
        time.sleep(0.02)


def _started(command: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
    with log.open("ab") as out:
        return subprocess.Popen(command, cwd=TOP, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
