# SPDX-License-Identifier: Apache-2.0
"""Subjects and bytes of the messages between those who ask and relays."""

import msgpack
import pytest

from agent.errors import UsageError
from agent.fleet import messages


def test_a_host_with_dots_is_several_tokens_of_the_subject() -> None:
    """The verb stands before it, so that permissions may be by verb."""
    assert messages.subject(messages.ARM, "node1.example.com") == "ckptree.arm.node1.example.com"
    assert messages.subject(messages.RESTART, "a", "ops") == "ckptree.restart.ops.a"


@pytest.mark.parametrize("name", ["", "a..b", ".a", "*", "a.>", "a b", "a\nPUB x", "ü", "a" * 64, "a.b" * 90])
def test_a_host_that_could_be_another_subject_is_refused(name: str) -> None:
    """A wildcard would be all hosts."""
    with pytest.raises(UsageError, match="host"):
        messages.subject(messages.ARM, name)


@pytest.mark.parametrize("name", ["", "a.b", "*", ">"])
def test_a_requester_is_one_token(name: str) -> None:
    """Else the requester ops.a of host b were the requester ops of host a.b."""
    with pytest.raises(UsageError, match="requester"):
        messages.subject(messages.RESTART, "b", name)


@pytest.mark.parametrize("key", [None, 7, "", "a/b", "x" * 65, "a b", ["x"] * 100_000])
def test_an_id_is_a_short_text(key: object) -> None:
    """It goes into logs."""
    with pytest.raises(UsageError, match="id"):
        messages.checked_id(key)


def test_a_message_comes_back_as_it_was() -> None:
    """Bytes stay bytes."""
    assert messages.unpack(messages.pack({"data": b"\0", "n": 1})) == {"data": b"\0", "n": 1}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x81",
        msgpack.packb([1]),
        msgpack.packb({"x": [[]] * 2000}),
        b"\x91" * 5000,
        b"0" * (2 << 20),
        b"\x80\x80",
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    """It may be of any program."""
    with pytest.raises(messages.ProtocolError):
        messages.unpack(data)


@pytest.mark.parametrize(
    ("reply", "headers", "asked"),
    [
        ("_INBOX.ops.x.1", None, True),
        ("_INBOX.ops.x.1", {}, True),
        ("", None, False),
        ("$JS.ACK.kept.pushed.1.2.3.4.5", None, False),
        ("ckptree.restart.ops.node2", None, False),
        ("_INBOXES.x", None, False),
        ("_INBOX.ops.x.1", {"Nats-Stream": "OBJ_sets"}, False),
    ],
)
def test_a_request_has_an_inbox_and_no_headers(reply: str, headers: dict[str, str] | None, *, asked: bool) -> None:
    """The server publishes what is stored without the one, or with the other."""
    assert messages.is_asked(reply, headers) is asked


def test_an_answer_is_of_the_host_that_was_asked() -> None:
    """One of another host is none; one that does not say is refused."""
    answer: messages.Message = {"ok": True, "host": "a"}
    assert messages.unpack_answer(messages.pack(answer), "a") == answer
    assert messages.unpack_answer(messages.pack(answer), "b") is None
    for bad in ({"ok": True}, {"ok": True, "host": 5}, {"ok": True, "host": None}):
        with pytest.raises(messages.ProtocolError, match="of another version"):
            messages.unpack_answer(messages.pack(bad), "a")


@pytest.mark.parametrize("text", ["_INBOX", "_INBOX.snapshots", "_INBOX.relay.node1"])
def test_an_inbox_is_below_one_name(text: str) -> None:
    """As NATS' own clients have it."""
    assert messages.checked_inbox(text) == text


@pytest.mark.parametrize(
    "text", ["", "INBOX.a", "_INBOX.", "_INBOX.*", "_INBOX.>", "_INBOX.a b", "_INBOX.a..b", "ckptree"]
)
def test_what_is_no_inbox(text: str) -> None:
    """The message shows it."""
    with pytest.raises(UsageError, match="expected _INBOX"):
        messages.checked_inbox(text)
