# SPDX-License-Identifier: Apache-2.0
"""The options of a socket that are the same for all families, and how a message is sent."""

import struct
from collections.abc import Sequence
from typing import Any, Final

from agent.restart.contents.descriptors import OpenFile
from agent.restart.contents.fillabi import Demand
from agent.restart.contents.fillprogram import Argument, Data

SOL_SOCKET: Final = 1
SO_REUSEADDR: Final = 2
SO_SNDBUF, SO_RCVBUF, SO_SNDBUFFORCE, SO_RCVBUFFORCE = 7, 8, 32, 33
SO_LINGER, SO_SNDTIMEO, SO_RCVTIMEO, SO_BINDTODEVICE, SO_ATTACH_FILTER = 13, 21, 20, 25, 26
SCM_RIGHTS: Final = 1
MSG_DONTWAIT, MSG_NOSIGNAL = 0x40, 0x4000
SHUTDOWNS: Final = (0, 1, 2, 3)
"""CRIU's numbers for none, reading, writing, both: one more than those of shutdown(2)."""
LISTEN, ESTABLISHED, CLOSE = 10, 1, 7
"""States of a socket, of all families, as those of TCP."""

# Options that are one number: the field of CRIU's message, and the number of the option.
_NUMBERS: Final = (
    *(("so_buf_lock", 72), ("so_priority", 12), ("so_rcvlowat", 18), ("so_mark", 36), ("so_passcred", 16)),
    *(("so_passsec", 34), ("so_dontroute", 5), ("so_no_check", 11), ("so_broadcast", 6), ("so_oobinline", 10)),
    ("so_keepalive", 9),
)
_SWITCHES: Final = {"so_passcred", "so_passsec", "so_dontroute", "so_no_check", "so_broadcast", "so_oobinline"}
"""Options that are off in a new socket, and that some families refuse to take."""
_WORD: Final = (1 << 32) - 1
_MOST_QUEUED: Final = 1 << 28
_IOV_AT, _IOV_COUNT_AT, _CONTROL_AT, _CONTROL_SIZE_AT, _HEADER_SIZE = 16, 24, 32, 40, 56
_CONTROL_HEAD: Final = 16


def set_option(file: OpenFile, level: int, option: int, content: bytes | int, *, optional: bool = False) -> None:
    """Set an option to a number of 32 bits or to other content; `optional`: the kernel may refuse it."""
    data = struct.pack("<I", content & _WORD) if isinstance(content, int) else content
    demand = Demand.ANY if optional else Demand.SUCCESS
    file.script.call("setsockopt", file.number, level, option, file.data(data), len(data), demand=demand)


def restore_options(file: OpenFile, options: Any) -> None:
    """Set the options of an sk_opts_entry but those about addresses."""
    file.name("options")
    for size, plain, forced in (
        (options.so_sndbuf, SO_SNDBUF, SO_SNDBUFFORCE),
        (options.so_rcvbuf, SO_RCVBUF, SO_RCVBUFFORCE),
    ):
        half = min(int(size) // 2, _MOST_QUEUED)  # the kernel doubles it
        set_option(file, SOL_SOCKET, plain, half)
        set_option(file, SOL_SOCKET, forced, half, optional=True)
    for name, option in _NUMBERS:
        if options.HasField(name) and (getattr(options, name) or name not in _SWITCHES):
            set_option(file, SOL_SOCKET, option, struct.pack("<I", int(getattr(options, name))))
    if options.HasField("so_linger"):
        set_option(file, SOL_SOCKET, SO_LINGER, struct.pack("<iI", 1, int(options.so_linger)))
    for seconds, rest, option in (
        (options.so_snd_tmo_sec, options.so_snd_tmo_usec, SO_SNDTIMEO),
        (options.so_rcv_tmo_sec, options.so_rcv_tmo_usec, SO_RCVTIMEO),
    ):
        if seconds or rest:
            set_option(file, SOL_SOCKET, option, struct.pack("<QQ", int(seconds), int(rest)))
    if options.so_bound_dev:
        set_option(file, SOL_SOCKET, SO_BINDTODEVICE, bytes(options.so_bound_dev) + b"\0")
    if options.so_filter:
        program = file.data(b"".join(_instruction(int(word)) for word in options.so_filter))
        head = file.data(struct.pack("<HxxxxxxQ", len(options.so_filter), 0))
        file.script.address(head, 8, program)
        file.script.call("setsockopt", file.number, SOL_SOCKET, SO_ATTACH_FILTER, head, 16)


def widen(file: OpenFile, sender: Argument) -> None:
    """Let a socket send more than its buffer will hold in the end."""
    size = file.data(struct.pack("<i", _MOST_QUEUED))
    file.script.call("setsockopt", sender, SOL_SOCKET, SO_SNDBUFFORCE, size, 4, demand=Demand.ANY)


def send(file: OpenFile, sender: Argument, content: bytes, rights: Sequence[int], address: bytes = b"") -> None:
    """Send a message from a descriptor, with the descriptors that are in flight with it; fail rather than wait."""
    header = file.data(bytes(_HEADER_SIZE))
    script = file.script
    spans = file.data(struct.pack("<QQ", 0, len(content)))
    script.address(spans, 0, file.data(content))
    script.address(header, _IOV_AT, spans)
    script.store(header, _IOV_COUNT_AT, 1)
    if rights:
        size = _CONTROL_HEAD + 4 * len(rights)
        control = struct.pack(f"<Qii{len(rights)}i", size, SOL_SOCKET, SCM_RIGHTS, *rights)
        _point(file, header, _CONTROL_AT, control.ljust(-(-size // 8) * 8, b"\0"))
        script.store(header, _CONTROL_SIZE_AT, size)
    if address:
        _point(file, header, 0, address)
        script.store(header, 8, len(address))
    script.exact("sendmsg", sender, header, MSG_DONTWAIT | MSG_NOSIGNAL, wanted=len(content))


def restore_shutdown(file: OpenFile, part: Any) -> None:
    """Shut down the directions that were."""
    if part.shutdown:
        file.script.call("shutdown", file.number, int(part.shutdown) - 1, demand=Demand.ANY)


def _instruction(word: int) -> bytes:
    """Return an instruction of a filter as the kernel takes it; the image has it as a number, from its code downward."""
    return struct.pack("<HBBI", word >> 48, word >> 40 & 0xFF, word >> 32 & 0xFF, word & 0xFFFFFFFF)


def _point(file: OpenFile, at: Data, offset: int, content: bytes) -> None:
    file.script.address(at, offset, file.data(content))
