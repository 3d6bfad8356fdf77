# SPDX-License-Identifier: Apache-2.0
"""The server over real sockets and a simulated kernel: two sockets, and clients of several users."""

import contextlib
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.access import Policy
from agent.config import Config
from agent.daemon import fairness, listeners, server
from agent.daemon.asker import Asker
from agent.daemon.journal import Journal
from agent.daemon.listeners import opened
from agent.daemon.server import MAX_CLIENTS_PER_USER, Server
from agent.daemon.service import Service
from agent.environment import private_socket
from agent.protocol import codec
from tests.support.kernelsim import Kernel
from tests.support.simwatch import a_plain_host, a_watch

FLOOD = 500
STRANGER = 1000
TURNS = 2  # a connection and its first request: one turn each
PATIENCE_S = 10.0


class Served:
    """A server, its loop, and clients.

    Attributes:
        server: the server.
        public, private: paths of the two sockets.
        kernel: the simulated kernel.
        pid: of each client that connects.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> None:
        self.public = folder / "own.sock"
        self.private = private_socket(self.public)
        self.kernel = Kernel(lambda _: None)
        self.pid = os.getpid()
        self._stack = stack
        self._uid = 0
        self._users: dict[str, int] = {}
        monkeypatch.setattr(server, "credentials", self._credentials)
        monkeypatch.setattr(listeners, "_ACCEPT_S", 0.001)
        monkeypatch.setattr(fairness.FairShares, "spend", lambda *_: None)  # a busy machine would make debts
        self._selector = stack.enter_context(selectors.DefaultSelector())
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        stack.callback(os.close, reader)
        log = Journal(writer)
        found = opened(Config(socket=self.public), None, (), log)
        for one in found:
            stack.enter_context(one.file)
        with a_plain_host():
            self.server = Server(a_watch(self.kernel), found, self._selector, Policy(0, None), log)
        stack.callback(self._end)

    def _end(self) -> None:
        """Close the connections, as the kernel does at the daemon's end, once no job runs."""
        self.server.worker.wait(PATIENCE_S)
        for peer in tuple(self.server._peers):
            self.server._drop(peer)
        self.server._forget()
        self.server.worker.close()

    def _credentials(self, connection: socket.socket) -> tuple[int, int, int, tuple[int, ...]]:
        """Return what the test has said of the client, as the kernel would."""
        uid = self._users[os.fsdecode(connection.getpeername()[1:])]
        return self.pid, uid, uid, ()

    def client(self, path: Path, uid: int = 0) -> socket.socket:
        """Connect to a socket as a user, and say hello."""
        peer = self._stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        peer.bind("")  # the kernel gives it a name, by which the test knows its user
        self._users[os.fsdecode(peer.getsockname()[1:])] = uid
        peer.connect(os.fspath(path))
        peer.setblocking(False)
        peer.send(codec.encode({"verb": "hello"}))
        return peer

    def turn(self) -> None:
        """Do as the daemon's loop does in a turn."""
        for key, _ in self._selector.select(0):
            key.data(key.fileobj)
        self.server.tend()
        self.server.let_in()

    def answers(self, clients: list[socket.socket]) -> list[codec.Message]:
        """Turn until each client has an answer."""
        deadline = time.monotonic() + PATIENCE_S
        found = [answer(client) for client in clients]
        while not all(found):
            assert time.monotonic() < deadline, found
            self.turn()
            found = [said or answer(client) for said, client in zip(found, clients, strict=True)]
        return [said for said in found if said is not None]


