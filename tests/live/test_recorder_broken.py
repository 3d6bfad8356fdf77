# SPDX-License-Identifier: Apache-2.0
"""A recording through restarts, kills and a full disk: what is there is true, and what is missing is named."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from agent.protocol.client import Client
from agent.recorder.facts import Instant
from agent.recorder.recording import NoSuchInstantError, Recording
from tests.bench.storm import Storm
from tests.live.daemons import PATIENCE_S, Daemon, a_daemon, ckptree
from tests.live.servicemanager import ServiceManager
from tests.support.recorded import Taken, different, differs, taken, unlike

_KILLS = int(os.environ.get("CKPTREE_KILLS", "4"))
_RATE = 1000
_WRITER = "agent.recorder.writer"


def shots(socket: Path, root: int, count: int) -> list[Taken]:
    """Take some snapshots."""
    with Client(socket, PATIENCE_S) as client:
        found = []
        for _ in range(count):
            found.append(taken(client, root))
            time.sleep(0.02)
    return found


def untrue(recording: Recording, snapshots: list[Taken], run: int = -1) -> list[str]:
    """Return the snapshots whose instant is another one in a run of the recording, and is not said to lack something."""
    found = []
    for each in snapshots:
        try:
            replayed = recording.table_at(Instant(recording.runs[run].first.run, each.order, 0, 0, 0))
        except NoSuchInstantError:
            continue
        if each.complete and not replayed.reasons and differs(replayed.table, each):
            found.append(f"#{each.order}")
    return found


def writer_of(daemon: int) -> psutil.Process:
    """Return the process that writes a daemon's recording."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for child in psutil.Process(daemon).children():
            if any(_WRITER in word for word in child.cmdline()):
                return child
        time.sleep(0.01)
    raise AssertionError("there is no writer")


def recording_of(daemon: Daemon) -> dict[str, object]:
    """Return what the daemon says of its recording."""
    with Client(daemon.socket, PATIENCE_S) as client:
        return dict(client.status()["recording"])


def wait_until(daemon: Daemon, state: str) -> None:
    """Wait until the recording's state begins so."""
    deadline = time.monotonic() + PATIENCE_S
    while not str(recording_of(daemon)["state"]).startswith(state):
        assert time.monotonic() < deadline, recording_of(daemon)
        time.sleep(0.05)


def test_a_restart_goes_on_with_the_recording_without_a_gap(tmp_path: Path) -> None:
    """The next daemon has the memory of the one before it, and its numbers go on."""
    place = tmp_path / "recording"
    snapshots = []
    with ServiceManager(tmp_path, "--record", place) as manager, Storm(idle=50, rate=_RATE, workers=2) as storm:
        for _ in range(3):
            snapshots += shots(manager.socket, storm.root, 10)
            manager.restart()
        snapshots += shots(manager.socket, storm.root, 10)
        time.sleep(1.0)
        manager.end()

        assert manager.complaints() == []
    recording = Recording(place)
    assert len(recording.runs) == 1
    assert recording.gaps == ()
    assert len(recording.segments) >= 4
    assert unlike(recording) == []
    assert different(recording, snapshots, alone=4) == []


def test_a_daemon_that_is_killed_leaves_a_recording_that_is_true(tmp_path: Path) -> None:
    """At any moment of a storm. The time without a daemon is a gap, and named."""
    place = tmp_path / "recording"
    chance = random.Random(int(os.environ.get("CKPTREE_SEED", "1")))
    snapshots = []
    with ServiceManager(tmp_path, "--record", place) as manager, Storm(idle=50, rate=_RATE, workers=2) as storm:
        for _ in range(_KILLS):
            snapshots += shots(manager.socket, storm.root, 3)
            time.sleep(chance.random() * 0.7)
            last_ns = time.time_ns()
            manager.end(signal.SIGKILL)
            manager.start()
        snapshots += shots(manager.socket, storm.root, 3)
        time.sleep(1.0)
        with Client(manager.socket, PATIENCE_S) as client:
            assert client.status()["recording"]["gaps"] == 1, (
                "the one between the killed daemon's recording and its own"
            )
        manager.end()
        complaints = manager.complaints()

    recording = Recording(place)
    assert complaints == []
    assert untrue(recording, snapshots) == []
    assert len(recording.gaps) == _KILLS
    assert {each.why for each in recording.gaps} == {"the daemon began"}
    between = recording.gaps[-1]
    assert between.from_ns <= last_ns + 1_000_000_000
    replayed = recording.table_at(recording.at_time(between.until_ns - 1))
    assert ["gap" in line for line in replayed.reasons][:1] == [True]


