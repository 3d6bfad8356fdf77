# SPDX-License-Identifier: Apache-2.0
"""The kinds of open files that can be restored."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from agent.restart.contents.descriptors import FileKind
from agent.restart.contents.eventfiles import Epolls, EventCounters, ProcessFiles, SignalFiles, TimerFiles, Watches
from agent.restart.contents.external import External
from agent.restart.contents.images import Images
from agent.restart.contents.inetsockets import InetSockets
from agent.restart.contents.namespacefiles import NamespaceFiles
from agent.restart.contents.netlinksockets import NetlinkSockets
from agent.restart.contents.openfiles import Fifos, PathFiles, Pipes
from agent.restart.contents.tcpconnections import BlockedConnections, TcpStream, stream
from agent.restart.contents.terminalfiles import TerminalFiles
from agent.restart.contents.unixsockets import UnixSockets, packets
from agent.restart.rebuild.timenamespace import NO_OFFSETS, ClockOffsets


def kinds(
    images: Images, allowed: External, blocked: BlockedConnections, clocks: ClockOffsets = NO_OFFSETS
) -> dict[int, FileKind]:
    """Return the kinds of open files that can be restored, by CRIU's number.

    Args:
        images: the folder.
        allowed: the objects outside of it that it may have.
        blocked: the rules that block connections.
        clocks: how far the clocks of the tree are ahead of this host's.
    """
    pipes = _pipe_contents(images)
    infos = {int(info.id): info for info in images.all("tty-info.img")}
    data = {int(each.tty_id): bytes(each.data) for each in images.all("tty-data.img")}
    return {
        1: PathFiles(),
        2: Pipes(images.files, pipes),
        3: Fifos(images.files, pipes),
        4: InetSockets(partial(_stream, images) if allowed.established else None, blocked, closed=allowed.closed),
        5: UnixSockets(images.files, packets(_queues(images))),
        6: EventCounters(),
        7: Epolls(),
        8: Watches(),
        9: SignalFiles(),
        11: TerminalFiles(images.files, infos, data, allowed.terminal),
        13: NetlinkSockets(),
        14: NamespaceFiles(images.processes.values()),
        17: TimerFiles(clocks),
        20: ProcessFiles(images.processes),
    }


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


def _stream(images: Images, inode: int) -> TcpStream | None:
    return stream((entry.message, content) for entry, content in images.payloads(f"tcp-stream-{inode:x}.img"))
