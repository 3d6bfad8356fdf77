# SPDX-License-Identifier: Apache-2.0
"""A registry that means harm: see agent.fleet.stores.guardedhttp, and ocistore for what it answers."""

import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

import pytest
import requests

from agent.errors import FormatError
from agent.fleet.stores import guardedhttp
from agent.fleet.stores.ocistore import MEDIA_TYPE, OciStore
from agent.fleet.stores.store import StoreError

MOST: Final = guardedhttp._MOST_BYTES
Answer = Callable[[BaseHTTPRequestHandler], None]


class Registry(ThreadingHTTPServer):
    """A registry on this host whose answers are a test's.

    Attributes:
        answers: by the beginning of a path; the first that fits.
        sent: bytes of the bodies.
    """

    daemon_threads = True

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.sent = 0
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def host(self) -> str:
        """Address and port."""
        return f"127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Registry

    def do_GET(self) -> None:
        """Answer as the test says."""
        for path, answer in self.server.answers.items():
            if self.path.startswith(path):
                with suppress(ConnectionError):
                    answer(self)
                return
        body(b"{}")(self)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the library calls it
        """Say nothing."""


def body(data: bytes, status: int = 200, **headers: str) -> Answer:
    """Return an answer of some bytes."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in (headers | {"Content_Length": str(len(data))}).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def endless(status: int = 200, **headers: str) -> Answer:
    """Return an answer without an end, which stops where nobody reads any more, and at 64 times the bound."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        assert isinstance(handler.server, Registry)
        for _ in range(64 * MOST >> 16):
            handler.wfile.write(b"A" * (1 << 16))
            handler.server.sent += 1 << 16

    return answer


def bomb() -> bytes:
    """Return some kilobytes that are 64 times the bound."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(packer.compress(bytes(MOST)) for _ in range(64)) + packer.flush()


@pytest.fixture
def registry() -> Iterator[Registry]:
    """Run a registry."""
    with Registry() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def read(registry: Registry) -> None:
    """Read an image there."""
    with OciStore(f"{registry.host}/a/b") as store:
        store.get("t")


def test_what_answers_the_first_question_is_not_read(registry: Registry) -> None:
    """Its headers are all that is asked for."""
    registry.answers["/v2/"] = endless()
    with OciStore(f"{registry.host}/a/b"):
        assert registry.sent < 8 * MOST


@pytest.mark.parametrize(
    "answer",
    [endless(), endless(307, Location="/elsewhere"), body(bomb(), Content_Encoding="gzip")],
    ids=["endless", "endless redirect", "bomb"],
)
def test_of_an_answer_that_should_be_short_a_bounded_part_is_read(registry: Registry, answer: Answer) -> None:
    """A token, say; the size counts that it has after decompression."""
    registry.answers |= {"/token": answer, "/elsewhere": body(b"{}")}
    realm = f'Bearer realm="http://{registry.host}/token",service="s"'
    registry.answers |= {"/v2/a/b/manifests": body(b"", 401, WWW_Authenticate=realm)}

    with pytest.raises(StoreError, match=r"an answer has more than 4 MiB where a short one was due"):
        read(registry)
    assert registry.sent < 8 * MOST


def test_a_session_leaves_this_host_with_tls_alone(registry: Registry) -> None:
    """A redirect of a registry with TLS leads nowhere without it; one of this host leads to this host at most."""
    registry.answers |= {
        "/v2/a/b/manifests": body(b"", 307, Location="http://registry.example/secret"),
        "/here": body(b"", 307, Location=f"http://{registry.host}/there"),
    }
    with pytest.raises(StoreError, match=r"oci://.*/a/b: it leads to 'registry.example' without TLS, which is refused"):
        read(registry)
    with requests.Session() as session:
        guardedhttp.guard(session, "oci://x", local=True)
        assert session.get(f"http://{registry.host}/here", timeout=10).json() == {}
    with requests.Session() as session:
        guardedhttp.guard(session, "oci://x", local=False)
        with pytest.raises(StoreError, match="without TLS"):
            session.get(f"http://{registry.host}/there", timeout=10)


@pytest.mark.parametrize("host", ["127.0.0.1.example.com", "localhost.example", "[::1]x", "10.0.0.1", "localhost:1@h"])
def test_a_name_that_begins_like_this_host_is_another(host: str) -> None:
    """An address of 127 has digits and dots alone."""
    assert not guardedhttp.is_local(host)


@pytest.mark.parametrize(
    "manifest",
    [
        b"[" * 200_000,
        b'{"layers": [{"mediaType": "%s", "size": Infinity, "digest": "sha256:%s"}]}'
        % (MEDIA_TYPE.encode(), b"0" * 64),
        b'{"layers": [{"mediaType": "%s", "size": 1e999, "digest": "sha256:%s"}]}' % (MEDIA_TYPE.encode(), b"0" * 64),
        b'{"layers": 5}',
        b"\xff",
    ],
    ids=["deep", "infinite", "overflow", "number", "no text"],
)
def test_a_manifest_of_another_kind_is_no_image(registry: Registry, manifest: bytes) -> None:
    """However it is made."""
    registry.answers["/v2/a/b/manifests"] = body(manifest)
    with pytest.raises(FormatError, match="is no image of ckptree"):
        read(registry)
