# SPDX-License-Identifier: Apache-2.0
"""The service manager that started this process: what it passed on, and what it is told.

Protocol (sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3)): messages are datagrams of ``KEY=value`` lines to the
socket named in NOTIFY_SOCKET, descriptors go along by SCM_RIGHTS. A descriptor stored under a name comes back at the next
start, from number 3 on, among those of socket units; LISTEN_FDNAMES has the names, in that order. The store lives
through a restart, whatever the reason, and ends with a stop.

What the manager watches a stored descriptor for must be nothing (``FDPOLL=0``): a perf event that nobody has mapped is
always "hung up", and would be thrown out at once.
"""

import contextlib
import os
import select
import socket
import stat
import struct
import time
from collections.abc import MutableMapping
from dataclasses import dataclass

_FIRST = 3  # SD_LISTEN_FDS_START
_SEND_S = 5  # a manager that does not read for so long is left alone
_FEEDS = 4  # in the time of the watchdog
_VARIABLES = ("NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID", "WATCHDOG_USEC")


@dataclass(frozen=True, slots=True)
class Passed:
    """What was passed on.

    Attributes:
        listeners: sockets that listen already.
        stored: descriptors by the names that they were stored under; of a name that comes twice, each.
    """

    listeners: tuple[socket.socket, ...] = ()
    stored: tuple[tuple[str, int], ...] = ()


class Manager:
    """systemd, or whoever speaks as it does; or nobody, who hears nothing and stores nothing.

    Args:
        environment: the process's. What is meant for this process is taken out, so that no child believes it.

    Attributes:
        passed: what it passed on.
        watchdog_s: its watchdog is to be fed that often; None: there is none.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        said = {name: environment.pop(name, "") for name in _VARIABLES}
        path = said["NOTIFY_SOCKET"]
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if path else None
        if self._socket is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_S, 0))
        self._fed = time.monotonic()
        mine = str(os.getpid())
        self.passed = (
            _passed(_number(said["LISTEN_FDS"]), said["LISTEN_FDNAMES"].split(":"))
            if said["LISTEN_PID"] == mine
            else Passed()
        )
        usec = _number(said["WATCHDOG_USEC"]) if said["WATCHDOG_PID"] in ("", mine) else 0
        self.watchdog_s = usec / 1e6 / _FEEDS if usec else None

    @property
    def listens(self) -> bool:
        """There is one."""
        return self._socket is not None

    def notify(self, *lines: str, descriptor: int | None = None) -> bool:
        """Tell it something; whether it was there to be told."""
        if self._socket is None:
            return False
        rights = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", descriptor))] if descriptor is not None else []
        )
        try:
            self._socket.sendmsg(["\n".join(lines).encode()], rights, socket.MSG_NOSIGNAL, self._address)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let go of the manager: from now on nobody is told."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def status(self, text: str) -> None:
        """What ``systemctl status`` shows."""
        self.notify(f"STATUS={text}")

    def store(self, name: str, descriptor: int) -> bool:
        """Have a descriptor kept for the next start.

        Args:
            name: at most 255 printable ASCII characters, no colon.
            descriptor: stays the caller's.
        """
        return self.notify("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", descriptor=descriptor)

    def forget(self, name: str) -> None:
        """Let go of what is stored under that name."""
        self.notify("FDSTOREREMOVE=1", f"FDNAME={name}")

    def settle(self, timeout_s: float) -> bool:
        """Wait until it has dealt with everything it was told; whether it has."""
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            told = self.notify("BARRIER=1", descriptor=theirs)
            os.close(theirs)
            if not told:
                return False
            hung_up = select.poll()
            hung_up.register(ours, 0)
            return bool(hung_up.poll(timeout_s * 1000))
        finally:
            os.close(ours)

    def feed(self) -> None:
        """Tell the watchdog, if there is one and it is time, that all is well."""
        now = time.monotonic()
        if self.watchdog_s is not None and now - self._fed >= self.watchdog_s:
            self.notify("WATCHDOG=1")
            self._fed = now


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def _passed(count: int, names: list[str]) -> Passed:
    listeners = []
    stored = []
    for index, descriptor in enumerate(range(_FIRST, _FIRST + count)):
        with contextlib.suppress(OSError):  # one that is not open after all
            os.set_inheritable(descriptor, False)
            if _listens(descriptor):
                listeners.append(socket.socket(fileno=descriptor))
            else:
                stored.append((names[index] if index < len(names) else "", descriptor))
    return Passed(tuple(listeners), tuple(stored))


def _listens(descriptor: int) -> bool:
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return False
    with socket.socket(fileno=os.dup(descriptor)) as found:
        return bool(
            found.family == socket.AF_UNIX
            and found.type == socket.SOCK_STREAM
            and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        )
