# SPDX-License-Identifier: Apache-2.0
"""Clients of the daemon's socket that others can reach."""

import contextlib
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from agent.protocol.client import Client
from tests.live.daemons import PATIENCE_S, Daemon


@contextlib.contextmanager
def an_open_folder() -> Iterator[Path]:
    """One that others may enter; pytest closes its own to them."""
    with tempfile.TemporaryDirectory(prefix="ckptree-api-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def connected(path: Path) -> socket.socket:
    """A bare connection."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    peer.settimeout(PATIENCE_S)
    peer.connect(os.fspath(path))
    return peer


def is_live(daemon: Daemon, within_s: float = 5.0) -> bool:
    """It answers, and sooner than any client expires."""
    begin = time.monotonic()
    with Client(daemon.socket, PATIENCE_S) as client:
        client.snapshot(str(os.getpid()))
    return time.monotonic() - begin < within_s
