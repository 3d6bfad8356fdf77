# SPDX-License-Identifier: Apache-2.0
"""CRIU's image files: framing and magic numbers, written and read.

    file  = u32 COMMON or SERVICE, u32 magic of its kind, {entry}        little endian
    entry = u32 length, message, bytes that the message announces

The inventory has its own magic alone. Kinds without messages (pages-N.img, what ip and tar write) have no framing.

A reader takes an entry at a time, so a file of any length takes the memory of one entry; a small file is read at once,
which is faster. The bytes behind a message stay in the file: their place is told, and their number is checked against
the file's end. Files are untrusted: all that is wrong with one is a FormatError with its name and the byte.
"""

import io
import os
import re
import struct
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

from agent.errors import FormatError
from exporters.criu import bounds, criuschema, messagelist

if TYPE_CHECKING:
    from google.protobuf.message import Message

COMMON: Final = 0x54564319
SERVICE: Final = 0x55105940

_MAGIC: Final = struct.Struct("<I")
_LENGTH: Final = struct.Struct("<I")

# In an error: fields that are named, characters of a field's path, bytes of a message whose fields are looked for.
_NAMED, _PATH, _LISTED = 6, 60, 1 << 16

_AT_ONCE: Final = 1 << 16
"""Bytes of a file, at most, that is read at once."""

MessageOrder = Callable[[], "Generator[tuple[str, bool], Message, None]"]
"""The order of a file's messages: yields the name of the next one, and True where the file may end before it."""


class ImageKind(NamedTuple):
    """A kind of image file.

    Attributes:
        stem: the name of its files up to the number.
        magic: its number.
        order: the order of its messages.
        payload: the number of bytes behind a message; None: all to the end of the file.
        magics: the magic numbers at the beginning of its files.
    """

    stem: str
    magic: int
    order: MessageOrder
    payload: "Callable[[Message], int | None]"
    magics: tuple[int, ...]


class ImageEntry(NamedTuple):
    """An entry of an image file.

    Attributes:
        offset: of its length, bytes from the start of the file.
        message: its message.
        payload: offset of the bytes behind the message.
        payload_bytes: their number.
    """

    offset: int
    message: "Message"
    payload: int
    payload_bytes: int


def _all(name: str) -> MessageOrder:
    def order() -> "Generator[tuple[str, bool], Message, None]":
        while True:
            yield name, True

    return order


def _headed(first: str, then: str) -> MessageOrder:
    def order() -> "Generator[tuple[str, bool], Message, None]":
        yield first, False
        while True:
            yield then, True

    return order


def _queues() -> "Generator[tuple[str, bool], Message, None]":
    while True:
        queue = yield "ipc_msg_entry", True
        for _ in range(queue.qnum):  # type: ignore[attr-defined]
            yield "ipc_msg", False


def _round_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _of_pipe(message: "Message") -> int:
    return int(message.bytes)  # type: ignore[attr-defined]


def _of_packet(message: "Message") -> int:
    return int(message.length)  # type: ignore[attr-defined]


def _of_stream(message: "Message") -> int:
    return int(message.inq_len + message.outq_len)  # type: ignore[attr-defined]


def _of_segment(message: "Message") -> int:
    return 0 if message.in_pagemaps else _round_up(message.size, 4)  # type: ignore[attr-defined]


def _of_semaphores(message: "Message") -> int:
    return _round_up(2 * message.nsems, 8)  # type: ignore[attr-defined]


def _of_queue(message: "Message") -> int:
    return _round_up(message.msize, 8) if _name(message) == "ipc_msg" else 0  # type: ignore[attr-defined]


def _of_map(message: "Message") -> int:
    return int(message.keys_bytes + message.values_bytes)  # type: ignore[attr-defined]


def _of_ghost(message: "Message") -> int | None:
    if _name(message) == "ghost_chunk_entry":
        return int(message.len)  # type: ignore[attr-defined]
    return 0 if message.chunks else None  # type: ignore[attr-defined]


def _nothing(_message: "Message") -> int:
    return 0


