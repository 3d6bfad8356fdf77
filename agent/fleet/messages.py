# SPDX-License-Identifier: Apache-2.0
"""The messages between requesters and relays, as bytes, without a network.

    subject  := "ckptree." verb "." host                       what a relay listens to
              | "ckptree." ("restart" | "dump") "." requester "." host
    request  := msgpack map                                    at most 1 MiB, and 1000 lists and maps
    answer   := {"ok": true, "host": host, ...results}         as agent.protocol.codec has it
              | {"ok": false, "host": host, ...}
    reply    := inbox "." token                                a subject for one answer, which nobody can guess
    inbox    := "_INBOX" ["." token]*                          of the requester

A host's name may have dots; each part of it is a token of the subject. The permissions of NATS are by subject, so that a
user of NATS may be let ask for presence and snapshots of some hosts alone. The requester of a restart or of contents is
a token for the same reason: the server lets nobody else publish there.

But the server itself publishes answers of JetStream to any subject that a user names as the reply, whatever the user may
publish: a stored message, or JSON. A stored message comes with headers, without a reply, or with one below ``$JS.ACK``. So
what has headers, or no reply below ``_INBOX``, is no request (`is_asked`), and what has headers is no answer. A relay, too,
answers to any inbox that a request names: the answer says from which host it is.
"""

import re
from collections.abc import Mapping
from typing import Final

from agent.errors import UsageError
from agent.protocol import codec
from agent.protocol.codec import Message, ProtocolError, failure, raise_failure

__all__ = ["Message", "ProtocolError", "failure", "raise_failure"]

PREFIX: Final = "ckptree"
SERVICE: Final = "ckptree-relay"
"""The name of relays among the micro services of NATS."""
HELLO, ARM, CUT, IMAGE, DISARM, TAKEN, RESTART = "hello", "arm", "cut", "image", "disarm", "taken", "restart"
DUMP: Final = "dump"
"""A cut that takes the contents of the programs, too."""
EVENTS: Final = "events"
MOST_EVENTS: Final = 200
"""Events in an answer, so that it stays within the bounds of a message."""
_OF_REQUESTERS: Final = (RESTART, DUMP)
MAX_REQUEST: Final = 1 << 20
"""Bytes; the default of NATS for the payload of a message."""
MAX_PARTS: Final = 1000
PIECE: Final = 256 << 10
"""Bytes of an image in one message."""
MOST_NUMBERS: Final = 10_000
"""Pids in one question whether they are taken."""
MOST_INLINE: Final = 8 << 10
"""Bytes of an image that is part of the answer to a cut. A thousand answers come at once, and the server of NATS
disconnects a client for whom it has more than 64 MB."""

INBOX: Final = "_INBOX"
"""The beginning of the subjects of answers."""

_MAX_HOST: Final = 253
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,63}", re.ASCII)
_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)


def checked_host(name: str) -> str:
    """Return the name of a host, if it can be part of a subject.

    Raises:
        UsageError: it has other characters than letters, digits, dashes and underscores between its dots, or is too
            long.
    """
    if len(name) > _MAX_HOST or not all(map(_TOKEN.fullmatch, name.split("."))):
        raise UsageError(
            f"host {name[:60]!r}: expected letters, digits, - and _, with dots between the parts, as of a host's name"
        )
    return name


def checked_requester(name: str) -> str:
    """Return the name of a requester of restarts, or of contents.

    Raises:
        UsageError: it is no token of letters, digits, dashes and underscores.
    """
    if not _TOKEN.fullmatch(name):
        raise UsageError(f"requester {name[:60]!r}: expected letters, digits, - and _")
    return name


def checked_id(text: object) -> str:
    """Return the id of a set or restart.

    Raises:
        UsageError: it is no text of letters, digits, dots, dashes and underscores, or is longer than 64.
    """
    if not isinstance(text, str) or not _ID.fullmatch(text):
        raise UsageError(f"id {str(text)[:60]!r}: expected at most 64 letters, digits, dots, - and _")
    return text


def subject(verb: str, host: str, requester: str = "") -> str:
    """Return the subject of a request to a host's relay.

    Args:
        verb: one of this module's.
        host: its name.
        requester: of a restart or a dump; no other verb has one.
    """
    names = [PREFIX, verb, *([checked_requester(requester)] if verb in _OF_REQUESTERS else []), checked_host(host)]
    return ".".join(names)


def checked_inbox(text: str) -> str:
    """Return the inbox of a user.

    Raises:
        UsageError: it is no subject below ``_INBOX``.
    """
    first, *rest = text.split(".")
    if first != INBOX or not all(map(_TOKEN.fullmatch, rest)):
        raise UsageError(f"inbox {text[:60]!r}: expected {INBOX}, or {INBOX}.NAME, of letters, digits, - and _")
    return text


def is_asked(reply: str, headers: Mapping[str, str] | None) -> bool:
    """Return True if a message can be a question of a requester; False: the server has sent it for somebody.

    Args:
        reply: the subject for the answer; empty: there is none.
        headers: of the message.
    """
    return reply.startswith(f"{INBOX}.") and not headers


def unpack_answer(data: bytes, host: str) -> Message | None:
    """Read an answer.

    Args:
        data: its bytes.
        host: the one that was asked.

    Returns:
        The answer, which may be a failure; None: it is another host's.

    Raises:
        ProtocolError: the bytes are no answer, or do not say whose.
    """
    answer = unpack(data)
    by = answer.get("host")
    if not isinstance(by, str):
        raise ProtocolError("the answer of its relay has no host: it is of another version")
    return answer if by == host else None


def pack(message: Message) -> bytes:
    """Return a message as bytes."""
    return codec.pack(message)


def unpack(data: bytes, limit: int = MAX_REQUEST) -> Message:
    """Read a message.

    Raises:
        ProtocolError: the bytes are no message, or are too many.
    """
    decoder = codec.Decoder(limit, MAX_PARTS)
    (message,) = decoder.feed(codec.head(data) + data)
    return message