class SlowService:
    """A service of which each answer takes the worker until it is told to go on.

    Args:
        service: does all else.

    Attributes:
        begun: set once the worker makes an answer.
        go_on: lets it be made.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self._service, name)

    def is_heavy(self, _request: codec.Message) -> bool:
        """Return True."""
        return True

    def packed(self, _request: codec.Message, _asker: Asker) -> bytes:
        """Return an answer, as late as it may be."""
        self.begun.set()
        self.go_on.wait(PATIENCE_S)
        return codec.pack({"ok": True})


def answer(peer: socket.socket) -> codec.Message | None:
    """Return the answer that has come; None: none has."""
    try:
        (message,) = codec.Decoder(codec.MAX_ANSWER).feed(peer.recv(1 << 16))
    except BlockingIOError:
        return None
    return message


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """Yield a server, and close all sockets afterwards."""
    with ExitStack() as stack:
        yield Served(tmp_path, monkeypatch, stack)


def test_root_is_answered_by_the_private_socket_while_others_fill_the_queue_of_the_public_one(served: Served) -> None:
    """A connection takes a turn, and its request one more, however many others wait."""
    for _ in range(FLOOD):
        served.client(served.public, STRANGER)
    mine = served.client(served.private)
    for _ in range(TURNS):
        served.turn()
    said = answer(mine)
    clients = served.server.service.clients

    assert said is not None
    assert said["peer"]["sees"] == "all"
    assert clients.accepted + clients.turned_away.total() < FLOOD, "the flood is over already"


def test_what_a_client_may_see_is_decided_by_the_user_and_never_by_the_socket(served: Served) -> None:
    """An administrator may have opened the private socket to a user: it gives no right."""
    asked = [(path, uid) for path in (served.public, served.private) for uid in (0, STRANGER)]
    answers = served.answers([served.client(path, uid) for path, uid in asked])

    assert [said["peer"]["sees"] for said in answers] == ["all", "own"] * 2


@pytest.mark.parametrize("first", ["public", "private"])
def test_a_users_places_are_counted_over_both_sockets(served: Served, first: str) -> None:
    """An ordinary user has 32; root still gets in by either socket."""
    paths = [served.public, served.private]
    before, beyond = paths if first == "public" else reversed(paths)
    many = served.answers([served.client(before, STRANGER) for _ in range(MAX_CLIENTS_PER_USER)])
    refused, *mine = served.answers([served.client(beyond, STRANGER), *map(served.client, paths)])

    assert all(said["ok"] for said in (*many, *mine))
    assert f"{MAX_CLIENTS_PER_USER} clients here already" in refused["error"]


def _listening(served: Served, count: int) -> list[socket.socket]:
    """Return clients that have subscribed to everything."""
    served.pid = served.kernel.init.tid
    clients = [served.client(served.private) for _ in range(count)]
    served.answers(clients)
    for client in clients:
        client.send(codec.encode({"verb": "subscribe"}))
    assert all(said["ok"] for said in served.answers(clients))
    return clients


def _heard(*clients: socket.socket) -> tuple[dict[socket.socket, list[int]], Callable[[socket.socket], None]]:
    """Return the births that each client has read, and a function that has one read on."""
    heard: dict[socket.socket, list[int]] = {client: [] for client in clients}
    decoders = {client: codec.Decoder(codec.MAX_ANSWER) for client in clients}

    def read(client: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := client.recv(1 << 16):
                for said in decoders[client].feed(data):
                    heard[client] += [event["tid"] for event in said["events"] if event["event"] == "birth"]

    return heard, read


def test_events_that_come_soon_after_others_are_told_together(served: Served) -> None:
    """The loop wakes in time for them, however long it would have slept."""
    listening = _listening(served, 3)
    served.server._tell_s = 0.0
    served.turn()
    served.server._tell_s = PATIENCE_S
    births = []
    for _ in range(3):
        births.append(served.kernel.fork(served.kernel.init).tid)
        served.server.service.watch.tend()
        served.turn()
        assert [answer(client) for client in listening] == [None] * 3
    assert 0 < served.server.wait_s(2 * PATIENCE_S) <= PATIENCE_S
    served.server._tell_s = 0.0

    for said in served.answers(listening):
        assert [event["tid"] for event in said["events"]] == births
    served.turn()
    assert served.server.wait_s(2 * PATIENCE_S) > PATIENCE_S


def test_a_turn_that_has_no_time_left_leaves_subscribers_to_the_next(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each turn serves one, and all are served in the end."""
    listening = _listening(served, 5)
    served.server._tell_s = 0.0
    monkeypatch.setattr(server, "_TURN_S", 0.0)
    birth = served.kernel.fork(served.kernel.init).tid
    served.server.service.watch.tend()
    served.turn()
    told = [said for client in listening if (said := answer(client)) is not None]

    assert len(told) == 1
    assert served.server.wait_s(PATIENCE_S) == 0.0
    for _ in listening[1:]:
        served.turn()
        told += [said for client in listening if (said := answer(client)) is not None]
    assert len(told) == len(listening)
    assert all([event["tid"] for event in said["events"]] == [birth] for said in told)