def _kind(
    stem: str,
    magic: int,
    messages: str | MessageOrder,
    payload: "Callable[[Message], int | None]" = _nothing,
    common: int | None = COMMON,
) -> ImageKind:
    order = _all(messages) if isinstance(messages, str) else messages
    return ImageKind(stem, magic, order, payload, (magic,) if common is None else (common, magic))


KINDS: Final = {
    kind.stem: kind
    for kind in (
        _kind("inventory", 0x58313116, "inventory_entry", common=None),
        _kind("pstree", 0x50273030, "pstree_entry"),
        _kind("core", 0x55053847, "core_entry"),
        _kind("ids", 0x54432030, "task_kobj_ids_entry"),
        _kind("mm", 0x57492820, "mm_entry"),
        _kind("vmas", 0x54123737, "vma_entry"),
        _kind("pagemap", 0x56084025, _headed("pagemap_head", "pagemap_entry")),
        _kind("pagemap-shmem", 0x56084025, _headed("pagemap_head", "pagemap_entry")),
        _kind("fdinfo", 0x56213732, "fdinfo_entry"),
        _kind("files", 0x56303138, "file_entry"),
        _kind("reg-files", 0x50363636, "reg_file_entry"),
        _kind("ext-files", 0x59255641, "ext_file_entry"),
        _kind("ns-files", 0x61394011, "ns_file_entry"),
        _kind("eventfd", 0x44523722, "eventfd_file_entry"),
        _kind("eventpoll", 0x45023858, "eventpoll_file_entry"),
        _kind("eventpoll-tfd", 0x44433746, "eventpoll_tfd_entry"),
        _kind("signalfd", 0x57323820, "signalfd_entry"),
        _kind("inotify", 0x48424431, "inotify_file_entry"),
        _kind("inotify-wd", 0x54562009, "inotify_wd_entry"),
        _kind("fanotify", 0x55096122, "fanotify_file_entry"),
        _kind("fanotify-mark", 0x56506035, "fanotify_mark_entry"),
        _kind("timerfd", 0x50493712, "timerfd_entry"),
        _kind("pidfd", 0x54435556, "pidfd_entry"),
        _kind("pipes", 0x56513555, "pipe_entry"),
        _kind("pipes-data", 0x56453709, "pipe_data_entry", _of_pipe),
        _kind("fifo", 0x58364939, "fifo_entry"),
        _kind("fifo-data", 0x59333054, "pipe_data_entry", _of_pipe),
        _kind("unixsk", 0x54373943, "unix_sk_entry"),
        _kind("inetsk", 0x56443851, "inet_sk_entry"),
        _kind("packetsk", 0x60454618, "packet_sock_entry"),
        _kind("netlinksk", 0x58005614, "netlink_sk_entry"),
        _kind("sk-queues", 0x56264026, "sk_packet_entry", _of_packet),
        _kind("tcp-stream", 0x51465506, "tcp_stream_entry", _of_stream),
        _kind("tty", 0x59433025, "tty_file_entry"),
        _kind("tty-info", 0x59453036, "tty_info_entry"),
        _kind("tty-data", 0x59413026, "tty_data_entry"),
        _kind("tunfile", 0x57143751, "tunfile_entry"),
        _kind("bpfmap-file", 0x57506142, "bpfmap_file_entry"),
        _kind("bpfmap-data", 0x64324033, "bpfmap_data_entry", _of_map),
        _kind("memfd", 0x48453499, "memfd_inode_entry"),
        _kind("remap-fpath", 0x59133954, "remap_file_path_entry"),
        _kind("ghost-file", 0x52583605, _headed("ghost_file_entry", "ghost_chunk_entry"), _of_ghost),
        _kind("filelocks", 0x54323616, "file_lock_entry"),
        _kind("fs", 0x51403912, "fs_entry"),
        _kind("sigacts", 0x55344201, "sa_entry"),
        _kind("signal-s", 0x59255647, "siginfo_entry"),
        _kind("signal-p", 0x59255647, "siginfo_entry"),
        _kind("itimers", 0x57464056, "itimer_entry"),
        _kind("posix-timers", 0x52603957, "posix_timer_entry"),
        _kind("creds", 0x54023547, "creds_entry"),
        _kind("rlimit", 0x57113925, "rlimit_entry"),
        _kind("seccomp", 0x64413049, "seccomp_entry"),
        _kind("apparmor", 0x59423047, "apparmor_entry"),
        _kind("cgroup", 0x59383330, "cgroup_entry"),
        _kind("cpuinfo", 0x61404013, "cpuinfo_entry"),
        _kind("utsns", 0x54473203, "utsns_entry"),
        _kind("ipcns-var", 0x53115007, "ipc_var_entry"),
        _kind("ipcns-shm", 0x46283044, "ipc_shm_entry", _of_segment),
        _kind("ipcns-msg", 0x55453737, _queues, _of_queue),
        _kind("ipcns-sem", 0x59573019, "ipc_sem_entry", _of_semaphores),
        _kind("mountpoints", 0x55563928, "mnt_entry"),
        _kind("timens", 0x43114433, "timens_entry"),
        _kind("pidns", 0x61157326, "pidns_entry"),
        _kind("userns", 0x55474906, "userns_entry"),
        _kind("stats", 0x57093306, "stats_entry", common=SERVICE),
    )
}
"""The kinds that can be read, by stem."""

