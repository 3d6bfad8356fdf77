# SPDX-License-Identifier: Apache-2.0
"""The client of the daemon.

::

    with Client() as client:
        image = client.snapshot("4711").data          # bytes of a checkpoint image
        print(client.metrics()["lost"])
    with Client() as client, client.subscribe("4711", kinds=["birth", "death"]) as events:
        for event in events:                          # from the point of events.snapshot on, in order
            print(event.kind, event.task)

docs/protocol.md has the arguments and results of each verb, and agent.protocol.codec the bytes. A client needs no
privilege but to connect: the daemon reads the client's credentials from the socket. It shows everything to root and the
members of its group, and to other clients their own tasks.
"""

import _socket as socket  # the module `socket` makes enumerations of constants: 4 ms
import contextlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from agent.environment import DEFAULT_SOCKET, SOCKET_VARIABLE, private_socket
from agent.errors import CkptreeError, HostError, NoDaemonError, NoSuchRootError, UsageError, VersionError
from agent.protocol import codec
from agent.protocol.connection import first_connected
from agent.protocol.replies import Answer, Event, EventTask, Hello, answer_of, at_exec_of, event_of, hello_of

if TYPE_CHECKING:
    from agent.table.areas import AtExec

__all__ = ["DEFAULT_SOCKET", "Answer", "Client", "Event", "EventTask", "Hello", "Subscription", "default_socket"]


def default_socket() -> Path:
    """Return the default socket: CKPTREE_SOCKET of the environment, else DEFAULT_SOCKET."""
    return Path(os.environ.get(SOCKET_VARIABLE) or DEFAULT_SOCKET)


def _choice(path: Path | str | None) -> tuple[Path, ...]:
    """Return the sockets to try, in order: a socket that is named, here or in the environment, is the only one."""
    if path or os.environ.get(SOCKET_VARIABLE):
        return (Path(path or default_socket()),)
    return private_socket(DEFAULT_SOCKET), DEFAULT_SOCKET


