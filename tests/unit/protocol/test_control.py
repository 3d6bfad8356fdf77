# SPDX-License-Identifier: Apache-2.0
"""The protocol between daemon and client: its bytes, and the client's handling of failures."""

import contextlib
import os
import socket
import threading
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import (
    BusyError,
    CkptreeError,
    FormatError,
    HostError,
    NoDaemonError,
    NoSuchRootError,
    NotPermittedError,
    RefusedError,
    UsageError,
    VersionError,
)
from agent.protocol import codec
from agent.protocol.client import Client
from tests.support.fakedaemon import a_server, answering
from tests.support.hellos import HELLO

_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
_messages = st.lists(st.dictionaries(st.text(max_size=4), _values, max_size=3), max_size=4)


@given(
    st.dictionaries(st.text(max_size=4), _values | st.sampled_from([b"", b"x" * 0xFFFF, b"y" * 0x10000, b"z" * 10**6]))
)
def test_a_message_with_long_values_is_packed_as_any_other(message: codec.Message) -> None:
    """Values are copied past the packer from a length on."""
    assert codec.pack(message) == msgpack.packb(message)


@given(_messages, st.lists(st.integers(1, 40), min_size=1))
def test_messages_arrive_as_sent_however_the_stream_is_cut(messages: list[codec.Message], cuts: list[int]) -> None:
    """A socket delivers bytes in pieces of any size."""
    stream = b"".join(map(codec.encode, messages))
    decoder = codec.Decoder(codec.MAX_REQUEST)
    received, at, turn = [], 0, 0
    while at < len(stream):
        size = cuts[turn % len(cuts)]
        received += decoder.feed(stream[at : at + size])
        at, turn = at + size, turn + 1

    assert received == messages


@pytest.mark.parametrize(
    ("stream", "complaint"),
    [
        (b"GET / HTTP/1.1\r\n", "a message of 1195725856 bytes"),
        ((codec.MAX_REQUEST + 1).to_bytes(4, "big"), f"a message of {codec.MAX_REQUEST + 1} bytes"),
        (b"\0\0\0\1\xc1", "no msgpack"),
        (b"\0\0\0\0", "no msgpack"),
        (b"\0\0\0\2\x01\x02", "no msgpack"),
        (b"\0\0\0\1\x07", "no map"),
        (b"\0\0\0\1\x90", "no map"),
    ],
)
def test_what_is_not_the_protocol_is_called_that(stream: bytes, complaint: str) -> None:
    """The error ends the connection and not the daemon; a length counts only up to the limit."""
    with pytest.raises(codec.ProtocolError, match=complaint):
        codec.Decoder(codec.MAX_REQUEST).feed(stream)


@pytest.mark.parametrize("part", [[], {}])
def test_a_request_of_many_parts_is_refused_before_they_are_all_made(part: object) -> None:
    """A byte makes an empty list of seventy bytes: a small request would take megabytes in the daemon."""
    few, many = ({"verb": "status", "x": [part] * count} for count in (codec.MAX_PARTS - 2, codec.MAX_PARTS))

    assert codec.Decoder(codec.MAX_REQUEST, codec.MAX_PARTS).feed(codec.encode(few)) == [few]
    assert codec.Decoder(codec.MAX_REQUEST).feed(codec.encode(many)) == [many]
    with pytest.raises(codec.ProtocolError, match="more than 1000 lists and maps"):
        codec.Decoder(codec.MAX_REQUEST, codec.MAX_PARTS).feed(codec.encode(many))


@pytest.mark.parametrize(
    "kind",
    [
        *(CkptreeError, UsageError, NoDaemonError, NoSuchRootError, HostError),
        *(NotPermittedError, BusyError, VersionError),
    ],
)
def test_an_error_crosses_the_socket_as_the_error_it_is(kind: type[CkptreeError]) -> None:
    """Class, exit code and text are the same."""
    (answer,) = codec.Decoder(codec.MAX_ANSWER).feed(codec.encode(codec.failure(kind("it is so"))))

    with pytest.raises(CkptreeError, match=r"^it is so$") as caught:
        codec.raise_failure(answer)
    assert type(caught.value) is kind


