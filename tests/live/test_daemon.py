# SPDX-License-Identifier: Apache-2.0
"""The daemon as a program: how it starts, serves, loses events, and ends."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.environment import private_socket
from agent.errors import NoDaemonError, UsageError
from agent.protocol import codec
from agent.protocol.client import Client
from exporters import registry
from tests.live.daemons import PATIENCE_S, TOP, Daemon, a_daemon, a_hard_tree, ckptree, differences


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon for all tests that leave it as it was."""
    with a_daemon(tmp_path_factory.mktemp("running")) as daemon:
        yield daemon
        assert daemon.process.poll() is None, daemon.log.read_text()


def test_its_status_says_what_it_is_and_has(running: Daemon) -> None:
    """As text for people, as JSON for programs."""
    shown = ckptree("status", "--socket", running.socket)
    found = json.loads(ckptree("status", "--socket", running.socket, "--json").out)

    assert (shown.code, shown.err) == (0, "")
    assert found["pid"] == running.process.pid
    assert found["tasks"] > 10
    assert found["records"] > 0
    assert found["sweeps"] >= 1
    assert all(found["hooks"][feature] for feature in ("fork", "exec", "exit", "free"))
    assert [line.split()[-1] for line in shown.out.decode().splitlines() if line.startswith("pid ")] == [
        str(running.process.pid)
    ]


def test_everybody_may_connect(running: Daemon) -> None:
    """The daemon decides by the client's user what it shows; the configuration can close the socket."""
    assert stat.S_IMODE(running.socket.stat().st_mode) == 0o666


def test_root_has_a_socket_that_others_have_not(running: Daemon) -> None:
    """It is beside the other one, and the log names both."""
    private = private_socket(running.socket)
    with Client(private) as client:
        assert client.status()["pid"] == running.process.pid
    assert stat.S_IMODE(private.stat().st_mode) & 0o007 == 0
    assert f"listening on {running.socket} and {private}" in running.log.read_text()


