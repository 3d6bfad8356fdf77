# SPDX-License-Identifier: Apache-2.0
"""The protocol of daemon and client as bytes, without sockets.

Grammar::

    stream   := message*
    message  := u32 length (big endian), msgpack map of that length
    request  := {"verb": "hello" | "snapshot" | "subscribe" | "strings" | "status" | "metrics", ...arguments}
    answer   := {"ok": true, ...results}
              | {"ok": false, "error": text, "kind": name, "exit_code": n, "leaks": [text]}
    events   := {"events": [event*], "next": order}

A connection carries any number of requests, one after the other, each answered before the next is read. An answer to
``subscribe`` is the last one: `events` follow until either side closes, and the client sends nothing more.

Versions
--------
``hello`` names the protocol versions that the client speaks, as ``"protocols": [oldest, newest]``; the daemon answers
with the newest that both speak, as ``"protocol"``, or with an error of kind ``version`` that names both ranges. A
client without a hello counts as one of version 1. Within a version verbs, arguments and keys of answers may be added,
never taken away. A daemon ignores arguments that it does not know, and its hello names its abilities in ``"features"``.

docs/protocol.md has every argument and every result of each verb.
"""

import itertools
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgpack

from agent.errors import (
    BusyError,
    CkptreeError,
    HostError,
    NoDaemonError,
    NoSuchRootError,
    NoSuchTimeError,
    NotPermittedError,
    RefusedError,
    UsageError,
    VersionError,
)

if TYPE_CHECKING:
    from agent.model import Snapshot

PROTOCOLS = (1, 1)
"""Oldest and newest version that this program speaks."""

VERBS = ("snapshot", "hello", "subscribe", "strings", "status", "metrics", "events", "history")

MAX_REQUEST = 1 << 16
MAX_PARTS = 1000  # lists and maps in a request
MAX_ANSWER = 1 << 30
_LONG_BYTES = 0xFFFF  # msgpack has longer ones as "bin 32"
_BIN_32, _BIN_32_TYPE = struct.Struct(">BI"), 0xC6
_LENGTH = struct.Struct(">I")
LENGTH_BYTES = _LENGTH.size

Message = dict[str, Any]


class ProtocolError(CkptreeError):
    """A message that does not follow this protocol."""


_KINDS: tuple[tuple[type[CkptreeError], str], ...] = (
    (NotPermittedError, "not-permitted"),
    (BusyError, "busy"),
    (VersionError, "version"),
    (ProtocolError, "protocol"),
    (UsageError, "usage"),
    (NoDaemonError, "no-daemon"),
    (NoSuchRootError, "no-such-root"),
    (NoSuchTimeError, "no-such-time"),
    (HostError, "host"),
    (RefusedError, "refused"),
)


def pack(message: Message) -> bytes:
    """Return the packed map of a message.

    A long value, as an image is, goes into the result without a copy between: the packer's own buffer grows step by
    step, which takes as long as to walk over hundreds of tasks.
    """
    long = [key for key, value in message.items() if type(value) is bytes and len(value) > _LONG_BYTES]
    if not long:
        packed: bytes = msgpack.packb(message)
        return packed
    packer = msgpack.Packer(autoreset=False)
    packer.pack_map_header(len(message))
    parts: list[bytes] = []
    for key, value in message.items():
        packer.pack(key)
        if key in long:
            parts += (packer.bytes(), _BIN_32.pack(_BIN_32_TYPE, len(value)), value)
            packer.reset()
        else:
            packer.pack(value)
    return b"".join([*parts, packer.bytes()])


def head(*payload: bytes) -> bytes:
    """Return the length that stands before a packed map, which is the sum of these pieces."""
    return length(sum(map(len, payload)))


def length(size: int) -> bytes:
    """Return the length that stands before a packed map of so many bytes."""
    return _LENGTH.pack(size)


def encode(message: Message) -> bytes:
    """Return a message as bytes."""
    payload = pack(message)
    return head(payload) + payload


