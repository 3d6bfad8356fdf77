# SPDX-License-Identifier: Apache-2.0
"""Small dumps of sockets and terminals; see tests.support.smalldumps."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from tests.support.dumpparts import ROOT, SmallDump, alone, dump, image, new
from tests.support.filledfiles import file_entry

_HERE, _HERE_6 = [0x0100007F], [0, 0, 0, 0x01000000]
_ADDRESSES: Final = {"backlog": 4, "src_addr": _HERE, "dst_addr": [0], "dst_port": 0}


def _streams() -> SmallDump:
    """Return unix sockets of streams: a pair with data and a descriptor in flight, a listener, one that has no peer."""
    some = {"type": 1, "uflags": 0}
    files = [
        file_entry(10, 5, ino=50, state=1, backlog=0, peer=51, name=b"", **some),
        file_entry(11, 5, ino=51, state=1, backlog=0, peer=50, name=b"\0abstract", **some),
        file_entry(12, 5, ino=52, state=10, backlog=5, peer=0, name=b"/run/ckptree listens\0", **some),
        file_entry(15, 5, ino=55, state=1, backlog=0, peer=0, name=b"", shutdown=3, **some),
    ]
    files[2].usk.file_perms.MergeFrom(new("file_perms_entry", mode=0o640, uid=5, gid=6))
    flying = file_entry(17, 6, counter=1)
    packet = new("sk_packet_entry", id_for=10, length=3, scm=[{"type": 1, "rights": [17]}])
    made, processes = alone(files)
    return dump([*made, flying], processes, sk_queues=image("sk-queues", packet, payloads=[b"one"]))


def _datagrams() -> SmallDump:
    """Return unix sockets of datagrams: one in a folder with a message, one connected to it, one whose name is deleted."""
    some = {"type": 2, "uflags": 0, "backlog": 0}
    files = [
        file_entry(13, 5, ino=53, state=7, peer=0, name=b"name\0", name_dir=b"/run", **some),
        file_entry(14, 5, ino=54, state=1, peer=53, name=b"", **some),
        file_entry(16, 5, ino=56, state=7, peer=0, name=b"/run/ckptree d\0", deleted=True, **some),
    ]
    made, processes = alone(files)
    queue = new("sk_packet_entry", id_for=13, length=4)
    return dump(made, processes, sk_queues=image("sk-queues", queue, payloads=[b"more"]))


def _addresses() -> SmallDump:
    """Return sockets of IP without a connection, and one of netlink."""
    raw = {"pktinfo": True, "raw": {"hdrincl": True, "icmpv_filter": [1]}}
    six = {"src_addr": _HERE_6, "dst_addr": _HERE_6}
    files = [
        file_entry(10, 4, ino=60, **_ADDRESSES, family=2, type=1, proto=6, state=10, src_port=47001, v6only=False),
        file_entry(12, 4, ino=62, **_ADDRESSES | six, **_udp(10, 47004), ip_opts={"freebind": True}),
        file_entry(13, 4, ino=65, **_ADDRESSES, family=2, type=3, proto=1, state=7, src_port=1, ip_opts=raw),
        file_entry(14, 4, ino=66, **_ADDRESSES | {"dst_port": 53}, **_udp(2, 47005), ifname=b"lo", ip_opts={"tos": 4}),
        file_entry(15, 13, ino=63, protocol=0, state=1, portid=900, groups=[5], dst_portid=0, dst_group=3),
    ]
    return dump(*alone(files))


def _connections() -> SmallDump:
    """Return two connections of TCP with data, one of which the peer has ended."""
    files = [
        file_entry(11, 4, ino=61, **_ADDRESSES | {"dst_port": 47003, "dst_addr": _HERE}, **_tcp(1, 47002)),
        file_entry(16, 4, ino=64, **_ADDRESSES | {"dst_port": 47007, "dst_addr": _HERE}, **_tcp(8, 47006)),
    ]
    options = dict.fromkeys(("snd_wscale", "rcv_wscale", "timestamp", "snd_wl1", "snd_wnd", "max_window"), 7)
    numbers = {"inq_seq": 1000, "outq_seq": 2000, "mss_clamp": 1460, "rcv_wnd": 4, "rcv_wup": 5, "opt_mask": 15}
    state = new("tcp_stream_entry", inq_len=3, outq_len=4, **options, **numbers)
    stream = image("tcp-stream", state, payloads=[b"insouts"])
    return dump(*alone(files), tcp_stream_3d=stream, tcp_stream_40=stream)


def _tcp(state: int, port: int) -> dict[str, Any]:
    options = {"cork": True, "nodelay": True, "keepcnt": 3, "keepidle": 4, "keepintvl": 5}
    return {"family": 2, "type": 1, "proto": 6, "state": state, "src_port": port, "tcp_opts": options}


def _udp(family: int, port: int) -> dict[str, Any]:
    return {"family": family, "type": 2, "proto": 17, "state": 7, "src_port": port}


def _terminals() -> SmallDump:
    """Return a pseudo-terminal with what nobody has read, one that was hung up, and the session's own."""
    modes = {f"c_{name}": 5 for name in ("iflag", "oflag", "cflag", "lflag", "line", "ispeed", "ospeed")}
    size = {"ws_row": 24, "ws_col": 80, "ws_xpixel": 0, "ws_ypixel": 0}
    some = {"locked": True, "exclusive": True, "packet_mode": True, "pgrp": ROOT}
    full = {"termios": modes | {"c_cc": list(range(19))}, "termios_locked": modes, "winsize": size}
    infos = [
        new("tty_info_entry", id=81, type=1, sid=0, rdev=5 << 8 | 2, pty={"index": 4001}, **some, **full),
        new(
            "tty_info_entry", id=82, type=1, sid=ROOT, rdev=136 << 8, pty={"index": 4001}, uid=5, gid=6, **some, **full
        ),
        new("tty_info_entry", id=83, type=1, sid=0, rdev=136 << 8, pty={"index": 4002}, **some),
        new("tty_info_entry", id=84, type=4, sid=ROOT, rdev=5 << 8, **some),
    ]
    files = [
        file_entry(10, 11, tty_info_id=81, flags=2, regf_id=20),
        file_entry(11, 11, tty_info_id=82, flags=2, regf_id=21),
        file_entry(12, 11, tty_info_id=83, flags=2, regf_id=22),
        file_entry(13, 11, tty_info_id=84, flags=2, regf_id=23),
    ]
    paths = [
        file_entry(20, 1, name=b"/dev/ptmx", pos=0),
        file_entry(21, 1, name=b"/dev/pts/4001", pos=0, mode=0o20620),
        file_entry(22, 1, name=b"/dev/pts/4002", pos=0),
        file_entry(23, 1, name=b"/dev/tty", pos=0),
    ]
    data = [new("tty_data_entry", tty_id=number, data=b"typed") for number in (80, 81)]
    made, processes = alone(files)
    return dump([*made, *paths], processes, tty_info=image("tty-info", *infos), tty_data=image("tty-data", *data))


THEMES: Final[Mapping[str, Callable[[], SmallDump]]] = {
    "streams": _streams,
    "datagrams": _datagrams,
    "addresses": _addresses,
    "connections": _connections,
    "terminals": _terminals,
}
"""The maker of each dump, by its theme."""
