# SPDX-License-Identifier: Apache-2.0
"""Unix sockets: pairs, connections, listeners, datagrams, what is queued in them, and their files.

One process makes all sockets that are connected with each other or have one name, so a connection is made by connect()
and accept(), and both ends have the names that they had. A socket that is closed meanwhile has left an end that still
has a queue; that end is filled from a peer which is then closed, too.
"""

import errno
import os
import socket as sockets
import stat
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import Any, Final

from agent.record import NamedTuple
from agent.restart.contents import socketoptions
from agent.restart.contents.descriptors import FileKind, OpenFile
from agent.restart.contents.fillabi import Demand
from agent.restart.contents.fillprogram import Argument
from agent.restart.contents.holder import AT_FDCWD, O_CLOEXEC
from agent.restart.contents.pathaccess import following, go_to
from agent.restart.contents.refusals import Refused
from agent.restart.contents.socketoptions import CLOSE, ESTABLISHED, LISTEN, SHUTDOWNS

AF_UNSPEC, AF_UNIX = 0, 1
AT_SYMLINK_NOFOLLOW: Final = 0x100
SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET = 1, 2, 5
_MOST_NAME: Final = 108
_MOST_RIGHTS: Final = 253  # SCM_MAX_FD
_MANY: Final = 4096
_BOTH: Final = 3

Name = tuple[bytes, bytes, bool]
"""Folder that a relative name begins in, the name, and True where its file is deleted."""


class Packet(NamedTuple):
    """A message in the queue of a socket.

    Attributes:
        content: its bytes.
        rights: the ids of the files that are in flight with it.
        known: False if it has something else with it.
    """

    content: bytes
    rights: tuple[int, ...]
    known: bool


def packets(entries: Iterable[tuple[Any, bytes]]) -> dict[int, list[Packet]]:
    """Return the messages in the queue of each socket, by its id, from the entries of sk-queues.img."""
    found: dict[int, list[Packet]] = {}
    for message, content in entries:
        rights = tuple(int(each) for scm in message.scm for each in scm.rights)
        known = all(scm.type == socketoptions.SCM_RIGHTS for scm in message.scm) and len(rights) <= _MOST_RIGHTS
        found.setdefault(int(message.id_for), []).append(Packet(content, rights, known))
    return found


