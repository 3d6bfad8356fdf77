# SPDX-License-Identifier: Apache-2.0
"""The figures over HTTP: answers, and closed connections."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from agent.cli import scrape
from agent.cli.openmetrics import CONTENT_TYPE
from agent.errors import CkptreeError, NoDaemonError, UsageError


@contextmanager
def serving(address: str, render: Callable[[], str] = lambda: "# EOF\n") -> Iterator[scrape.ScrapeServer]:
    """Run a server in a thread."""
    with scrape.listening(address, render) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def place(server: scrape.ScrapeServer) -> tuple[str, int]:
    """Return host and port."""
    host, port = server.server_address[:2]
    return str(host), int(port)


def get(server: scrape.ScrapeServer, path: str = "/metrics") -> tuple[int, str, str]:
    """Return status, type and body."""
    connection = http.client.HTTPConnection(*place(server), timeout=20)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.getheader("Content-Type", ""), answer.read().decode()


def test_a_scraper_gets_the_text_anew_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The type says how to read the text."""
    monkeypatch.setattr(scrape, "FRESH_S", 0.0)
    texts = iter(["first\n", "second\n"])
    with serving("127.0.0.1:0", lambda: next(texts)) as server:
        answers = [get(server), get(server, "/metrics?name=x")]

    assert answers == [(200, CONTENT_TYPE, text) for text in ("first\n", "second\n")]


def test_who_asks_for_the_head_alone_gets_it() -> None:
    """HTTP defines it: the answer of a GET without the text."""
    with serving("127.0.0.1:0") as server:
        connection = http.client.HTTPConnection(*place(server), timeout=20)
        connection.request("HEAD", "/metrics")
        answer = connection.getresponse()

        assert (answer.status, answer.getheader("Content-Length"), answer.read()) == (200, "6", b"")


def test_there_is_nothing_else() -> None:
    """Other paths and other methods are refused."""
    with serving("127.0.0.1:0") as server:
        assert get(server, "/")[0] == 404
        connection = http.client.HTTPConnection(*place(server), timeout=20)
        connection.request("POST", "/metrics", body="x")
        assert connection.getresponse().status == 501


def test_a_daemon_that_does_not_answer_is_a_503_that_says_so() -> None:
    """The next request may find it again."""

    def render() -> str:
        raise NoDaemonError("no daemon on /run/x")

    with serving("127.0.0.1:0", render) as server:
        assert get(server) == (503, "text/plain; charset=utf-8", "no daemon on /run/x\n")


