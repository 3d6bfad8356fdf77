# SPDX-License-Identifier: Apache-2.0
"""The daemon's listening sockets, and the turns in which it accepts connections.

Every user may connect to the *public* socket. The mode of the *private* one's file keeps it to root, the daemon's user
and the daemon's group, so that no other user can fill its queue. The kernel's credentials of a client decide what the
client may see, and its bounds; the socket that it came by decides nothing but its wait: connections of the private
socket are accepted first in a turn of the loop, those of the public one last, when all requests have had their turn.
Each socket has an allowance of its own.
"""

import contextlib
import os
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final

from agent.config import Config
from agent.daemon.endpoint import listen, listen_privately
from agent.daemon.journal import Journal
from agent.environment import private_socket
from agent.errors import CkptreeError

PRIVATE_NAME: Final = "private"
"""The name of the private socket among those that a service manager passes on: FileDescriptorName= of its unit."""
_ACCEPT_S: Final = 0.008  # for accepting connections of one door in one turn
_DEAF_S: Final = 0.005  # pause of accepting after that, where more wait


class Door:
    """A listening socket.

    Args:
        listener: the socket; it is non-blocking from now on.
        private: True where the file's mode keeps it to users who may see everything.
        own: True where this process has made the file, and removes it.

    Attributes:
        path: of its file.
    """

    def __init__(self, listener: socket.socket, *, private: bool = False, own: bool = False) -> None:
        listener.setblocking(False)
        self.listener = listener
        self.private = private
        self.path = os.fsdecode(listener.getsockname())
        self.deaf_until = 0.0
        self._identity = os.stat(self.path).st_ino if own else None

    def remove(self) -> None:
        """Remove the file, unless the socket was passed on, or the path leads to another one now."""
        with contextlib.suppress(OSError):
            if self._identity is not None and os.stat(self.path).st_ino == self._identity:
                os.unlink(self.path)


def opened(config: Config, group: int | None, passed: Sequence[tuple[str, socket.socket]], log: Journal) -> list[Door]:
    """Return the doors, the public ones first: those that the service manager has passed on, or else two new ones.

    Without the private one the daemon serves all users over the public one, and says so in the log.

    Args:
        config: the path and mode of the public socket.
        group: id of the group that the private socket is for, too; None: there is no such group.
        passed: the manager's listening sockets, with their names.
        log: takes the reason for which there is no private door.

    Raises:
        CkptreeError: another daemon listens on the public socket, or its path cannot be used.
    """
    if passed:
        doors = [Door(listener, private=name == PRIVATE_NAME) for name, listener in passed]
        return sorted(doors, key=lambda door: door.private)
    doors = [Door(listen(config.socket, config.socket_mode, group), own=True)]
    try:
        listener = listen_privately(private_socket(config.socket), config.socket_mode, group)
    except CkptreeError as error:
        text = f"{error}; root and the group {config.group!r} wait on {config.socket} with all users"
        log.warning(text)
    else:
        doors.append(Door(listener, private=True, own=True))
    return doors


class Doors:
    """The turns of accepting.

    Args:
        doors: they are registered here, and the caller closes them.
        selector: of the caller's loop. The data of each key is a function of the ready file.
        receive: takes each connection, and the time of time.monotonic() at which it was accepted.
    """

    def __init__(
        self,
        doors: Sequence[Door],
        selector: selectors.BaseSelector,
        receive: Callable[[socket.socket, float], None],
    ) -> None:
        self._selector = selector
        self._receive = receive
        self._deaf: list[Door] = []
        self._knocked: list[Door] = []
        for door in doors:
            self._attend(door)

    def wait_s(self, longest_s: float, now_s: float) -> float:
        """Return the time until the end of the next pause, at most `longest_s`; it may be negative."""
        return min((door.deaf_until - now_s for door in self._deaf), default=longest_s)

    def wake(self, now_s: float) -> None:
        """Listen again where a pause is over."""
        for door in [door for door in self._deaf if door.deaf_until <= now_s]:
            self._deaf.remove(door)
            self._attend(door)

    def accept_public(self) -> None:
        """Accept connections of the public doors that were found ready in this turn."""
        while self._knocked:
            self._accept(self._knocked.pop())

    def _attend(self, door: Door) -> None:
        ready = self._accept if door.private else self._knocked.append
        self._selector.register(door.listener, selectors.EVENT_READ, lambda _file: ready(door))

    def _accept(self, door: Door) -> None:
        end = time.monotonic() + _ACCEPT_S
        while (now := time.monotonic()) < end:
            try:
                connection, _ = door.listener.accept()
            except OSError:  # no further client waits; or this one has gone; or no descriptor is free at the moment
                return
            self._receive(connection, now)
        # Clients that connect in an endless loop get no more time than this.
        self._selector.unregister(door.listener)
        door.deaf_until = time.monotonic() + _DEAF_S
        self._deaf.append(door)
