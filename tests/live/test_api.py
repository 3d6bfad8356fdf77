# SPDX-License-Identifier: Apache-2.0
"""The daemon's socket with all kinds of clients: many, slow, hostile, and of other users."""

import contextlib
import ctypes
import grp
import json
import os
import re
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent.daemon.server import MAX_CLIENTS_PER_USER
from agent.errors import BusyError, CkptreeError, NotPermittedError
from agent.protocol import codec
from agent.protocol.client import Client, Event
from exporters import registry
from tests.bench.compiled import compiled
from tests.bench.idle_tree import IdleTree
from tests.live.daemons import PATIENCE_S, TOP, Daemon, a_daemon

pytestmark = pytest.mark.live

NOBODY = 65534


@contextlib.contextmanager
def an_open_folder() -> Iterator[Path]:
    """One that others may enter; pytest closes its own to them."""
    with tempfile.TemporaryDirectory(prefix="ckptree-api-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture(scope="module")
def running() -> Iterator[Daemon]:
    """A daemon whose socket others can reach."""
    with an_open_folder() as folder, a_daemon(folder) as daemon:
        yield daemon
        assert daemon.process.poll() is None, daemon.log.read_text()


@pytest.fixture
def sleeper() -> Iterator[int]:
    """A process of root's; its name would be a leak."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def as_user(uid: int, gid: int, groups: list[int], script: Callable[[], Any]) -> Any:
    """Run a function in a child of a user, and return its result, through JSON; its imports must be loaded already."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            try:
                said = json.dumps(script())
            except CkptreeError as error:
                said = json.dumps([type(error).__name__, str(error)])
            os.write(writer, said.encode())
        except BaseException:  # noqa: BLE001 - pytest is the parent's
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return json.loads(said)


def connected(path: Path) -> socket.socket:
    """A bare connection."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    peer.settimeout(PATIENCE_S)
    peer.connect(os.fspath(path))
    return peer


def is_live(daemon: Daemon, within_s: float = 5.0) -> bool:
    """It answers, and sooner than any client expires."""
    begin = time.monotonic()
    with Client(daemon.socket, PATIENCE_S) as client:
        client.snapshot(str(os.getpid()))
    return time.monotonic() - begin < within_s


def test_two_hundred_clients_at_once_are_all_answered(running: Daemon, sleeper: int) -> None:
    """Connected all at the same time, each with several requests."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(running.socket, PATIENCE_S)) for _ in range(200)]
        answers: list[int] = []

        def ask(some: list[Client]) -> None:
            for _ in range(3):
                answers.extend(client.snapshot(str(sleeper)).tasks for client in some)

        threads = [threading.Thread(target=ask, args=(clients[start::8],)) for start in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert clients[0].metrics()["clients"]["connected"] == 200

    assert answers == [1] * 600
    assert is_live(running)


def test_nonsense_half_requests_and_silence_hold_up_nobody(running: Daemon) -> None:
    """Two hundred of them, open all the while."""
    said = [
        b"",
        b"\0",
        b"\0\0\0\x10\x81",
        b"\xff" * 4096,
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0\0\0\1\xc1",
        b"\0\0\xff\xff" * 9,
    ]
    with contextlib.ExitStack() as stack:
        for turn in range(200):
            peer = stack.enter_context(connected(running.socket))
            with contextlib.suppress(BrokenPipeError):
                peer.sendall(said[turn % len(said)])
        assert is_live(running)


def test_requests_without_end_from_one_who_never_reads_hold_up_nobody(running: Daemon) -> None:
    """It is read no further once an answer waits for it."""
    request = codec.encode({"verb": "metrics"})
    with connected(running.socket) as peer:
        peer.setblocking(False)
        begin = time.monotonic()
        sent = 0
        while time.monotonic() - begin < 0.5:
            with contextlib.suppress(BlockingIOError):
                sent += peer.send(request * 100)
        assert is_live(running)
        with Client(running.socket) as client:
            before = client.metrics()["requests"]["metrics"]
            time.sleep(0.1)
            after = client.metrics()["requests"]["metrics"]

    assert sent > 10_000
    assert after - before <= 2


def test_a_big_answer_that_is_read_slowly_arrives_whole_and_holds_up_nobody(running: Daemon) -> None:
    """In pieces; others are answered between them."""
    with IdleTree(2000, breadth=10) as tree, connected(running.socket) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.sendall(codec.encode({"verb": "snapshot", "root": str(tree.root), "format": "json"}))
        decoder = codec.Decoder(codec.MAX_ANSWER)
        answers: list[codec.Message] = []
        pieces = 0
        while not answers:
            data = peer.recv(8192)
            pieces += 1
            if pieces % 20 == 0:
                assert is_live(running)
            answers = decoder.feed(data)

    assert pieces > 50
    assert len(registry.load(answers[0]["data"]).tasks) == 2000


def test_events_come_as_they_happen_and_in_order(running: Daemon) -> None:
    """From the snapshot on; compared with what was done."""
    done = []
    with Client(running.socket) as client, client.subscribe(str(os.getpid())) as events:
        assert events.snapshot is not None
        known = {task.birth.order for task in registry.load(events.snapshot.data).tasks if task.birth}
        for _ in range(20):
            with subprocess.Popen(["true"]) as process:
                done.append(process.pid)
        heard: list[Event] = []
        while len([event for event in heard if event.kind == "death"]) < 20:
            event = events.next_within(PATIENCE_S)
            assert event is not None
            heard.append(event)

    by_kind = {
        kind: [event.task.pid for event in heard if event.task and event.kind == kind]
        for kind in ("birth", "exec", "death")
    }
    assert by_kind == {"birth": done, "exec": done, "death": done}
    orders = [event.order for event in heard]
    assert orders == sorted(orders)
    assert max((order for order in known if order is not None), default=0) < orders[0]
    assert {event.task.comm for event in heard if event.task and event.kind == "death"} == {b"true"}


def test_a_subscriber_that_does_not_read_is_told_what_it_missed_and_holds_up_nobody(running: Daemon) -> None:
    """A storm meanwhile; the one who reads hears all of it."""
    forks = 5000  # more than backlog and socket hold
    storm = [str(compiled("bench_hooks")), "fork", str(forks)]
    me, kinds = str(os.getpid()), ["birth", "death"]
    with (
        Client(running.socket) as slow,
        Client(running.socket) as quick,
        slow.subscribe(me, kinds=kinds) as unread,
        quick.subscribe(me, kinds=kinds) as read,
        subprocess.Popen(storm, stdout=subprocess.DEVNULL) as process,
    ):
        heard, ended = 0, False
        while not ended and (event := read.next_within(PATIENCE_S)) is not None:
            assert event.kind in kinds
            assert event.task is not None
            heard += 1
            ended = (event.kind, event.task.pid) == ("death", process.pid)
        assert is_live(running)
        told: list[Event] = []
        while (event := unread.next_within(0.5)) is not None:
            told.append(event)

    missed = sum(event.details["count"] for event in told if event.kind == "dropped")
    assert heard > 2 * forks
    assert 0 < missed < heard
    assert len([event for event in told if event.kind in kinds]) + missed == heard


def test_another_user_sees_their_own_and_nothing_else(running: Daemon, sleeper: int) -> None:
    """The daemon shows no name, no tree and no event of another user."""

    def script() -> Any:
        with Client(running.socket) as client:
            me = client.snapshot(str(os.getpid()))
            refused = []
            for root in ("1", str(sleeper), str(os.getppid()), "pidns:4026531836"):
                try:
                    client.snapshot(root)
                    refused.append("")
                except CkptreeError as error:
                    refused.append(str(error))
            with Client(running.socket) as other, other.subscribe() as events:
                child = os.fork()
                if child == 0:
                    os._exit(3)
                os.waitpid(child, 0)
                heard: list[tuple[str, int, int]] = []
                while not heard or heard[-1][0] != "death":
                    event = events.next_within(5)
                    assert event is not None
                    assert event.task is not None
                    heard.append((event.kind, event.task.pid, event.task.uid))
            said = json.dumps([client.status(), client.metrics()])
            return [client.hello().sees, me.tasks, refused, [child, heard], said]

    with noise() as names:
        sees, tasks, refused, (child, heard), said = as_user(NOBODY, NOBODY, [], script)

    assert (sees, tasks) == ("own", 1)
    assert all(refused)
    assert [text for text in refused if "sleep" in text or "python" in text] == []
    assert "not permitted" in refused[1]
    assert heard == [["birth", child, NOBODY], ["death", child, NOBODY]]
    assert not [name for name in (*names, "sleep") if name in said]


@contextlib.contextmanager
def noise() -> Iterator[list[str]]:
    """Others live and die meanwhile."""
    script = "while :; do /bin/true; done"
    with subprocess.Popen(["sh", "-c", script]) as process:
        try:
            yield ["/bin/true"]
        finally:
            process.kill()


def test_a_tree_with_a_task_of_roots_in_it_is_refused_to_its_user(running: Daemon) -> None:
    """Though the root of the tree is theirs."""
    tree = (  # the child stays root's
        "import os, time\n"
        "if os.fork() == 0: time.sleep(1000)\n"
        "os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "print(flush=True); time.sleep(1000)"
    )
    with subprocess.Popen([sys.executable, "-c", tree], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        (child,) = psutil.Process(process.pid).children()

        def script() -> Any:
            with Client(running.socket) as client:
                return client.snapshot(str(process.pid)).tasks

        refused = as_user(NOBODY, NOBODY, [], script)
        child.kill()
        process.kill()

    assert refused[0] == NotPermittedError.__name__
    assert "1 of the 2 tasks of this tree are not yours" in refused[1]


def test_members_of_the_group_see_everything(sleeper: int) -> None:
    """The one that the configuration names; by supplementary groups, of which there may be very many."""
    name, gid = next((group.gr_name, group.gr_gid) for group in grp.getgrall() if group.gr_gid not in (0, NOBODY))
    with an_open_folder() as folder:
        config = folder / "config.toml"
        config.write_text(f'group = "{name}"\n')
        config.chmod(0o644)
        with a_daemon(folder, "--config", config) as daemon:

            def script() -> Any:
                with Client(daemon.socket) as client:
                    return [client.hello().sees, client.snapshot(str(sleeper)).tasks]

            assert as_user(NOBODY, NOBODY, [gid], script) == ["all", 1]
            assert as_user(NOBODY, gid, [], script) == ["all", 1]
            assert as_user(NOBODY, NOBODY, [*range(10000, 10400), gid], script) == ["all", 1]
            assert as_user(NOBODY, NOBODY, [*range(10000, 10400)], script)[0] == NotPermittedError.__name__


def test_one_user_does_not_take_all_places(running: Daemon) -> None:
    """The next connection is told why; root still gets in."""

    def script() -> Any:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(Client(running.socket)) for _ in range(MAX_CLIENTS_PER_USER)]
            for client in clients:
                client.hello()
            try:
                stack.enter_context(Client(running.socket)).hello()
            except BusyError as error:
                return str(error)
        return None

    turned_away = as_user(NOBODY, NOBODY, [], script)

    assert f"user {NOBODY} has {MAX_CLIENTS_PER_USER} clients here already" in turned_away
    assert is_live(running)


def test_one_user_does_not_take_all_of_the_daemons_time(running: Daemon) -> None:
    """Requests without end, eight at a time: the daemon's own processor time stays a share."""

    def script() -> Any:
        def ask() -> None:
            end = time.monotonic() + 0.8
            with Client(running.socket, PATIENCE_S) as client:
                while time.monotonic() < end:
                    client.metrics()

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return True

    process = psutil.Process(running.process.pid)
    before, begin = process.cpu_times(), time.monotonic()
    as_user(NOBODY, NOBODY, [], script)
    after, took = process.cpu_times(), time.monotonic() - begin
    share = (after.user + after.system - before.user - before.system) / took

    assert share < 0.3
    assert is_live(running)


def test_each_snapshot_is_a_line_in_the_log(running: Daemon) -> None:
    """Also one whose asker calls itself what it likes."""
    libc = ctypes.CDLL(None)

    def script() -> Any:
        libc.prctl(15, b'x" uid=0\n\x1b[31m', 0, 0, 0)  # PR_SET_NAME
        with Client(running.socket) as client:
            return [client.snapshot(str(os.getpid())).tasks, os.getpid()]

    tasks, pid = as_user(NOBODY, NOBODY, [], script)
    lines = [line for line in running.log.read_text().splitlines() if f" pid={pid} " in line]

    assert tasks == 1
    assert len(lines) == 1
    assert re.fullmatch(
        rf'ckptree: snapshot uid={NOBODY} gid={NOBODY} pid={pid} comm="x\\x22 uid=0\\x0a\\x1b\[31m" root="{pid}" '
        rf'mode="subtree" format="ckpt" tasks=1 result="ok" ms=\d+\.\d+',
        lines[0],
    )


def test_the_loop_turns_soon_also_beside_thousands_of_tasks(tmp_path: Path) -> None:
    """Long work is done in another process; only the client that asked for it waits."""
    with (
        IdleTree(8000, breadth=10, threads=3) as tree,
        a_daemon(tmp_path) as daemon,
        Client(daemon.socket, PATIENCE_S) as client,
    ):
        for fmt in ("ckpt", "json", "msgpack"):
            assert client.snapshot(str(tree.root), fmt=fmt).tasks == 8000
        figures = client.metrics()["loop"]

    assert figures["job_seconds"]["count"] >= 3
    assert figures["longest_turn_s"] < max(0.05, figures["longest_job_s"]), figures
    assert figures["longest_turn_s"] < 0.05 or figures["longest_turn_in"] != "snapshot", figures


def test_idle_it_wakes_up_twice_a_second_at_most(tmp_path: Path) -> None:
    """The kernel counts its switches. What others do meanwhile wakes it too, once for some hundred records."""
    with a_daemon(tmp_path) as daemon, Client(daemon.socket) as client:
        status = Path(f"/proc/{daemon.process.pid}/status")

        def switches() -> int:
            return int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("volun")))

        records = client.status()["records"]
        time.sleep(1.6)  # its waits grow
        before = switches()
        time.sleep(1.2)
        woken = switches() - before

        assert woken <= 3 + (client.status()["records"] - records) / 100


def test_it_goes_on_when_its_log_is_not_read(tmp_path: Path) -> None:
    """A pipe that is full; what finds no room in it is counted."""
    path = tmp_path / "own.sock"
    command = [sys.executable, "-m", "agent", "daemon", "--socket", os.fspath(path)]
    with subprocess.Popen(command, cwd=TOP, stderr=subprocess.PIPE) as process:
        assert process.stderr
        with selectors.DefaultSelector() as selector:
            selector.register(process.stderr, selectors.EVENT_READ)
            assert selector.select(PATIENCE_S)
        with Client(path, PATIENCE_S) as client:
            for _ in range(1500):
                client.snapshot(str(os.getpid()))
            dropped = client.metrics()["log_lines_dropped"]
        process.terminate()
        process.stderr.read()

    assert process.returncode == 0
    assert dropped > 0