class UnixSockets(FileKind):
    """The unix sockets of a tree.

    Args:
        files: the file_entry of each open file.
        queues: the messages in the queue of each socket, by its id.
    """

    def __init__(self, files: Mapping[int, Any], queues: Mapping[int, Sequence[Packet]]) -> None:
        self._files = files
        self._queues = queues
        mine = [entry for entry in files.values() if entry.HasField("usk")]
        self._by_inode = {int(entry.usk.ino): entry for entry in mine}
        self._by_name: dict[bytes, list[int]] = {}
        for entry in mine:
            if entry.usk.name:
                self._by_name.setdefault(bytes(entry.usk.name), []).append(int(entry.id))
        self._listeners = {_name(entry.usk): entry for entry in mine if entry.usk.state == LISTEN and entry.usk.name}
        self._temporary: dict[Name, int] = {}
        self._other_ends: dict[int, Argument] = {}

    def check(self, entry: Any, _numbers: AbstractSet[int]) -> None:
        """Refuse a socket that is connected to one outside the tree, or whose name or queue cannot be restored."""
        for rule, text in self._faults(entry):
            raise Refused("unix-socket", str(entry.id), rule, text)
        rule, text = socketoptions.fault((AF_UNIX, int(entry.usk.type), 0), entry.usk.opts)
        if rule:
            raise Refused("unix-socket", str(entry.id), rule, text)

    def together(self, entry: Any) -> Iterable[int]:
        """Return the sockets of its connection and of its name, and the files in flight to it."""
        peer = self._by_inode.get(int(entry.usk.peer))
        yield int(entry.id)
        if peer is not None:
            yield int(peer.id)
        yield from self._by_name.get(bytes(entry.usk.name), ())
        for packet in self._queues.get(int(entry.id), ()):
            yield from packet.rights

    def create(self, file: OpenFile) -> int:
        """Create a socket, with the other end of its connection if it has one."""
        socket = file.entry.usk
        for other in self._replaced(socket):
            file.everything.made(other)
        peer = self._mutual(file.entry)
        if peer is not None and peer is not file.entry:
            ends = self._connection(file, socket, peer.usk)
            file.everything.owned["file", int(peer.id)] = file.holder, ends[1]
            return ends[0]
        if self._lonely(file.entry):
            end, other = self._connection(file, socket, None)
            if socket.type == SOCK_DGRAM:
                nowhere = file.data(struct.pack("<H", AF_UNSPEC))
                file.script.call("connect", end, nowhere, 2)  # which also empties the queue
            self._other_ends[int(file.entry.id)] = other
            return end
        number = self._socket(file, socket)
        if socket.state == LISTEN:
            file.script.call("listen", number, _MANY)
        return number

    def load(self, file: OpenFile) -> None:
        """Connect it if its peer is not connected to it, and send what is in its queue."""
        socket, identity = file.entry.usk, int(file.entry.id)
        peer = self._by_inode.get(int(socket.peer))
        mutual = self._mutual(file.entry)
        if peer is not None and (mutual is None or mutual is file.entry):
            file.name("connection")
            with self._at_name(file, peer.usk):
                _with_address(file, "connect", file.number, peer.usk)
        queue = self._queues.get(identity, ())
        if not queue:
            return
        file.name("queue")
        sender, address = self._sender(file, mutual or peer)
        socketoptions.widen(file, sender)
        for packet in queue:
            rights = [file.everything.made(each) for each in packet.rights]
            socketoptions.send(file, sender, packet.content, rights, address)

    def settle(self, file: OpenFile) -> None:
        """Set options and shutdown, and delete the file of a name that was deleted."""
        socket = file.entry.usk
        other = self._other_ends.get(int(file.entry.id))
        if other is not None:
            file.script.call("close", other)
        socketoptions.bind_to_device(file, socket.opts)
        socketoptions.restore_options(file, socket.opts)
        if socket.opts.reuseaddr:
            socketoptions.set_option(file, socketoptions.SOL_SOCKET, socketoptions.SO_REUSEADDR, 1)
        if socket.state == LISTEN:
            file.script.call("listen", file.number, int(socket.backlog))
        if not (self._lonely(file.entry) and socket.type != SOCK_DGRAM):
            socketoptions.restore_shutdown(file, socket)
        if socket.name and socket.deleted and not self._replacing(socket):
            file.name("deleted file")
            with self._at_name(file, socket):
                file.script.call("unlinkat", AT_FDCWD, file.data(bytes(socket.name) + b"\0"), 0, demand=Demand.ANY)

    def _faults(self, entry: Any) -> Iterator[tuple[str, str]]:
        """Yield the rule and the text of each reason to refuse a socket."""
        socket = entry.usk
        peer = self._by_inode.get(int(socket.peer))
        if socket.uflags or (socket.peer and (peer is None or peer.usk.uflags)):
            yield "outside", "it is connected to a process outside the tree: end that connection before the dump"
        elif socket.type not in (SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET) or socket.shutdown not in SHUTDOWNS:
            yield "type", f"type {socket.type} with shutdown {socket.shutdown} is none of a unix socket: dump it again"
        elif socket.type == SOCK_DGRAM and peer is not None and not self._mutual(entry) and not peer.usk.name:
            yield "unreachable", "it is connected to a socket that has no name: give that one a name"
        elif socket.type != SOCK_DGRAM and socket.state == ESTABLISHED and peer is None and socket.shutdown != _BOTH:
            yield "unreachable", "it is connected to a socket that the images do not have: dump it again"
        elif socket.state not in (LISTEN, ESTABLISHED, CLOSE) or (socket.state == LISTEN and socket.peer):
            peer_text = f" with peer {socket.peer}" if socket.peer else ""
            yield "state", f"state {socket.state}{peer_text} is none of a unix socket: dump it again"
        for packet in self._queues.get(int(entry.id), ()):
            if not packet.known or any(each not in self._files for each in packet.rights):
                yield "queue", "a message in its queue has more with it than descriptors that the images describe"
        if socket.name:
            yield from self._faults_of_name(entry)

    def _faults_of_name(self, entry: Any) -> Iterator[tuple[str, str]]:
        socket = entry.usk
        name = bytes(socket.name)
        if len(name) > _MOST_NAME:
            yield "name", f"its name has {len(name)} bytes, and {_MOST_NAME} are the most: dump it again"
        if name.startswith(b"\0"):
            if not _is_free(name, int(socket.type)):
                yield "taken", f"@{os.fsdecode(name[1:])} is the name of another program's socket: end that program"
            return
        path = _path(socket)
        text = os.fsdecode(path)
        replaced = socket.deleted and bool(self._replacing(socket))
        if not os.path.isdir(os.path.dirname(path) or b"/"):
            yield "folder", f"{text}: its folder is not there: make it"
        elif replaced and (socket.peer or socket.state == ESTABLISHED or self._is_asked(socket)):
            yield "name", f"{text}: the tree has two sockets of this name, and one without a file has a connection"
        elif os.path.lexists(path) and ((socket.deleted and not replaced) or not stat.S_ISSOCK(os.lstat(path).st_mode)):
            yield "name", f"{text} is there, and is another file than its socket: move it away"
        elif not socket.deleted and _is_served(path):
            yield "taken", f"{text} is the name of another program's socket: end that program"

    def _replaced(self, socket: Any) -> Iterator[int]:
        """Yield the sockets whose file was deleted, and whose name the file of a socket has now; they are made first."""
        for each in self._by_name.get(bytes(socket.name), ()) if socket.name and not socket.deleted else ():
            other = self._files[each].usk
            if other.deleted and _path(other) == _path(socket):
                yield each

    def _replacing(self, socket: Any) -> list[Any]:
        """Return the sockets that have a file of the name of one whose file was deleted."""
        others = (self._files[each].usk for each in self._by_name[bytes(socket.name)])
        return [other for other in others if not other.deleted and _path(other) == _path(socket)]

    def _is_asked(self, socket: Any) -> bool:
        """Return True if a socket is connected to this one, which is not connected to it."""
        return any(other.usk.peer == socket.ino for other in self._by_inode.values())

    def _mutual(self, entry: Any) -> Any:
        """Return the peer of a socket that is connected to it, too; None if there is none."""
        peer = self._by_inode.get(int(entry.usk.peer))
        return peer if peer is not None and peer.usk.peer == entry.usk.ino else None

    def _lonely(self, entry: Any) -> bool:
        """Return True for the end of a connection whose other end is closed, and for datagrams that nobody can send."""
        socket = entry.usk
        if socket.peer:
            return False
        if socket.type == SOCK_DGRAM:
            return not socket.name and bool(self._queues.get(int(entry.id)))
        return bool(socket.state == ESTABLISHED)

    def _connection(self, file: OpenFile, mine: Any, other: Any) -> tuple[int, int]:
        """Connect two new sockets, by their names if they have any; the other one may be unknown."""
        ends = [mine, other]
        named = [each for each in ends if each is not None and each.name]
        if not named or mine.type == SOCK_DGRAM:
            pair = file.data(bytes(8))
            file.script.call("socketpair", AF_UNIX, int(mine.type) | O_CLOEXEC, 0, pair)
            made = [file.high(file.script.loaded(pair, 4 * end)) for end in (0, 1)]
            for number, each in zip(made, ends, strict=True):
                if each is not None and each.name:
                    self._bind(file, number, each)
            return made[0], made[1]
        accepted = next((each for each in named if _name(each) in self._listeners), named[0])
        listener = self._listener(file, accepted)
        asking = other if accepted is mine else mine
        client = self._socket(file, asking if asking is not None else accepted, bind=asking is not None)
        with self._at_name(file, accepted):
            _with_address(file, "connect", client, accepted)
        server = file.high(file.script.kept("accept4", listener, 0, 0, O_CLOEXEC))
        return (server, client) if accepted is mine else (client, server)

    def _listener(self, file: OpenFile, socket: Any) -> int:
        """Return a listening socket of a name: that of the tree, or one for the time of the restart."""
        name = _name(socket)
        if name in self._listeners:
            return file.everything.made(int(self._listeners[name].id))
        if name not in self._temporary:
            self._temporary[name] = self._socket(file, socket)
            file.script.call("listen", self._temporary[name], _MANY)
        return self._temporary[name]

    def _socket(self, file: OpenFile, socket: Any, *, bind: bool = True) -> int:
        """Create a socket, and give it its name if it has one."""
        number = file.high(file.script.kept("socket", AF_UNIX, int(socket.type) | O_CLOEXEC, 0))
        if bind and socket.name:
            self._bind(file, number, socket)
        return number

    def _bind(self, file: OpenFile, number: int, socket: Any) -> None:
        """Give a socket its name; of a path the file is made anew, with its owner and mode."""
        file.name("name")
        if bytes(socket.name).startswith(b"\0"):
            _with_address(file, "bind", number, socket)
            return
        path = file.data(bytes(socket.name) + b"\0")
        with self._at_name(file, socket):
            file.script.call("unlinkat", AT_FDCWD, path, 0, demand=Demand.ANY)
            if socket.HasField("file_perms"):  # chmod() would follow a link that a user has put there meanwhile
                file.script.call("umask", ~int(socket.file_perms.mode) & 0o777)
            _with_address(file, "bind", number, socket)
            if socket.HasField("file_perms"):
                owner = int(socket.file_perms.uid), int(socket.file_perms.gid)
                file.script.call("fchownat", AT_FDCWD, path, *owner, AT_SYMLINK_NOFOLLOW)

    @contextmanager
    def _at_name(self, file: OpenFile, socket: Any) -> Iterator[None]:
        """Take the operations that are added meanwhile where the socket's name leads, with rights that suffice."""
        if bytes(socket.name).startswith(b"\0"):
            yield
            return
        self._enter_folder(file, socket)
        with following(file.holder, _path(socket)):
            yield

    def _enter_folder(self, file: OpenFile, socket: Any) -> None:
        """Go to the folder that a relative name begins in; the process gets its own one later."""
        if socket.name_dir and not bytes(socket.name).startswith((b"\0", b"/")):
            go_to(file.holder, bytes(socket.name_dir))

    def _sender(self, file: OpenFile, peer: Any) -> tuple[Argument, bytes]:
        """Return the descriptor that can send to a socket, and the address to send to; empty: it is connected."""
        socket, identity = file.entry.usk, int(file.entry.id)
        if identity in self._other_ends:
            return self._other_ends[identity], b""
        if peer is not None:
            number = file.everything.made(int(peer.id))
            return number, b"" if peer.usk.peer == socket.ino else _address(socket)
        self._enter_folder(file, socket)
        return file.script.kept("socket", AF_UNIX, int(socket.type) | O_CLOEXEC, 0), _address(socket)


