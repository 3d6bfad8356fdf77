# SPDX-License-Identifier: Apache-2.0
"""A server of the figures over HTTP, for scrapers: a process beside the daemon, which only needs to connect to it.

It serves GET /metrics alone. A client has a few seconds and a few kilobytes, and there are at most a few clients at a
time: a new one takes the place of the one that has been silent for longest, so connections that ask nothing keep no
scraper out. The daemon is asked a few times a second at most, however many requests come here. There is no encryption
and no
authentication: the address decides which clients can reach the server.
"""

import contextlib
import io
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.client import LineTooLong
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from types import FrameType
from typing import Any, Final

from agent.cli.openmetrics import CONTENT_TYPE
from agent.cli.terminal import say
from agent.errors import CkptreeError, HostError, UsageError

AT_ONCE: Final = 8
PATIENCE_S: Final = 5.0
SLOW_S: Final = 1.0  # a client that takes so long to fetch an answer makes room as well
FRESH_S: Final = 0.1  # how long one text is good for everybody
MOST_BYTES: Final = 1 << 14  # of a request
_MAX_PORT: Final = 65535
_ENDING: Final = (signal.SIGTERM, signal.SIGHUP)


def serve(address: str, render: Callable[[], str]) -> None:
    """Answer requests until a signal ends the process.

    Args:
        address: ``HOST:PORT``, ``[V6]:PORT`` or ``unix:PATH``.
        render: makes the text, anew for each request.

    Raises:
        UsageError: the text is no address.
        CkptreeError: this process cannot listen there.
    """
    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves SIGHUP
            signal.signal(number, _end)
    try:
        with listening(address, render) as server:
            say(f"serving /metrics on {address}")
            server.serve_forever()
    except _Ended as ended:
        signal.signal(ended.number, signal.SIG_DFL)
        os.kill(os.getpid(), ended.number)


class _Ended(BaseException):
    """The arrival of a signal that ends the process."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _end(number: int, _frame: FrameType | None) -> None:
    for each in _ENDING:
        signal.signal(each, signal.SIG_IGN)  # what follows takes a moment, and ends the process
    raise _Ended(number)


def listening(address: str, render: Callable[[], str]) -> "ScrapeServer":
    """Return a server on that address; raise as `serve` does."""
    family, where = parse(address)
    if family == socket.AF_UNIX and isinstance(where, str):
        _take_over(Path(where))
    try:
        return ScrapeServer(family, where, render)
    except OSError as error:
        kind = HostError if isinstance(error, PermissionError) else CkptreeError
        raise kind(f"cannot listen on {address}: {error.strerror or error}") from error


def parse(address: str) -> tuple[int, Any]:
    """Return the family and socket address of a text.

    Raises:
        UsageError: the text is no address.
    """
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        if not path or "\0" in path:
            raise UsageError(f"--listen {address}: expected unix:PATH")
        return socket.AF_UNIX, path
    host, colon, port = address.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdecimal()) or int(port) > _MAX_PORT:
        raise UsageError(f"--listen {address}: expected HOST:PORT, say 127.0.0.1:9750, or unix:PATH")
    host = host.removeprefix("[").removesuffix("]")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UsageError(f"--listen {address}: {host}: {error.strerror or error}") from error
    return found[0], found[4]


def _take_over(path: Path) -> None:
    """Remove a socket that no process listens on; any other file in that place stays."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return
    if stat.S_ISSOCK(mode):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(os.fspath(path))
            except ConnectionRefusedError:
                path.unlink()


class Fresh:
    """A text that is made anew when it is asked for, but not more often than every `FRESH_S`.

    Args:
        render: makes it.
    """

    def __init__(self, render: Callable[[], str]) -> None:
        self._render = render
        self._lock = threading.Lock()
        self._until_s = 0.0
        self._text = ""

    def text(self) -> str:
        """Give the text; requests that come while it is made wait for the same one."""
        with self._lock:
            if time.monotonic() >= self._until_s:
                self._text = self._render()
                self._until_s = time.monotonic() + FRESH_S
            return self._text


