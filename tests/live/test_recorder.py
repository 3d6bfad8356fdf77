# SPDX-License-Identifier: Apache-2.0
"""A daemon that records: every instant of the recording is the table that the daemon had."""

import grp
import subprocess
import time
from pathlib import Path

import pytest

from agent.protocol.client import Client
from agent.recorder import folder
from agent.recorder.recording import NoSuchInstantError, Recording
from tests.bench.storm import Storm
from tests.live.daemons import a_daemon
from tests.support.recorded import different, taken, unlike


def test_the_past_is_what_live_snapshots_have_shown(tmp_path: Path) -> None:
    """During a storm of forks, each live snapshot has the bytes of the image at its number out of the recording."""
    place = tmp_path / "recording"
    with (
        a_daemon(tmp_path, "--record", place, "--record-max-bytes", "5000000") as daemon,
        Client(daemon.socket) as client,
        Storm(idle=100, rate=1500) as storm,
    ):
        snapshots = []
        for _ in range(60):
            snapshots.append(taken(client, storm.root))
            time.sleep(0.1)
        assert client.status()["lost"] == 0

    recording = Recording(place)
    assert len({each.order for each in snapshots}) > 50
    assert different(recording, snapshots, alone=5) == []
    assert len(recording.segments) > 1
    assert unlike(recording) == []
    assert recording.runs[-1].ended


def test_the_folder_is_for_its_owner_alone(tmp_path: Path) -> None:
    """It has the arguments of every program."""
    place = tmp_path / "recording"
    with a_daemon(tmp_path, "--record", place):
        pass

    assert place.stat().st_mode & 0o777 == 0o700
    assert {each.path.stat().st_mode & 0o777 for each in folder.stored(place)} == {0o600}


def test_a_group_may_read_the_folder_where_that_is_configured(tmp_path: Path) -> None:
    """The segments that come, too; its members are those who see every tree."""
    place, group = tmp_path / "recording", grp.getgrnam("daemon").gr_gid
    words = ["--record", str(place), "--record-group-may-read", "true", "--group", "daemon"]
    with a_daemon(tmp_path, *words, before=["setpriv", f"--groups={group}"]):
        pass
    found = [place.stat(), *(each.path.stat() for each in folder.stored(place))]

    assert [(each.st_gid, each.st_mode & 0o777) for each in found] == [(group, 0o750), (group, 0o640)]


def test_a_time_is_an_instant(tmp_path: Path) -> None:
    """A process that lives at a time is in the table of that time, and in none before or behind its life."""
    place = tmp_path / "recording"
    with a_daemon(tmp_path, "--record", place):
        before_ns = time.time_ns()
        time.sleep(1.1)
        sleeper = subprocess.Popen(["sleep", "60"])
        time.sleep(0.01)
        during_ns = time.time_ns()
        time.sleep(1.1)
        sleeper.kill()
        sleeper.wait()
        time.sleep(0.01)
        behind_ns = time.time_ns()
        time.sleep(1.2)
        recording = Recording(place)  # while it is being written
        found = [recording.table_at(recording.at_time(each)).table.task(sleeper.pid) for each in (before_ns, during_ns)]

    recording = Recording(place)
    found.append(recording.table_at(recording.at_time(behind_ns)).table.task(sleeper.pid))
    assert [task is not None for task in found] == [False, True, False]
    for wrong_ns in (before_ns - 60_000_000_000, time.time_ns() + 60_000_000_000):
        with pytest.raises(NoSuchInstantError, match="does not have that time"):
            recording.at_time(wrong_ns)