_FILE: Final = re.compile(r"([a-z]+(?:-[a-z]+)*?)(?:-[0-9a-f]+)?\.img")  # a number is decimal or hexadecimal


@lru_cache(4096)
def kind_of(name: str) -> ImageKind | None:
    """Return the kind of a file by its name, as in ``core-5.img``; None for an unknown one."""
    if name in ("stats-dump", "stats-restore"):
        return KINDS["stats"]
    found = _FILE.fullmatch(name)
    # A word such as "fd" could be a number.
    return KINDS.get(name.removesuffix(".img")) or KINDS.get(found[1]) if found else None


def image(stem: str, messages: "Iterable[Message]") -> bytes:
    """Return an image file of a kind without payloads."""
    parts = [_MAGIC.pack(magic) for magic in KINDS[stem].magics]
    for message in messages:
        data = message.SerializeToString(deterministic=True)
        parts += (_LENGTH.pack(len(data)), data)
    return b"".join(parts)


def read(file: BinaryIO, name: str, kind: ImageKind | None = None) -> Iterator[ImageEntry]:
    """Yield the entries of an image file.

    Args:
        file: open for reading, at any place; it can seek. The reader moves to an entry's place itself, so the caller
            may move the file between entries.
        name: its name, for errors.
        kind: its kind; None: by its name.

    Raises:
        FormatError: it is no image of that kind.
        HostError: no protobuf library is installed.
    """
    kind = kind or kind_of(name)
    if kind is None:
        raise FormatError(name, "no kind of image file has such a name")
    size = file.seek(0, os.SEEK_END)
    if size <= _AT_ONCE:
        yield from whole(_bytes(file, name, 0, size), name, kind)
        return
    entries = _entries(file, name, kind, size)
    while True:
        with criuschema.without_warnings():
            entry = next(entries, None)
        if entry is None:
            return
        yield entry


def whole(data: bytes, name: str, kind: ImageKind) -> list[ImageEntry]:
    """Return the entries of a file of few bytes, which are all of it; arguments and errors as of `read`."""
    with criuschema.without_warnings():
        return list(_entries(io.BytesIO(data), name, kind, len(data), data))


def _entries(file: BinaryIO, name: str, kind: ImageKind, size: int, whole: bytes = b"") -> Iterator[ImageEntry]:
    """Yield the entries of a file of so many bytes; `whole` has them all, or none."""
    at = _read_magics(file, name, kind, size)
    order = kind.order()
    expected, may_end = next(order)
    while at < size or not may_end:
        if whole and expected in criuschema.LISTED and (listed := messagelist.decoded(whole, expected, at)):
            yield from (ImageEntry(begin, message, end, 0) for begin, end, message in listed)
            return
        message, payload = _read_message(file, name, expected, at, size)
        announced = kind.payload(message)
        count = size - payload if announced is None else announced
        if count > size - payload:
            text = f"the message is followed by {count} bytes, and the file has {size - payload} more"
            raise FormatError(f"{name}: {expected}", text, payload)
        yield ImageEntry(at, message, payload, count)
        at = payload + count
        expected, may_end = order.send(message)


