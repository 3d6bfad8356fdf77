# SPDX-License-Identifier: Apache-2.0
"""The kinds of open files that can be restored; those that images speak of are imported and made."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

from agent.restart.contents.descriptors import FileKind
from agent.restart.contents.external import External
from agent.restart.contents.images import Images
from agent.restart.contents.openfiles import Fifos, PathFiles, Pipes
from agent.restart.rebuild.timenamespace import NO_OFFSETS, ClockOffsets

if TYPE_CHECKING:
    from agent.restart.contents.tcpconnections import BlockedConnections, TcpStream

_INET: Final = 4


def _spoken_of(images: Images) -> set[int]:
    """Return the numbers of all kinds that open files or descriptors have."""
    numbers = {int(entry.type) for entry in images.files.values()}
    descriptors = {id(process.fds): process.fds for process in images.processes.values()}
    return numbers | {int(info.type) for fds in descriptors.values() for info in fds}


def blocked(images: Images) -> "BlockedConnections | None":
    """Return the rules that block connections; None where the images have no socket that could have one."""
    if _INET not in _spoken_of(images):
        return None
    from agent.restart.contents.tcpconnections import BlockedConnections

    return BlockedConnections(images.inventory)


def kinds(
    images: Images, allowed: External, blocked: "BlockedConnections | None", clocks: ClockOffsets = NO_OFFSETS
) -> dict[int, FileKind]:
    """Return those kinds of open files that can be restored and that the images speak of, by CRIU's number.

    Args:
        images: the folder.
        allowed: the objects outside of it that it may have.
        blocked: the rules that block connections.
        clocks: how far the clocks of the tree are ahead of this host's.
    """
    pipes = cache(partial(_pipe_contents, images))
    made: dict[int, Callable[[], FileKind]] = {
        1: PathFiles,
        2: lambda: Pipes(images.files, pipes()),
        3: lambda: Fifos(images.files, pipes()),
        _INET: lambda: _inet_sockets(images, allowed, blocked),
        5: lambda: _unix_sockets(images),
        **{number: partial(_event_files, number, images, clocks) for number in (6, 7, 8, 9, 17, 20)},
        11: lambda: _terminals(images, allowed),
        13: _netlink_sockets,
        14: lambda: _namespace_files(images),
    }
    spoken_of = _spoken_of(images)
    return {number: make() for number, make in sorted(made.items()) if number in spoken_of}


def _inet_sockets(images: Images, allowed: External, blocked: "BlockedConnections | None") -> FileKind:
    from agent.restart.contents.inetsockets import InetSockets

    stream = partial(_stream, images) if allowed.established else None
    return InetSockets(images.files, stream, blocked, closed=allowed.closed)


def _unix_sockets(images: Images) -> FileKind:
    from agent.restart.contents.unixsockets import UnixSockets, packets

    return UnixSockets(images.files, packets(_queues(images)))


def _event_files(number: int, images: Images, clocks: ClockOffsets) -> FileKind:
    from agent.restart.contents import eventfiles

    made: dict[int, Callable[[], FileKind]] = {
        6: eventfiles.EventCounters,
        7: eventfiles.Epolls,
        8: eventfiles.Watches,
        9: eventfiles.SignalFiles,
        17: lambda: eventfiles.TimerFiles(clocks),
        20: lambda: eventfiles.ProcessFiles(images.processes),
    }
    return made[number]()


def _terminals(images: Images, allowed: External) -> FileKind:
    from agent.restart.contents.terminalfiles import TerminalFiles

    infos = {int(info.id): info for info in images.all("tty-info.img")}
    data = {int(each.tty_id): bytes(each.data) for each in images.all("tty-data.img")}
    return TerminalFiles(images.files, infos, data, allowed.terminal)


def _netlink_sockets() -> FileKind:
    from agent.restart.contents.netlinksockets import NetlinkSockets

    return NetlinkSockets()


def _namespace_files(images: Images) -> FileKind:
    from agent.restart.contents.namespacefiles import NamespaceFiles

    return NamespaceFiles(images.processes.values())


def _pipe_contents(images: Images) -> dict[int, tuple[bytes, int]]:
    """Return the bytes in each pipe and FIFO, and its size, by its id."""
    found: dict[int, tuple[bytes, int]] = {}
    for name in ("pipes-data.img", "fifo-data.img"):
        for entry, content in images.payloads(name):
            message: Any = entry.message
            found[int(message.pipe_id)] = content, int(message.size)
    return found


def _queues(images: Images) -> Iterator[tuple[Any, bytes]]:
    """Yield the messages in the queues of sockets, in order."""
    for entry, content in images.payloads("sk-queues.img"):
        yield entry.message, content


def _stream(images: Images, inode: int) -> "TcpStream | None":
    from agent.restart.contents.tcpconnections import stream

    return stream((entry.message, content) for entry, content in images.payloads(f"tcp-stream-{inode:x}.img"))
