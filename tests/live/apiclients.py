# SPDX-License-Identifier: Apache-2.0
"""Clients of the daemon's socket that others can reach."""

import contextlib
import json
import os
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agent.errors import CkptreeError
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


def as_user(uid: int, gid: int, groups: list[int], script: Callable[[], Any]) -> Any:
    """Run a function in a child of a user, and return its result, through JSON; its imports must be loaded already."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            try:
                said = json.dumps(script())
            except CkptreeError as error:
                said = json.dumps([type(error).__name__, str(error)])
            os.write(writer, said.encode())
        except BaseException:  # noqa: BLE001 - pytest is the parent's
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return json.loads(said)
