# SPDX-License-Identifier: Apache-2.0
"""The daemon's socket with all kinds of clients: many, slow and hostile."""

import contextlib
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from agent.protocol import codec
from agent.protocol.client import Client, Event
from exporters import registry
from tests.bench.compiled import compiled
from tests.bench.idle_tree import IdleTree
from tests.live.apiclients import connected, is_live
from tests.live.daemons import PATIENCE_S, TOP, Daemon, a_daemon


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
    """A storm meanwhile. The one who reads hears more of it: all, unless this process itself gets no processor."""
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
        heard, unheard, ended = 0, 0, False
        while not ended and (event := read.next_within(PATIENCE_S)) is not None:
            if event.kind == "dropped":
                unheard += event.details["count"]
                continue
            assert event.kind in kinds
            assert event.task is not None
            heard += 1
            ended = (event.kind, event.task.pid) == ("death", process.pid)
        assert is_live(running)
        told: list[Event] = []
        while (event := unread.next_within(0.5)) is not None:
            told.append(event)

    missed = sum(event.details["count"] for event in told if event.kind == "dropped")
    assert heard + unheard > 2 * forks
    assert unheard < missed < heard
    assert len([event for event in told if event.kind in kinds]) + missed == heard + unheard


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