def test_a_subscriber_whose_socket_is_full_gets_the_rest_once_it_reads(served: Served) -> None:
    """Nothing is lost or told twice, and the others have not waited."""
    slow, fast = _listening(served, 2)
    served.server._tell_s = 0.0
    births: list[int] = []
    heard, read = _heard(slow, fast)

    def unsent() -> int:
        return sum(peer.talk.unsent_bytes for peer in served.server._peers)

    while not unsent():
        births += [served.kernel.fork(served.kernel.init).tid for _ in range(100)]
        served.server.service.watch.tend()
        served.turn()
        read(fast)
    assert heard == {slow: [], fast: births}
    deadline = time.monotonic() + PATIENCE_S
    while heard[slow] != births:
        assert time.monotonic() < deadline
        served.turn()
        read(slow)
    assert not unsent()


@pytest.mark.parametrize("closes", [True, False])
def test_a_client_that_closes_or_asks_on_while_it_is_answered_does_not_keep_the_loop_awake(
    served: Served, *, closes: bool
) -> None:
    """The socket stays ready, and nothing is read from it before the answer is made: the selector is to be told so."""
    client = served.client(served.private)
    (said,) = served.answers([client])
    service = SlowService(served.server.service)
    served.server.service = service  # type: ignore[assignment]  # it has the interface
    try:
        client.send(codec.encode({"verb": "status"}))
        while not service.begun.is_set():
            served.turn()
        if closes:
            client.shutdown(socket.SHUT_WR)
        else:
            client.send(2 * codec.encode({"verb": "status"}))
        ready = []
        for _ in range(10):
            ready.append(len(served._selector.select(0)))
            served.turn()
    finally:
        service.go_on.set()

    assert said["ok"]
    assert ready[-1] == 0, ready
    assert served.answers([client]) == [{"ok": True}]


def test_subscribers_hear_events_however_many_requests_others_have(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time for requests is over in each turn before it is a subscriber's turn, and the time for events after it."""
    (listening,) = _listening(served, 1)
    asking = served.client(served.private)
    served.answers([asking])
    monkeypatch.setattr(server, "_TURN_S", 0.0)
    served.server._tell_s = PATIENCE_S
    birth = served.kernel.fork(served.kernel.init).tid
    served.server.service.watch.tend()
    asking.send(codec.encode({"verb": "hello"}))
    served.server._told = 0.0
    served.turn()
    told = answer(listening)
    for _ in range(5):
        asking.send(codec.encode({"verb": "hello"}))
        served.turn()
        told = told or answer(listening)

    assert told is not None
    assert [event["tid"] for event in told["events"]] == [birth]


def test_a_subscriber_of_a_user_in_debt_does_not_keep_the_loop_awake(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its socket is ready again, and what is unsent goes there; what is new waits for the user's turn."""
    (slow,) = _listening(served, 1)
    served.server._tell_s = 0.0

    def unsent() -> int:
        return sum(peer.talk.unsent_bytes for peer in served.server._peers)

    while not unsent():
        for _ in range(100):
            served.kernel.fork(served.kernel.init)
        served.server.service.watch.tend()
        served.turn()
    (peer,) = served.server._peers
    monkeypatch.setattr(served.server, "_in_debt", lambda *_: True)
    served.kernel.fork(served.kernel.init)
    served.server.service.watch.tend()
    served.turn()
    assert peer.queued
    ready, before = [], unsent()
    with contextlib.suppress(BlockingIOError):
        while slow.recv(1 << 20):
            pass
    for _ in range(20):
        ready.append(len(served._selector.select(0)))
        served.turn()

    assert unsent() < before
    assert ready[-1] == 0, ready


def test_a_subscriber_far_behind_another_one_like_it_gets_all_that_the_other_got(served: Served) -> None:
    """The kernel takes 1024 pieces in one call, and there are more."""
    slow, fast = _listening(served, 2)
    served.server._tell_s = 0.0
    births: list[int] = []
    heard, read = _heard(slow, fast)

    (behind,) = [peer for peer in served.server._peers if peer.connection.getpeername() == slow.getsockname()]
    while not behind.talk.unsent_bytes:
        births += [served.kernel.fork(served.kernel.init).tid for _ in range(100)]
        served.server.service.watch.tend()
        served.turn()
        read(fast)
    for _ in range(1500):
        births.append(served.kernel.fork(served.kernel.init).tid)
        served.server.service.watch.tend()
        served.turn()
        read(fast)
    deadline = time.monotonic() + PATIENCE_S
    while heard[slow] != births:
        assert time.monotonic() < deadline
        assert behind in served.server._peers
        served.turn()
        read(slow)
