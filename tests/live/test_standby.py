# SPDX-License-Identifier: Apache-2.0
"""A host dies, and its tree stands again elsewhere: with all that its stand-by had said to have."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from agent import rootname
from agent.model import Snapshot
from agent.protocol.client import Client
from agent.recorder import past
from agent.recorder.facts import Instant
from agent.recorder.past import Enquirer, WantedTree
from agent.recorder.recording import Recording
from tests.bench.judge import Capture, Judge
from tests.bench.storm import Storm
from tests.bench.watcher import rows_of
from tests.live.daemons import PATIENCE_S, TOP, Ran, ckptree, wait_for
from tests.live.servicemanager import ServiceManager
from tests.support import servers
from tests.support.relays import RelayProcess, a_relay
from tests.support.standbys import FOLLOW, StandbyProcess, a_standby

_DEATHS = int(os.environ.get("CKPTREE_DEATHS", "3"))
_WIDEN_NS = 100_000_000
_LIMIT = "a limit of ckptree (dying-namespace)"
"""The storm has pid namespaces; a tree of which one is just ending cannot be rebuilt as it is."""


class MortalHost:
    """A host that records and allows to be followed.

    Args:
        folder: for its files.
        url: of the server.
    """

    def __init__(self, folder: Path, url: str) -> None:
        folder.mkdir()
        self.folder, self.url = folder, url
        self.socket, self.recording, log = folder / "own.sock", folder / "recording", folder / "own.log"
        words = ["-m", "agent", "daemon", "--socket", str(self.socket), "--record", str(self.recording)]
        with log.open("wb") as out:
            self.daemon = subprocess.Popen(
                list(map(str, [sys.executable, *words])),
                cwd=TOP,
                stdin=subprocess.DEVNULL,
                stderr=out,
                start_new_session=True,
            )
        wait_for(self.daemon, log)
        self.log = log

    @contextmanager
    def relay(self) -> Iterator[RelayProcess]:
        """Run its relay."""
        with a_relay(self.folder, "old", self.url, self.socket, FOLLOW) as relay:
            yield relay

    def die(self, relay: RelayProcess) -> None:
        """End all of it at once, the writer of the recording too."""
        processes = [*psutil.Process(self.daemon.pid).children(recursive=True), psutil.Process(self.daemon.pid)]
        for each in (psutil.Process(relay.process.pid), *reversed(processes)):
            each.kill()
        relay.process.wait()
        self.daemon.wait()
        psutil.wait_procs(processes, PATIENCE_S)


class TakenOver(NamedTuple):
    """A tree that was taken over, and ended again.

    Attributes:
        ran: the command.
        numbers: of the tasks, outermost first.
        order: number of the last record that is in it.
        took_s: time of the command.
    """

    ran: Ran
    numbers: list[list[int]]
    order: int
    took_s: float


def taken_over(standby: StandbyProcess, folder: Path, *words: str) -> TakenOver:
    """Take the tree of the host `old` over, and end it."""
    pidfile = folder / "guard.pid"
    begin_s = time.monotonic()
    options: list[str | Path] = [
        "--record",
        standby.place,
        "--detach",
        "--pidfile",
        pidfile,
        "--json",
        "--mode",
        "subtree",
    ]
    ran = ckptree("fleet", "takeover", "old", *options, *words)
    took_s = time.monotonic() - begin_s
    said = re.search(r"up to #(\d+)", ran.err)
    assert said, ran.err
    if pidfile.exists():
        guard = psutil.Process(int(pidfile.read_text()))
        guard.terminate()
        guard.wait(PATIENCE_S)
        pidfile.unlink(missing_ok=True)
    ready = json.loads(ran.out) if ran.out else {"tasks": []}
    return TakenOver(ran, sorted(task["numbers"] for task in ready["tasks"]), int(said[1]), took_s)


def tree_at(recording: Recording, root: int, order: int) -> Snapshot:
    """Return the tree behind a record, as the host's own recording has it."""
    run = len(recording.runs) - 1
    instant = Instant(recording.runs[run].first.run, order + 1, 0, 0, 0)
    wanted = WantedTree(rootname.parse(str(root)), "subtree")
    return past.snapshot(recording, instant, wanted, Enquirer())[0]


def numbers_of(snapshot: Snapshot) -> list[list[int]]:
    """Return the numbers of the tasks, outermost first."""
    found = [snapshot.pid(task.pid) for task in snapshot.tasks]
    return sorted(list(each.numbers) for each in found if each is not None)


