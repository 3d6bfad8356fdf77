# SPDX-License-Identifier: Apache-2.0
"""The daemon's side of its socket: who asks, what they may ask, and the bytes to and fro.

Nothing here waits: every socket is non-blocking, and whoever runs the loop (agent.daemon) calls when one is ready.
"""

import contextlib
import errno
import os
import selectors
import socket
import stat
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast, get_args

from agent import control, rootname
from agent.config import Config
from agent.errors import CkptreeError, HostError, UsageError
from agent.model import Dialect
from agent.watch import Watch
from exporters import checkpoint as _checkpoint  # noqa: F401  # the registry's first use is where somebody waits
from exporters import registry

_CHUNK = 1 << 16


class Server:
    """Answers requests from a watch.

    Args:
        watch: what is asked about.
        listener: from `listen`; is registered, and stays the caller's.
        selector: what the caller's loop waits on. The data of each key is a function of the ready file.
    """

    def __init__(self, watch: Watch, listener: socket.socket, selector: selectors.BaseSelector) -> None:
        self.watch = watch
        self._selector = selector
        self._started = time.monotonic()
        self._verbs: dict[str, Callable[[control.Message, int], control.Message]] = {
            "snapshot": self._snapshot,
            "status": self._status,
        }
        selector.register(listener, selectors.EVENT_READ, self._accept)

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
