# SPDX-License-Identifier: Apache-2.0
"""A set of an instant of the past, from the recordings of daemons."""

import json
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil

from exporters import registry
from tests.live.daemons import Ran, a_daemon, ckptree
from tests.support import servers
from tests.support.relays import a_relay


def test_a_set_has_the_trees_of_then(daemon_socket: Path, tmp_path: Path) -> None:
    """The processes are gone by now. A host whose daemon does not record is missing, and so is a time before."""
    with (
        servers.nats(tmp_path / "nats") as server,
        a_daemon(tmp_path, "--record", tmp_path / "recording") as daemon,
        a_relay(tmp_path, "a", f"nats://{server.address}", daemon.socket),
        a_relay(tmp_path, "b", f"nats://{server.address}", daemon.socket),
        a_relay(tmp_path, "none", f"nats://{server.address}", daemon_socket),
    ):
        with subprocess.Popen(["sh", "-c", "sleep 61 & sleep 62 & wait"]) as tree:
            deadline = time.monotonic() + 20
            while len(psutil.Process(tree.pid).children()) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.3)
            then = datetime.now(UTC).isoformat()
            time.sleep(0.3)
            for child in psutil.Process(tree.pid).children():
                child.kill()
        time.sleep(1.5)  # records reach the recording a moment later

        def fleet(hosts: str, at: str, *more: str | Path) -> Ran:
            words = ["snapshot", "--hosts", hosts, "--root", str(tree.pid), "--at", at, *more]
            return ckptree("fleet", *words, env={"CKPTREE_NATS": f"nats://{server.address}"})

        taken = fleet("a,b", then, "-o", tmp_path / "set", "--allow-incomplete")
        missing = fleet("a,none", then, "-o", tmp_path / "less", "--allow-incomplete", "--json")
        before = fleet("a", "2020-01-01T00:00:00Z", "-o", tmp_path / "before")
        number = fleet("a", "#5", "-o", tmp_path / "number")

    assert taken.code == 0, taken.err
    made = json.loads((tmp_path / "set").read_text())
    at_ns = int(datetime.fromisoformat(then).timestamp() * 1e9)
    assert abs(made["at_ns"] - at_ns) < 1_000_000
    for host in made["hosts"]:
        snapshot = registry.load((tmp_path / host["image"].replace(":", "-")).read_bytes())
        assert [(task.comm or b"").decode() for task in snapshot.tasks] == ["sh", "sleep", "sleep"]
        assert abs(host["after_ns"] - host["before_ns"]) < 2_000_000_000
        assert abs(host["before_ns"] - at_ns) < 2_000_000_000
    assert [each["host"] for each in json.loads(missing.out)["missing"]] == ["none"]
    assert "has no recording" in missing.err
    assert (before.code, number.code) == (6, 2)
