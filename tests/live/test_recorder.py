# SPDX-License-Identifier: Apache-2.0
"""A daemon that records: every instant of the recording is the table that the daemon had."""

import time
from pathlib import Path

import pytest

from agent.protocol.client import Client
from agent.recorder import folder
from agent.recorder.recording import Recording
from tests.bench.storm import Storm
from tests.live.daemons import a_daemon
from tests.live.recorded import different, taken

pytestmark = pytest.mark.live


def test_the_past_is_what_live_snapshots_have_shown(tmp_path: Path) -> None:
    """During a storm of forks, each live snapshot has the bytes of the image at its number out of the recording."""
    place = tmp_path / "recording"
    with a_daemon(tmp_path, "--record", place) as daemon, Client(daemon.socket) as client:
        with Storm(idle=100, rate=1500) as storm:
            snapshots = []
            for _ in range(60):
                snapshots.append(taken(client, storm.root))
                time.sleep(0.005)
            assert client.status()["lost"] == 0
        time.sleep(0.2)

    recording = Recording(place)
    assert len({each.order for each in snapshots}) > 50
    assert different(recording, snapshots) == []
    assert recording.runs[-1].ended


def test_the_folder_is_for_its_owner_alone(tmp_path: Path) -> None:
    """It has the arguments of every program."""
    place = tmp_path / "recording"
    with a_daemon(tmp_path, "--record", place):
        pass

    assert place.stat().st_mode & 0o777 == 0o700
    assert {each.path.stat().st_mode & 0o777 for each in folder.stored(place)} == {0o600}
