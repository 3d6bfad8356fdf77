# SPDX-License-Identifier: Apache-2.0
"""A server in the place of a daemon, for tests of clients."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.protocol import codec
from tests.support.hellos import HELLO


@contextmanager
def a_server(path: Path, *serve: Callable[[socket.socket], object]) -> Iterator[None]:
    """Run a server that is no daemon; it takes one connection after the other."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(os.fspath(path))
        listener.listen(1)

        def accept() -> None:
            for each in serve:
                connection, _ = listener.accept()
                with connection:
                    each(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield
        finally:
            thread.join(10)


def answering(*answers: Any) -> Callable[[socket.socket], None]:
    """Return a function that serves a connection: a hello, and these answers."""

    def serve(connection: socket.socket) -> None:
        for answer in (HELLO, *answers):
            connection.recv(1 << 16)
            connection.sendall(codec.encode(answer))

    return serve
