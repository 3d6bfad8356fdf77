# SPDX-License-Identifier: Apache-2.0
"""Asking the daemon.

::

    with Client() as client:
        image = client.snapshot("4711").data          # bytes of a checkpoint image
        print(client.metrics()["lost"])
    with Client() as client, client.subscribe("4711", kinds=["birth", "death"]) as events:
        for event in events:                          # from the point of events.snapshot on, in order
            print(event.kind, event.task)

What each verb takes and gives is in docs/API.md, and the bytes in agent.control. A client needs no other privilege than to
connect: the daemon sees who it is, and shows root and the members of its group everything, others what is theirs.
"""

import contextlib
import os
import socket
import struct
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agent import control
from agent.config import SOCKET_VARIABLE
from agent.errors import BusyError, CkptreeError, HostError, NoDaemonError, UsageError, VersionError
from agent.replies import Answer, Event, EventTask, Hello, answer_of, event_of, hello_of

__all__ = ["DEFAULT_SOCKET", "Answer", "Client", "Event", "EventTask", "Hello", "Subscription", "default_socket"]

DEFAULT_SOCKET = Path("/run/ckptree/ckptree.sock")


def default_socket() -> Path:
    """Return the socket that is meant where none is named: CKPTREE_SOCKET of the environment, else the usual one."""
    return Path(os.environ.get(SOCKET_VARIABLE) or DEFAULT_SOCKET)


_TIMEVAL = struct.Struct("@ll")


def _seconds(seconds: float) -> tuple[int, int]:
    """As struct timeval; nothing but 0 means for ever."""
    microseconds = max(1, round(seconds * 1e6))
    return microseconds // 1_000_000, microseconds % 1_000_000


class Client:
    """One connection.

    Args:
        path: the daemon's socket; None: default_socket().
        timeout_s: for every single answer.

    Raises:
        NoDaemonError: nobody listens there.
        HostError: somebody does, but this user may not connect.
        BusyError: somebody does, and too many others connect.
    """

    def __init__(self, path: Path | str | None = None, timeout_s: float = 30.0) -> None:
        self.path = Path(path or default_socket())
        self._timeout_s = timeout_s
        self._hello: Hello | None = None
        self._spent = True
        self._connect()

    def _connect(self) -> None:
        self._decoder = control.Decoder(control.MAX_ANSWER)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Blocking: who waits gets its turn in the queue. A socket with a timeout of Python's is turned away at once.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(*_seconds(self._timeout_s)))
            self._socket.connect(os.fspath(self.path))
        except PermissionError as error:
            self._socket.close()
            raise HostError(
                f"not permitted to connect to {self.path}: be root, or have the daemon's configuration "
                "open it with socket_mode. Without the daemon, `--source procfs` answers, unverified"
            ) from error
        except BlockingIOError as error:
            self._socket.close()
            raise BusyError(
                f"the daemon on {self.path} is busy: so many connect that this one had no turn within {self._timeout_s:g} s"
            ) from error
        except OSError as error:
            self._socket.close()
            raise NoDaemonError(
                f"no daemon on {self.path} ({error.strerror or error}): "
                f"start one with `ckptree daemon --socket {self.path}`"
            ) from error
        self._socket.settimeout(self._timeout_s)
        self._hello = None
        self._spent = False

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
        """Ask, and wait for the answer. The first request over a connection says hello before.

        A connection over which an answer has not come is not used again: it might still come, and be taken for another's.

        Raises:
            NoDaemonError: the daemon went away, or did not answer in time.
            VersionError: it speaks no version of the protocol that is spoken here.
            CkptreeError: what the daemon says.
        """
        if self._spent or self._is_hung_up():  # the daemon does so to who has asked nothing for long
            self._spent = True
            self._socket.close()
            self._connect()
        self.hello()
        return self._ask(verb, arguments)

    def _is_hung_up(self) -> bool:
        self._socket.setblocking(False)
        try:
            return self._socket.recv(1, socket.MSG_PEEK) == b""
        except OSError:
            return False
        finally:
            self._socket.settimeout(self._timeout_s)

    def _ask(self, verb: str, arguments: Mapping[str, Any]) -> control.Message:
        self._spent = True
        try:
            with contextlib.suppress(BrokenPipeError):  # whoever turned us away may have said why
                self._socket.sendall(control.encode({"verb": verb, **arguments}))
            answer = self.receive()
        except TimeoutError as error:
            raise NoDaemonError(
                f"the daemon on {self.path} did not answer within {self._timeout_s:g} s: it is stopped, or very busy"
            ) from error
        self._spent = False
        control.raise_failure(answer)
        return answer

    def receive(self) -> control.Message:
        """The next message.

        Raises:
            NoDaemonError: the daemon went away.
            TimeoutError: it said nothing in time.
        """
        try:
            while (message := self._decoder.pop()) is None:
                data = self._socket.recv(1 << 20)
                if not data:
                    raise NoDaemonError(f"the daemon on {self.path} went away before it answered; see its log")
                self._decoder.push(data)
        except TimeoutError:
            raise
        except OSError as error:
            raise NoDaemonError(f"the daemon on {self.path} went away: {error.strerror or error}") from error
        return message

    def hello(self) -> Hello:
        """Who the daemon is, and who we are to it; asked once.

        Raises:
            VersionError: there is no version of the protocol in common.
            CkptreeError: see `request`.
        """
        if self._hello is not None:
            return self._hello
        try:
            answer = self._ask("hello", {"protocols": list(control.PROTOCOLS)})
        except UsageError as error:  # `verb 'hello': expected one of ...`
            raise VersionError(
                f"the daemon on {self.path} is older than this client and knows no hello: restart it with the version "
                "that is installed now"
            ) from error
        with self._of_another_version():
            control.common_version([answer["protocol"]] * 2)
            self._hello = hello_of(answer)
        return self._hello

    def snapshot(
        self,
        root: str,
        *,
        mode: str = "auto",
        fmt: str = "ckpt",
        dialect: str = "seed",
        without_entered: bool = False,
        strings: bool = False,
    ) -> Answer:
        """Have a snapshot taken.

        Args:
            root: a pid as this process counts, or ``pidns:INUM``.
            mode: ``auto``, ``container`` or ``subtree``.
            fmt: a name from exporters.registry.
            dialect: of a ckpt image.
            without_entered: leave out what entered the container from outside.
            strings: tell what each process was started with, as the exec hook saw it.

        Raises:
            NotPermittedError: it is not ours to see.
            CkptreeError: see `request`.
        """
        answer = self.request(
            "snapshot",
            root=root,
            mode=mode,
            format=fmt,
            dialect=dialect,
            without_entered=without_entered,
            strings=strings,
        )
        with self._of_another_version():
            return answer_of(answer, answer["data"])

    def subscribe(
        self,
        root: str | Sequence[str] | None = None,
        *,
        kinds: Iterable[str] | None = None,
        snapshot: bool | None = None,
    ) -> "Subscription":
        """Hear of events as they happen. The connection is the subscription's from here on.

        Args:
            root: a pid as this process counts, or ``pidns:INUM``: only the tree below it; or several of these; None: all
                tasks that are ours to see.
            kinds: which ones, of those that the hello names; None: all.
            snapshot: begin with a snapshot of the tree, which needs one root; None: iff there is one.

        Raises:
            NotPermittedError: the root is not ours to see.
            CkptreeError: see `request`.
        """
        roots = [root] if isinstance(root, str) else list(root or ())
        if len(roots) > 1 and "several-roots" not in self.hello().features:  # it would pass over them, and tell of all
            raise VersionError(
                f"the daemon on {self.path} is too old to follow several roots: name one of them by its pid"
            )
        arguments: dict[str, Any] = {"roots": roots} if len(roots) > 1 else {"root": roots[0] if roots else None}
        arguments["snapshot"] = len(roots) == 1 if snapshot is None else snapshot
        if kinds is not None:
            arguments["kinds"] = list(kinds)
        answer = self.request("subscribe", **arguments)
        with self._of_another_version():
            image = answer["snapshot"]
            return Subscription(
                self,
                answer["order"],
                None if image is None else answer_of(answer, image),
                self._socket,
                answer.get("ids"),
            )

    def status(self) -> control.Message:
        """How the daemon is, and which hooks it has."""
        answer = self.request("status")
        del answer["ok"]
        return answer

    def metrics(self) -> control.Message:
        """The daemon's figures."""
        answer = self.request("metrics")
        del answer["ok"]
        return answer

    @contextlib.contextmanager
    def _of_another_version(self) -> Iterator[None]:
        try:
            yield
        except (KeyError, TypeError) as error:
            raise CkptreeError(
                f"the daemon on {self.path} answered without {error}: it is of another version"
            ) from error


