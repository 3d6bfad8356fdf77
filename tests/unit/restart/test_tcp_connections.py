# SPDX-License-Identifier: Apache-2.0
"""The operations that restore connections of TCP, the connections that are refused, and the rules that block them."""

import shutil
import struct
import subprocess
from typing import Any

import pytest

from agent.restart.contents.fillprogram import Data
from agent.restart.contents.inetsockets import InetSockets
from agent.restart.contents.refusals import Refused
from agent.restart.contents.tcpconnections import BlockedConnections, TcpStream, stream
from exporters.criu.criuschema import messages
from tests.support.filledfiles import calls, file_entry, filled

LOCAL = 0x0100007F
SOCKET = {"family": 2, "type": 1, "proto": 6, "state": 1, "src_port": 80, "dst_port": 81, "backlog": 0, "ino": 77}
STATE = {"inq_len": 3, "inq_seq": 1, "outq_len": 20000, "outq_seq": 50000, "snd_wscale": 7, "mss_clamp": 1460}


def _connection(**fields: Any) -> Any:
    return file_entry(1, 4, **SOCKET | {"src_addr": [LOCAL], "dst_addr": [LOCAL]} | fields)


def _stream(**fields: Any) -> TcpStream:
    made: Any = messages()["tcp_stream_entry"]
    message = made(**STATE | {"opt_mask": 7, "rcv_wscale": 5, "timestamp": 9} | fields)
    return TcpStream(message, b"abc", bytes(20000))


def _blocked(method: int = 2, run: bytes = b"") -> BlockedConnections:
    made: Any = messages()["inventory_entry"]
    return BlockedConnections(made(img_version=2, network_lock_method=method, dump_criu_run_id=run))


def test_a_connection_gets_sequence_numbers_before_and_data_after_it_is_connected() -> None:
    """Numbers count from the first byte of a queue, and wrap."""
    kind = InetSockets({}, lambda _: _stream(), _blocked())
    kind.check(_connection(), {3})

    (holder,) = filled([_connection()], {4: kind}, [((10,), [1])])

    steps = [
        (each.name, each.arguments[2] if each.name == "setsockopt" else 0)
        for each in holder.leader.operations
        if each.name in ("bind", "connect", "sendto") or (each.name == "setsockopt" and each.arguments[1] == 6)
    ]
    assert steps == [
        ("setsockopt", 19),
        ("bind", 0),
        *[("setsockopt", 20), ("setsockopt", 21)] * 2,
        ("connect", 0),
        ("setsockopt", 22),
        ("setsockopt", 24),
        *[("setsockopt", 20), ("sendto", 0), ("setsockopt", 20), ("sendto", 0), ("sendto", 0), ("setsockopt", 20)],
        ("setsockopt", 19),
    ]
    numbers = [each.arguments[3] for each in calls(holder, "setsockopt") if each.arguments[1:3] == (6, 21)]
    assert [_u32(holder, each) for each in numbers] == [(1 << 32) - 2, 30000]


def _u32(holder: Any, place: Any) -> int:
    assert isinstance(place, Data)
    return int(struct.unpack_from("<I", holder.program._data, place.offset)[0])


def test_connections_are_refused_unless_they_are_asked_for_and_established() -> None:
    """Each for its own reason."""
    asked = InetSockets({}, lambda _: _stream(), _blocked())
    for kind, entry, rule in (
        (InetSockets({}), _connection(), "connection"),
        (asked, _connection(state=6), "state"),
        (InetSockets({}, lambda _: None, _blocked()), _connection(), "missing"),
    ):
        with pytest.raises(Refused) as caught:
            kind.check(entry, {3})
        assert caught.value.refusal[2] == rule


def test_an_image_without_all_bytes_has_no_connection() -> None:
    """It announces more than it has."""
    message = _stream().message
    assert stream([(message, bytes(7))]) is None
    found = stream([(message, b"abc" + bytes(20000))])
    assert found is not None
    assert (found.received, len(found.sent)) == (b"abc", 20000)


