# SPDX-License-Identifier: Apache-2.0
"""Sockets of IPv4 and IPv6: listeners, connections, datagrams, raw sockets.

Several sockets of a tree may have one address. Sockets of TCP, and those that share one, are bound with SO_REUSEADDR; it is
taken from those that did not have it when all processes have made theirs. With it, sockets of TCP are bound beside each
other as long as none of them listens, and one listens beside others that do not (inet_bind_conflict() of the kernel). So
listeners listen when all are bound.

The kernel remembers of a port that a socket was bound, or listened, with SO_REUSEADDR or SO_REUSEPORT, and lets others have
the port beside a socket that has lost it since (inet_csk_update_fastreuse()). It forgets SO_REUSEADDR when a socket
listens. A socket that does not listen, and that is alone at its port, is bound without. Only two listeners of one address
need SO_REUSEPORT, which they had when they listened: where they have it no more, the kernel forgets it by a socket without
it, which is bound there in repair mode, beside all others.
"""

import os
import socket as sockets
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any, Final

from agent.restart.contents import socketoptions, tcpconnections, tcppackets
from agent.restart.contents.descriptors import FileKind, OpenFile
from agent.restart.contents.fillabi import Demand
from agent.restart.contents.holder import O_CLOEXEC
from agent.restart.contents.refusals import Refused
from agent.restart.contents.socketoptions import LISTEN, SHUTDOWNS, SO_REUSEADDR, SOL_SOCKET, Setting, set_option
from agent.restart.contents.tcpconnections import TCP_REPAIR, BlockedConnections, TcpStream

SOL_IP, SOL_TCP, SOL_IPV6, SOL_ICMPV6, SOL_RAW = 0, 6, 41, 58, 255
SO_REUSEPORT: Final = 15
IPV6_V6ONLY, IP_FREEBIND = 26, 15
IPV6_FREEBIND: Final = 78
ICMP_FILTER: Final = 1
_ICMP: Final = (1, 58)
_WORDS: Final[dict[int, int]] = {sockets.AF_INET: 1, sockets.AF_INET6: 4}
"""32 bit words of an address."""
_FREEBIND: Final[dict[int, tuple[int, int]]] = {
    sockets.AF_INET: (SOL_IP, IP_FREEBIND),
    sockets.AF_INET6: (SOL_IPV6, IPV6_FREEBIND),
}
_MAPPED: Final = [0, 0, 0xFFFF0000]
"""The first words, as the images have them, of an IPv4 address as one of IPv6."""
_PROTOCOLS: Final = 1 << 16
"""A bound of the numbers of protocols; the highest is 262, of MPTCP."""
_TYPES: Final = (sockets.SOCK_STREAM, sockets.SOCK_DGRAM, sockets.SOCK_RAW)

# Options by the field of CRIU's message: level and option for IPv4, and for IPv6.
_IP_OPTIONS: Final = {
    "pktinfo": ((SOL_IP, 8), (SOL_IPV6, 49)),
    "tos": ((SOL_IP, 1), None),
    "ttl": ((SOL_IP, 2), None),
}
_RAW_OPTIONS: Final = {"hdrincl": ((SOL_IP, 3), (SOL_IPV6, 36)), "nodefrag": ((SOL_IP, 22), None)}
_TCP_OPTIONS: Final = {"nodelay": 1, "cork": 3, "keepidle": 4, "keepintvl": 5, "keepcnt": 6}
_OLD_TCP_OPTIONS: Final = {"tcp_keepidle": 4, "tcp_keepintvl": 5, "tcp_keepcnt": 6}