def test_it_keeps_no_capability(running: Daemon) -> None:
    """Everything is open and mapped by the time it serves."""
    lines = Path(f"/proc/{running.process.pid}/status").read_text().splitlines()
    sets = {line.split(":")[0]: int(line.split()[1], 16) for line in lines if line.startswith("Cap")}

    assert {name: sets[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == dict.fromkeys(
        ("CapInh", "CapPrm", "CapEff", "CapAmb"), 0
    )


def test_it_holds_no_compiler(running: Daemon) -> None:
    """LLVM was in the helper, which is gone."""
    maps = Path(f"/proc/{running.process.pid}/maps").read_text()
    children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children")

    assert "bpf-map" in maps
    for name in ("libLLVM", "libbcc", "libclang", "_psutil"):
        assert name not in maps
    assert not children.exists() or not children.read_text()


def test_a_snapshot_from_it_is_what_the_kernel_says(running: Daemon, tmp_path: Path) -> None:
    """Through the command line and a file."""
    with a_hard_tree() as root:
        ran = ckptree("snapshot", str(root), "--socket", running.socket, "-o", tmp_path / "tree.ckpt")
        written = registry.load((tmp_path / "tree.ckpt").read_bytes())

        assert ran == (0, b"", "")
        assert differences(written, root) == []
    assert written.completeness.complete
    assert all(task.birth is not None and task.birth.observed for task in written.tasks)


def test_a_second_daemon_does_not_take_the_socket_of_the_first(running: Daemon) -> None:
    """It ends with 1 and says so; the first one goes on."""
    second = ckptree("daemon", "--socket", running.socket)

    assert second.code == 1
    assert f"another daemon answers on {running.socket}" in second.err
    with Client(running.socket) as client:
        assert client.status()["pid"] == running.process.pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_at_a_signal_and_takes_its_socket_along(tmp_path: Path, number: signal.Signals) -> None:
    """The exit code is 0, also while a client is connected. No file is left but the log."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        client.status()
        daemon.process.send_signal(number)

        assert daemon.process.wait(20) == 0
        assert list(tmp_path.iterdir()) == [daemon.log]
        with pytest.raises(NoDaemonError):
            client.status()


@pytest.mark.parametrize("which", ["public", "private"])
def test_it_leaves_a_socket_alone_that_has_become_anothers(tmp_path: Path, which: str) -> None:
    """Another daemon has taken the place of the removed socket."""
    with a_daemon(tmp_path) as daemon:
        path = daemon.socket if which == "public" else private_socket(daemon.socket)
        path.unlink()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
            other.bind(os.fspath(path))
            daemon.process.terminate()

            assert daemon.process.wait(20) == 0
            assert {each.name for each in tmp_path.iterdir()} == {path.name, daemon.log.name}


def test_a_daemon_that_dies_with_a_question_open_is_no_daemon(tmp_path: Path) -> None:
    """Exit code 3, no file; and the next daemon takes the dead one's sockets over."""
    with a_daemon(tmp_path) as daemon:
        daemon.process.send_signal(signal.SIGSTOP)
        program = [sys.executable, "-m", "agent", "snapshot", "1", "--socket", os.fspath(daemon.socket)]
        with subprocess.Popen(
            [*program, "-o", os.fspath(tmp_path / "tree.ckpt")], cwd=TOP, stderr=subprocess.PIPE
        ) as asking:
            time.sleep(1)
            assert asking.poll() is None
            daemon.process.kill()
            _, said = asking.communicate(timeout=60)
    assert asking.returncode == 3
    assert f"the daemon on {daemon.socket} went away" in said.decode()
    assert not (tmp_path / "tree.ckpt").exists()
    assert daemon.socket.exists()

    with a_daemon(tmp_path) as following:
        for path in (following.socket, private_socket(following.socket)):
            with Client(path) as client:
                assert client.status()["pid"] == following.process.pid


def test_who_talks_nonsense_ends_his_own_connection_alone(running: Daemon) -> None:
    """The client may wait for the answer, or not."""
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100, b"\0\0\0\1\xc1", b"\0\0"):
        for patient in (True, False):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
                peer.connect(os.fspath(running.socket))
                peer.sendall(data)
                if patient:
                    peer.shutdown(socket.SHUT_WR)
                    peer.recv(1 << 16)
    with Client(running.socket) as client:
        assert client.status()["pid"] == running.process.pid


@pytest.mark.parametrize(
    "request_",
    [
        {"root": "9" * 5000},
        {"root": "pidns:" + "9" * 5000},
        {"root": b"1"},
        {"root": None},
        {"mode": "all"},
        {"mode": ["auto"]},
        {"dialect": "v24"},
        {"dialect": {}},
        {"format": "yaml"},
        {"format": []},
        {"verb": "restart"},
        {"verb": None},
    ],
)
def test_a_request_that_cannot_be_meant_is_a_usage_error(running: Daemon, request_: codec.Message) -> None:
    """Of a client of another version, say; the connection stays usable."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.connect(os.fspath(running.socket))
        peer.settimeout(60)
        decoder = codec.Decoder(codec.MAX_ANSWER)
        answers = []
        for message in ({"verb": "snapshot", "root": str(os.getpid()), **request_}, {"verb": "status"}):
            peer.sendall(codec.encode(message))
            found: list[codec.Message] = []
            while not found:
                data = peer.recv(1 << 16)
                assert data, "the daemon hung up"
                found = decoder.feed(data)
            answers += found

    assert [answer["ok"] for answer in answers] == [False, True]
    with pytest.raises(UsageError):
        codec.raise_failure(answers[0])


def test_it_serves_many_at_once(running: Daemon) -> None:
    """Each gets the answer to its own question."""
    results: dict[int, int] = {}

    def ask(pid: int) -> None:
        with Client(running.socket) as client:
            for _ in range(5):
                found = registry.load(client.snapshot(str(pid)).data)
                results[pid] = found.number(found.tasks[0].pid)

    sleepers = [subprocess.Popen(["sleep", "100"]) for _ in range(8)]
    try:
        threads = [threading.Thread(target=ask, args=(sleeper.pid,)) for sleeper in sleepers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()

    assert results == {sleeper.pid: sleeper.pid for sleeper in sleepers}


def test_it_does_as_its_configuration_says(tmp_path: Path) -> None:
    """And the command line's socket comes before the file's."""
    config = tmp_path / "config.toml"
    config.write_text(f'ring_bytes = 65536\nsocket_mode = 0o660\nsocket = "{tmp_path}/other.sock"\n')
    with a_daemon(tmp_path, "--config", config) as daemon, Client(daemon.socket) as client:
        assert client.status()["ring_bytes"] == 65536
        assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o660


def test_its_lines_have_priorities_where_the_journal_reads_them(tmp_path: Path) -> None:
    """As sd-daemon(3) has them: what it does is a notice, a request is information, and a failure is an error."""
    path = tmp_path / "own.sock"
    command = [sys.executable, "-m", "agent", "daemon", "--socket", os.fspath(path)]
    reader, writer = os.pipe()
    found = os.fstat(writer)
    env = os.environ | {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
    with os.fdopen(reader, "rb") as log:
        with subprocess.Popen(command, cwd=TOP, stderr=writer, env=env) as process:
            try:
                lines = [log.readline()]
                with Client(path) as client:
                    client.snapshot(str(os.getpid()))
                lines.append(log.readline())
                failed = subprocess.run(command, cwd=TOP, stderr=writer, env=env, check=False)
                lines.append(log.readline())
            finally:
                process.terminate()
        os.close(writer)
        lines += log.readlines()

    assert failed.returncode == 1
    assert [line.partition(b" ")[0] for line in lines] == [b"<5>ckptree:", b"<6>ckptree:", b"<3>ckptree:"]
    assert b"listening on" in lines[0]
    assert b"snapshot uid=" in lines[1]
    assert b"socket in use" in lines[2]


BURST = """
import os, signal, sys
reader, writer = os.pipe()
print(flush=True)
sys.stdin.read(1)
for turn in range(600):
    if turn % 3 == 0:
        if os.fork() == 0:
            os.close(0)
            os.close(1)
            while True:
                signal.pause()
    elif (pid := os.fork()) == 0:
        os._exit(0)
    else:
        os.waitpid(pid, 0)
print(flush=True)
signal.pause()
"""


def wait_for_line(log: Path, words: bytes) -> int:
    """Wait until a log has some words, and return their number."""
    deadline = time.monotonic() + PATIENCE_S
    while not (count := log.read_bytes().count(words)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return count


def test_lost_events_are_made_good_and_births_then_assumed(tmp_path: Path) -> None:
    """The ring is too small for a burst, and is not drained meanwhile; the next snapshot is complete again."""
    config = tmp_path / "config.toml"
    config.write_text("ring_bytes = 65536\ndrain_interval_ms = 5000\nsweep_interval_s = 3600\n")
    with (
        a_daemon(tmp_path, "--config", config) as daemon,
        subprocess.Popen(
            [sys.executable, "-c", BURST], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        ) as burst,
        Client(daemon.socket, 60) as client,
    ):
        assert burst.stdin
        assert burst.stdout
        try:
            burst.stdout.readline()
            before = registry.load(client.snapshot(str(burst.pid)).data)
            daemon.process.send_signal(signal.SIGSTOP)
            burst.stdin.write(b".")
            burst.stdin.flush()
            burst.stdout.readline()
            daemon.process.send_signal(signal.SIGCONT)
            answer = client.snapshot(str(burst.pid))
            found = registry.load(answer.data)

            assert len(before.tasks) == 1
            assert (answer.complete, answer.reasons, len(found.tasks)) == (True, (), 201)
            assert differences(found, burst.pid) == []
            assert client.status()["lost"] == found.completeness.lost > before.completeness.lost
            assert wait_for_line(daemon.log, b"records of the kernel side were lost") == 1
            births = [task.birth for task in found.tasks if task.birth is not None]
            assert len(births) == 201
            assert not all(birth.observed for birth in births)
            assert all(birth.observed or birth.creator is None for birth in births)
        finally:
            os.killpg(burst.pid, signal.SIGKILL)


def test_a_daemon_told_to_end_while_it_starts_is_in_nobodys_way(tmp_path: Path) -> None:
    """It ends at once, and the next one starts."""
    path = tmp_path / "own.sock"
    command = [sys.executable, "-m", "agent", "daemon", "--socket", os.fspath(path)]
    with subprocess.Popen(command, cwd=TOP, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + PATIENCE_S
        while not path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.terminate()
        assert process.wait(20) in (0, -signal.SIGTERM)

    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        assert client.status()["pid"] == daemon.process.pid


HELD_UP = """
import sys, time
from agent.daemon import main, service

def rest(self):
    print("held up", file=sys.stderr, flush=True)
    time.sleep(1000)

service.Service.rest = rest
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("signals", [1, 2])
def test_a_daemon_whose_sweep_is_held_up_ends_all_the_same(tmp_path: Path, signals: int) -> None:
    """After five seconds, or at once if it is told a second time; the log says why."""
    path, log = tmp_path / "own.sock", tmp_path / "own.log"
    command = [sys.executable, "-c", HELD_UP, "--socket", os.fspath(path), "--sweep-interval-s", "1"]
    with log.open("wb") as out, subprocess.Popen(command, cwd=TOP, stderr=out) as process:
        try:
            deadline = time.monotonic() + PATIENCE_S
            while b"held up" not in log.read_bytes():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.01)
            begin = time.monotonic()
            process.terminate()
            if signals == 2:
                time.sleep(0.5)
                process.terminate()

            assert process.wait(20) == 0
            took = time.monotonic() - begin
        finally:
            process.kill()
    why = (
        "told to end a second time while it did so" if signals == 2 else "a job still runs 5 s after the signal to end"
    )
    assert f"{why}: this daemon ends as it is\n" in log.read_text()
    assert (0.5 < took < 4) if signals == 2 else (5 <= took < 15)
    assert not path.exists()
