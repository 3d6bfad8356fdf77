# SPDX-License-Identifier: Apache-2.0
"""Questions about the past to a daemon: a process of its own answers, by the rights of then."""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent.daemon import enquiries
from agent.errors import BusyError, NoSuchTimeError, NotPermittedError, UsageError
from agent.protocol import codec
from agent.protocol.client import Client
from tests.bench.storm import Storm
from tests.live.apiclients import an_open_folder, as_user
from tests.live.daemons import Daemon, a_daemon, ckptree

NOBODY = 65534


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """Yield a daemon that records."""
    with an_open_folder() as place, a_daemon(place, "--record", place / "recording") as found:
        yield found


def written() -> None:
    """Wait until the recording has what has happened so far."""
    time.sleep(1.5)


def test_the_daemons_own_recording_is_asked(daemon: Daemon, tmp_path: Path) -> None:
    """Without a folder named, and while it goes on."""
    with subprocess.Popen(["sleep", "60"]) as process:
        ran = ckptree("snapshot", str(process.pid), "--socket", daemon.socket, "-o", tmp_path / "live.ckpt")
        assert ran.code == 0, ran.err
        process.kill()
    written()
    order = json.loads(ckptree("show", tmp_path / "live.ckpt", "--json").out)["completeness"]["order"]
    with Client(daemon.socket) as client:
        assert "past" in client.hello().features
        answer = client.snapshot(str(process.pid), at={"order": order})
        assert (answer.complete, answer.tasks, answer.order) == (True, 1, order)
    ran = ckptree(
        "snapshot", str(process.pid), "--at", f"#{order}", "--socket", daemon.socket, "-o", tmp_path / "past.ckpt"
    )
    assert ran.code == 0, ran.err
    assert ckptree("diff", tmp_path / "live.ckpt", tmp_path / "past.ckpt").code == 0
    ran = ckptree("events", str(process.pid), "--since", f"#{order}", "--json", "--socket", daemon.socket)
    assert ran.code == 0, ran.err
    assert [json.loads(line)["event"] for line in ran.out.splitlines()] == ["death", "reap", "end"]


def test_events_of_a_storm_come_as_the_client_takes_them(daemon: Daemon) -> None:
    """Many messages, one answer; the folder has the same."""
    with Client(daemon.socket) as client:
        first = client.snapshot("1", mode="subtree").order
        with Storm(idle=10, rate=2000) as storm:
            time.sleep(3)
            root = storm.root
        last = client.snapshot("1", mode="subtree").order
        written()
        question: dict[str, Any] = {"since": {"order": first}, "until": {"order": last}, "root": root}
        answer = client.request("events", **question)
        events, messages = answer["events"], 1
        while answer.get("more"):
            answer = client.receive()
            codec.raise_failure(answer)
            events += answer["events"]
            messages += 1
    assert messages > 1
    assert len(events) > 1000
    folder = daemon.socket.parent / "recording"
    arguments = (str(root), "--since", f"#{first}", "--until", f"#{last}", "--record", folder, "--json")
    there = [json.loads(line) for line in ckptree("events", *arguments).out.splitlines()]
    assert [(each["event"], each["order"], each.get("tid")) for each in there] == [
        (each["event"], each["order"], each.get("tid")) for each in events
    ]


def test_the_ids_that_the_tasks_had_then_decide(daemon: Daemon) -> None:
    """Another user sees what was its own, and no process of root's, dead or alive."""
    with subprocess.Popen(["sleep", "60"], user=NOBODY, group=NOBODY, extra_groups=[]) as theirs:
        with subprocess.Popen(["sleep", "60"]) as roots, Client(daemon.socket) as client:
            order = client.snapshot(str(theirs.pid)).order
            roots.kill()
        theirs.kill()
    written()

    def script() -> Any:
        with Client(daemon.socket) as client:
            seen = client.snapshot(str(theirs.pid), at={"order": order}).tasks
            with pytest.raises(NotPermittedError, match="not yours"):
                client.snapshot(str(roots.pid), at={"order": order})
            answer = client.request("events", since={"order": order}, arguments=True)
            return seen, [(each["event"], each.get("uid"), each.get("tid")) for each in answer["events"]]

    seen, told = as_user(NOBODY, NOBODY, [], script)
    assert seen == 1
    assert {uid for _, uid, _ in told} == {NOBODY}
    assert {kind for kind, *_ in told} >= {"death", "reap"}
    assert theirs.pid in {tid for _, _, tid in told}


def test_what_makes_no_sense_is_refused_as_ever(daemon: Daemon) -> None:
    """By the process that reads the recording."""
    with Client(daemon.socket) as client:
        with pytest.raises(NoSuchTimeError, match="it has #"):
            client.snapshot("1", at={"order": 2**60})
        for wrong in ({}, {"order": -1}, {"time_ns": 2**63}, {"order": 1, "time_ns": 1}, {"year": 1}):
            with pytest.raises(UsageError, match="at: expected"):
                client.snapshot("1", at=wrong)
        with pytest.raises(UsageError, match="kinds: expected"):
            client.request("events", kinds=["birthday"])
        assert client.status()["lost"] == 0


def test_a_daemon_without_a_recording_says_so(tmp_path: Path) -> None:
    """It never answers with the present."""
    with a_daemon(tmp_path) as bare:
        ran = ckptree("snapshot", "1", "--at", "-1m", "--socket", bare.socket, "--json")
        assert (ran.code, ran.out) == (5, b"")
        assert "no recording" in ran.err


def processes_that_answer(daemon: Daemon) -> list[int]:
    """Return the numbers of the processes that answer questions."""
    found = []
    for child in psutil.Process(daemon.process.pid).children():
        with contextlib.suppress(psutil.Error):  # it ends meanwhile
            if any("answering" in word for word in child.cmdline()):
                found.append(child.pid)
    return found


def test_a_client_that_goes_away_ends_its_process(daemon: Daemon) -> None:
    """It may wait for the answer, or have left it unread."""
    for _ in range(3):
        client = Client(daemon.socket)
        client.hello()
        client._socket.sendall(codec.encode({"verb": "events"}))
        deadline = time.monotonic() + 20
        while not processes_that_answer(daemon) and time.monotonic() < deadline:
            time.sleep(0.01)
        client.close()
        deadline = time.monotonic() + 20
        while processes_that_answer(daemon) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not processes_that_answer(daemon)


def test_there_are_few_questions_at_a_time(daemon: Daemon) -> None:
    """One more is refused, and can be asked again later."""
    stopped: list[int] = []
    clients = [Client(daemon.socket) for _ in range(enquiries.MOST + 1)]
    try:
        for client in clients[: enquiries.MOST]:
            client.hello()
            client._socket.sendall(codec.encode({"verb": "events"}))
            deadline = time.monotonic() + 20
            while len(found := processes_that_answer(daemon)) <= len(stopped) and time.monotonic() < deadline:
                time.sleep(0.01)
            for pid in set(found) - set(stopped):
                os.kill(pid, 19)
                stopped.append(pid)
        with pytest.raises(BusyError, match="try again later"):
            clients[-1].snapshot("1", at={"order": 10})
    finally:
        for client in clients:
            client.close()
    deadline = time.monotonic() + 20
    while processes_that_answer(daemon) and time.monotonic() < deadline:
        time.sleep(0.05)
    with Client(daemon.socket) as again, pytest.raises(NoSuchTimeError):
        again.snapshot("1", at={"order": 2**50})
