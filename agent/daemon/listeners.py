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
_ACCEPT_S: Final = 0.008  # for accepting connections of one socket in one turn
_PAUSE_S: Final = 0.005  # pause of accepting after that, where more wait


class Listener:
    """A listening socket.

    Args:
        file: the socket; it is non-blocking from now on.
        private: True where the file's mode keeps it to users who may see everything.
        own: True where this process has made the file, and removes it.

    Attributes:
        path: of its file.
    """

    def __init__(self, file: socket.socket, *, private: bool = False, own: bool = False) -> None:
        file.setblocking(False)
        self.file = file
        self.private = private
        self.path = os.fsdecode(file.getsockname())
        self.paused_until = 0.0
        self._identity = os.stat(self.path).st_ino if own else None

    def remove(self) -> None:
        """Remove the file, unless the socket was passed on, or the path leads to another one now."""
        with contextlib.suppress(OSError):
            if self._identity is not None and os.stat(self.path).st_ino == self._identity:
                os.unlink(self.path)


def opened(
    config: Config, group: int | None, passed: Sequence[tuple[str, socket.socket]], log: Journal
) -> list[Listener]:
    """Return the sockets, the public ones first: those that the service manager has passed on, or else two new ones.

    Without the private one the daemon serves all users over the public one, and says so in the log.

    Args:
        config: the path and mode of the public socket.
        group: id of the group that the private socket is for, too; None: there is no such group.
        passed: the manager's listening sockets, with their names.
        log: takes the reason for which there is no private socket.

    Raises:
        CkptreeError: another daemon listens on the public socket, or its path cannot be used.
    """
    if passed:
        listeners = [Listener(file, private=name == PRIVATE_NAME) for name, file in passed]
        return sorted(listeners, key=lambda listener: listener.private)
    listeners = [Listener(listen(config.socket, config.socket_mode, group), own=True)]
    try:
        file = listen_privately(private_socket(config.socket), config.socket_mode, group)
    except CkptreeError as error:
        text = f"{error}; root and the group {config.group!r} wait on {config.socket} with all users"
        log.warning(text)
    else:
        listeners.append(Listener(file, private=True, own=True))
    return listeners


class Acceptor:
    """The acceptance of connections, in turns of the loop.

    Args:
        listeners: the sockets, which are registered here; the caller closes them.
        selector: of the caller's loop. The data of each key is a function of the ready file.
        receive: takes each connection, and the time of time.monotonic() at which it was accepted.
    """

    def __init__(
        self,
        listeners: Sequence[Listener],
        selector: selectors.BaseSelector,
        receive: Callable[[socket.socket, float], None],
    ) -> None:
        self._selector = selector
        self._receive = receive
        self._paused: list[Listener] = []
        self._ready: list[Listener] = []
        for listener in listeners:
            self._attend(listener)

    def wait_s(self, longest_s: float, now_s: float) -> float:
        """Return the time until the end of the next pause, at most `longest_s`; it may be negative."""
        return min((listener.paused_until - now_s for listener in self._paused), default=longest_s)

    def wake(self, now_s: float) -> None:
        """Listen again where a pause is over."""
        for listener in [listener for listener in self._paused if listener.paused_until <= now_s]:
            self._paused.remove(listener)
            self._attend(listener)

    def accept_public(self) -> None:
        """Accept connections of the public sockets that were found ready in this turn."""
        while self._ready:
            self._accept(self._ready.pop())

    def _attend(self, listener: Listener) -> None:
        ready = self._accept if listener.private else self._ready.append
        self._selector.register(listener.file, selectors.EVENT_READ, lambda _file: ready(listener))

    def _accept(self, listener: Listener) -> None:
        end = time.monotonic() + _ACCEPT_S
        while (now := time.monotonic()) < end:
            try:
                connection, _ = listener.file.accept()
            except OSError:  # no further client waits; or this one has gone; or no descriptor is free at the moment
                return
            self._receive(connection, now)
        # Clients that connect in an endless loop get no more time than this.
        self._selector.unregister(listener.file)
        listener.paused_until = time.monotonic() + _PAUSE_S
        self._paused.append(listener)
