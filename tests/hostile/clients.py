# SPDX-License-Identifier: Apache-2.0
"""A hostile client of the daemon's socket, a process of its own: ``python -m tests.hostile.clients KIND SOCKET
SECONDS``.

It becomes an ordinary user first, and does only what any user with access to the socket can do.
"""

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agent.errors import CkptreeError
from agent.protocol import codec
from agent.protocol.client import Client, Subscription

USER: Final = 65534
_CHAIN = 2000
_FORKS_PER_SECOND = 500
_SUBSCRIPTIONS = 31
_CONNECTIONS = 8

Attack = Callable[[Path, float], None]


def arrays(path: Path, end: float) -> None:
    """Send requests of 64 KB that consist of empty arrays, over several connections."""
    request = codec.encode({"verb": "status", "x": [[] for _ in range(60_000)]})
    connections = [_connected(path) for _ in range(_CONNECTIONS)]
    while time.monotonic() < end:
        for index, one in enumerate(connections):
            try:
                one.sendall(request)
                if not one.recv(1 << 16):
                    raise ConnectionResetError
            except OSError:
                one.close()
                connections[index] = _connected(path)


def connects(path: Path, end: float) -> None:
    """Connect and hang up, again and again."""
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            _connected(path).close()


def follows_a_chain(path: Path, end: float) -> None:
    """Make a chain of processes below each other that forks at its end, and follow its top many times over."""
    reader, writer = os.pipe()
    top = os.fork()
    if not top:
        _grow(_CHAIN, writer, end)
    os.read(reader, 1)
    events = []
    for _ in range(_SUBSCRIPTIONS):
        with contextlib.suppress(CkptreeError):
            events.append(Client(path).subscribe(str(top), snapshot=False))
    _listen(events, end)


def slow_readers(path: Path, end: float) -> None:
    """Subscribe to everything and request the whole tree, and read nothing of the answers."""
    own = str(os.getpid())
    kept = []
    for _ in range(_CONNECTIONS):
        one = _connected(path)
        with contextlib.suppress(OSError):
            one.sendall(codec.encode({"verb": "subscribe"}))
        kept.append(one)
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            one = _connected(path)
            for _ in range(100):
                one.sendall(codec.encode({"verb": "snapshot", "root": own}))
            kept.append(one)
        if len(kept) > 4 * _CONNECTIONS:
            kept.pop(_CONNECTIONS).close()
        time.sleep(0.01)


def asks(path: Path, end: float) -> None:
    """Request a snapshot of this process without a pause, over several connections."""
    clients = [Client(path) for _ in range(_CONNECTIONS)]
    while time.monotonic() < end:
        for client in clients:
            with contextlib.suppress(CkptreeError):
                client.snapshot(str(os.getpid()))


KINDS: Final[dict[str, Attack]] = {
    "arrays": arrays,
    "connects": connects,
    "follows-a-chain": follows_a_chain,
    "slow-readers": slow_readers,
    "asks": asks,
}


def _connected(path: Path) -> socket.socket:
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    one.settimeout(1.0)
    with contextlib.suppress(OSError):
        one.connect(os.fspath(path))
    return one


def _grow(depth: int, ready: int, end: float) -> None:
    """Fork a chain; its last process reports, and then forks at a steady rate. No process outlives the end."""
    for _ in range(depth - 1):
        if time.monotonic() >= end:
            os._exit(0)  # on a machine too busy to complete the chain in time
        child = os.fork()
        if child:
            time.sleep(max(0.0, end - time.monotonic()) + 1)
            os._exit(0)
    os.write(ready, b"x")
    while time.monotonic() < end:
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
        time.sleep(1 / _FORKS_PER_SECOND)
    os._exit(0)


def _listen(events: list[Subscription], end: float) -> None:
    while time.monotonic() < end:
        for each in events:
            with contextlib.suppress(CkptreeError):
                while each.next_within(0.0001) is not None and time.monotonic() < end:
                    pass


def main(kind: str, path: str, seconds: str) -> None:
    """Act as that client for this many seconds."""
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    KINDS[kind](Path(path), time.monotonic() + float(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:4])