class ScrapeServer(ThreadingMixIn, TCPServer):
    """A server with a few threads: one slow client must not delay the others, and many clients must not cost much.

    Args:
        family: of the socket.
        where: its address.
        render: makes the text.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128  # where the queue is full, the kernel drops a connection, to be tried again seconds later

    def __init__(self, family: int, where: Any, render: Callable[[], str]) -> None:
        self.address_family = family
        self.fresh = Fresh(render)
        self._lock = threading.Lock()
        self._silent: dict[Any, float] = {}  # connections that have not asked yet, since when; the oldest first
        self._answered: dict[Any, float] = {}  # those that have
        self._hung_up: set[Any] = set()
        self._where = where
        self._file: tuple[int, int] | None = None
        super().__init__(where, Handler)

    def server_bind(self) -> None:
        """Bind the socket, and note the identity of its file."""
        super().server_bind()
        if self.address_family == socket.AF_UNIX:
            self._file = _identity(self._where)

    def server_close(self) -> None:
        """Close the socket, and remove its file unless another one has its place."""
        super().server_close()
        if self._file is not None and _identity(self._where) == self._file:
            with contextlib.suppress(OSError):
                Path(self._where).unlink()
        self._file = None

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a request in a thread, where there is room or another connection makes room; else close the
        connection."""
        with self._lock:
            served = len(self._silent) + len(self._answered)
            has_room = served - len(self._hung_up) < AT_ONCE or self._make_room()
            if has_room:
                self._silent[request] = time.monotonic()
        if has_room:
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def _make_room(self) -> bool:
        """Close the connection that has been silent for longest, or is slow to fetch its answer; that ends its
        thread."""
        late = time.monotonic() - SLOW_S
        slow = (one for one, since in self._answered.items() if since < late)
        for one in (*self._silent, *slow):
            if one not in self._hung_up:
                self._hung_up.add(one)
                _hang_up(one)
                return True
        return False

    def has_asked(self, request: Any) -> None:
        """Note that a whole request has come."""
        with self._lock:
            self._silent.pop(request, None)
            self._answered[request] = time.monotonic()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a request, for PATIENCE_S at the longest: a client may send a byte now and then for ever."""
        end = threading.Timer(PATIENCE_S, _hang_up, (request,))
        end.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            end.cancel()
            with self._lock:
                self._silent.pop(request, None)
                self._answered.pop(request, None)
                self._hung_up.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors of a connection: the client closed it, or the timer did."""


def _identity(path: Any) -> tuple[int, int] | None:
    """Return device and inode of a file; None if there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the client has closed it already
        connection.shutdown(socket.SHUT_RDWR)


class _Bounded(io.BufferedReader):
    """A stream of which so many bytes can be read, line by line."""

    left = MOST_BYTES

    def readline(self, size: int | None = -1, /) -> bytes:
        """Read a line.

        Raises:
            LineTooLong: there is more than may be read.
        """
        line = super().readline(self.left if size is None or size < 0 else min(size, self.left))
        self.left -= len(line)
        if self.left <= 0:
            raise LineTooLong("request")
        return line


class Handler(BaseHTTPRequestHandler):
    """The handler of a request."""

    server: ScrapeServer
    server_version = "ckptree"
    sys_version = ""

    def setup(self) -> None:
        """Bound what is read of a request."""
        super().setup()
        self.rfile = _Bounded(socket.SocketIO(self.connection, "r"))

    def do_GET(self) -> None:
        """Send the text, if /metrics is asked for; 503 where the daemon does not answer."""
        self.server.has_asked(self.request)
        if self.path.partition("?")[0] != "/metrics":
            self._answer(HTTPStatus.NOT_FOUND, "there is /metrics here\n", "text/plain; charset=utf-8")
            return
        try:
            body = self.server.fresh.text()
        except CkptreeError as error:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{error}\n", "text/plain; charset=utf-8")
            return
        self._answer(HTTPStatus.OK, body, CONTENT_TYPE)

    def do_HEAD(self) -> None:
        """Answer as to GET, without the body."""
        self.do_GET()

    def _answer(self, status: HTTPStatus, text: str, kind: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing: a scraper comes every few seconds, and the answer has the error."""
