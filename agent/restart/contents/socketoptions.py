# SPDX-License-Identifier: Apache-2.0
"""The options of a socket that are the same for all families, and how a message is sent."""

import ctypes
import socket as sockets
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from agent.record import NamedTuple
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
_MOST_FILTER: Final = 4097
"""Instructions of a filter: one more than the kernel takes, which so refuses longer ones."""
_IOV_AT, _IOV_COUNT_AT, _CONTROL_AT, _CONTROL_SIZE_AT, _HEADER_SIZE = 16, 24, 32, 40, 56
_CONTROL_HEAD: Final = 16


class Setting(NamedTuple):
    """An option of a socket.

    Attributes:
        level, option: its numbers.
        content: a number of 32 bits, or other content.
        optional: the kernel may refuse it.
    """

    level: int
    option: int
    content: bytes | int
    optional: bool = False

    @property
    def packed(self) -> bytes:
        """The content as the kernel takes it."""
        return struct.pack("<I", self.content & _WORD) if isinstance(self.content, int) else self.content

    @property
    def shown(self) -> str:
        """The content, for a message."""
        return str(self.content) if isinstance(self.content, int) else self.content.hex(" ")


def set_option(file: OpenFile, level: int, option: int, content: bytes | int, *, optional: bool = False) -> None:
    """Set an option to a number of 32 bits or to other content; `optional`: the kernel may refuse it."""
    data = Setting(level, option, content).packed
    demand = Demand.ANY if optional else Demand.SUCCESS
    file.script.call("setsockopt", file.number, level, option, file.data(data), len(data), demand=demand)


def settings(options: Any) -> Iterator[Setting]:
    """Yield the options of an sk_opts_entry but those about addresses, and its filter."""
    for size, plain, forced in (
        (options.so_sndbuf, SO_SNDBUF, SO_SNDBUFFORCE),
        (options.so_rcvbuf, SO_RCVBUF, SO_RCVBUFFORCE),
    ):
        half = min(int(size) // 2, _MOST_QUEUED)  # the kernel doubles it
        yield Setting(SOL_SOCKET, plain, half)
        yield Setting(SOL_SOCKET, forced, half, optional=True)
    for name, option in _NUMBERS:
        if options.HasField(name) and (getattr(options, name) or name not in _SWITCHES):
            yield Setting(SOL_SOCKET, option, int(getattr(options, name)))
    if options.HasField("so_linger"):
        yield Setting(SOL_SOCKET, SO_LINGER, struct.pack("<iI", 1, int(options.so_linger)))
    for seconds, rest, option in (
        (options.so_snd_tmo_sec, options.so_snd_tmo_usec, SO_SNDTIMEO),
        (options.so_rcv_tmo_sec, options.so_rcv_tmo_usec, SO_RCVTIMEO),
    ):
        if seconds or rest:
            yield Setting(SOL_SOCKET, option, struct.pack("<QQ", int(seconds), int(rest)))


def restore_options(file: OpenFile, options: Any) -> None:
    """Set the options of an sk_opts_entry but those about addresses."""
    file.name("options")
    for each in settings(options):
        set_option(file, *each[:3], optional=each.optional)
    if options.so_filter:
        program = file.data(_filter(options))
        head = file.data(struct.pack("<HxxxxxxQ", len(options.so_filter), 0))
        file.script.address(head, 8, program)
        file.script.call("setsockopt", file.number, SOL_SOCKET, SO_ATTACH_FILTER, head, 16)


def fault(kind: tuple[int, int, int], options: Any, more: Iterable[Setting] = ()) -> tuple[str, str]:
    """Return the rule and the text of the reason to refuse a socket; empty: there is none.

    The kernel is asked by another socket of the kind.

    Args:
        kind: family, type and protocol of the socket.
        options: its sk_opts_entry.
        more: its further options.
    """
    try:
        probe = sockets.socket(*kind)
    except OSError as error:
        return "type", f"no socket of type {kind[1]} and protocol {kind[2]} is made here: {error.strerror}"
    with probe:
        for each in (*settings(options), *more):
            try:
                probe.setsockopt(each.level, each.option, each.packed)
            except OSError as error:
                if not each.optional:
                    said = f"option {each.option} of level {each.level} cannot be {each.shown}: {error.strerror}"
                    return "option", f"{said}: dump it again, or have the caller's rights suffice"
        if options.so_filter:
            program = ctypes.create_string_buffer(_filter(options))
            head = struct.pack("<HxxxxxxQ", min(len(options.so_filter), _MOST_FILTER), ctypes.addressof(program))
            try:
                probe.setsockopt(SOL_SOCKET, SO_ATTACH_FILTER, head)
            except OSError as error:
                return "filter", f"the kernel takes no such filter: {error.strerror}: dump it again"
    return "", ""


def bind_to_device(file: OpenFile, options: Any) -> None:
    """Bind a new socket to the interface of an sk_opts_entry, if it has one; a second time takes CAP_NET_RAW."""
    if options.so_bound_dev:
        set_option(file, SOL_SOCKET, SO_BINDTODEVICE, bytes(options.so_bound_dev) + b"\0")


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


def _filter(options: Any) -> bytes:
    """Return the filter of an sk_opts_entry as the kernel takes it."""
    return b"".join(_instruction(int(word)) for word in options.so_filter)


def _instruction(word: int) -> bytes:
    """Return an instruction of a filter as the kernel takes it; the image has it as a number, from its code downward."""
    return struct.pack("<HBBI", word >> 48, word >> 40 & 0xFF, word >> 32 & 0xFF, word & 0xFFFFFFFF)


def _point(file: OpenFile, at: Data, offset: int, content: bytes) -> None:
    file.script.address(at, offset, file.data(content))