class InetSockets(FileKind):
    """The sockets of IPv4 and IPv6 of a tree.

    Args:
        files: the file_entry of each open file.
        stream: returns the state of a connection by its inode; None: connections are refused.
        blocked: the rules that block connections.
        closed: connections are closed.
    """

    def __init__(
        self,
        files: Mapping[int, Any],
        stream: Callable[[int], TcpStream | None] | None = None,
        blocked: BlockedConnections | None = None,
        *,
        closed: bool = False,
    ) -> None:
        self._closed = closed
        self._stream = stream
        self._blocked = blocked
        self._streams: dict[int, TcpStream] = {}
        self._free: set[int] = set()  # sockets that are bound without SO_REUSEADDR
        self._at_port: dict[tuple[int, int], list[Any]] = {}
        for socket in (each.isk for each in files.values() if each.HasField("isk")):
            self._at_port.setdefault((int(socket.proto), int(socket.src_port)), []).append(socket)

    def check(self, entry: Any, _numbers: AbstractSet[int]) -> None:
        """Refuse a connection, and a socket whose address this host does not have, or has given away."""
        socket = entry.isk
        rule, text = _fault(socket)
        if not rule and not socket.opts.so_reuseport and self._listens_beside(socket):
            rule, text = "repair", tcpconnections.repair_fault()
        if text:
            raise Refused("inet-socket", str(entry.id), rule, text)
        if _is_connection(socket):
            self._check_connection(entry)
        elif socket.src_port and socket.proto not in _ICMP:
            if self._is_alone(socket) and _can_be_bound(socket):
                self._free.add(int(socket.id))
                return
            try:
                _try_to_bind(socket, _own_options(socket))
            except OSError as error:
                text = f"{_shown(socket)}: {error.strerror}: end what has the address, or give the host this one"
                raise Refused("inet-socket", str(entry.id), "address", text) from None

    def create(self, file: OpenFile) -> int:
        """Create a socket at its address, connected if it was."""
        socket = file.entry.isk
        made = file.script.kept("socket", int(socket.family), int(socket.type) | O_CLOEXEC, int(socket.proto))
        number = file.high(made)
        here = file._replace(number=number)
        if socket.v6only:
            set_option(here, SOL_IPV6, IPV6_V6ONLY, 1)
        socketoptions.bind_to_device(here, socket.opts)
        for option in self._binding_options(socket):
            set_option(here, SOL_SOCKET, option, 1)
        if self._closed and _is_connection(socket):
            file.script.call("shutdown", number, sockets.SHUT_RDWR, demand=Demand.ANY)  # the kernel says: not connected
            return number
        if int(file.entry.id) in self._streams:
            peer = _sockaddr(socket, int(socket.dst_port), socket.dst_addr, 0)
            tcpconnections.connect(here, self._streams[int(file.entry.id)], partial(_bind, here, socket), peer)
            return number
        if socket.src_port and socket.proto not in _ICMP:
            free = socket.type != sockets.SOCK_RAW or socket.ip_opts.freebind
            if free:
                set_option(here, *_FREEBIND[int(socket.family)], 1)
            _bind(here, socket)
            if free and not socket.ip_opts.freebind:
                set_option(here, *_FREEBIND[int(socket.family)], 0)
        if socket.dst_port:
            here.name("peer")
            peer = _sockaddr(socket, int(socket.dst_port), socket.dst_addr, 0)
            file.script.call("connect", number, file.data(peer), len(peer))
        return number

    def load(self, file: OpenFile) -> None:
        """Put into a connection what was on its way; have a listener listen, for all sockets are bound by now."""
        socket = file.entry.isk
        if int(file.entry.id) in self._streams:
            tcpconnections.fill(file, self._streams[int(file.entry.id)])
        elif socket.state == LISTEN:
            file.script.call("listen", file.number, int(socket.backlog))

    def awaits_all(self) -> bool:
        """Return True if a listener shares its address: all sockets of that must be bound before."""
        crowded = (each for those in self._at_port.values() if len(those) > 1 for each in those)
        return any(each.state == LISTEN and self._shares(each) for each in crowded)

    def settle(self, file: OpenFile) -> None:
        """Set options and shutdown."""
        socket = file.entry.isk
        socketoptions.restore_options(file, socket.opts)
        for each in _settings(socket):
            set_option(file, *each[:3])
        socketoptions.restore_shutdown(file, socket)

    def complete(self, file: OpenFile) -> None:
        """Set SO_REUSEADDR and SO_REUSEPORT to what they were, for all sockets are bound by now."""
        socket = file.entry.isk
        options = socket.opts
        repaired = int(file.entry.id) in self._streams
        if repaired:
            tcpconnections.resume(file)
        for had, option in ((options.reuseaddr, SO_REUSEADDR), (options.so_reuseport, SO_REUSEPORT)):
            if not had or repaired:  # the kernel takes SO_REUSEADDR from a socket that leaves repair mode
                set_option(file, SOL_SOCKET, option, int(had))
        if not options.so_reuseport and self._listens_beside(socket):
            self._have_option_forgotten(file)

    def _have_option_forgotten(self, file: OpenFile) -> None:
        """Have the kernel forget that a port was taken with SO_REUSEPORT."""
        socket, script = file.entry.isk, file.script
        file.name("SO_REUSEPORT of its port")
        made = script.kept("socket", int(socket.family), int(socket.type) | O_CLOEXEC, int(socket.proto))
        other = file._replace(number=file.high(made))
        if socket.v6only:
            set_option(other, SOL_IPV6, IPV6_V6ONLY, 1)
        set_option(other, *_FREEBIND[int(socket.family)], 1)
        set_option(other, tcpconnections.SOL_TCP, TCP_REPAIR, 1)
        _bind(other, socket)
        script.call("close", other.number)

    def _binding_options(self, socket: Any) -> Iterator[int]:
        """Yield the options that a socket needs to be bound and to listen."""
        options = {*_own_options(socket)}
        if int(socket.id) in self._free:
            options.discard(SO_REUSEADDR)
        if self._shares(socket):
            options.add(SO_REUSEADDR)
        if self._listens_beside(socket):
            options.add(SO_REUSEPORT)
        yield from sorted(options)

    def _beside(self, socket: Any) -> list[Any]:
        """Return the sockets of the tree that have a socket's port, itself included."""
        return self._at_port.get((int(socket.proto), int(socket.src_port)), [])

    def _shares(self, socket: Any) -> bool:
        """Return True if a socket and another one of the tree may have an address in common."""
        return _is_bound(socket) and any(_overlap(socket, other) for other in self._beside(socket))

    def _listens_beside(self, socket: Any) -> bool:
        """Return True if a socket and another one of the tree listen at an address that they have in common."""
        if socket.state != LISTEN or not _is_bound(socket):
            return False
        return any(other.state == LISTEN and _overlap(socket, other) for other in self._beside(socket))

    def _is_alone(self, socket: Any) -> bool:
        """Return True if a socket of TCP that does not listen has no other one of the tree at its port."""
        return socket.type == sockets.SOCK_STREAM and socket.state != LISTEN and len(self._beside(socket)) < 2

    def _check_connection(self, entry: Any) -> None:
        socket = entry.isk
        text = "it is an established connection: use --tcp-established or --tcp-close, or end it before the dump"
        rule = "" if self._closed else "connection"
        if self._closed:
            if self._blocked is not None and not self._blocked.fault()[0]:
                self._block(socket)
        elif self._stream is not None and self._blocked is not None:
            state = self._stream(int(socket.ino))
            rule, text = tcpconnections.fault(socket, state)
            if not rule:
                rule, text = self._blocked.fault()
            if state is not None and not rule:
                self._streams[int(entry.id)] = state
                self._block(socket)
        if rule:
            raise Refused("inet-socket", str(entry.id), rule, f"{_shown(socket)}: {text}")

    def _block(self, socket: Any) -> None:
        """Note a connection that CRIU has blocked."""
        ends = [
            (str(tcppackets.address(socket, peer=peer)), int(socket.dst_port if peer else socket.src_port))
            for peer in (False, True)
        ]
        if self._blocked is not None:
            self._blocked.add(six=":" in ends[1][0], here=ends[0], there=ends[1])


