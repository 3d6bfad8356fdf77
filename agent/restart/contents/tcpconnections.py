# SPDX-License-Identifier: Apache-2.0
"""Established connections of TCP, made again by the kernel's repair mode, and the rules by which CRIU blocks them.

A socket in repair mode is connected without a packet. It gets its sequence numbers, its options, and what is in its two
queues. Data that the peer has not acknowledged count as sent: the kernel sends them again when the peer does not answer.
A connection that is being closed gets the ends of data in the order in which they were sent. One that is being made
is begun once more, by a packet that the kernel repeats. The socket leaves repair mode when all sockets of the tree are
there, for its peer may be one of them.
"""

import re
import socket as sockets
import struct
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv6Address
from typing import Any, Final

from agent.record import NamedTuple
from agent.restart.contents import socketoptions, tcppackets
from agent.restart.contents.descriptors import OpenFile
from agent.restart.contents.fileowners import F_SETFL, O_NONBLOCK
from agent.restart.contents.fillabi import Demand
from agent.restart.contents.socketoptions import CLOSE, ESTABLISHED, MSG_NOSIGNAL, set_option
from agent.restart.contents.tcppackets import ACK, CRIU_MARK, FIN

SOL_TCP: Final = 6
TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ, TCP_REPAIR_OPTIONS, TCP_TIMESTAMP, TCP_REPAIR_WINDOW = (
    19,
    20,
    21,
    22,
    24,
    29,
)
NO_QUEUE, RECEIVED, SENT = 0, 1, 2
SYN_SENT, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING = 2, 4, 5, 8, 9, 11
"""States of a connection that is being made or closed."""
_ENDED_FIRST: Final = (FIN_WAIT1, FIN_WAIT2, CLOSING)
"""States in which the program has ended its data before the peer has."""
_ENDED_LAST: Final = (LAST_ACK, CLOSE)
_ENDED: Final = (*_ENDED_FIRST, *_ENDED_LAST)
_END_ACKNOWLEDGED: Final = (FIN_WAIT2, CLOSE)
_PEER_ENDED: Final = (CLOSE_WAIT, LAST_ACK, CLOSE, CLOSING)
_STATES: Final = (ESTABLISHED, SYN_SENT, CLOSE_WAIT, *_ENDED)
_SHUT_WR: Final = 1
_MAXSEG, _WINDOW, _SACK, _TIMESTAMP = 2, 3, 4, 8
"""Options of TCP by their codes in a packet."""
_OPT_TIMESTAMPS, _OPT_SACK, _OPT_WSCALE = 1, 2, 4
_PIECE: Final = 16384
_U32: Final = (1 << 32) - 1
_IPTABLES, _NFTABLES, _SKIP = 0, 1, 2
"""`network_lock_method` of the inventory."""
_RUN: Final = re.compile(rb"([0-9A-Za-z_-]+)\0*")
"""The identity of a run of CRIU, a UUID. The program nft reads its arguments as one text, so other bytes mean more."""
_PATIENCE_S: Final = 10.0


class TcpStream(NamedTuple):
    """The state of a connection.

    Attributes:
        message: its tcp_stream_entry.
        received: the bytes that its program has not read.
        sent: the bytes that its peer has not acknowledged.
    """

    message: Any
    received: bytes
    sent: bytes


def stream(entries: Iterable[tuple[Any, bytes]]) -> TcpStream | None:
    """Return the state of a connection from the entries of its image; None if it has no whole one."""
    for message, content in entries:
        count = int(message.inq_len)
        if len(content) == count + int(message.outq_len):
            return TcpStream(message, content[:count], content[count:])
    return None


def fault(part: Any, state: TcpStream | None) -> tuple[str, str]:
    """Return the rule and the text of the reason to refuse a connection; empty: there is none."""
    if part.state not in _STATES:
        return "state", f"its state {part.state} is none in which CRIU dumps a connection: dump it again"
    if state is None:
        return "missing", "the images have no state of the connection: dump it with --tcp-established"
    if text := repair_fault():
        return "repair", text
    if part.state in (*_PEER_ENDED, *_END_ACKNOWLEDGED):
        try:
            sockets.socket(sockets.AF_INET, sockets.SOCK_RAW, sockets.IPPROTO_RAW).close()
        except OSError as error:
            return "repair", f"no packet can be sent in its peer's name: {error.strerror}: restart needs CAP_NET_RAW"
    return "", ""