def test_a_blocked_connection_is_refused_where_the_program_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would stand still for ever."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(Refused, match="--network-lock skip"):
        InetSockets({}, lambda _: _stream(), _blocked(0)).check(_connection(), {3})
    assert _blocked(2).fault() == ("", "")


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        (0, ["iptables INPUT 127.0.0.1 81 127.0.0.1 80", "iptables OUTPUT 127.0.0.1 80 127.0.0.1 81"]),
        (1, ["nft delete table inet CRIU-abc"]),
        (2, []),
    ],
)
def test_the_rules_that_criu_left_are_removed(method: int, wanted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """By the words that made them."""
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: commands.append(command))
    blocked = _blocked(method, b"abc")
    blocked.add(six=False, here=("127.0.0.1", 80), there=("127.0.0.1", 81))

    blocked.unblock()

    assert [
        " ".join(each if each[0] == "nft" else [each[0], each[5], each[14], each[16], each[18], each[20]])
        for each in commands
    ] == wanted


def test_a_connection_of_ipv4_in_a_socket_of_ipv6_was_blocked_as_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its packets are those of IPv4."""
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: commands.append(command))
    blocked = _blocked(0)
    blocked.add(six=True, here=("::ffff:127.0.0.1", 80), there=("::ffff:127.0.0.1", 81))
    blocked.add(six=True, here=("::1", 80), there=("::1", 81))

    blocked.unblock()

    assert [(each[0], each[14]) for each in commands] == [*[("iptables", "127.0.0.1")] * 2, *[("ip6tables", "::1")] * 2]


@pytest.mark.parametrize(
    ("state", "steps"),
    [
        (1, []),
        (4, ["shutdown"]),
        (5, ["queue", "shutdown", "queue", "ack 1"]),
        (8, ["fin 0"]),
        (9, ["fin 0", "shutdown"]),
        (11, ["shutdown", "fin 0"]),
        (7, ["fin 0", "queue", "shutdown", "queue", "ack 1"]),
    ],
)
def test_a_connection_that_is_being_closed_gets_its_ends_in_their_order(state: int, steps: list[str]) -> None:
    """A packet in the peer's name has the number behind the data, less an end that is not there yet."""
    kind = InetSockets({}, lambda _: TcpStream(_stream(outq_len=0, inq_len=0, inq_seq=1).message, b"", b""), _blocked())
    kind.check(_connection(state=state), {3})

    (holder,) = filled([_connection(state=state)], {4: kind}, [((10,), [1])])

    found = []
    operations = holder.leader.operations
    begun = next(at for at, each in enumerate(operations) if each.name == "connect")
    for each in operations[begun:]:
        if each.name == "shutdown":
            found.append("shutdown")
        elif each.name == "setsockopt" and each.arguments[1:3] == (6, 20):
            found.append("queue")
        elif each.name == "sendto":
            place, size = each.arguments[1:3]
            assert isinstance(place, Data)
            assert isinstance(size, int)
            sent = bytes(holder.program._data[place.offset : place.offset + size])
            found.append(_packet(sent))
    assert found[3:] == steps  # behind those of the two queues


def _packet(sent: bytes) -> str:
    head = struct.unpack_from(">BBHHHBBH4s4s", sent)
    ports = struct.unpack_from(">HHII", sent, 20)
    segment = sent[20:]
    words = struct.unpack(">16H", sent[12:20] + struct.pack(">II", len(segment), 6) + segment[:16])
    rest = sum(words) + sum(struct.unpack(">2H", segment[16:20]))
    assert (head[0], len(sent), head[6], ports[:2], (rest & 0xFFFF) + (rest >> 16)) == (0x45, 40, 6, (81, 80), 0xFFFF)
    return f"{ {0x11: 'fin', 0x10: 'ack'}[segment[13]] } {ports[2]}"
