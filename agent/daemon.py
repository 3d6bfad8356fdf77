# SPDX-License-Identifier: Apache-2.0
"""``ckptree daemon``: watches from start to end, and answers on a Unix socket.

One thread, one loop: a timer drains the ring, requests drain it too, and now and then a sweep looks for what no event
told. Imports as little as it can: this process stays.
"""

import argparse
import contextlib
import ctypes
import errno
import gc
import os
import selectors
import signal
import socket
import stat
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

from agent import control, rootname
from agent.config import Config, load
from agent.errors import CkptreeError, HostError, UsageError
from agent.model import Dialect
from agent.watch import Watch
from exporters import checkpoint as _checkpoint  # noqa: F401  # the registry's first use is where somebody waits
from exporters import registry

_CHUNK = 1 << 16
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
        self._started = time.monotonic()
        self._running = True
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self.watch.probes, selectors.EVENT_READ, self._tend)
        self._verbs: dict[str, Callable[[control.Message, int], control.Message]] = {
            "snapshot": self._snapshot,
            "status": self._status,
        }

    def run(self) -> None:
        """Until SIGTERM or SIGINT."""
        reader, writer = socket.socketpair()
        for end in (reader, writer):
            end.setblocking(False)
        self._selector.register(reader, selectors.EVENT_READ, self._stop)
        signal.set_wakeup_fd(writer.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        interval = self._config.drain_interval_ms / 1000
        swept = time.monotonic()
        while self._running:
            for key, _ in self._selector.select(interval):
                key.data(key.fileobj)
            self.watch.tend()
            now = time.monotonic()
            if now - swept >= self._config.sweep_interval_s:
                self.watch.rest()
                swept = now
        self._unlink()

    def _stop(self, reader: socket.socket) -> None:
        reader.recv(64)
        self._running = False

    def _tend(self, _probes: object) -> None:
        self.watch.drain()

    def _unlink(self) -> None:
        """Take the socket away, unless somebody has put another one there."""
        with contextlib.suppress(OSError):
            if os.stat(self._config.socket).st_ino == self._identity:
                os.unlink(self._config.socket)

    # ---- connections -----------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            connection.setblocking(False)
            peer = Peer(connection)
            self._selector.register(connection, selectors.EVENT_READ, lambda _: self._serve(peer))

    def _serve(self, peer: "Peer") -> None:
        """Something may be read from, or written to, a client."""
        try:
            try:
                for request in peer.receive():
                    peer.send(control.encode(self._answer(request, peer.pid)))
            except control.ProtocolError as error:
                peer.send(control.encode(control.failure(error)))
                peer.closed = True
            peer.flush()
        except (EOFError, OSError):
            peer.closed = True
        if peer.closed:
            self._selector.unregister(peer.connection)
            peer.connection.close()
        else:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.unsent else 0)
            key = self._selector.get_key(peer.connection)
            if key.events != wanted:
                self._selector.modify(peer.connection, wanted, key.data)

    def _answer(self, request: control.Message, pid: int) -> control.Message:
        try:
            verb = self._verbs[_choice(request, "verb", tuple(self._verbs))]
            return {"ok": True, **verb(request, pid)}
        except CkptreeError as error:
            return control.failure(error)
        except Exception as error:  # noqa: BLE001 - one request must not end the watch for everybody
            traceback.print_exc()
            return control.failure(CkptreeError(f"internal error, see the daemon's log: {error!r}"))

    def _snapshot(self, request: control.Message, pid: int) -> control.Message:
        begin = time.perf_counter_ns()
        mode = _choice(request, "mode", ("auto", "container", "subtree"))
        fmt = _choice(request, "format", registry.LOSSLESS)
        dialect = _choice(request, "dialect", get_args(Dialect))
        task = self.watch.find(rootname.parse(str(request.get("root", ""))), pid)
        snapshot = self.watch.snapshot(task, mode, without_entered=bool(request.get("without_entered")))
        data = registry.image(snapshot, fmt, cast("Dialect", dialect))
        elapsed = time.perf_counter_ns() - begin
        completeness = snapshot.completeness
        return {
            "data": data,
            "complete": completeness.complete,
            "reasons": list(completeness.reasons),
            "verified": completeness.verified,
            "squashed": list(snapshot.squashed),
            "entered": list(snapshot.entered),
            "tasks": len(snapshot.tasks),
            "elapsed_ns": elapsed,
        }

    def _status(self, _request: control.Message, _pid: int) -> control.Message:
        watch = self.watch
        watch.drain()
        counts = watch.table.counts
        return {
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self._started, 3),
            "tasks": len(watch.table.tasks()),
            "namespaces": len(watch.table.pids.living()),
            "records": watch.stream.records,
            "lost": watch.stream.lost,
            "skipped": watch.totals.skipped,
            "sweeps": watch.totals.sweeps,
            "snapshots": watch.totals.snapshots,
            "anomalies": counts.anomalies,
            "repairs": counts.repairs,
            "assumed": counts.assumed,
            "ring_bytes": watch.probes.ring.size,
            "ring_pending": watch.probes.ring.pending,
            "hooks": watch.probes.hooks,
            "tried": watch.probes.tried,
            "missing": watch.probes.missing,
        }


