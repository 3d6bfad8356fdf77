# SPDX-License-Identifier: Apache-2.0
"""The command line with no daemon, with a silent daemon, and with a daemon's answers."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agent.protocol import codec
from agent.protocol.client import DEFAULT_SOCKET, default_socket
from tests.support.commandline import ckptree, here
from tests.support.hellos import HELLO


@pytest.mark.parametrize("verb", [("snapshot", "1"), ("snapshot", "1", "--source", "daemon"), ("status",)])
def test_a_socket_that_was_named_and_has_no_listener_is_no_daemon(tmp_path: Path, verb: tuple[str, ...]) -> None:
    """The exit code is 3: a named socket means that daemon and no substitute."""
    path = tmp_path / "socket"
    ran = here(*verb, "--socket", path)

    assert (ran.returncode, ran.stdout) == (3, b"")
    assert f"start one with `ckptree daemon --socket {path}`" in ran.stderr.decode()


def test_the_environment_names_the_socket_where_the_command_line_does_not(tmp_path: Path) -> None:
    """It is a default: a command that needs no daemon ignores it, and an option overrides it."""
    environment = os.environ | {"CKPTREE_SOCKET": os.fspath(tmp_path / "first")}
    ran = ckptree("status", env=environment)
    named = here("status", "--socket", tmp_path / "second", env=environment)
    unasked = here("snapshot", str(os.getpid()), "--source", "procfs", "-f", "json", env=environment)
    empty = ckptree("doctor", "--help", env=environment | {"CKPTREE_SOCKET": ""})

    assert (ran.returncode, named.returncode) == (3, 3)
    assert f"no daemon on {tmp_path / 'first'} " in ran.stderr.decode()
    assert f"no daemon on {tmp_path / 'second'} " in named.stderr.decode()
    assert unasked.returncode == 6
    assert b"CKPTREE_SOCKET" in empty.stdout


def test_a_library_finds_the_socket_as_the_command_line_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable counts as none."""
    monkeypatch.setenv("CKPTREE_SOCKET", "/run/other.sock")
    assert default_socket() == Path("/run/other.sock")
    monkeypatch.setenv("CKPTREE_SOCKET", "")
    assert default_socket() == DEFAULT_SOCKET


def test_a_daemon_that_does_not_answer_in_time_is_no_daemon(tmp_path: Path) -> None:
    """``--timeout`` is in seconds."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(os.fspath(tmp_path / "socket"))
        listener.listen(1)
        ran = here("snapshot", "1", "--socket", tmp_path / "socket", "--timeout", "0.1")

    assert ran.returncode == 3
    assert b"did not answer within 0.1 s" in ran.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_socket_that_one_may_not_open_is_not_permitted(tmp_path: Path) -> None:
    """The exit code is 5 and not 3, because the daemon exists."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        path = tmp_path / "socket"
        listener.bind(os.fspath(path))
        listener.listen(1)
        path.chmod(0o600)
        script = "import os, sys; os.setresuid(65534, 65534, 65534); from agent.cli.main import main; sys.exit(main())"
        ran = subprocess.run(
            [
                sys.executable,
                "-c",
                "import agent.cli.main, agent.cli.daemonverbs, agent.protocol.client; " + script,
                "status",
                "--socket",
                path,
            ],
            capture_output=True,
            check=False,
        )

    assert ran.returncode == 5
    assert f"not permitted to connect to {path}".encode() in ran.stderr


def _serve_once(listener: socket.socket, answer: codec.Message) -> None:
    connection, _ = listener.accept()
    with connection:
        for each in (HELLO, answer):
            connection.recv(1 << 16)
            connection.sendall(codec.encode(each))


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 7])
def test_what_the_daemon_says_becomes_the_exit_code(tmp_path: Path, code: int) -> None:
    """A refusal comes with lines that name the leaks."""
    path = tmp_path / "socket"
    answer = {"ok": False, "error": "so it is", "exit_code": code, "leaks": ["one", "two"]}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(os.fspath(path))
        listener.listen(1)
        server = threading.Thread(target=_serve_once, args=(listener, answer))
        server.start()
        ran = here("snapshot", "1", "--socket", path, "-o", tmp_path / "image")
        server.join()

    leaks = b"ckptree:   one\nckptree:   two\n" if code == 7 else b""
    assert (ran.returncode, ran.stdout, ran.stderr) == (code, b"", b"ckptree: so it is\n" + leaks)
    assert not (tmp_path / "image").exists()


def test_an_interrupt_is_no_traceback(tmp_path: Path) -> None:
    """The user presses Ctrl-C while the daemon works: the exit code is 130, as a shell expects."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(os.fspath(tmp_path / "socket"))
        listener.listen(1)
        program = [sys.executable, "-m", "agent", "snapshot", "1", "--socket", os.fspath(tmp_path / "socket")]
        with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            connection, _ = listener.accept()
            connection.recv(1 << 16)
            time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
            connection.close()

    assert process.returncode == 130
    assert b"Traceback" not in said


def test_a_daemon_does_not_take_a_file_for_its_socket(tmp_path: Path) -> None:
    """The file may be a user's image."""
    path = tmp_path / "image"
    path.write_bytes(b"data")
    ran = ckptree("daemon", "--socket", path)

    assert ran.returncode == 1
    assert f"{path} exists and is no socket" in ran.stderr.decode()
    assert path.read_bytes() == b"data"