def test_a_tree_stands_again_after_the_death_of_its_host(tmp_path: Path) -> None:
    """With the same numbers, sessions and zombies."""
    script = "sleep 1001 & sleep 1002 & sh -c 'sleep 1003 & exec sleep 1004' & wait"
    with (
        servers.nats(tmp_path / "nats") as nats,
        a_tree(script) as root,
    ):
        host = MortalHost(tmp_path / "old", f"nats://{nats.address}")
        with host.relay() as relay, a_standby(tmp_path, "new", host.url, "old", str(root)) as standby:
            with Client(host.socket) as client:
                order = client.snapshot(str(root), mode="subtree").order
            said = standby.await_have(order - 1)
            alive = ckptree("fleet", "takeover", "old", "--record", standby.place)
            host.die(relay)
            taken = taken_over(standby, tmp_path)
            past_of_it = ckptree("tree", str(root), "--at", f"#{order}", "--record", standby.place, "--json")
        without = ckptree("fleet", "takeover", "old", "--record", standby.place, "--nats", host.url, "--detach")
        truth = tree_at(Recording(host.recording), root, taken.order)

    assert (alive.code, alive.out) == (7, b"")
    assert taken.ran.code == 0, taken.ran.err
    assert len(taken.numbers) == 5
    assert taken.numbers == numbers_of(truth)
    assert taken.order >= said["have"]
    assert past_of_it.code == 0, past_of_it.err
    assert (without.code, "no stand-by runs" in without.err) == (0, True), without.err
    guard = re.search(r"stays with its guard, (\d+)", without.err)
    assert guard
    os.kill(int(guard[1]), signal.SIGTERM)


@contextmanager
def a_tree(script: str) -> Iterator[int]:
    """Run a script of a shell in a session of its own, once it has four descendants; yield its number."""
    with subprocess.Popen(["sh", "-c", script], start_new_session=True) as process:
        until = time.monotonic() + PATIENCE_S
        while [each.name() for each in psutil.Process(process.pid).children(recursive=True)].count("sleep") < 4:
            assert time.monotonic() < until
            time.sleep(0.02)
        try:
            yield process.pid
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_nothing_that_was_said_to_be_there_is_missing(tmp_path: Path) -> None:
    """A storm of births and deaths goes on while its host dies at a random moment, again and again.

    The tree that stands is that of the host's own recording at the same record, which is no earlier than any that the
    stand-by had said to have; and by the storm's own log it was true between that record and the host's death. A tree in
    which a pid namespace is just ending is refused by name, as restart refuses it.
    """
    chance = random.Random(int(os.environ.get("CKPTREE_SEED", "7")))
    captures: list[tuple[Capture, int]] = []
    wrong: list[str] = []
    with servers.nats(tmp_path / "nats") as nats, Storm(idle=30, rate=150, workers=2) as storm:
        for number in range(_DEATHS):
            folder = tmp_path / f"death-{number}"
            host = MortalHost(folder, f"nats://{nats.address}")
            with host.relay() as relay, a_standby(folder, "new", host.url, "old", str(storm.root)) as standby:
                with Client(host.socket) as client:
                    order = client.snapshot(str(storm.root), mode="subtree").order
                facts = Recording(host.recording).segments[-1].facts
                said = standby.await_have(order, f"{facts.boot_id} {facts.ring}")["have"]
                dies_s = time.monotonic() + 2.5 * chance.random()
                while time.monotonic() < dies_s:
                    said = max(said, standby.told()["have"])
                host.die(relay)
                died_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
                said = max(said, standby.told()["have"])
                taken = taken_over(standby, folder)
            recording = Recording(host.recording)
            truth = tree_at(recording, storm.root, taken.order)
            run = len(recording.runs) - 1
            begin_ns = recording.replayer(Instant(recording.runs[run].first.run, said + 1, 0, 0, 0)).boottime_ns
            captures.append((Capture(rows_of(truth), begin_ns, died_ns, closed=True), number))
            stands = taken.ran.code in (0, 6) and taken.numbers == numbers_of(truth)
            refused = taken.ran.code == 7 and _LIMIT in taken.ran.err
            if not (stands or refused) or taken.order < said:
                wrong.append(f"death {number}: said #{said}, taken over #{taken.order}: {taken.ran.err}")
        time.sleep(0.5)
    judge = Judge(storm.log)
    for capture, number in captures:
        verdict = judge.judge(capture, widen_ns=_WIDEN_NS)
        if verdict.torn or not verdict.fresh:
            wrong.append(f"death {number}: never true: {[judge.explain(each) for each in verdict.clash]}")

    assert len(captures) == _DEATHS
    assert wrong == []


def test_a_daemon_that_is_restarted_is_followed_without_a_gap(tmp_path: Path) -> None:
    """Its service manager keeps the kernel side, and the next daemon goes on with the recording."""
    with (
        servers.nats(tmp_path / "nats") as nats,
        ServiceManager(tmp_path, "--record", tmp_path / "recording") as manager,
        Storm(idle=20, rate=100, workers=1) as storm,
        a_relay(tmp_path, "old", f"nats://{nats.address}", manager.socket, FOLLOW) as relay,
        a_standby(tmp_path, "new", f"nats://{nats.address}", "old", str(storm.root)) as standby,
    ):
        for _ in range(3):
            with Client(manager.socket, PATIENCE_S) as client:
                standby.await_have(client.snapshot(str(storm.root), mode="subtree").order)
            manager.restart()
        with Client(manager.socket, PATIENCE_S) as client:
            standby.await_have(client.snapshot(str(storm.root), mode="subtree").order)
        assert relay.process.poll() is None
    recording = Recording(standby.place)
    assert len(recording.segments) >= 4
    assert (len(recording.runs), recording.gaps) == (1, ())
