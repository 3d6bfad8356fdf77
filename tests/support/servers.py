# SPDX-License-Identifier: Apache-2.0
"""Servers on loopback ports for the tests of stores and fleets; each is ended with its context."""

import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import suitepackages

READY_S = 30.0


@dataclass
class Server:
    """A server.

    Attributes:
        port: on 127.0.0.1.
        process: its own.
        words: that start it again on the same port, with the same data.
    """

    port: int
    process: "subprocess.Popen[bytes]"
    words: Sequence[str]
    environment: Mapping[str, str] | None = None

    @property
    def address(self) -> str:
        """Return host and port."""
        return f"127.0.0.1:{self.port}"

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()

    def start_again(self) -> None:
        """Start it, after its end."""
        self.process = _started(self.words, self.environment)
        _await(self.port, self.process)


def free_port() -> int:
    """Return a port on which nobody listens now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def running(words: Sequence[str], port: int, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Run a server that listens on a port."""
    server = Server(port, _started(words, environment), words, environment)
    try:
        _await(port, server.process)
        yield server
    finally:
        server.kill()


@contextmanager
def nats(folder: Path, *extra: str) -> Iterator[Server]:
    """Run a NATS server with JetStream, whose data lie in a folder."""
    port = free_port()
    words = [
        *suitepackages.server("nats-server"),
        "-a",
        "127.0.0.1",
        "-p",
        str(port),
        "-js",
        "-sd",
        str(folder),
        *extra,
    ]
    with running(words, port) as server:
        yield server


def _started(words: Sequence[str], environment: Mapping[str, str] | None) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _await(port: int, process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        assert process.poll() is None, f"the server ended with {process.returncode}"
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"nothing listens on port {port} after {READY_S:g} s")