def _name(socket: Any) -> Name:
    return bytes(socket.name_dir), bytes(socket.name), bool(socket.deleted)


def _path(socket: Any) -> bytes:
    """Return the path of a socket's file. The images have the address, which mostly ends with a NUL."""
    return os.path.join(bytes(socket.name_dir), bytes(socket.name).partition(b"\0")[0])


def _is_free(name: bytes, kind: int) -> bool:
    """Return True if an abstract name can be given to a socket of a type."""
    with sockets.socket(sockets.AF_UNIX, kind) as probe:
        try:
            probe.bind(name)
        except OSError:
            return False
    return True


def _is_served(path: bytes) -> bool:
    """Return True if a program has the socket of a file. The kernel tells without a connection: datagrams need none."""
    try:
        file = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        with sockets.socket(sockets.AF_UNIX, sockets.SOCK_DGRAM) as probe:
            answer = probe.connect_ex(b"/proc/self/fd/%d" % file)
    finally:
        os.close(file)
    return answer in (0, errno.EPROTOTYPE, errno.EPERM, errno.EAGAIN)


def _address(socket: Any) -> bytes:
    return struct.pack("<H", AF_UNIX) + bytes(socket.name)


def _with_address(file: OpenFile, call: str, number: int, socket: Any) -> None:
    address = _address(socket)
    file.script.call(call, number, file.data(address), len(address))