def test_a_refusal_brings_its_leaks() -> None:
    """The user gets them line by line."""
    (answer,) = codec.Decoder(codec.MAX_ANSWER).feed(codec.encode(codec.failure(RefusedError("no", ["a", "b"]))))

    with pytest.raises(RefusedError, match=r"^no$") as caught:
        codec.raise_failure(answer)
    assert caught.value.leaks == ("a", "b")


def test_an_error_of_a_kind_the_client_has_not_still_fails() -> None:
    """It may come from a newer daemon, or be of a kind that only files have."""
    for answer in (codec.failure(FormatError("file", "bad")), {"ok": False}, {}):
        with pytest.raises(CkptreeError):
            codec.raise_failure(answer)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"exit_code": [1]}, CkptreeError),
        ({"exit_code": None, "kind": ["usage"]}, CkptreeError),
        ({"exit_code": 7, "leaks": 5}, RefusedError),
        ({"exit_code": 7, "leaks": [5, "a"]}, RefusedError),
        ({"exit_code": 2, "kind": {}}, UsageError),
        ({"error": [[["deep"]]]}, CkptreeError),
        ({"error": None}, CkptreeError),
    ],
)
def test_an_error_whose_parts_are_of_other_types_is_one(change: dict[str, object], kind: type[CkptreeError]) -> None:
    """A peer that may answer for a relay may answer anything."""
    with pytest.raises(kind) as caught:
        codec.raise_failure({"ok": False, "error": "x", "kind": "x", "exit_code": 1, "leaks": []} | change)
    assert str(caught.value) in ("x", "an error without words")
    assert getattr(caught.value, "leaks", ()) in ((), ("a",))


def test_success_raises_nothing() -> None:
    """A successful answer is left to the caller."""
    codec.raise_failure({"ok": True, "exit_code": 7})


@pytest.mark.parametrize(
    ("theirs", "ours", "common"),
    [(None, (1, 1), 1), ([1, 1], (1, 1), 1), ([1, 9], (1, 3), 3), ([2, 3], (1, 2), 2), (None, (1, 3), 1)],
)
def test_the_newest_version_that_both_speak_is_spoken(theirs: object, ours: tuple[int, int], common: int) -> None:
    """A side without versions means the first."""
    assert codec.common_version(theirs, ours) == common


@pytest.mark.parametrize(
    ("theirs", "ours", "who"),
    [([2, 3], (1, 1), "daemon"), ([1, 1], (2, 3), "client"), (None, (2, 2), "client"), ([3, 2], (1, 3), "daemon")],
)
def test_versions_that_do_not_meet_are_named_with_the_remedy(theirs: object, ours: tuple[int, int], who: str) -> None:
    """The message depends on the older side."""
    with pytest.raises(VersionError, match=f"no common version of the protocol: .* The {who} is the older one"):
        codec.common_version(theirs, ours)


@pytest.mark.parametrize("theirs", [1, [], [1], [1, 2, 3], ["1", "2"], [True, True], {}, "12", [1.0, 2.0]])
def test_what_is_no_range_of_versions_is_a_usage_error(theirs: object) -> None:
    """It does not raise another exception."""
    with pytest.raises(UsageError, match=r"expected \[oldest, newest\]"):
        codec.common_version(theirs)


def test_a_client_asks_many_times_over_one_connection(tmp_path: Path) -> None:
    """Each request has its answer before the next is sent."""
    path = tmp_path / "socket"
    with a_server(path, answering({"ok": True, "n": 1}, {"ok": True, "n": 2})), Client(path, 5) as client:
        assert [client.status(), client.status()] == [{"n": 1}, {"n": 2}]


def test_a_daemon_that_hangs_up_is_no_daemon(tmp_path: Path) -> None:
    """The exit code is 3, and the message names the socket."""
    path = tmp_path / "socket"
    with (
        a_server(path, lambda connection: connection.recv(4)),
        Client(path, 5) as client,
        pytest.raises(NoDaemonError, match=f"{path} went away"),
    ):
        client.status()