class Client:
    """A connection to the daemon.

    Args:
        path: the daemon's socket; None: CKPTREE_SOCKET of the environment, else the default. Of the default, a user
            whom the daemon shows every tree is connected to the private socket, which no other user can keep busy.
        timeout_s: for each answer.

    Attributes:
        path: the socket of the connection.

    Raises:
        NoDaemonError: no daemon listens there.
        HostError: this user may not connect.
        BusyError: too many other clients wait to connect.
    """

    def __init__(self, path: Path | str | None = None, timeout_s: float = 30.0) -> None:
        self._choice = _choice(path)
        self._timeout_s = timeout_s
        self._hello: Hello | None = None
        self._spent = True
        self._connect()

    def _connect(self) -> None:
        self._decoder = codec.Decoder(codec.MAX_ANSWER)
        self._socket, self.path = first_connected(self._choice, self._timeout_s)
        self._hello = None
        self._spent = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def request(self, verb: str, **arguments: Any) -> codec.Message:
        """Send a request and wait for the answer. The first request over a connection is preceded by a hello.

        A connection on which an answer is missing is not used again: a late answer would count as that to another
            request.

        Raises:
            NoDaemonError: the daemon went away, or did not answer in time.
            VersionError: client and daemon have no version of the protocol in common.
            CkptreeError: the error that the daemon answers.
        """
        if self._spent or self._is_hung_up():  # the daemon closes a connection that is idle for long
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

    def _ask(self, verb: str, arguments: Mapping[str, Any]) -> codec.Message:
        self._spent = True
        try:
            with contextlib.suppress(BrokenPipeError):  # a daemon that refused the connection may have sent the reason
                self._socket.sendall(codec.encode({"verb": verb, **arguments}))
            answer = self.receive()
        except TimeoutError as error:
            raise NoDaemonError(
                f"the daemon on {self.path} did not answer within {self._timeout_s:g} s: it is stopped, or very busy"
            ) from error
        self._spent = False
        codec.raise_failure(answer)
        return answer

    def receive(self) -> codec.Message:
        """Wait for the next message and return it.

        Raises:
            NoDaemonError: the daemon went away.
            TimeoutError: no message came in time.
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
        """Return the daemon's description of itself and of this client; the daemon is asked once a connection.

        Raises:
            VersionError: there is no version of the protocol in common.
            CkptreeError: see `request`.
        """
        if self._hello is not None:
            return self._hello
        try:
            answer = self._ask("hello", {"protocols": list(codec.PROTOCOLS)})
        except UsageError as error:  # `verb 'hello': expected one of ...`
            raise VersionError(
                f"the daemon on {self.path} is older than this client and knows no hello: restart it with the version "
                "that is installed now"
            ) from error
        with self._of_another_version():
            codec.common_version([answer["protocol"]] * 2)
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
        outer: bool = False,
        at: Mapping[str, int] | None = None,
    ) -> Answer:
        """Request a snapshot.

        Args:
            root: a pid in this process's pid namespace, or ``pidns:INUM``.
            mode: ``auto``, ``container`` or ``subtree``.
            fmt: a name from exporters.registry.
            dialect: of a ckpt image.
            without_entered: leave out tasks that entered the container from outside.
            outer: tell the numbers in the namespaces above the root's, too.
            at: as it was then, from the daemon's recording: ``time_ns``, CLOCK_REALTIME, or ``order``, the number of the
                first record that is not in it; None: now.

        Raises:
            NotPermittedError: this client may not see the tree.
            NoSuchTimeError: the recording does not have the time.
            HostError: the daemon has no recording.
            CkptreeError: see `request`.
        """
        if at is not None:
            self.need_past()
        answer = self.request(
            "snapshot",
            root=root,
            mode=mode,
            format=fmt,
            dialect=dialect,
            without_entered=without_entered,
            **({"outer": True} if outer else {}),
            **({"at": dict(at)} if at is not None else {}),
        )
        with self._of_another_version():
            return answer_of(answer, answer["data"])

    def need_past(self) -> None:
        """Refuse a question about the past where the daemon has none."""
        if "past" not in self.hello().features:
            raise HostError(
                f"the daemon on {self.path} has no recording: see [record] in its configuration, or use --record"
            )

    def strings(self, pid: int, start_ns: int, arguments: bytes | None, environment: bytes | None) -> "AtExec":
        """Compare strings that were read of a process with those that its last exec has put into its memory.

        Args:
            pid: of the process, in this process's pid namespace.
            start_ns: CLOCK_BOOTTIME of its birth.
            arguments, environment: the bytes that were read of each area before; None: none were.

        Returns:
            The areas as the exec hook saw them; None for each where it did not, or the daemon is too old to compare.

        Raises:
            NotPermittedError: this client may not see the process.
            CkptreeError: see `request`.
        """
        from agent.table.areas import HASHED_BYTES, AtExec  # few clients ask for strings

        if "strings" not in self.hello().features:
            return AtExec()
        shown = [None if area is None else [area[:HASHED_BYTES], len(area)] for area in (arguments, environment)]
        try:
            answer = self.request("strings", root=pid, start_ns=start_ns, arguments=shown[0], environment=shown[1])
        except NoSuchRootError:
            return AtExec()
        with self._of_another_version():
            return at_exec_of(answer)

    def subscribe(
        self,
        root: str | Sequence[str] | None = None,
        *,
        kinds: Iterable[str] | None = None,
        snapshot: bool | None = None,
        arguments: bool = False,
    ) -> "Subscription":
        """Subscribe to events. The connection then serves the subscription alone.

        Args:
            root: a pid in this process's pid namespace, or ``pidns:INUM``: only the tree below it; or several of these;
                None: all tasks that this client may see.
            kinds: kinds of events, of those that the hello names; None: all.
            snapshot: begin with a snapshot of the tree, which needs exactly one root; None: iff there is one.
            arguments: send an event ``arguments`` after each exec, where the daemon tells this client: the hello then
                has the feature ``arguments``. It has the first bytes of the area as ``arguments`` and its ``size``.

        Raises:
            NotPermittedError: this client may not see the root.
            CkptreeError: see `request`.
        """
        roots = [root] if isinstance(root, str) else list(root or ())
        if len(roots) > 1 and "several-roots" not in self.hello().features:  # it would ignore them
            raise VersionError(
                f"the daemon on {self.path} is too old to follow several roots: name one of them by its pid"
            )
        request: dict[str, Any] = {"roots": roots} if len(roots) > 1 else {"root": roots[0] if roots else None}
        request["snapshot"] = len(roots) == 1 if snapshot is None else snapshot
        if kinds is not None:
            request["kinds"] = list(kinds)
        if arguments and "arguments" in self.hello().features:
            request["arguments"] = True
        answer = self.request("subscribe", **request)
        with self._of_another_version():
            image = answer["snapshot"]
            return Subscription(
                self,
                answer["order"],
                None if image is None else answer_of(answer, image),
                self._socket,
                answer.get("ids"),
                arguments="arguments" in request,
            )

    def status(self) -> codec.Message:
        """Return the daemon's state, and its hooks."""
        answer = self.request("status")
        del answer["ok"]
        return answer

    def metrics(self) -> codec.Message:
        """Return the daemon's figures."""
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
    """An iterator over events, which waits for the next one. It ends after the event ``end``: the root is gone.

    Attributes:
        order: number of the first event that can come: the snapshot has all changes before.
        next: all events with smaller numbers have come. Some of them may still wait in this object.
        snapshot: the tree at the beginning; None where it was not requested.
        ids: for each task of the snapshot, in its order, numbers, pid, parent, group and session as events have them;
            None without a snapshot, or from a daemon of an older version. For agent.protocol.livetree.
        arguments: True where the daemon tells the arguments of execs.
    """

    def __init__(
        self,
        client: Client,
        order: int,
        snapshot: Answer | None,
        connection: socket.socket,
        ids: list[list[Any]] | None = None,
        *,
        arguments: bool = False,
    ) -> None:
        self.order = self.next = order
        self.snapshot = snapshot
        self.ids = ids
        self.arguments = arguments
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
        """Close the client's connection."""
        self._client.close()

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when events may have come; `next_within` also has those that wait
        here.
        """
        return self._socket.fileno()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        event = self.next_within(None)
        if event is None:
            raise StopIteration
        return event

    def next_within(self, timeout_s: float | None) -> Event | None:
        """Return the next event; None where none came in time, or the subscription has ended.

        Raises:
            NoDaemonError: the daemon went away.
            CkptreeError: the daemon ended the subscription; the text has the reason.
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
                codec.raise_failure(message)
            self._waiting.extend(map(event_of, message.get("events", ())))
            self.next = message.get("next", self.next)
        event = self._waiting.popleft()
        self._ended = event.kind == "end"
        return event