class Decoder:
    """A decoder of messages from a stream of bytes.

    Args:
        limit: longest message accepted, bytes.
        most: lists and maps in one message, at most; None: any number. A byte makes an empty one, which takes seventy.
    """

    def __init__(self, limit: int, most: int | None = None) -> None:
        self._limit = limit
        self._most = most
        self._buffer = bytearray()

    @property
    def waiting(self) -> int:
        """Count of bytes that are not part of a returned message yet."""
        return len(self._buffer)

    def push(self, data: bytes | memoryview) -> None:
        """Take more bytes."""
        self._buffer += data

    @property
    def complete(self) -> bool:
        """True where `pop` will return a message or raise."""
        if len(self._buffer) < _LENGTH.size:
            return False
        length = int(_LENGTH.unpack_from(self._buffer)[0])
        return length > self._limit or len(self._buffer) >= _LENGTH.size + length

    def pop(self) -> Message | None:
        """Return the next message; None where it is not complete yet.

        Raises:
            ProtocolError: the bytes do not follow the protocol.
        """
        buffer = self._buffer
        if len(buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(buffer)
        if length > self._limit:
            raise ProtocolError(f"a message of {length} bytes: this is no ckptree talking, or of another version")
        if len(buffer) < _LENGTH.size + length:
            return None
        payload = bytes(buffer[_LENGTH.size : _LENGTH.size + length])
        del buffer[: _LENGTH.size + length]
        try:
            message = msgpack.unpackb(payload) if self._most is None else _counted(payload, self._most)
        except ProtocolError:
            raise
        except Exception as error:
            raise ProtocolError(f"a message that is no msgpack: {error}") from error
        if not isinstance(message, dict):
            raise ProtocolError("a message that is no map")
        return message

    def feed(self, data: bytes) -> list[Message]:
        """Take more bytes; return the messages that they complete.

        Raises:
            ProtocolError: the bytes do not follow the protocol.
        """
        self.push(data)
        messages: list[Message] = []
        while (message := self.pop()) is not None:
            messages.append(message)
        return messages


def _counted(payload: bytes, most: int) -> Any:
    """Unpack so many lists and maps at most.

    Raises:
        ProtocolError: there are more.
    """
    count = itertools.count(1)

    def note(made: Any) -> Any:
        if next(count) > most:
            raise ProtocolError(f"a message of more than {most} lists and maps")
        return made

    return msgpack.unpackb(payload, list_hook=note, object_hook=note)


def common_version(theirs: object, ours: tuple[int, int] = PROTOCOLS) -> int:
    """Return the newest version that both sides speak.

    Args:
        theirs: oldest and newest, as a hello has them; None: the hello has none, which means version 1.
        ours: oldest and newest version of this program.

    Raises:
        UsageError: `theirs` is no range.
        VersionError: there is no common version.
    """
    if theirs is None:
        theirs = (1, 1)
    if not isinstance(theirs, (list, tuple)) or len(theirs) != 2 or not all(type(each) is int for each in theirs):
        raise UsageError(f"protocols {_shown(theirs)}: expected [oldest, newest]")
    oldest, newest = int(theirs[0]), int(theirs[1])
    common = min(newest, ours[1])
    if common < max(oldest, ours[0]):
        older = "client" if newest < ours[0] else "daemon"
        raise VersionError(
            f"no common version of the protocol: the daemon speaks {_range(ours)}, the client {_range((oldest, newest))}. "
            f"The {older} is the older one: update it"
        )
    return common


def _range(versions: Sequence[int]) -> str:
    return f"{versions[0]}" if versions[0] == versions[1] else f"{versions[0]} to {versions[1]}"


def _shown(value: object) -> str:
    if not isinstance(value, (str, bytes, int, float, type(None))):
        return f"a {type(value).__name__}"  # it may be nested too deep for repr()
    text = ascii(value[:60] if isinstance(value, (str, bytes)) else value)
    return text if len(text) < 60 else text[:60] + "..."


def choice(request: Message, key: str, allowed: Sequence[str]) -> str:
    """Return an argument that must be one of a few values; the first one is the default.

    Raises:
        UsageError: the argument has another value.
    """
    value = request.get(key, allowed[0])
    if value not in allowed:
        raise UsageError(f"{key} {_shown(value)}: expected one of {', '.join(allowed)}")
    return str(value)


def verb(request: Message) -> str:
    """Return the verb of a request, ``other`` for an unknown one, and the first of VERBS where there is none."""
    value = request.get("verb", VERBS[0])
    return value if value in VERBS else "other"


def root_text(request: Message) -> str:
    """Return the argument ``root``, as text.

    Raises:
        UsageError: the argument is missing, or neither text nor number.
    """
    value = request.get("root")
    if not isinstance(value, str) and type(value) is not int:
        raise UsageError(f"root {_shown(value)}: expected a pid, or the text pidns:INUM")
    return str(value)


MAX_ROOTS = 256


def root_texts(request: Message) -> list[str]:
    """Return the roots of a subscription, from ``roots`` or ``root``, as texts; none: all tasks.

    Raises:
        UsageError: ``roots`` is no list of at most MAX_ROOTS roots; or both arguments are given.
    """
    roots = request.get("roots")
    if roots is None:
        return [root_text(request)] if request.get("root") is not None else []
    if request.get("root") is not None or not isinstance(roots, (list, tuple)) or not 0 < len(roots) <= MAX_ROOTS:
        raise UsageError(f"roots: expected a list of at most {MAX_ROOTS}, and no root beside it")
    return [root_text({"root": root}) for root in roots]


def shown_area(request: Message, key: str) -> tuple[bytes | None, int]:
    """Return an argument of ``strings``: the first bytes of an area, and its size; None and 0 where it is missing.

    Raises:
        UsageError: the argument is no such pair.
    """
    value = request.get(key)
    if value is None:
        return None, 0
    if (
        not isinstance(value, (list, tuple))
        or len(value) != 2
        or not isinstance(value[0], bytes)
        or type(value[1]) is not int
    ):
        raise UsageError(f"{key}: expected the first bytes of it, and the size of all of it")
    return value[0], value[1]


def about(snapshot: "Snapshot") -> Message:
    """Return what an answer tells of a snapshot beside its bytes."""
    completeness = snapshot.completeness
    return {
        "complete": completeness.complete,
        "reasons": list(completeness.reasons),
        "verified": completeness.verified,
        "squashed": list(snapshot.squashed),
        "entered": list(snapshot.entered),
        "tasks": len(snapshot.tasks),
        "kernel_threads_left_out": completeness.kernel_threads_left_out,
    }


def failure(error: CkptreeError) -> Message:
    """Return an error as an answer."""
    leaks = list(error.leaks) if isinstance(error, RefusedError) else []
    name = next((name for kind, name in _KINDS if isinstance(error, kind)), "failed")
    return {"ok": False, "error": str(error), "kind": name, "exit_code": error.exit_code, "leaks": leaks}


def raise_failure(answer: Message) -> None:
    """Raise the error of an answer; return where it has none.

    Raises:
        CkptreeError: of the class that the answer names, else of the one with its exit code.
    """
    if answer.get("ok"):
        return
    said, code, leaks, kind = (answer.get(key) for key in ("error", "exit_code", "leaks", "kind"))
    text = said if isinstance(said, str) else "an error without words"
    if code == RefusedError.exit_code:
        raise RefusedError(text, [each for each in leaks if isinstance(each, str)] if isinstance(leaks, list) else ())
    classes = [named for named, name in _KINDS if name == kind and named.exit_code == code]
    classes += [each for each in (UsageError, NoDaemonError, NoSuchRootError, HostError) if each.exit_code == code]
    raise [*classes, CkptreeError][0](text)
