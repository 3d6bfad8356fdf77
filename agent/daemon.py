# SPDX-License-Identifier: Apache-2.0
"""``ckptree daemon``: watches from start to end, and answers on a Unix socket.

One thread, one loop: a timer drains the ring, requests drain it too, and now and then a sweep looks for what no event
told. Imports as little as it can: this process stays.
"""

import contextlib
import ctypes
import gc
import grp
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Sequence

from agent import daemonargs
from agent.access import Policy
from agent.config import Config
from agent.errors import CkptreeError
from agent.journal import Journal
from agent.pace import Pace
from agent.server import Server, listen
from agent.watch import Watch

_NICE = -15  # a storm of forks on every CPU must not keep us from the ring it fills
_LINUX_CAPABILITY_VERSION_3 = 0x20080522


class Daemon:
    """The socket, the timer and the watch between them.

    Args:
        config: socket, ring and intervals.

    Raises:
        CkptreeError: another daemon listens there, or the watch cannot start.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._selector = selectors.DefaultSelector()
        self._listener = listen(config.socket, config.socket_mode)
        self._identity = os.stat(config.socket).st_ino
        try:
            self.watch = Watch(config)
        except BaseException:
            self._unlink()
            raise
        self._running = True
        policy = Policy(os.geteuid(), group_id(config.group))
        self.log = Journal()
        self.server = Server(self.watch, self._listener, self._selector, policy, self.log)
        self._heeded = False
        self._heed_ring(wanted=True)

    def run(self) -> None:
        """Until SIGTERM or SIGINT."""
        reader, writer = socket.socketpair()
        for end in (reader, writer):
            end.setblocking(False)
        self._selector.register(reader, selectors.EVENT_READ, self._stop)
        signal.set_wakeup_fd(writer.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        pace = Pace(self._config.drain_interval_ms / 1000, self._config.ring_bytes)
        worker = self.server.worker
        swept = time.monotonic()
        while self._running:
            behind = not worker.busy and (self.watch.behind or self.watch.is_in_doubt)
            wait = pace.wait_s(self.watch.stream.records, listened_to=self.server.listened_to)
            self._heed_ring(wanted=not worker.busy)
            ready = self._selector.select(0 if behind else self.server.wait_s(wait))
            turn = self.server.service.turns.begin()
            for key, _ in ready:
                key.data(key.fileobj)
            turn.spent("clients")
            if not worker.busy:
                self.watch.tend()
            turn.spent("ring")
            turn.spent(self.server.tend(hurry=behind))
            now = time.monotonic()
            due = now - swept >= self._config.sweep_interval_s
            if not worker.busy and (due or self.watch.is_in_doubt):
                if due:
                    swept = now
                    self.log.tend()
                worker.start("sweep", self.watch.rest if due else self.watch.mend)
            turn.end()
        worker.wait()
        self._unlink()

    def _heed_ring(self, *, wanted: bool) -> None:
        """Be woken by the ring, or not: it stays ready until it has been read from, and that is a job's while one runs."""
        if wanted is not self._heeded:
            self._heeded = wanted
            if wanted:
                self._selector.register(self.watch.probes, selectors.EVENT_READ, lambda _: None)  # to wake up is all
            else:
                self._selector.unregister(self.watch.probes)

    def _stop(self, reader: socket.socket) -> None:
        reader.recv(64)
        self._running = False

    def _unlink(self) -> None:
        """Take the socket away, unless somebody has put another one there."""
        with contextlib.suppress(OSError):
            if os.stat(self._config.socket).st_ino == self._identity:
                os.unlink(self._config.socket)


def drop_capabilities() -> None:
    """Everything is open and mapped: from here on no capability is needed, so none is kept."""

    class Header(ctypes.Structure):
        _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))

    libc = ctypes.CDLL(None, use_errno=True)
    none = (ctypes.c_uint32 * 6)()  # two times effective, permitted, inheritable
    if libc.capset(ctypes.byref(Header(_LINUX_CAPABILITY_VERSION_3, 0)), none):
        number = ctypes.get_errno()
        raise CkptreeError(f"cannot drop capabilities: {os.strerror(number)}")


def group_id(name: str) -> int | None:
    """The id of a group; None where there is none of that name."""
    try:
        return grp.getgrnam(name).gr_gid if name else None
    except KeyError:
        return None


def notify(state: str) -> None:
    """sd_notify(3)."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, contextlib.suppress(OSError):
            manager.connect("\0" + path[1:] if path.startswith("@") else path)
            manager.send(state.encode())


def main(argv: Sequence[str] | None = None) -> int:
    """Run in the foreground; returns the exit code."""
    try:
        config = daemonargs.parse(sys.argv[1:] if argv is None else argv)
        with contextlib.suppress(PermissionError):
            os.nice(_NICE)
        daemon = Daemon(config)
        drop_capabilities()
        gc.collect()
        gc.freeze()  # the modules are for good: collections need not look at them
        gc.disable()  # nothing in the table is a cycle once it is dead; `rest` looks for whatever else is one
        print(
            f"ckptree: watching {len(daemon.watch.table.tasks())} tasks, listening on {config.socket}", file=sys.stderr
        )
        if daemon.watch.blind:
            print(
                f"ckptree: no hook for {', '.join(daemon.watch.blind)} works here, so every snapshot walks all tasks of "
                "the host; `ckptree status` shows what was tried. Where tracefs is not mounted, mounting it at "
                "/sys/kernel/tracing helps, or CAP_SYS_ADMIN at the start",
                file=sys.stderr,
            )
        notify("READY=1")
        daemon.run()
    except SystemExit as done:  # argparse's way to end: after --help, or a usage error
        return done.code if isinstance(done.code, int) else 0
    except CkptreeError as error:
        print(f"ckptree: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