def one(file: BinaryIO, name: str, kind: ImageKind | None = None) -> "Message":
    """Return the message of a file that has exactly one.

    Raises:
        FormatError: it is no image of that kind, or has another number of entries.
    """
    entries = read(file, name, kind)
    first = next(entries, None)
    if first is None:
        raise FormatError(name, "the file has no entry, and needs one")
    second = next(entries, None)
    if second is not None:
        raise FormatError(name, "the file has a second entry, and may have one alone", second.offset)
    return first.message


def end_of_first(data: bytes, name: str) -> int | None:
    """Return the offset behind the first entry of a file without payloads; None: it has none, or its name no kind.

    Args:
        data: the file, or its begin.
        name: its name.
    """
    kind = kind_of(name)
    at = _MAGIC.size * len(kind.magics) if kind is not None else len(data)
    if len(data) < at + _LENGTH.size:
        return None
    end: int = at + _LENGTH.size + _LENGTH.unpack_from(data, at)[0]
    return end if end <= len(data) else None


def _read_magics(file: BinaryIO, name: str, kind: ImageKind, size: int) -> int:
    """Check the magic numbers at the beginning of a file; return the offset behind them."""
    at = 0
    for magic in kind.magics:
        if size < at + _MAGIC.size:
            raise FormatError(name, f"the file ends within the magic number 0x{magic:08x}", at)
        found = _MAGIC.unpack(_bytes(file, name, at, _MAGIC.size))[0]
        if found != magic:
            raise FormatError(name, f"the magic number is 0x{found:08x}, and that of {kind.stem} is 0x{magic:08x}", at)
        at += _MAGIC.size
    return at


def _read_message(file: BinaryIO, name: str, expected: str, at: int, size: int) -> "tuple[Message, int]":
    """Return the message of an entry, and the offset behind it."""
    path = f"{name}: {expected}"
    if size < at + _LENGTH.size:
        raise FormatError(path, f"the file ends where an entry's length of {_LENGTH.size} bytes begins", at)
    length = _LENGTH.unpack(_bytes(file, name, at, _LENGTH.size))[0]
    begin = at + _LENGTH.size
    if length > size - begin:
        raise FormatError(path, f"an entry of {length} bytes, and the file has {size - begin} more", at)
    if length > bounds.MOST:
        raise FormatError(path, f"an entry of {length} bytes: at most {bounds.MOST} are read", at)
    data = _bytes(file, name, begin, length)
    try:
        bounds.check(data, expected)
    except bounds.BoundError as error:
        raise FormatError(path, f"an entry of {length} bytes: {error}", at) from None
    return _parsed(path, expected, data, at), begin + length


def _parsed(path: str, expected: str, data: bytes, at: int) -> "Message":
    made = criuschema.messages()[expected]()
    from google.protobuf.message import DecodeError

    try:
        count = made.MergeFromString(data)
    except (DecodeError, RecursionError):
        count = -1
    if count != len(data):
        raise FormatError(path, f"an entry of {len(data)} bytes that cannot be decoded", at)
    if not made.IsInitialized():
        # The list of a crowded message would take much memory.
        lacking = made.FindInitializationErrors()[:_NAMED] if len(data) < _LISTED else ["fields"]  # type: ignore[attr-defined]
        raise FormatError(path, f"the entry lacks {', '.join([each[-_PATH:] for each in lacking])}", at)
    return made


def _bytes(file: BinaryIO, name: str, at: int, count: int) -> bytes:
    file.seek(at)
    data = file.read(count)
    if len(data) != count:
        raise FormatError(name, f"the file has become shorter while it was read: {count} bytes are missing", at)
    return data


def _name(message: "Message") -> str:
    return message.DESCRIPTOR.name
