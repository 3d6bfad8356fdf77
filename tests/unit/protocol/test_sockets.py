# SPDX-License-Identifier: Apache-2.0
"""The choice of a client between the daemon's two sockets."""

import _socket
import contextlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.cli import sources
from agent.environment import private_socket
from agent.errors import BusyError, NoDaemonError
from agent.protocol import client as client_module
from agent.protocol.client import Client
from tests.support.fakedaemon import a_server, answering


@pytest.fixture
def default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the default socket be in the test's folder; return its path."""
    path = tmp_path / "ckptree.sock"
    monkeypatch.setattr(client_module, "DEFAULT_SOCKET", path)
    return path


def test_a_client_for_which_no_socket_is_named_tries_the_private_one_first(default: Path) -> None:
    """It does so at each connect; the first daemon that answers is asked."""
    private = private_socket(default)
    with a_server(default), a_server(private, answering({"ok": True, "n": 1})):
        client = Client(timeout_s=5)
        assert (client.path, client.status()) == (private, {"n": 1})
    private.unlink()
    default.unlink()
    with client, a_server(default, answering({"ok": True, "n": 2})):
        assert client.status() == {"n": 2}
        assert client.path == default


@pytest.mark.parametrize("private", ["absent", "dead", "closed"])
def test_where_the_private_socket_lets_a_client_not_in_the_public_one_is_used(
    default: Path, monkeypatch: pytest.MonkeyPatch, private: str
) -> None:
    """An ordinary user may not connect to it; a daemon of an older version has none. Nothing is said about it."""
    with contextlib.ExitStack() as stack:
        if private != "absent":
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            listener.bind(os.fspath(private_socket(default)))
        if private == "closed":
            listener.listen(1)
            private_socket(default).chmod(0)
            stack.enter_context(_as_ordinary_user(monkeypatch, private_socket(default)))
        stack.enter_context(a_server(default, answering({"ok": True, "n": 1})))
        client = stack.enter_context(Client(timeout_s=5))

        assert (client.path, client.status()) == (default, {"n": 1})


@contextmanager
def _as_ordinary_user(monkeypatch: pytest.MonkeyPatch, closed: Path) -> Iterator[None]:
    """Let connects to a path fail as they do for a user without a right to it; this test may be root's."""

    class Refusing(_socket.socket):
        def connect(self, address: Any, /) -> None:
            if address == os.fspath(closed):
                raise PermissionError(13, "Permission denied")
            super().connect(address)

    with monkeypatch.context() as patch:
        patch.setattr(_socket, "socket", Refusing)
        yield


def test_a_busy_private_socket_is_not_taken_for_none(default: Path) -> None:
    """Root's own clients fill it: the public one would serve root no better, and BPF of its own even less."""
    with a_server(default), contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.bind(os.fspath(private_socket(default)))
        listener.listen(0)
        for _ in range(2):
            client = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            client.setblocking(False)
            client.connect_ex(os.fspath(private_socket(default)))
        with pytest.raises(BusyError, match=f"{private_socket(default)} is busy"), sources.opened("auto", None, 0.05):
            pytest.fail("another source was opened")


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_socket_that_is_named_is_the_only_one(default: Path, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    """This holds for the path of the default one, too."""
    if by == "environment":
        monkeypatch.setenv("CKPTREE_SOCKET", os.fspath(default))
    named = default if by == "argument" else None
    with a_server(private_socket(default)):
        with pytest.raises(NoDaemonError, match=f"no daemon on {default} "):
            Client(named, 5)
        with a_server(default, answering({"ok": True, "n": 1})), Client(named, 5) as client:
            assert (client.path, client.status()) == (default, {"n": 1})


def test_no_daemon_at_all_is_told_of_the_public_socket(default: Path) -> None:
    """The remedy names the path that the option takes."""
    with pytest.raises(NoDaemonError, match=f"start one with `ckptree daemon --socket {default}`"):
        Client()
