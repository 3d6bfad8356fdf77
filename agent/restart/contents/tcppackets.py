# SPDX-License-Identifier: Apache-2.0
"""Packets of TCP without data, as the peer of a connection sends them: an acknowledgment, an end of its data.

The kernel's repair mode puts no end of the peer's data into a socket. So a socket in that mode gets one from its own host,
in the peer's name, which marks it with CRIU's mark: CRIU's rules, which block the connection, let packets with it pass.
"""

import socket as sockets
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final

from agent.restart.contents.descriptors import OpenFile
from agent.restart.contents.holder import O_CLOEXEC
from agent.restart.contents.socketoptions import MSG_NOSIGNAL, SOL_SOCKET

FIN, ACK = 0x01, 0x10
CRIU_MARK: Final = 0xC114
_SO_MARK: Final = 36
_TCP: Final = struct.Struct(">HHIIBBHHH")
_TTL: Final = 64
_MOST_WINDOW: Final = (1 << 16) - 1


def address(socket: Any, *, peer: bool) -> IPv4Address | IPv6Address:
    """Return the address of an end of a connection; one of IPv4 in a socket of IPv6 is of IPv4."""
    words = socket.dst_addr if peer else socket.src_addr
    count = 1 if socket.family == sockets.AF_INET else 4
    found = ip_address(struct.pack(f"<{count}I", *words[:count]))
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found


def packet(socket: Any, sequence: int, acknowledged: int, flags: int, window: int) -> bytes:
    """Return a packet from the peer of a connection, with the header of IP; the kernel adds the checksum of that.

    Args:
        socket: the inet_sk_entry.
        sequence: number of the peer's next byte.
        acknowledged: number of the next byte that the peer expects.
        flags: FIN and ACK.
        window: of the peer, bytes.
    """
    here, there = address(socket, peer=False), address(socket, peer=True)
    ports = int(socket.dst_port), int(socket.src_port)
    numbers = sequence & 0xFFFFFFFF, acknowledged & 0xFFFFFFFF
    head = *ports, *numbers, _TCP.size // 4 << 4, flags, min(window, _MOST_WINDOW)
    pseudo = there.packed + here.packed + struct.pack(">II", _TCP.size, sockets.IPPROTO_TCP)
    segment = _TCP.pack(*head, _checksum(pseudo + _TCP.pack(*head, 0, 0)), 0)
    if here.version == 4:
        outer = struct.pack(">BBHHHBBH", 0x45, 0, 20 + _TCP.size, 0, 0, _TTL, sockets.IPPROTO_TCP, 0)
    else:
        outer = struct.pack(">IHBB", 6 << 28, _TCP.size, sockets.IPPROTO_TCP, _TTL)
    return outer + there.packed + here.packed + segment


def send(file: OpenFile, content: bytes) -> None:
    """Add the operations by which a process sends a packet to its own host."""
    here = address(file.entry.isk, peer=False)
    if here.version == 4:
        family, place = sockets.AF_INET, struct.pack("<H2x", sockets.AF_INET) + here.packed + bytes(8)
    else:
        family, place = sockets.AF_INET6, struct.pack("<H6x", sockets.AF_INET6) + here.packed + bytes(4)
    script = file.script
    raw = script.kept("socket", family, sockets.SOCK_RAW | O_CLOEXEC, sockets.IPPROTO_RAW)
    mark = file.data(struct.pack("<I", CRIU_MARK))
    script.call("setsockopt", raw, SOL_SOCKET, _SO_MARK, mark, 4)
    whole = file.data(content), len(content)
    script.exact("sendto", raw, *whole, MSG_NOSIGNAL, file.data(place), len(place), wanted=len(content))
    script.call("close", raw)


def _checksum(content: bytes) -> int:
    """Return the checksum of the Internet (RFC 1071)."""
    words: tuple[int, ...] = struct.unpack(f">{len(content) // 2}H", content)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
