# SPDX-License-Identifier: Apache-2.0
"""The messages in which a host's recording goes to its stand-bys, as bytes, without a network.

    stream   := "CKPTREE_" host, with = in the place of dots           of JetStream
    subject  := "ckptree.tape." host                                   pieces, kept in the stream
              | "ckptree.pulse." host                                  kept nowhere: once a second, and empty after pieces
              | "ckptree.held." host                                   a question to its stand-bys, for what they have
    piece    := {"segment": 16 bytes, "offset": n, "data": bytes}      agent.recorder.foldertail
    pulse    := {"at_ns": n, "segment": 16 bytes, "size": n, "next": n | nil,
                 "ends": true}                                         "ends" in the last one, where the relay ends in order

An empty message says that there are new pieces in the stream. A pulse says how far the recording is: the newest segment
that is published, with its size, and the number of the daemon's next record, nil where the daemon does not answer. `at_ns`
is CLOCK_REALTIME of the host. The id of a piece's message (``Nats-Msg-Id``) is its segment and its offset, so that the
server drops one that is sent twice.
"""

from collections.abc import Mapping
from typing import Final

from agent.fleet import messages
from agent.fleet.messages import Message, ProtocolError
from agent.record import NamedTuple
from agent.recorder.foldertail import PIECE, CopyPlace, Piece

TAPE: Final = "tape"
PULSE: Final = "pulse"
HELD: Final = "held"
STANDBY: Final = "ckptree-standby"
"""The name of stand-bys among the micro services of NATS."""
_MARK: Final = "Nats-Stream"
"""A header that the server puts on what it publishes from a stream, for whoever has it do so."""
_IDENTITY: Final = 16
_MOST: Final = 2**64


class Pulse(NamedTuple):
    """The state of a recording, as its host tells it.

    Attributes:
        at_ns: CLOCK_REALTIME of the host, ns.
        end: of what is published.
        next: number of the daemon's next record; None: the daemon does not answer.
        ends: True: the relay ends in order, and this is its last word.
    """

    at_ns: int
    end: CopyPlace
    next: int | None
    ends: bool = False


def stream_of(host: str) -> str:
    """Return the name of a host's stream."""
    return "CKPTREE_" + messages.checked_host(host).replace(".", "=")


def subject_of(kind: str, host: str) -> str:
    """Return a subject of a host.

    Args:
        kind: `TAPE` or `PULSE`.
        host: its name.
    """
    return messages.subject(kind, host)


def pack_piece(piece: Piece) -> bytes:
    """Return a piece as bytes."""
    return messages.pack(piece._asdict())


def is_published(headers: Mapping[str, str] | None) -> bool:
    """Return True if a client has published a message, and not the server for somebody.

    Args:
        headers: of the message, as the stream has it.
    """
    return _MARK not in (headers or {})


def id_of(piece: Piece) -> str:
    """Return the id of a piece's message."""
    return f"{piece.segment.hex()}-{piece.offset}"


def unpack_piece(data: bytes) -> Piece:
    """Read a piece.

    Raises:
        ProtocolError: it is none.
    """
    said = messages.unpack(data)
    content = said.get("data")
    if not isinstance(content, bytes) or not 0 < len(content) <= PIECE:
        raise ProtocolError(f"a piece of a recording has no data, or more than {PIECE} bytes")
    return Piece(*_place(said, "offset"), content)


def pack_pulse(pulse: Pulse) -> bytes:
    """Return a pulse as bytes."""
    said: Message = {"at_ns": pulse.at_ns, "segment": pulse.end.segment, "size": pulse.end.offset, "next": pulse.next}
    return messages.pack({**said, "ends": True} if pulse.ends else said)


def unpack_pulse(data: bytes) -> Pulse:
    """Read a pulse.

    Raises:
        ProtocolError: it is none.
    """
    said = messages.unpack(data)
    following = said.get("next")
    return Pulse(
        _number(said, "at_ns"),
        _place(said, "size"),
        None if following is None else _number(said, "next"),
        said.get("ends") is True,
    )


def _place(said: Message, key: str) -> CopyPlace:
    identity = said.get("segment")
    if not isinstance(identity, bytes) or len(identity) != _IDENTITY:
        raise ProtocolError("segment: expected 16 bytes")
    return CopyPlace(identity, _number(said, key))


def _number(said: Message, key: str) -> int:
    number = said.get(key)
    if type(number) is not int or not 0 <= number < _MOST:
        raise ProtocolError(f"{key}: expected a number")
    return number