def test_the_file_of_a_unix_socket_goes_with_its_server_unless_it_is_anothers(tmp_path: Path) -> None:
    """An administrator may have put another server in its place."""
    path = tmp_path / "metrics.sock"
    with serving(f"unix:{path}"):
        assert path.is_socket()
    assert not path.exists()

    with serving(f"unix:{path}"), socket.socket(socket.AF_UNIX) as other:
        path.rename(tmp_path / "moved.sock")
        other.bind(str(path))
    assert path.is_socket()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_the_server_as_before_and_its_file(tmp_path: Path, number: signal.Signals) -> None:
    """The parent sees the death by that signal; an interrupt has an exit code."""
    path = tmp_path / "metrics.sock"
    words = [sys.executable, "-m", "agent", "metrics", "--listen", f"unix:{path}"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("ckptree: serving")
        process.send_signal(number)

        assert process.wait(20) == (130 if number is signal.SIGINT else -number)
    assert not path.exists()


def test_a_unix_socket_is_taken_over_from_the_dead_alone(tmp_path: Path) -> None:
    """A file that is no socket stays, and so does the socket of a server that answers."""
    path = tmp_path / "metrics.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(os.fspath(path))
    with serving(f"unix:{path}"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(20)
            client.connect(os.fspath(path))
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            assert client.makefile().read().endswith("# EOF\n")
        with pytest.raises(CkptreeError, match="in use"):
            scrape.listening(f"unix:{path}", str)
    path.write_text("data")
    with pytest.raises(CkptreeError, match="in use"):
        scrape.listening(f"unix:{path}", str)
    assert path.read_text() == "data"


def busy() -> int:
    """Return the number of clients that are served."""
    return len([one for one in threading.enumerate() if one.name.endswith("(process_request_thread)")])


def until(reached: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_connections_that_ask_nothing_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection that has been silent for longest is closed, and the number of threads is bounded."""
    monkeypatch.setattr(scrape, "PATIENCE_S", 120.0)
    with serving("127.0.0.1:0") as server, ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(place(server), timeout=60)) for _ in range(scrape.AT_ONCE)]
        until(lambda: busy() == len(idle))
        assert get(server)[0] == 200
        assert idle[0].recv(1) == b""
        for _ in range(20 * scrape.AT_ONCE):
            stack.enter_context(socket.create_connection(place(server)))
        assert get(server)[0] == 200
        until(lambda: busy() <= scrape.AT_ONCE)


def test_who_does_not_fetch_its_answer_makes_room_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does so after a moment, because an answer takes some time. Clients that come before that are refused."""
    monkeypatch.setattr(scrape, "PATIENCE_S", 120.0)
    monkeypatch.setattr(scrape, "SLOW_S", 120.0)
    with serving("127.0.0.1:0", lambda: "x" * (16 << 20)) as server, ExitStack() as stack:
        for _ in range(scrape.AT_ONCE):
            one = stack.enter_context(socket.create_connection(place(server)))
            one.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        until(lambda: len(server._answered) == scrape.AT_ONCE)
        with socket.create_connection(place(server), timeout=60) as late:
            assert late.recv(1) == b""
        monkeypatch.setattr(scrape, "SLOW_S", 0.0)
        assert get(server)[0] == 200


def test_many_who_ask_at_once_cost_the_daemon_one_question() -> None:
    """Any client of this port uses the rights of the server's user."""
    asked = []

    def render() -> str:
        asked.append(time.monotonic())
        return "# EOF\n"

    with serving("127.0.0.1:0", render) as server:
        begin = time.monotonic()
        assert {get(server)[0] for _ in range(50)} == {200}
        took = time.monotonic() - begin

    assert len(asked) <= took / scrape.FRESH_S + 1


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /metrics HTTP/1.0\r\n" + b"X: " + b"x" * 100_000 + b"\r\n\r\n",
        b"GET /metrics HTTP/1.0\r\n" + b"X: y\r\n" * 90_000 + b"\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.0\r\n\r\n",
        b"\0" * 100_000,
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"\r\n\r\n",
    ],
    ids=["long-header", "many-headers", "long-path", "zeros", "version", "nothing"],
)
def test_a_request_that_is_none_is_refused_and_little_of_it_is_read(request_: bytes) -> None:
    """The next request is answered."""
    with serving("127.0.0.1:0") as server:
        with socket.create_connection(place(server), timeout=60) as client, suppress(OSError):
            client.sendall(request_)
            client.shutdown(socket.SHUT_WR)
            said = client.makefile("rb").read()
            assert said == b"" or b" 200 " not in said.splitlines()[0]
        assert get(server)[0] == 200


def test_a_socket_of_a_path_is_its_makers_alone(tmp_path: Path) -> None:
    """The umask decides; a TCP port is open to every user."""
    before = os.umask(0o022)
    try:
        with serving(f"unix:{tmp_path}/metrics.sock"):
            mode = (tmp_path / "metrics.sock").stat().st_mode
    finally:
        os.umask(before)

    assert not mode & 0o022


def test_a_client_that_says_nothing_is_hung_up_on_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends a byte now and then is closed too: the limit is for the whole request."""
    monkeypatch.setattr(scrape, "PATIENCE_S", 0.2)
    with serving("127.0.0.1:0") as server, socket.create_connection(place(server), timeout=60) as client:
        client.sendall(b"GET /met")
        assert client.recv(1) == b""


@pytest.mark.parametrize(
    ("address", "family"),
    [("127.0.0.1:9750", socket.AF_INET), ("[::1]:9750", socket.AF_INET6), ("unix:/run/x", socket.AF_UNIX)],
)
def test_addresses_are_read(address: str, family: int) -> None:
    """Addresses may be of IPv4, of IPv6, or a path."""
    assert scrape.parse(address)[0] == family


@pytest.mark.parametrize(
    "address", ["", "9750", ":9750", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "1.1.1.1:99999", "unix:"]
)
def test_what_is_no_address_is_a_usage_error(address: str) -> None:
    """The message shows an example. A server on all interfaces needs their address: 0.0.0.0."""
    with pytest.raises(UsageError, match="expected"):
        scrape.parse(address)