class Subscription:
    """Events as they come: an iterator that waits for the next one. It ends after ``end``, the root being gone.

    Attributes:
        order: number of the first event that can come: the snapshot has everything before.
        next: all events numbered below have come. Some of them may still wait to be taken from here.
        snapshot: what it began with; None where none was asked for.
        ids: for each task of the snapshot, in its order, numbers, pid, parent, group and session as events have them;
            None without a snapshot, or where the daemon is of an older version. For agent.livetree.
    """

    def __init__(
        self,
        client: Client,
        order: int,
        snapshot: Answer | None,
        connection: socket.socket,
        ids: list[list[Any]] | None = None,
    ) -> None:
        self.order = self.next = order
        self.snapshot = snapshot
        self.ids = ids
        self._client = client
        self._socket = connection
        self._waiting: deque[Event] = deque()
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; the client's connection with it."""
        self._client.close()

    def fileno(self) -> int:
        """Readable when there may be something new; what has come already, `next_within` has."""
        return self._socket.fileno()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        event = self.next_within(None)
        if event is None:
            raise StopIteration
        return event

    def next_within(self, timeout_s: float | None) -> Event | None:
        """The next event; None where none has come in time, or none will come any more.

        Raises:
            NoDaemonError: the daemon went away.
            CkptreeError: it ended the subscription, and says why.
        """
        while not self._waiting:
            if self._ended:
                return None
            self._socket.settimeout(timeout_s)
            try:
                message = self._client.receive()
            except TimeoutError:
                return None
            if "events" not in message:
                control.raise_failure(message)
            self._waiting.extend(map(event_of, message.get("events", ())))
            self.next = message.get("next", self.next)
        event = self._waiting.popleft()
        self._ended = event.kind == "end"
        return event