def repair_fault() -> str:
    """Return the reason why the caller puts no socket into repair mode; empty: it does."""
    with sockets.socket() as probe:
        try:
            probe.setsockopt(SOL_TCP, TCP_REPAIR, 1)
            probe.setsockopt(SOL_TCP, TCP_REPAIR, 0)
        except OSError as error:
            return f"the kernel allows no repair of connections: {error.strerror}: restart needs CAP_NET_ADMIN"
    return ""


def connect(file: OpenFile, state: TcpStream, bind: Callable[[], None], peer: bytes) -> None:
    """Connect a new socket in repair mode.

    Args:
        file: the socket.
        state: of the connection.
        bind: adds the operations that bind it.
        peer: address of the peer.
    """
    message = state.message
    being_made = file.entry.isk.state == SYN_SENT
    expected, following = _numbers(file, state)
    file.name("connection")
    set_option(file, SOL_TCP, TCP_REPAIR, 1)
    bind()
    for queue, number, size in (
        (RECEIVED, expected, len(state.received)),
        (SENT, following - being_made, len(state.sent)),
    ):
        set_option(file, SOL_TCP, TCP_REPAIR_QUEUE, queue)
        set_option(file, SOL_TCP, TCP_QUEUE_SEQ, struct.pack("<I", number - size & _U32))
    if being_made:
        set_option(file, SOL_TCP, TCP_REPAIR, 0)
        file.script.call("fcntl", file.number, F_SETFL, O_NONBLOCK)
        file.script.call("connect", file.number, file.data(peer), len(peer), demand=Demand.ANY)  # it is in progress
        file.script.call("fcntl", file.number, F_SETFL, 0)
        set_option(file, SOL_TCP, TCP_REPAIR, 1)
    else:
        file.script.call("connect", file.number, file.data(peer), len(peer))
        options = b"".join(struct.pack("<II", *each) for each in _options(message))
        set_option(file, SOL_TCP, TCP_REPAIR_OPTIONS, options)
    if message.opt_mask & _OPT_TIMESTAMPS:
        set_option(file, SOL_TCP, TCP_TIMESTAMP, struct.pack("<I", int(message.timestamp)))


def fill(file: OpenFile, state: TcpStream) -> None:
    """Put into both queues what was in them, and set the windows."""
    message = state.message
    file.name("queues")
    socketoptions.widen(file, file.number)
    for queue, content in ((RECEIVED, state.received), (SENT, state.sent)):
        set_option(file, SOL_TCP, TCP_REPAIR_QUEUE, queue)
        for at in range(0, len(content), _PIECE):
            piece = content[at : at + _PIECE]
            data = file.data(piece), len(piece)
            file.script.exact("sendto", file.number, *data, MSG_NOSIGNAL, 0, 0, wanted=len(piece))
    set_option(file, SOL_TCP, TCP_REPAIR_QUEUE, NO_QUEUE)
    if message.HasField("snd_wnd"):
        ended = int(file.entry.isk.state in _PEER_ENDED)
        windows = (
            message.snd_wl1,
            message.snd_wnd,
            message.max_window,
            message.rcv_wnd + ended,
            message.rcv_wup - ended,
        )
        set_option(file, SOL_TCP, TCP_REPAIR_WINDOW, struct.pack("<5I", *(each & _U32 for each in windows)))
    _end(file, state)


def resume(file: OpenFile) -> None:
    """End the repair mode; the kernel asks the peer for its window."""
    file.name("connection")
    set_option(file, SOL_TCP, TCP_REPAIR, 0)


def _numbers(file: OpenFile, state: TcpStream) -> tuple[int, int]:
    """Return the numbers behind what is in both queues: an end of data takes one, and comes later."""
    part, message = file.entry.isk, state.message
    return int(message.inq_seq) - (part.state in _PEER_ENDED), int(message.outq_seq) - (part.state in _ENDED)


