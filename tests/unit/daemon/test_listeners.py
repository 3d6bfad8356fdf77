# SPDX-License-Identifier: Apache-2.0
"""The daemon's two listening sockets: their files, and the turns in which they accept."""

import os
import selectors
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent.config import Config
from agent.daemon import listeners
from agent.daemon.endpoint import listen, open_to
from agent.daemon.journal import Journal
from agent.daemon.listeners import Acceptor, Listener, opened
from agent.environment import private_socket
from agent.errors import CkptreeError

TICK_S = 0.001  # of the clock, at each look
MOST = round(listeners._ACCEPT_S / TICK_S)  # connections of one socket in one turn


class Log:
    """The daemon's log, and its reader."""

    def __init__(self) -> None:
        self._reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.journal = Journal(writer)

    def lines(self) -> list[str]:
        """Return the lines so far."""
        try:
            return os.read(self._reader, 1 << 16).decode().splitlines()
        except BlockingIOError:
            return []


class Loop:
    """A loop over two sockets, and the clients that connect to them.

    Attributes:
        came: names of the sockets by which connections came, in order, since the last turn.
        clients: of each socket.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> None:
        self._now = 100.0
        monkeypatch.setattr(listeners, "time", SimpleNamespace(monotonic=self._look))
        self._stack = stack
        self._selector = stack.enter_context(selectors.DefaultSelector())
        self.came: list[str] = []
        made = []
        for name in ("public", "private"):
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            listener.bind(os.fspath(folder / name))
            listener.listen(512)
            made.append(Listener(listener, private=name == "private"))
        self._folder = folder
        self.acceptor = Acceptor(made, self._selector, self._received)

    def _look(self) -> float:
        self._now += TICK_S
        return self._now

    def _received(self, connection: socket.socket, _now_s: float) -> None:
        self.came.append(os.path.basename(connection.getsockname()))
        connection.close()

    def connect(self, name: str, count: int = 1) -> None:
        """Connect some clients to a socket."""
        for _ in range(count):
            client = self._stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            client.connect(os.fspath(self._folder / name))

    def turn(self) -> list[str]:
        """Do as the daemon's loop does in a turn; return the sockets by which connections came."""
        self.came = []
        for key, _ in self._selector.select(0):
            key.data(key.fileobj)
        self.acceptor.wake(self._look())
        self.acceptor.accept_public()
        return self.came


@pytest.fixture
def loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    """Yield a loop, and close its sockets afterwards."""
    with ExitStack() as stack:
        yield Loop(tmp_path, monkeypatch, stack)


def test_the_private_socket_goes_first_and_a_flood_on_the_public_one_costs_it_nothing(loop: Loop) -> None:
    """Its clients come in before the first of the public socket's in every turn."""
    loop.connect("public", 400)
    for _ in range(10):
        loop.connect("private", 2)
        came = loop.turn()
        assert came[:2] == ["private"] * 2
        assert len(came) - 2 < MOST
        assert set(came[2:]) <= {"public"}


def test_a_socket_has_an_allowance_for_a_turn_and_then_a_pause(loop: Loop) -> None:
    """The loop has other work; its wait ends with the pause, and then the socket's turn comes."""
    loop.connect("public", 3 * MOST)
    assert 0 < len(loop.turn()) < MOST
    assert loop.turn() == []
    assert 0 < loop.acceptor.wait_s(1.0, loop._now) < listeners._PAUSE_S
    begin = loop._now
    while not (came := loop.turn()):
        pass
    assert 0 < len(came) < MOST
    assert 0.5 * listeners._PAUSE_S < loop._now - len(came) * TICK_S - begin < 2 * listeners._PAUSE_S


def test_a_flood_on_the_private_socket_takes_nothing_from_the_public_one(loop: Loop) -> None:
    """Each has an allowance of its own; root alone and the group could flood the private one."""
    loop.connect("private", 3 * MOST)
    loop.connect("public", 2)
    came = loop.turn()

    assert came[-2:] == ["public"] * 2
    assert 0 < came.count("private") < MOST


def test_a_socket_to_which_nobody_connects_does_not_shorten_the_loops_wait(loop: Loop) -> None:
    """The daemon sleeps while nothing happens."""
    assert loop.turn() == []
    assert loop.acceptor.wait_s(1.0, loop._now) == 1.0


def test_the_sockets_that_a_manager_passes_are_known_by_their_names(tmp_path: Path) -> None:
    """The manager's order is any; the files are the manager's, and stay."""
    with ExitStack() as stack:
        passed = []
        for name in (listeners.PRIVATE_NAME, "ckptree.socket", ""):
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            listener.bind(os.fspath(tmp_path / f"of {name}"))
            listener.listen()
            passed.append((name, listener))
        found = opened(Config(), None, passed, Log().journal)
        for one in found:
            one.remove()

        assert [(Path(one.path).name, one.private) for one in found] == [
            ("of ckptree.socket", False),
            ("of ", False),
            (f"of {listeners.PRIVATE_NAME}", True),
        ]
        assert all(not listener.getblocking() for _, listener in passed)
        assert all(Path(one.path).exists() for one in found)


def closed(found: list[Listener]) -> list[str]:
    """Close the sockets, and remove their files; return the names."""
    for one in found:
        one.file.close()
        one.remove()
    return [Path(one.path).name for one in found]