def test_a_writer_that_is_killed_is_replaced(tmp_path: Path) -> None:
    """The recording has a gap, the log says so, and the daemon goes on."""
    place = tmp_path / "recording"
    chance = random.Random(5)
    with a_daemon(tmp_path, "--record", place) as daemon, Storm(idle=50, rate=_RATE, workers=2) as storm:
        snapshots = []
        for _ in range(_KILLS):
            time.sleep(chance.random())
            writer_of(daemon.process.pid).kill()
            snapshots += shots(daemon.socket, storm.root, 5)
            wait_until(daemon, "stopped")
            wait_until(daemon, "recording")
            snapshots += shots(daemon.socket, storm.root, 5)
        assert recording_of(daemon)["gaps"] == _KILLS
        time.sleep(1.0)
        said = daemon.log.read_text()

    recording = Recording(place)
    assert "the recording has a gap: the writer ended" in said
    assert untrue(recording, snapshots) == []
    assert [each.why for each in recording.gaps] == ["the writer ended"] * _KILLS


def test_a_second_daemon_waits_for_the_folder_and_says_so(tmp_path: Path) -> None:
    """Once the first one has ended, it records, too."""
    place = tmp_path / "recording"
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with ExitStack() as first:
        daemon = first.enter_context(a_daemon(tmp_path / "a", "--record", place))
        wait_until(daemon, "recording")
        writer = writer_of(daemon.process.pid).pid
        with a_daemon(tmp_path / "b", "--record", place) as second:
            reason = f"{place}: another daemon records there, its writer is process {writer}"
            wait_until(second, f"waiting: {reason}")
            said = recording_of(second)
            assert (said["active"], said["segments"]) == (0, 0)
            first.close()
            wait_until(second, "recording")
            assert (recording_of(second)["active"], recording_of(second)["gaps"]) == (1, 1)
    (gap,) = Recording(place).gaps
    assert gap.why == "the daemon began"
    assert gap.from_ns < gap.until_ns, "what the first daemon has recorded is there once"


@contextmanager
def a_small_disk(at: Path, size: int) -> Iterator[Path]:
    """Mount a file system in memory."""
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(at)], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


def test_a_full_disk_stops_the_recording_and_nothing_else(tmp_path: Path) -> None:
    """The status and the log say so. Once there is room, it goes on, and what was missed is a gap."""
    with a_small_disk(tmp_path / "disk", 1 << 20) as disk:
        place = disk / "recording"
        filler = disk / "filler"
        with a_daemon(tmp_path, "--record", place) as daemon, Storm(idle=50, rate=_RATE, workers=2) as storm:
            wait_until(daemon, "recording")
            snapshots = shots(daemon.socket, storm.root, 5)
            with filler.open("wb") as file:
                free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
                file.write(bytes(max(0, free - 20_000)))
            wait_until(daemon, "stopped: the writer could not write: No space left on device")
            snapshots += shots(daemon.socket, storm.root, 5)
            filler.unlink()
            wait_until(daemon, "recording")
            snapshots += shots(daemon.socket, storm.root, 5)
            time.sleep(1.0)
            said = daemon.log.read_text()
        recording = Recording(place)

        assert "the recording stops" in said
        assert untrue(recording, snapshots) == []
        assert len(recording.gaps) == 1
        assert "No space left on device" in recording.gaps[0].why
        assert all(each.complete for each in snapshots)