def _settings(socket: Any) -> Iterator[Setting]:
    """Yield the options of the family and of the protocol."""
    place = int(socket.family == sockets.AF_INET6)
    options = socket.ip_opts
    if options.freebind:
        yield Setting(*_FREEBIND[int(socket.family)], 1)
    for names, part in ((_IP_OPTIONS, options), (_RAW_OPTIONS, options.raw)):
        for name, levels in names.items():
            level = levels[place]
            if level is not None and part.HasField(name) and getattr(part, name):
                yield Setting(*level, int(getattr(part, name)))
    if options.raw.icmpv_filter and socket.proto in _ICMP:
        content = struct.pack(f"<{len(options.raw.icmpv_filter)}I", *options.raw.icmpv_filter)
        yield Setting(SOL_ICMPV6 if place else SOL_RAW, ICMP_FILTER, content)
    if socket.proto == sockets.IPPROTO_TCP:
        for known, part in ((_OLD_TCP_OPTIONS, socket.opts), (_TCP_OPTIONS, socket.tcp_opts)):
            for name, option in known.items():
                if part.HasField(name):
                    yield Setting(SOL_TCP, option, int(getattr(part, name)))


def _is_connection(socket: Any) -> bool:
    return bool(socket.proto == sockets.IPPROTO_TCP and socket.type == sockets.SOCK_STREAM and socket.dst_port)


def _bind(file: OpenFile, socket: Any) -> None:
    file.name("address")
    address = _address(socket)
    file.script.call("bind", file.number, file.data(address), len(address))


