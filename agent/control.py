# SPDX-License-Identifier: Apache-2.0
"""What daemon and client say to each other, as bytes. No socket here.

Grammar::

    stream   := message*
    message  := u32 length (big endian), msgpack map of that length
    request  := {"verb": "snapshot" | "status", ...arguments}
    answer   := {"ok": true, ...results} | {"ok": false, "error": text, "exit_code": n, "leaks": [text]}

A connection carries any number of requests, one after the other, each answered before the next is read.
"""

import struct
from typing import Any

import msgpack

from agent.errors import CkptreeError, HostError, NoDaemonError, NoSuchRootError, RefusedError, UsageError

MAX_REQUEST = 1 << 16
MAX_ANSWER = 1 << 30
_LENGTH = struct.Struct(">I")

Message = dict[str, Any]


class ProtocolError(CkptreeError):
    """The other side does not speak this protocol."""


def encode(message: Message) -> bytes:
    """One message as bytes."""
    payload: bytes = msgpack.packb(message)
    return _LENGTH.pack(len(payload)) + payload


class Decoder:
    """Bytes in, messages out.

    Args:
        limit: longest message accepted, bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Take more bytes; returns the messages they complete.

        Raises:
            ProtocolError: this is not the protocol.
        """
        buffer = self._buffer
        buffer += data
        messages: list[Message] = []
        while len(buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer)
            if length > self._limit:
                raise ProtocolError(f"a message of {length} bytes: this is no ckptree talking, or of another version")
            if len(buffer) < _LENGTH.size + length:
                break
            payload = bytes(buffer[_LENGTH.size : _LENGTH.size + length])
            del buffer[: _LENGTH.size + length]
            try:
                message = msgpack.unpackb(payload)
            except Exception as error:
                raise ProtocolError(f"a message that is no msgpack: {error}") from error
            if not isinstance(message, dict):
                raise ProtocolError("a message that is no map")
            messages.append(message)
        return messages


def failure(error: CkptreeError) -> Message:
    """An error as an answer."""
    leaks = list(error.leaks) if isinstance(error, RefusedError) else []
    return {"ok": False, "error": str(error), "exit_code": error.exit_code, "leaks": leaks}


def raise_failure(answer: Message) -> None:
    """The error that an answer tells of, raised here as it was there.

    Raises:
        CkptreeError: of the class with that exit code.
    """
    if answer.get("ok"):
        return
    text, code = str(answer.get("error")), answer.get("exit_code")
    if code == RefusedError.exit_code:
        raise RefusedError(text, answer.get("leaks") or ())
    classes = {kind.exit_code: kind for kind in (UsageError, NoDaemonError, NoSuchRootError, HostError)}
    raise classes.get(code or 1, CkptreeError)(text)