def test_a_daemon_that_hangs_up_in_the_middle_of_an_answer_is_no_daemon(tmp_path: Path) -> None:
    """Half an answer counts as none."""
    path = tmp_path / "socket"

    def serve(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(codec.encode({"ok": True, "data": b"x" * 100})[:50])

    with (
        a_server(path, serve),
        Client(path, 5) as client,
        pytest.raises(NoDaemonError, match="went away before it answered"),
    ):
        client.snapshot("1")


def test_a_daemon_that_is_silent_is_given_up_after_the_timeout(tmp_path: Path) -> None:
    """The message names the option that sets the timeout."""
    path, done = tmp_path / "socket", threading.Event()
    with a_server(path, lambda _: done.wait(10)):
        with Client(path, 0.05) as client, pytest.raises(NoDaemonError, match=r"within 0\.05 s: it is stopped"):
            client.status()
        done.set()


def test_an_answer_that_comes_too_late_is_nobodys(tmp_path: Path) -> None:
    """A request after a timeout uses a new connection, on which no old answer can arrive."""
    path, late = tmp_path / "socket", threading.Event()

    def first(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(codec.encode(HELLO))
        connection.recv(1 << 16)
        late.wait(10)
        with contextlib.suppress(OSError):
            connection.sendall(codec.encode({"ok": True, "n": "late"}))

    with a_server(path, first, answering({"ok": True, "n": "in time"})), Client(path, 0.1) as client:
        with pytest.raises(NoDaemonError, match="did not answer within"):
            client.status()
        late.set()
        again = client.status()

    assert again == {"n": "in time"}


def test_whoever_finds_nobody_any_more_may_ask_again_later(tmp_path: Path) -> None:
    """During a restart of the daemon no process listens for a while."""
    path = tmp_path / "socket"
    with a_server(path, answering({"ok": True, "n": 1})):
        client = Client(path, 5)
        assert client.status() == {"n": 1}
    for _ in range(2):
        with pytest.raises(NoDaemonError, match="start one with"):
            client.status()
    path.unlink()
    with client, a_server(path, answering({"ok": True, "n": 2})):
        assert client.status() == {"n": 2}


def test_an_answer_of_another_version_is_called_that(tmp_path: Path) -> None:
    """The user sees no KeyError."""
    path = tmp_path / "socket"
    with (
        a_server(path, answering({"ok": True, "data": b""})),
        Client(path, 5) as client,
        pytest.raises(CkptreeError, match="'complete': it is of another version"),
    ):
        client.snapshot("1")


def test_a_daemon_from_before_there_was_a_hello_is_called_older(tmp_path: Path) -> None:
    """The message has the remedy."""
    path = tmp_path / "socket"

    def serve(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        text = "verb 'hello': expected one of snapshot, status"
        connection.sendall(codec.encode({"ok": False, "error": text, "exit_code": 2, "leaks": []}))

    with (
        a_server(path, serve),
        Client(path, 5) as client,
        pytest.raises(VersionError, match="older than this client"),
    ):
        client.status()


def test_a_daemon_that_speaks_a_newer_version_alone_is_told_apart(tmp_path: Path) -> None:
    """The daemon says so itself, or answers all the same."""
    path = tmp_path / "socket"
    with (
        a_server(path, lambda connection: connection.sendall(codec.encode(HELLO | {"protocol": 2}))),
        Client(path, 5) as client,
        pytest.raises(VersionError, match="the client 2"),
    ):
        client.status()


def test_who_is_not_a_daemon_is_found_out(tmp_path: Path) -> None:
    """The socket may be another program's, by mistake."""
    path = tmp_path / "socket"
    with (
        a_server(path, lambda connection: connection.sendall(b"220 mail.example ESMTP\r\n")),
        Client(path, 5) as client,
        pytest.raises(CkptreeError),
    ):
        client.status()


def test_nobody_there_is_told_with_the_remedy(tmp_path: Path) -> None:
    """The file may be missing, or may have no listener."""
    dead = tmp_path / "dead"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(os.fspath(dead))
    for path in (tmp_path / "none", dead):
        with pytest.raises(NoDaemonError, match=f"start one with `ckptree daemon --socket {path}`"):
            Client(path)


def test_a_request_is_a_length_and_a_map() -> None:
    """Clients in other languages need every byte."""
    assert codec.encode({"verb": "status"}) == b"\0\0\0\x0d" + msgpack.packb({"verb": "status"})