@pytest.mark.parametrize(
    ("mode", "private"), [(0o666, 0o660), (0o660, 0o660), (0o600, 0o600), (0o640, 0o640), (0o777, 0o660)]
)
def test_without_a_manager_the_private_socket_is_beside_the_public_one(tmp_path: Path, mode: int, private: int) -> None:
    """It is open to the owner and the group, as far as the public one is; both are removed at the end."""
    config, log = Config(socket=tmp_path / "own.sock", socket_mode=mode), Log()
    found = opened(config, os.getgid(), (), log.journal)
    modes = [stat.S_IMODE(os.stat(one.path).st_mode) for one in found]
    groups = {os.stat(one.path).st_gid for one in found}

    assert modes == [mode, private]
    assert groups == {os.getgid()}
    assert closed(found) == ["own.sock", "own.sock.private"]
    assert list(tmp_path.iterdir()) == []
    assert log.lines() == []


@pytest.mark.parametrize("group", [None, 4242])
def test_where_the_group_cannot_have_the_private_socket_the_owner_alone_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int | None
) -> None:
    """The group that a new file has by itself is not the one that sees everything."""

    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("agent.daemon.endpoint.os.chown", refused)
    found = opened(Config(socket=tmp_path / "own.sock"), group, (), Log().journal)

    assert [stat.S_IMODE(os.stat(one.path).st_mode) for one in found] == [0o666, 0o600]
    closed(found)


def test_a_path_that_leaves_no_room_for_a_longer_one_has_the_public_socket_alone(tmp_path: Path) -> None:
    """A path of a Unix socket has 107 bytes at most. The log says so."""
    folder, log = tmp_path, Log()
    own = folder / ("x" * (104 - len(os.fspath(folder)) - 1))
    found = opened(Config(socket=own), None, (), log.journal)
    (line,) = log.lines()

    assert f"cannot listen on {private_socket(own)}: " in line
    assert f"wait on {own} with all users" in line
    assert closed(found) == [own.name]


def test_a_file_in_the_place_of_the_private_socket_stays(tmp_path: Path) -> None:
    """The daemon serves all the same: in a folder of all users, any user could put a file there."""
    own, log = tmp_path / "own.sock", Log()
    private_socket(own).write_bytes(b"data")
    found = opened(Config(socket=own), None, (), log.journal)

    assert closed(found) == ["own.sock"]
    assert private_socket(own).read_bytes() == b"data"
    assert "own.sock.private exists and is no socket" in log.lines()[0]


def test_a_folder_that_is_missing_is_named_with_what_to_do(tmp_path: Path) -> None:
    """It is not made: its name may be a typing error."""
    folder = tmp_path / "none"
    with pytest.raises(CkptreeError, match=f"no folder {folder}: make it, or name another socket"):
        listen(folder / "socket", 0o600)
    assert not folder.exists()


def test_a_program_that_lets_nobody_in_does_not_hold_up_the_start(tmp_path: Path) -> None:
    """A socket with a full queue is in use; a connect to it would wait for ever."""
    own, log = tmp_path / "own.sock", Log()
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.bind(os.fspath(private_socket(own)))
        listener.listen(0)
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) for _ in range(3)]
        for client in clients:
            client.setblocking(False)
        refused = [client.connect_ex(os.fspath(private_socket(own))) for client in clients]
        assert refused[-1] != 0
        found = opened(Config(socket=own), None, (), log.journal)

    assert closed(found) == ["own.sock"]
    assert "another daemon answers on" in log.lines()[0]


def test_the_sockets_of_a_dead_daemon_are_taken_over(tmp_path: Path) -> None:
    """It has left both files, for it was killed."""
    config = Config(socket=tmp_path / "own.sock")
    for one in opened(config, None, (), Log().journal):
        one.file.close()

    assert closed(opened(config, None, (), Log().journal)) == ["own.sock", "own.sock.private"]


def test_a_second_daemon_leaves_both_sockets_of_the_first_alone(tmp_path: Path) -> None:
    """It fails at the public one."""
    config = Config(socket=tmp_path / "own.sock")
    found = opened(config, None, (), Log().journal)
    with pytest.raises(CkptreeError, match="another daemon answers"):
        opened(config, None, (), Log().journal)

    assert all(Path(one.path).exists() for one in found)
    closed(found)


def test_a_socket_that_has_become_anothers_stays(tmp_path: Path) -> None:
    """Each is looked at by itself."""
    own = tmp_path / "own.sock"
    found = opened(Config(socket=own), None, (), Log().journal)
    kept = private_socket(own).rename(tmp_path / "kept")  # so that its number is not given to the next file
    private_socket(own).write_bytes(b"")
    closed(found)

    assert {path.name for path in tmp_path.iterdir()} == {"kept", "own.sock.private"}
    kept.unlink()


@pytest.mark.parametrize("alone", [False, True])
def test_a_file_that_takes_the_place_of_a_new_socket_keeps_its_mode(tmp_path: Path, *, alone: bool) -> None:
    """In a folder of a user's, the user may put a link there before the socket gets its group and mode."""
    secret, path = tmp_path / "secret", tmp_path / "own.sock"
    secret.touch(0o600)
    path.symlink_to(secret)
    with pytest.raises(OSError, match="another file has taken its place"):
        open_to(path, 0o666, os.getegid(), alone=alone)

    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