def _choice(request: control.Message, key: str, allowed: Sequence[str]) -> str:
    """An argument that has to be one of a few; the first one is the default."""
    value = request.get(key, allowed[0])
    if value not in allowed:
        raise UsageError(f"{key} {value!r}: expected one of {', '.join(allowed)}")
    return str(value)


class Peer:
    """A client: its bytes in and out, and who it is.

    Args:
        connection: a non-blocking socket.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.closed = False
        self.unsent = memoryview(b"")
        self._decoder = control.Decoder(control.MAX_REQUEST)
        # pid, uid, gid; the pid as our namespace counts, which is the initial one
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        self.pid = int.from_bytes(credentials[:4], sys.byteorder, signed=True)

    def receive(self) -> list[control.Message]:
        """Requests that have come in whole.

        Raises:
            EOFError: it has hung up.
        """
        try:
            data = self.connection.recv(_CHUNK)
        except BlockingIOError:
            return []
        if not data:
            raise EOFError
        return self._decoder.feed(data)

    def send(self, data: bytes) -> None:
        """Queue bytes."""
        self.unsent = memoryview(bytes(self.unsent) + data)

    def flush(self) -> None:
        """Write what the socket takes."""
        while self.unsent:
            try:
                sent = self.connection.send(self.unsent)
            except BlockingIOError:
                return
            self.unsent = self.unsent[sent:]


def listen(path: Path, mode: int) -> socket.socket:
    """Bind the socket; a dead daemon's is taken over.

    Raises:
        CkptreeError: another daemon listens there, or the path cannot be used.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    before = os.umask(0o777 & ~mode)
    try:
        if path.parent == Config().socket.parent:  # ours to make; another folder that is missing is a slip of the pen
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
        os.chmod(path, mode)
        listener.listen(64)
    except OSError as error:
        listener.close()
        kind = HostError if isinstance(error, PermissionError) else CkptreeError
        raise kind(f"cannot listen on {path}: {error.strerror or error}") from error
    finally:
        os.umask(before)
    return listener


def _take_over(path: Path) -> None:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise CkptreeError(f"{path} exists and is no socket: remove it, or name another with --socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            os.unlink(path)  # its daemon is dead
            return
    raise CkptreeError(f"socket in use: another daemon answers on {path}. Stop it, or name another with --socket")


def drop_capabilities() -> None:
    """Everything is open and mapped: from here on no capability is needed, so none is kept."""

    class Header(ctypes.Structure):
        _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))

    libc = ctypes.CDLL(None, use_errno=True)
    none = (ctypes.c_uint32 * 6)()  # two times effective, permitted, inheritable
    if libc.capset(ctypes.byref(Header(_LINUX_CAPABILITY_VERSION_3, 0)), none):
        number = ctypes.get_errno()
        raise CkptreeError(f"cannot drop capabilities: {os.strerror(number)}")


def notify(state: str) -> None:
    """sd_notify(3)."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, contextlib.suppress(OSError):
            manager.connect("\0" + path[1:] if path.startswith("@") else path)
            manager.send(state.encode())


def _parse(argv: Sequence[str]) -> Config:
    parser = argparse.ArgumentParser(
        prog="ckptree daemon", description="Watch all process trees of this host and answer on a Unix socket."
    )
    parser.add_argument("--socket", type=Path, help=f"where to listen (default {Config().socket})")
    parser.add_argument("--config", type=Path, help="TOML file: ring_bytes, drain_interval_ms, sweep_interval_s, ...")
    try:
        options: Any = parser.parse_args(argv)
    except OSError as error:  # it prints its help
        raise CkptreeError(f"cannot write to standard output, which is full or closed: {error.strerror}") from error
    config = load(options.config) if options.config else Config()
    return replace(config, socket=options.socket) if options.socket else config


def main(argv: Sequence[str] | None = None) -> int:
    """Run in the foreground; returns the exit code."""
    try:
        config = _parse(sys.argv[1:] if argv is None else argv)
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