@pytest.mark.parametrize("renamed", [True, False])
def test_a_folder_that_goes_away_is_noticed_and_made_anew(tmp_path: Path, *, renamed: bool) -> None:
    """Status and log say so, and the recording goes on in a new folder, behind a gap."""
    place, away = tmp_path / "recording", tmp_path / "away"
    with a_daemon(tmp_path, "--record", place) as daemon, Storm(idle=50, rate=_RATE, workers=2) as storm:
        wait_until(daemon, "recording")
        before = shots(daemon.socket, storm.root, 5)
        time.sleep(1.0)
        if renamed:
            place.rename(away)
        else:
            shutil.rmtree(place)
        wait_until(daemon, f"stopped: {place}: the recording there was removed")
        assert recording_of(daemon)["active"] == 0
        wait_until(daemon, "recording")
        behind = shots(daemon.socket, storm.root, 5)
        assert recording_of(daemon)["gaps"] == 1
        time.sleep(1.0)
        said = daemon.log.read_text()
    recording = Recording(place)

    assert f"the recording has a gap: {place}: the recording there was removed, renamed or replaced" in said
    assert untrue(recording, behind) == []
    assert all(recording.table_at(recording.at_order(each.order)).reasons == () for each in behind if each.complete)
    assert recording.segments[0].facts.why.startswith(f"{place}: the recording there was removed")
    assert place.stat().st_mode & 0o777 == 0o700
    if renamed:
        assert untrue(Recording(away), before) == []
        assert Recording(away).segments[-1].index() is not None


def test_a_folder_of_another_user_in_its_place_is_not_written(tmp_path: Path) -> None:
    """The status says why, and once the folder is gone the recording goes on."""
    place = tmp_path / "recording"
    with a_daemon(tmp_path, "--record", place) as daemon, Storm(idle=10, rate=100, workers=1):
        wait_until(daemon, "recording")
        place.rename(tmp_path / "away")
        place.mkdir()
        os.chown(place, 4242, 4242)
        wait_until(daemon, f"stopped: {place}: it belongs to user 4242, who could remove or forge what is recorded")
        assert list(place.iterdir()) == []
        place.rmdir()
        wait_until(daemon, "recording")


def test_nothing_is_said_of_a_time_that_is_not_on_disk(tmp_path: Path) -> None:
    """While the writer stalls, and while the disk is full: neither a tree of then, nor events, nor that there were none."""

    def refused(daemon: Daemon, root: int, place: Path) -> None:
        for ask in (("--socket", daemon.socket), ("--record", place)):
            for question in (("tree", str(root), "--at", "-1.5s"), ("events", "--since", "-9s", "--until", "-1.5s")):
                ran = ckptree(*question, *ask)
                assert ran.code in (4, 6), (question, ran)
                assert "does not have that time" in ran.err or b"gap" in ran.out + ran.err.encode(), (question, ran)

    with a_small_disk(tmp_path / "disk", 1 << 20) as disk:
        place, filler = disk / "recording", disk / "filler"
        with a_daemon(tmp_path, "--record", place) as daemon:
            wait_until(daemon, "recording")
            until_s = time.monotonic() + 5.0
            while (ran := ckptree("tree", str(os.getpid()), "--at", "-0.1s", "--record", place)).code == 4:
                assert time.monotonic() < until_s, ran  # first there is none of then: it has just begun
            assert (ran.code, b"complete" in ran.out) == (0, True), ran
            writer = writer_of(daemon.process.pid)
            writer.suspend()
            time.sleep(3.0)
            refused(daemon, os.getpid(), place)
            writer.resume()
            with filler.open("wb") as file:
                free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
                file.write(bytes(max(0, free - 8_000)))
            with Storm(idle=50, rate=_RATE, workers=2):
                wait_until(daemon, "stopped: the writer could not write: No space left on device")
            time.sleep(3.0)
            refused(daemon, os.getpid(), place)
