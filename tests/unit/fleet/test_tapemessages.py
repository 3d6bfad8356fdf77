# SPDX-License-Identifier: Apache-2.0
"""Messages of a recording on its way to a stand-by: what is packed is read, and nothing else is."""

from typing import Any

import pytest

from agent.errors import CkptreeError
from agent.fleet import messages, tapemessages
from agent.fleet.tapemessages import Pulse
from agent.recorder.foldertail import PIECE, CopyPlace, Piece

PIECES = [Piece(b"a" * 16, 0, b"x"), Piece(b"b" * 16, 2**40, bytes(PIECE))]
PULSES = [Pulse(5, CopyPlace(b"a" * 16, 7), 9), Pulse(2**63, CopyPlace(b"b" * 16, 0), None)]
SOUND_PIECE: dict[str, Any] = {"segment": b"a" * 16, "offset": 0, "data": b"x"}
SOUND_PULSE: dict[str, Any] = {"segment": b"a" * 16, "size": 0, "at_ns": 1, "next": 2}


@pytest.mark.parametrize("piece", PIECES)
def test_a_piece_comes_back(piece: Piece) -> None:
    """It fits into a message of NATS, and has an id of its own."""
    data = tapemessages.pack_piece(piece)

    assert len(data) < messages.MAX_REQUEST
    assert tapemessages.unpack_piece(data) == piece
    assert tapemessages.id_of(piece) == f"{piece.segment.hex()}-{piece.offset}"


@pytest.mark.parametrize("pulse", PULSES)
def test_a_pulse_comes_back(pulse: Pulse) -> None:
    """Also without a daemon that answers."""
    assert tapemessages.unpack_pulse(tapemessages.pack_pulse(pulse)) == pulse


@pytest.mark.parametrize(
    "changes",
    [
        *({"segment": b"a"}, {"segment": "a" * 16}, {"offset": -1}, {"offset": True}),
        *({"data": b""}, {"data": bytes(PIECE + 1)}, {"data": "x"}, {"data": None}),
    ],
)
def test_what_is_no_piece_is_refused(changes: dict[str, Any]) -> None:
    """By an error of ours."""
    with pytest.raises(CkptreeError):
        tapemessages.unpack_piece(messages.pack(SOUND_PIECE | changes))


@pytest.mark.parametrize("changes", [{"segment": None}, {"size": "1"}, {"at_ns": None}, {"next": -1}, {"next": 1.5}])
def test_what_is_no_pulse_is_refused(changes: dict[str, Any]) -> None:
    """By an error of ours."""
    with pytest.raises(CkptreeError):
        tapemessages.unpack_pulse(messages.pack(SOUND_PULSE | changes))


@pytest.mark.parametrize(("host", "stream"), [("node1", "CKPTREE_node1"), ("a.b-c_d", "CKPTREE_a=b-c_d")])
def test_a_host_has_a_stream_and_subjects(host: str, stream: str) -> None:
    """A name of a stream has no dots, and each host has its own."""
    assert tapemessages.stream_of(host) == stream
    assert tapemessages.subject_of(tapemessages.TAPE, host) == f"ckptree.tape.{host}"


def test_a_name_that_is_none_of_a_host_has_no_stream() -> None:
    """It could name the streams of others."""
    with pytest.raises(CkptreeError):
        tapemessages.stream_of("a>b")
