# SPDX-License-Identifier: Apache-2.0
"""A connection to one of the daemon's sockets, or the reason why there is none."""

import _socket as socket  # the module `socket` makes enumerations of constants: 4 ms
import contextlib
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agent.errors import BusyError, HostError, NoDaemonError

_TIMEVAL: Final = struct.Struct("@ll")


def _seconds(seconds: float) -> tuple[int, int]:
    """Return seconds as the fields of struct timeval, at least 1 us: 0 would mean no timeout."""
    microseconds = max(1, round(seconds * 1e6))
    return microseconds // 1_000_000, microseconds % 1_000_000


def connected(path: Path, timeout_s: float) -> socket.socket:
    """Connect to a socket; the timeout holds for the connect, too.

    Raises:
        NoDaemonError: no daemon listens there.
        HostError: this user may not connect.
        BusyError: too many other clients wait to connect.
    """
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # A blocking connect waits for room in the queue. One with a Python timeout is non-blocking and fails at once.
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(*_seconds(timeout_s)))
        peer.connect(os.fspath(path))
    except PermissionError as error:
        peer.close()
        raise HostError(
            f"not permitted to connect to {path}: be root, or have the daemon's configuration "
            "open it with socket_mode. Without the daemon, `--source procfs` answers, unverified"
        ) from error
    except BlockingIOError as error:
        peer.close()
        raise BusyError(
            f"the daemon on {path} is busy: so many connect that this one had no turn within {timeout_s:g} s"
        ) from error
    except OSError as error:
        peer.close()
        if not path.is_socket() and path.exists():
            raise NoDaemonError(f"no daemon on {path}: it is no socket: name the daemon's with --socket") from error
        raise NoDaemonError(
            f"no daemon on {path} ({error.strerror or error}): start one with `ckptree daemon --socket {path}`"
        ) from error
    peer.settimeout(timeout_s)
    return peer


def first_connected(paths: Sequence[Path], timeout_s: float) -> tuple[socket.socket, Path]:
    """Connect to the first of some sockets that this user may connect to and where a daemon listens.

    Returns:
        The connection, and the path of its socket.

    Raises:
        NoDaemonError, HostError: as `connected` of the last path.
        BusyError: as `connected` of any path.
    """
    *before, last = paths
    for path in before:
        with contextlib.suppress(NoDaemonError, HostError):
            return connected(path, timeout_s), path
    return connected(last, timeout_s), last
