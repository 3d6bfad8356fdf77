# SPDX-License-Identifier: Apache-2.0
"""The service manager that started this process: descriptors from it, and messages to it.

Protocol (sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3)): messages are datagrams of ``KEY=value`` lines to the
socket named in NOTIFY_SOCKET, descriptors go along by SCM_RIGHTS. A descriptor stored under a name comes back at the
next start, from number 3 on, among those of socket units; LISTEN_FDNAMES has the names, in that order. The store lives
through a restart, whatever the reason, and ends with a stop.

The manager must not poll a stored descriptor (``FDPOLL=0``): a perf event that is not mapped always polls as "hung up",
and the manager would drop it at once.
"""

import contextlib
import os
import select
import socket
import stat
import struct
import time
from collections.abc import MutableMapping

from agent.record import record

_FIRST = 3  # SD_LISTEN_FDS_START
_SEND_S = 5  # a message that the manager does not read within this time is dropped
_FEEDS = 4  # messages to the watchdog in its time limit
_VARIABLES = ("NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID", "WATCHDOG_USEC")


@record
class Passed:
    """The descriptors from the manager.

    Attributes:
        listeners: names of sockets that listen already, and the sockets. A name is that of the socket unit, or its
            FileDescriptorName=; it may come twice, or be empty.
        stored: names and descriptors of the store; a name may come twice.
    """

    listeners: tuple[tuple[str, socket.socket], ...] = ()
    stored: tuple[tuple[str, int], ...] = ()


class Manager:
    """systemd, or a manager with the same protocol; without one, all messages are dropped.

    Args:
        environment: the process's. The manager's variables are removed, so that no child uses them.

    Attributes:
        passed: the descriptors from the manager.
        watchdog_s: interval of the messages to its watchdog; None: there is no watchdog.
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
        """True where there is a manager."""
        return self._socket is not None

    def notify(self, *lines: str, descriptor: int | None = None) -> bool:
        """Send lines to the manager; return True if it got them."""
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
        """Disconnect from the manager: later messages are dropped."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def status(self, text: str) -> None:
        """Set the text that ``systemctl status`` shows."""
        self.notify(f"STATUS={text}")

    def store(self, name: str, descriptor: int) -> bool:
        """Store a descriptor for the next start; return True if the manager got it.

        Args:
            name: at most 255 printable ASCII characters, no colon.
            descriptor: the manager gets a copy.
        """
        return self.notify("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", descriptor=descriptor)

    def forget(self, name: str) -> None:
        """Drop the descriptors stored under a name."""
        self.notify("FDSTOREREMOVE=1", f"FDNAME={name}")

    def settle(self, timeout_s: float) -> bool:
        """Wait until the manager has handled all messages; return False if it has not in time."""
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
        """Send a message to the watchdog, if there is one and its interval has passed."""
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
        with contextlib.suppress(OSError):  # LISTEN_FDS may count a descriptor that is not open
            os.set_inheritable(descriptor, False)
            name = names[index] if index < len(names) else ""
            if _listens(descriptor):
                listeners.append((name, socket.socket(fileno=descriptor)))
            else:
                stored.append((name, descriptor))
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
