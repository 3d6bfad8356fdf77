# SPDX-License-Identifier: Apache-2.0
"""Asking the daemon."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agent import control
from agent.errors import CkptreeError, HostError, NoDaemonError

DEFAULT_SOCKET = Path("/run/ckptree/ckptree.sock")


@dataclass(frozen=True, slots=True)
class Answer:
    """A snapshot as the daemon sends it.

    Attributes:
        data: the file.
        complete: False: exit code 6, and `reasons` says why.
        verified: as in model.Completeness.
        reasons, squashed, entered: for the user.
        tasks: how many.
        elapsed_ns: what it took within the daemon, from request to bytes.
    """

    data: bytes
    complete: bool
    verified: str
    reasons: tuple[str, ...]
    squashed: tuple[str, ...]
    entered: tuple[str, ...]
    tasks: int
    elapsed_ns: int


class Client:
    """One connection.

    Args:
        path: the daemon's socket.
        timeout_s: for every single answer.

    Raises:
        NoDaemonError: nobody listens there.
        HostError: somebody does, but this user may not connect.
    """

    def __init__(self, path: Path | str = DEFAULT_SOCKET, timeout_s: float = 30.0) -> None:
        self.path = Path(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        self._decoder = control.Decoder(control.MAX_ANSWER)
        try:
            self._socket.connect(os.fspath(path))
        except PermissionError as error:
            self._socket.close()
            raise HostError(
                f"not permitted to connect to {path}: be root, or have the daemon's configuration "
                "open it with socket_mode. Without the daemon, `--source procfs` answers, unverified"
            ) from error
        except OSError as error:
            self._socket.close()
            raise NoDaemonError(
                f"no daemon on {path} ({error.strerror or error}): start one with `ckptree daemon --socket {path}`"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def request(self, verb: str, **arguments: Any) -> control.Message:
        """Ask, and wait for the answer.

        Raises:
            NoDaemonError: the daemon went away, or did not answer in time.
            CkptreeError: what the daemon says.
        """
        try:
            self._socket.sendall(control.encode({"verb": verb, **arguments}))
            while True:
                data = self._socket.recv(1 << 20)
                if not data:
                    raise NoDaemonError(f"the daemon on {self.path} went away before it answered; see its log")
                for answer in self._decoder.feed(data):
                    control.raise_failure(answer)
                    return answer
        except TimeoutError as error:
            raise NoDaemonError(
                f"the daemon on {self.path} did not answer within {self._socket.gettimeout():g} s: "
                "it is stopped, or very busy"
            ) from error
        except OSError as error:
            raise NoDaemonError(f"the daemon on {self.path} went away: {error.strerror or error}") from error

    def snapshot(
        self,
        root: str,
        *,
        mode: str = "auto",
        fmt: str = "ckpt",
        dialect: str = "seed",
        without_entered: bool = False,
    ) -> Answer:
        """Have a snapshot taken.

        Args:
            root: a pid as this process counts, or ``pidns:INUM``.
            mode: ``auto``, ``container`` or ``subtree``.
            fmt: a name from exporters.registry.
            dialect: of a ckpt image.
            without_entered: leave out what entered the container from outside.

        Raises:
            CkptreeError: see `request`.
        """
        answer = self.request(
            "snapshot", root=root, mode=mode, format=fmt, dialect=dialect, without_entered=without_entered
        )
        try:
            return Answer(
                data=answer["data"],
                complete=answer["complete"],
                verified=answer["verified"],
                reasons=tuple(answer["reasons"]),
                squashed=tuple(answer["squashed"]),
                entered=tuple(answer["entered"]),
                tasks=answer["tasks"],
                elapsed_ns=answer["elapsed_ns"],
            )
        except KeyError as error:
            raise CkptreeError(
                f"the daemon on {self.path} answered without {error}: it is of another version"
            ) from error

    def status(self) -> control.Message:
        """The daemon's counters and hooks."""
        answer = self.request("status")
        del answer["ok"]
        return answer
