# SPDX-License-Identifier: Apache-2.0
"""Stand-bys whose network is cut, whose disk is full, and that lack records; the recording is of a simulated kernel."""

import json
import time
from contextlib import closing
from pathlib import Path
from typing import IO

import psutil
import pytest

from agent.recorder.recording import Recording
from tests.live.daemons import PATIENCE_S, Ran, ckptree
from tests.live.test_recorder_broken import a_small_disk
from tests.support import servers
from tests.support.netapart import apart
from tests.support.relays import await_line
from tests.support.standbys import Original, a_standby


def test_a_standby_whose_network_was_cut_goes_on_without_a_gap(tmp_path: Path) -> None:
    """It says for how long the host has been silent; a take-over is refused, for nobody can tell if the host lives."""
    with (
        apart() as there,
        closing(Original(tmp_path)) as original,
        servers.nats(tmp_path / "nats", "-a", "0.0.0.0") as nats,  # noqa: S104 - the namespace must reach it
        original.relay(f"nats://{nats.address}"),
        a_standby(tmp_path, "new", f"nats://{there.address}:{nats.port}", "old", "1", before=there.before) as standby,
    ):
        standby.await_have(original.go_on())
        until = time.monotonic() + PATIENCE_S
        while standby.told()["silent_s"] is None:
            assert time.monotonic() < until
            time.sleep(0.1)
        with there.cut():
            last = original.go_on()
            until = time.monotonic() + PATIENCE_S
            while (standby.told()["silent_s"] or 0) < 4:
                assert time.monotonic() < until
                time.sleep(0.1)
            assert standby.told()["have"] < last
        standby.await_have(last)
        standby.await_have(original.go_on())
        assert standby.told()["gaps"] == 0
    assert Recording(standby.place).gaps == ()


def test_a_full_disk_of_the_standby_costs_nothing_but_time(tmp_path: Path) -> None:
    """It says so, what it has stays, and it goes on once there is room."""
    with (
        a_small_disk(tmp_path / "disk", 1 << 20) as disk,
        closing(Original(tmp_path)) as original,
        servers.nats(tmp_path / "nats") as nats,
        original.relay(f"nats://{nats.address}"),
        a_standby(tmp_path, "new", f"nats://{nats.address}", "old", "1", place=disk / "copy") as standby,
    ):
        had = standby.await_have(original.go_on())["have"]
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            fill(file)
        last = original.go_on(300)
        await_line(standby, 1, "No space left on device")
        assert had <= standby.told()["have"] < last
        filler.unlink()
        standby.await_have(last)
        assert Recording(standby.place).gaps == ()


def test_a_tree_that_lost_records_is_made_and_named(tmp_path: Path) -> None:
    """By the stand-by and, after its death, out of its folder: the same tree, exit code 6."""
    with (
        closing(Original(tmp_path)) as original,
        servers.nats(tmp_path / "nats") as nats,
        original.relay(f"nats://{nats.address}") as relay,
    ):
        url = f"nats://{nats.address}"
        with a_standby(tmp_path, "new", url, "old", "1") as standby:
            original.go_on()
            standby.await_have(original.lose())
            relay.process.kill()
            relay.process.wait()
            first = taken_over(standby.place, tmp_path / "guard")
        second = taken_over(standby.place, tmp_path / "guard", "--nats", url)
        allowed = taken_over(standby.place, tmp_path / "guard", "--nats", url, "--allow-incomplete")

    assert [ran.code for ran in (first, second, allowed)] == [6, 6, 0], first.err + second.err
    assert all("incomplete: events were lost before this instant" in ran.err for ran in (first, second))
    numbers = [[task["numbers"] for task in json.loads(ran.out)["tasks"]] for ran in (first, second, allowed)]
    assert numbers[0] == numbers[1] == numbers[2] != []


def taken_over(place: Path, pidfile: Path, *words: str) -> Ran:
    """Take the tree of the host `old` over, and end it."""
    options: list[str | Path] = ["--record", place, "--mode", "subtree", "--detach", "--pidfile", pidfile, "--json"]
    ran = ckptree("fleet", "takeover", "old", *options, *words)
    assert pidfile.exists(), ran.err
    guard = psutil.Process(int(pidfile.read_text()))
    guard.terminate()
    guard.wait(PATIENCE_S)
    pidfile.unlink(missing_ok=True)
    return ran


def fill(file: IO[bytes]) -> None:
    """Write until there is no room."""
    while True:
        file.write(bytes(4096))