def _end(file: OpenFile, state: TcpStream) -> None:
    """End the data of a connection that is being closed, in both directions, and have the peer acknowledge what it had."""
    part = file.entry.isk
    expected, following = _numbers(file, state)
    first = following - len(state.sent)
    window = int(state.message.rcv_wnd)
    if part.state in _ENDED_FIRST:
        _end_own(file)
    if part.state in _PEER_ENDED:
        file.name("end of the peer's data")
        tcppackets.send(file, tcppackets.packet(part, expected, first, ACK | FIN, window))
    if part.state in _ENDED_LAST:
        _end_own(file)
    if part.state in _END_ACKNOWLEDGED:
        file.name("acknowledgment of the end")
        number = expected + (part.state == CLOSE)
        tcppackets.send(file, tcppackets.packet(part, number, first + 1, ACK, window))


def _end_own(file: OpenFile) -> None:
    file.name("end of its data")
    acknowledged = file.entry.isk.state in _END_ACKNOWLEDGED  # else the kernel sends it
    if acknowledged:
        set_option(file, SOL_TCP, TCP_REPAIR_QUEUE, SENT)
    file.script.call("shutdown", file.number, _SHUT_WR)
    if acknowledged:
        set_option(file, SOL_TCP, TCP_REPAIR_QUEUE, NO_QUEUE)


class BlockedConnections:
    """The rules by which CRIU blocks connections from a dump to a restore.

    Args:
        inventory: the inventory_entry.
    """

    def __init__(self, inventory: Any) -> None:
        self._method = int(inventory.network_lock_method)
        self._run = bytes(inventory.dump_criu_run_id)
        self._connections: list[tuple[bool, str, int, str, int]] = []

    def fault(self) -> tuple[str, str]:
        """Return the rule and the text of the reason to refuse connections; empty: there is none."""
        tool = {_IPTABLES: "iptables", _NFTABLES: "nft"}.get(self._method)
        if tool is None:
            return "", ""
        import shutil  # few trees have connections

        if shutil.which(tool):
            return "", ""
        text = f"CRIU has blocked it by a rule which {tool} removes, and {tool} is not here: install it, or dump with "
        return "blocked", f"{text}--network-lock skip"

    def add(self, *, six: bool, here: tuple[str, int], there: tuple[str, int]) -> None:
        """Note a connection by the addresses and ports of its ends. CRIU blocks one of IPv4 in a socket of IPv6 as IPv4."""
        if six and IPv6Address(there[0]).ipv4_mapped is not None:
            six = False
            here, there = ((str(IPv6Address(host).ipv4_mapped or host), port) for host, port in (here, there))
        self._connections.append((six, *here, *there))

    def unblock(self) -> None:
        """Remove the rules; where they are gone already, as on another host, there is nothing to do."""
        for command in self._commands():
            import subprocess  # few trees have connections

            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_PATIENCE_S)

    def _commands(self) -> Iterator[list[str]]:
        run = _RUN.fullmatch(self._run)
        if self._connections and self._method == _NFTABLES and run:
            yield ["nft", "delete", "table", "inet", f"CRIU-{run[1].decode()}"]
        for six, host, port, peer, peer_port in self._connections if self._method == _IPTABLES else ():
            program = "ip6tables" if six else "iptables"
            for chain, source, destination in (
                ("INPUT", (peer, peer_port), (host, port)),
                ("OUTPUT", (host, port), (peer, peer_port)),
            ):
                yield [
                    *(program, "-w", "-t", "filter", "-D", chain, "--protocol", "tcp"),
                    *(
                        "-m",
                        "mark",
                        "!",
                        "--mark",
                        f"0x{CRIU_MARK:X}",
                        "--source",
                        source[0],
                        "--sport",
                        str(source[1]),
                    ),
                    *("--destination", destination[0], "--dport", str(destination[1]), "-j", "DROP"),
                ]


def _options(message: Any) -> Iterator[tuple[int, int]]:
    """Yield struct tcp_repair_opt of each option that the ends have agreed on."""
    if message.opt_mask & _OPT_SACK:
        yield _SACK, 0
    if message.opt_mask & _OPT_WSCALE:
        yield _WINDOW, int(message.snd_wscale) & 0xFFFF | (int(message.rcv_wscale) & 0xFFFF) << 16
    if message.opt_mask & _OPT_TIMESTAMPS:
        yield _TIMESTAMP, 0
    yield _MAXSEG, int(message.mss_clamp)