def _fault(socket: Any) -> tuple[str, str]:
    """Return the rule and the text of the reason to refuse a socket, whatever this host has; empty: there is none."""
    words = _WORDS.get(int(socket.family), 0)
    known = words and socket.type in _TYPES and socket.shutdown in SHUTDOWNS and socket.proto < _PROTOCOLS
    if not known or min(len(socket.src_addr), len(socket.dst_addr)) < words:
        return "type", f"family {socket.family}, type {socket.type} are none of a socket of IP: dump it again"
    if max(int(socket.src_port), int(socket.dst_port)) >= 1 << 16:
        return "type", f"port {socket.src_port} or {socket.dst_port} is none: dump it again"
    if socket.state == LISTEN and not (socket.type == sockets.SOCK_STREAM and socket.src_port):
        return "state", f"type {socket.type} at port {socket.src_port} does not listen: dump it again"
    for name in (bytes(socket.ifname), bytes(socket.opts.so_bound_dev)):
        try:
            if name:
                sockets.if_nametoindex(os.fsdecode(name))
        except (OSError, ValueError):  # a name may hold a byte 0
            return "interface", f"this host has no interface {os.fsdecode(name)}: make it"
    kind = int(socket.family), int(socket.type), int(socket.proto)
    return socketoptions.fault(kind, socket.opts, _settings(socket))


def _own_options(socket: Any) -> Iterator[int]:
    """Yield the options that a socket needs to be bound were it alone in the tree.

    A closed connection may hold an address of TCP for a minute: SO_REUSEADDR passes over that, never over a listener.
    """
    if socket.type == sockets.SOCK_STREAM or socket.opts.reuseaddr:
        yield SO_REUSEADDR
    if socket.opts.so_reuseport:
        yield SO_REUSEPORT


def _can_be_bound(socket: Any) -> bool:
    """Return True if a socket that needs no option for that can be bound to its address."""
    if socket.opts.reuseaddr or socket.opts.so_reuseport:
        return False
    try:
        _try_to_bind(socket, ())
    except OSError:
        return False
    return True


def _try_to_bind(socket: Any, options: Iterable[int]) -> None:
    """Bind a socket of this process with options to an address, and close it. OSError: it cannot be bound."""
    with sockets.socket(int(socket.family), int(socket.type), int(socket.proto)) as probe:
        if socket.v6only:
            probe.setsockopt(SOL_IPV6, IPV6_V6ONLY, 1)
        if socket.opts.so_bound_dev:
            probe.setsockopt(SOL_SOCKET, socketoptions.SO_BINDTODEVICE, bytes(socket.opts.so_bound_dev))
        for option in options:
            probe.setsockopt(SOL_SOCKET, option, 1)
        if socket.ip_opts.freebind:
            probe.setsockopt(*_FREEBIND[int(socket.family)], 1)
        place = (_host(socket, socket.src_addr), int(socket.src_port))
        probe.bind(place if socket.family == sockets.AF_INET else (*place, 0, _scope(socket)))


def _is_bound(socket: Any) -> bool:
    """Return True if a socket needs its address: the kernel binds a connection, in repair mode, beside all others."""
    return bool(socket.src_port and socket.type != sockets.SOCK_RAW and not _is_connection(socket))


def _overlap(one: Any, other: Any) -> bool:
    """Return True if two sockets of a tree that have one port are different ones, and may have an address in common."""
    if one.id == other.id or not _is_bound(other):
        return False
    devices = {bytes(each.opts.so_bound_dev) for each in (one, other)}
    if len(devices) > 1 and b"" not in devices:  # other networks
        return False
    if one.family != other.family:
        six, four = (one, other) if one.family == sockets.AF_INET6 else (other, one)
        if six.v6only:
            return False
        words = list(six.src_addr[:4])
        return not any(words) or (words[:3] == _MAPPED and (words[3] == four.src_addr[0] or not four.src_addr[0]))
    return one.src_addr == other.src_addr or not any(one.src_addr) or not any(other.src_addr)


def _host(socket: Any, words: Any) -> str:
    count = _WORDS[int(socket.family)]
    return sockets.inet_ntop(int(socket.family), struct.pack(f"<{count}I", *words[:count]))


def _shown(socket: Any) -> str:
    return f"{_host(socket, socket.src_addr)} port {socket.src_port}"


def _scope(socket: Any) -> int:
    return sockets.if_nametoindex(os.fsdecode(bytes(socket.ifname))) if socket.ifname else 0


def _address(socket: Any) -> bytes:
    return _sockaddr(socket, int(socket.src_port), socket.src_addr, _scope(socket))


def _sockaddr(socket: Any, port: int, words: Any, scope: int) -> bytes:
    """Return struct sockaddr_in or sockaddr_in6."""
    head = struct.pack("<H", int(socket.family)) + struct.pack(">H", port)
    if socket.family == sockets.AF_INET:
        return head + struct.pack("<I8x", words[0])
    return head + struct.pack("<I4II", 0, *words[:4], scope)
