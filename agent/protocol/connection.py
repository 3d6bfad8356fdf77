# SPDX-License-Identifier: Apache-2.0
"""A connection to the daemon's socket, or the reason why there is none."""

import os
import socket
import struct
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
