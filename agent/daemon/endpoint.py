# SPDX-License-Identifier: Apache-2.0
"""The socket's two ends: the daemon's listening sockets, and the kernel's credentials of each client."""

import ctypes
import errno
import os
import select
import socket
import stat
import struct
from array import array
from collections.abc import Collection
from pathlib import Path
from typing import Final

from agent.config import Config
from agent.errors import CkptreeError, HostError

BACKLOG: Final = 512
_CREDENTIALS: Final = struct.Struct("=iII")  # struct ucred: pid, uid, gid
_SO_PEERGROUPS: Final = 59
_SO_PEERPIDFD: Final = 77
_ENDED: Final = frozenset((errno.ESRCH, errno.EINVAL, errno.ENODATA))  # EINVAL: of a pid object without a process
_GETSOCKOPT_BYTES: Final = 1024  # the largest buffer of Python's getsockopt


def credentials(connection: socket.socket) -> tuple[int, int, int, Collection[int]]:
    """Return the client's pid, uid, gid and supplementary groups, as of the time when it connected.

    Numbers are those of the daemon's pid namespace, which is the initial one, and of the daemon's user namespace.

    Raises:
        OSError: the kernel refused to tell.
    """
    pid, uid, gid = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    try:
        groups = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GETSOCKOPT_BYTES)
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        groups = _many_groups(connection)
    return pid, uid, gid, array("I", groups)  # a set of some thousand groups would take megabytes


def _many_groups(connection: socket.socket) -> bytes:
    """Read SO_PEERGROUPS of a client with more groups than Python's getsockopt has room for."""
    libc = ctypes.CDLL(None, use_errno=True)
    room = ctypes.create_string_buffer(4 * 65536)  # NGROUPS_MAX
    size = ctypes.c_uint32(len(room))
    arguments = (connection.fileno(), socket.SOL_SOCKET, _SO_PEERGROUPS, room, ctypes.byref(size))
    if libc.getsockopt(*arguments):
        raise OSError(ctypes.get_errno(), "SO_PEERGROUPS")
    return room.raw[: size.value]


class PeerProcess:
    """The process that connected, told apart from a later one of its number.

    Args:
        pid: its number. The process is held from now on, so one that took the number before passes for it.
        connection: from which the kernel has it, where SO_PEERPIDFD exists (Linux 6.5): no other passes for it then.

    Raises:
        OSError: no descriptor is free.
    """

    def __init__(self, pid: int, connection: socket.socket | None = None) -> None:
        self._pidfd = -1
        try:
            self._pidfd = self._opened(pid, connection)
        except OSError as error:
            if error.errno not in _ENDED:
                raise

    @staticmethod
    def _opened(pid: int, connection: socket.socket | None) -> int:
        if connection is not None:
            try:
                return connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
            except OSError as error:
                if error.errno != errno.ENOPROTOOPT:
                    raise
        return os.pidfd_open(pid)

    @property
    def has_ended(self) -> bool:
        """True where all its threads have exited; its number may be another's then."""
        if self._pidfd < 0:
            return True
        waiting = select.poll()  # select() takes no descriptor above 1023
        waiting.register(self._pidfd, select.POLLIN)
        return bool(waiting.poll(0))

    def close(self) -> None:
        """Let go of it: it has ended, as far as this object knows."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def listen(path: Path, mode: int, group: int | None = None) -> socket.socket:
    """Bind the socket, and take over the path of a dead daemon's socket.

    Args:
        path, mode: of the socket.
        group: the group that gets the socket, where this process may change the owner.

    Raises:
        CkptreeError: another daemon listens there, or the path cannot be used.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    before = os.umask(0o777 & ~mode)
    try:
        if path.parent == Config().socket.parent:  # only the default folder is made: another path may be a typing error
            os.umask(0o022)
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            os.umask(0o777 & ~mode)
        try:
            listener.bind(os.fspath(path))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _take_over(path)
            listener.bind(os.fspath(path))
        open_to(path, mode, group)
        listener.listen(BACKLOG)
    except CkptreeError:
        listener.close()
        raise
    except OSError as error:
        listener.close()
        kind = HostError if isinstance(error, PermissionError) else CkptreeError
        missing = isinstance(error, FileNotFoundError)
        remedy = f": there is no folder {path.parent}: make it, or name another socket" if missing else ""
        raise kind(f"cannot listen on {path}: {error.strerror or error}{remedy}") from error
    finally:
        os.umask(before)
    return listener


def listen_privately(path: Path, mode: int, group: int | None) -> socket.socket:
    """Bind a socket as `listen` does, for its owner and a group alone.

    Args:
        path: of the socket.
        mode: the permissions of the public socket: it has no bit that they lack.
        group: the group that gets the socket; None, or where this process may not give it away: the owner has it alone.

    Raises:
        CkptreeError: as `listen`.
    """
    listener = listen(path, mode & 0o600)
    try:
        if group is not None:
            open_to(path, mode & 0o660, group, alone=True)
    except OSError as error:
        listener.close()
        raise CkptreeError(f"cannot listen on {path}: {error.strerror or error}") from error
    return listener


def open_to(path: Path, mode: int, group: int | None, *, alone: bool = False) -> None:
    """Give a new socket's file its group and mode, but no other file that a user may have put there meanwhile.

    Args:
        path: of the file.
        mode: its permissions.
        group: None, or where this process may not give it away: it stays.
        alone: leave the mode where the group stays.

    Raises:
        OSError: the path leads to another file than a socket of this process's user, or the kernel refused.
    """
    file = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(file)
        if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid():
            raise OSError(errno.EEXIST, "another file has taken its place")
        there = f"/proc/self/fd/{file}"
        try:
            if group is not None:
                os.chown(there, -1, group)
        except PermissionError:
            if alone:
                return
        os.chmod(there, mode)
    finally:
        os.close(file)


def _take_over(path: Path) -> None:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise CkptreeError(f"{path} exists and is no socket: remove it, or name another with --socket")
    # Without waiting: the queue of another program's socket may be full for ever.
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            os.unlink(path)  # its daemon is dead
            return
        except BlockingIOError:
            pass
    raise CkptreeError(f"socket in use: another daemon answers on {path}. Stop it, or name another with --socket")
