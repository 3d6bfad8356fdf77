# SPDX-License-Identifier: Apache-2.0
"""A service manager for tests: notifications, the descriptor store, socket activation, as systemd has them.

Like systemd it drops a stored descriptor that is watched and hangs up, removes descriptors by name, and passes all
stored ones to the daemon at each start. A stop empties the store; a restart or a death of the daemon does not.
"""

import fcntl
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from agent.daemon.listeners import PRIVATE_NAME
from agent.environment import private_socket
from tests.live.daemons import PATIENCE_S, TOP

_FIRST = 3
_HIGH = 300  # the first number for copies of descriptors, above those that the child gets
_WITH_PID = 'LISTEN_PID=$$; export LISTEN_PID; exec "$@"'


class ServiceManager:
    """The manager of one daemon, which it starts again and again.

    Args:
        folder: for the daemon's socket, its log, and the manager's own socket.
        arguments: the daemon's arguments, besides its socket.
        before: words in front of the command, as of setpriv(1).
        activates: hold the daemon's listening sockets for it.
        watchdog_s: the period of the daemon's watchdog, seconds; None: none.
        store_max: as FileDescriptorStoreMax=.

    Attributes:
        socket: the path of the socket on which the daemon listens.
        log: the path of the log of all runs of the daemon.
        store: pairs of name and descriptor.
        said: the daemon's notifications, line by line, with the time of time.monotonic().
        pid: of the daemon; 0 while there is none.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str | Path,
        before: Sequence[str] = (),
        activates: bool = False,
        watchdog_s: float | None = None,
        store_max: int = 128,
    ) -> None:
        self.socket = folder / "own.sock"
        self.log = folder / "own.log"
        self.store: list[tuple[str, int]] = []
        self.said: list[tuple[float, str]] = []
        self.before = list(before)
        self.arguments = [str(argument) for argument in arguments]
        self.store_max = store_max
        self._watchdog_s = watchdog_s
        self._notify = folder / "notify"
        self._inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._inbox.bind(os.fspath(self._notify))
        self._ready = threading.Event()
        self._flushed = threading.Event()
        self._listeners: list[tuple[str, socket.socket]] = []
        # systemd's order is any, so the private one is first.
        for name, path in (
            ((PRIVATE_NAME, private_socket(self.socket)), ("own.socket", self.socket)) if activates else ()
        ):
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(os.fspath(path))
            listener.listen(64)
            self._listeners.append((name, listener))
        self.pid = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._send("END=1")
        self._reader.join(PATIENCE_S)
        self._inbox.close()
        for _, listener in self._listeners:
            listener.close()

    # ---- what is told ----------------------------------------------------------------------------------------------

    def _read(self) -> None:
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._inbox, 1 << 16, 8)
            lines = data.decode().split("\n")
            self.said += [(time.monotonic(), line) for line in lines]
            told = dict(line.partition("=")[::2] for line in lines)
            if "FDSTORE" in told:
                self._keep(told, descriptors)
                descriptors = []
            if "FDSTOREREMOVE" in told:
                self._drop(told["FDNAME"])
            if "READY" in told:
                self._ready.set()
            for descriptor in descriptors:  # a barrier's too: that is its answer
                os.close(descriptor)
            if "FLUSH" in told:
                self._flushed.set()
            if "END" in told:
                return

    def _keep(self, told: dict[str, str], descriptors: list[int]) -> None:
        for descriptor in descriptors:
            watched = select.poll()
            if told.get("FDPOLL") != "0":
                watched.register(descriptor, 0)
            if len(self.store) >= self.store_max or watched.poll(0):
                os.close(descriptor)
            else:
                self.store.append((told.get("FDNAME", "stored"), descriptor))

    def _drop(self, name: str) -> None:
        for entry in [entry for entry in self.store if entry[0] == name]:
            self.store.remove(entry)
            os.close(entry[1])

    def _send(self, line: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.sendto(line.encode(), os.fspath(self._notify))

    def flush(self) -> None:
        """Wait until the manager has read all notifications."""
        self._flushed.clear()
        self._send("FLUSH=1")
        assert self._flushed.wait(PATIENCE_S)

    def heard(self, line: str) -> int:
        """Return how many notifications are this line, or begin with it and ``=``."""
        return sum(each == line or each.startswith(line + "=") for _, each in self.said)

    # ---- what is done ----------------------------------------------------------------------------------------------

    def start(self, *, wait: bool = True) -> None:
        """Start the daemon, and with `wait` wait for READY=1."""
        passed = [(name, listener.fileno()) for name, listener in self._listeners]
        passed += self.store
        environment = dict(os.environ) | {"NOTIFY_SOCKET": os.fspath(self._notify)}
        if self._watchdog_s is not None:
            environment["WATCHDOG_USEC"] = str(int(self._watchdog_s * 1e6))
        environment["LISTEN_FDS"] = str(len(passed))
        environment["LISTEN_FDNAMES"] = ":".join(name for name, _ in passed)
        high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _HIGH) for _, descriptor in passed]
        log = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        daemon = [sys.executable, "-m", "agent.daemon.main", "--socket", os.fspath(self.socket), *self.arguments]
        self._ready.clear()
        try:
            self.pid = os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", f"cd {TOP}; {_WITH_PID}", "sh", *self.before, *daemon],
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, null, 0),
                    (os.POSIX_SPAWN_DUP2, null, 1),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                    *((os.POSIX_SPAWN_DUP2, each, _FIRST + index) for index, each in enumerate(high)),
                ],
            )
        finally:
            for descriptor in (*high, log, null):
                os.close(descriptor)
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until the daemon has notified READY=1."""
        deadline = time.monotonic() + PATIENCE_S
        while not self._ready.wait(0.05):
            assert self.is_running(), f"the daemon ended: {self.log.read_text()}"
            assert time.monotonic() < deadline, "the daemon is not ready"

    def is_running(self) -> bool:
        """Return True if the daemon has not ended; reap it if it has."""
        if self.pid and os.waitpid(self.pid, os.WNOHANG)[0]:
            self.pid = 0
        return bool(self.pid)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the daemon a signal, wait for its end, and return its wait status."""
        if not self.pid:
            return 0
        os.kill(self.pid, number)
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        self.flush()
        return status

    def restart(self) -> None:
        """Restart the daemon as ``systemctl restart`` does."""
        assert self.end() == 0
        self.start()

    def stop(self) -> None:
        """Stop the daemon as ``systemctl stop`` does, and empty the store."""
        self.end()
        for _, descriptor in self.store:
            os.close(descriptor)
        self.store.clear()

    def complaints(self) -> list[str]:
        """Return the lines of the log, without those about readiness and requests."""
        usual = ("listening on", " uid=")
        return [line for line in self.log.read_text().splitlines() if not any(each in line for each in usual)]
