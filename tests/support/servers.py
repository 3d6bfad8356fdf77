# SPDX-License-Identifier: Apache-2.0
"""Servers on loopback ports for the tests of stores and fleets; each is ended with its context."""

import http.server
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import suitepackages

READY_S = 30.0
S3_CREDENTIAL = "AWS4-HMAC-SHA256 Credential=tester/20260101/us-east-1/s3/aws4_request"
"""A header of authorization that the server takes: it checks no signature."""


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
def nats(folder: Path, *extra: str, port: int = 0) -> Iterator[Server]:
    """Run a NATS server with JetStream, whose data lie in a folder, on a port; 0: any that is free."""
    port = port or free_port()
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


@contextmanager
def s3() -> Iterator[Server]:
    """Run a server of S3's protocol, whose data lie in its memory."""
    port = free_port()
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running(words, port) as server:
        yield server


def s3_environment(server: Server) -> dict[str, str]:
    """Return the variables by which a client finds a server of S3's protocol."""
    return {
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{server.address}",
    }


def make_s3_bucket(server: Server, name: str) -> None:
    """Make a bucket."""
    request = urllib.request.Request(
        f"http://{server.address}/{name}", method="PUT", headers={"Authorization": S3_CREDENTIAL}
    )
    urllib.request.urlopen(request, timeout=READY_S).close()  # noqa: S310 - likewise


@contextmanager
def breaking_off(body: bytes, sent: int) -> Iterator[int]:
    """Run a server of HTTP that announces a body, and sends so many bytes of it; yield its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Last-Modified", "Mon, 30 Nov 2026 00:00:00 GMT")
            self.send_header("ETag", '"1"')
            self.end_headers()
            self.wfile.write(body[:sent])

        do_HEAD = do_GET  # noqa: N815 - the library looks for these names

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def registry(folder: Path, settings: str = "") -> Iterator[Server]:
    """Run an OCI registry, whose data lie in a folder; settings are lines of YAML."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "registry.yml"
    configuration.write_text(
        "version: 0.1\n"
        "log: {level: error}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'data'}}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n{settings}"
    )
    words = [*suitepackages.server("docker-registry"), "serve", str(configuration)]
    with running(words, port) as server:
        yield server


def a_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate of 127.0.0.1, signed by itself; return it and its key."""
    certificate, key = folder / "server.pem", folder / "server.key"
    subject = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*words, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    return certificate, key


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
