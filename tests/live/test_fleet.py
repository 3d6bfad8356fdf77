# SPDX-License-Identifier: Apache-2.0
"""Sets of trees through real relays, a real server of NATS and a real daemon."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from exporters import registry
from tests.live.daemons import Ran, ckptree
from tests.support import servers
from tests.support.relays import RelayProcess, a_relay


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """Run a server for all tests of the module."""
    with servers.nats(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture(scope="module")
def relays(
    nats: servers.Server, daemon_socket: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, RelayProcess]]:
    """Run three relays: the clock of one is 5 s ahead, and one allows nothing."""
    folder = tmp_path_factory.mktemp("relays")
    url = f"nats://{nats.address}"
    with (
        a_relay(folder, "a", url, daemon_socket, 'allow = ["snapshot", "events"]\n') as a,
        a_relay(folder, "b.example", url, daemon_socket, ahead_s=5) as b,
        a_relay(folder, "shy", url, daemon_socket, "") as shy,
    ):
        yield {"a": a, "b.example": b, "shy": shy}


def fleet(nats: servers.Server, *words: str | Path) -> Ran:
    """Run a verb of the fleet."""
    return ckptree("fleet", *words, env={"CKPTREE_NATS": f"nats://{nats.address}"})


def test_the_hosts_of_the_fleet_are_shown(nats: servers.Server, relays: dict[str, RelayProcess]) -> None:
    """Each with what it allows, and with the offset of its clock."""
    ran = fleet(nats, "hosts", "--json")
    found = {row.pop("host"): row for row in json.loads(ran.out)}

    assert (ran.code, ran.err) == (0, "")
    assert list(found) == sorted(relays)
    assert all(set(row) == {"version", "kernel", "tasks", "allow", "clock_offset_ns"} for row in found.values())
    assert [row["allow"] for row in found.values()] == [["events", "snapshot"], ["snapshot"], []]
    assert all(row["tasks"] > 5 for row in found.values())
    assert abs(found["a"]["clock_offset_ns"]) < 1e9
    assert abs(found["b.example"]["clock_offset_ns"] - 5e9) < 1e9
    lines = fleet(nats, "hosts").out.decode().splitlines()
    assert all(re.search(r" clock [+-][0-9.]+ ms, give or take [0-9.]+, allows ", line) for line in lines), lines


def test_a_set_has_the_trees_of_all_hosts_at_one_instant(
    nats: servers.Server, relays: dict[str, RelayProcess], sleeper: int, tmp_path: Path
) -> None:
    """Clocks that are 5 s apart make no difference: the skew is the machine's own slowness."""
    ran = fleet(nats, "snapshot", "--hosts", "b.example,a", "--root", str(sleeper), "-o", tmp_path / "set", "--json")
    made = json.loads(ran.out)

    assert ran.code == 0, ran.err
    assert json.loads((tmp_path / "set").read_text()) == made
    assert [host["host"] for host in made["hosts"]] == ["a", "b.example"]
    assert made["hosts"][1]["before_ns"] - made["hosts"][0]["before_ns"] > 4e9
    assert 0 < made["skew_ns"] < 2e9
    for host in made["hosts"]:
        snapshot = registry.load((tmp_path / host["image"].replace(":", "-")).read_bytes())
        assert [snapshot.number(task.pid) for task in snapshot.tasks] == [sleeper]


def test_who_is_missing_is_named(
    nats: servers.Server, relays: dict[str, RelayProcess], sleeper: int, tmp_path: Path
) -> None:
    """The one does not allow it, the other has no relay, and the third has no such process."""
    names = f"a,shy,nobody,b.example={1 << 22}"
    ran = fleet(nats, "snapshot", "--hosts", names, "--root", str(sleeper), "-o", tmp_path / "set")
    made = json.loads((tmp_path / "set").read_text())

    assert ran.code == 6
    assert [host["host"] for host in made["hosts"]] == ["a"]
    assert [each["host"] for each in made["missing"]] == ["b.example", "nobody", "shy"]
    for said in (
        "b.example: there is no process",
        "nobody: no relay of that name",
        "shy: the relay of shy does not allow",
    ):
        assert f"missing: {said}" in ran.err


def test_with_require_all_nothing_is_written(
    nats: servers.Server, relays: dict[str, RelayProcess], sleeper: int, tmp_path: Path
) -> None:
    """The missing host is named all the same."""
    ran = fleet(nats, "snapshot", "--hosts", "a,shy", "--root", str(sleeper), "--require-all", "-o", tmp_path / "set")

    assert ran.code == 6
    assert "missing: shy" in ran.err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Run two processes with the environments of ranks, and a child that inherits one of them."""
    script = "(SLURM_PROCID=0 sh -c 'sleep 1000 & wait') & (SLURM_PROCID=1 exec sleep 1001) & wait"
    with subprocess.Popen(["sh", "-c", script], start_new_session=True) as process:
        deadline = time.monotonic() + 30
        while len(psutil.Process(process.pid).children(recursive=True)) < 3 or any(
            child.name() == "sh" and not child.children() for child in psutil.Process(process.pid).children()
        ):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        try:
            yield process.pid
        finally:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()


@pytest.fixture(scope="module")
def job_set(
    nats: servers.Server, relays: dict[str, RelayProcess], job: int, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Take a set of the job on two hosts."""
    path = tmp_path_factory.mktemp("job") / "set"
    ran = fleet(nats, "snapshot", "--hosts", "a,b.example", "--root", str(job), "--with-argv", "-o", path)
    assert ran.code == 0, ran.err
    return path


def test_the_ranks_of_a_job_are_shown(nats: servers.Server, job: int, job_set: Path) -> None:
    """A child that inherits its parent's environment is no rank."""
    ran = fleet(nats, "show", job_set, "--json")
    rows = json.loads(ran.out)["ranks"]

    assert ran.code == 0, ran.err
    assert [(row["rank"], row["host"]) for row in rows] == [(0, "a"), (0, "b.example"), (1, "a"), (1, "b.example")]
    assert {row["pid"] for row in rows} == {child.pid for child in psutil.Process(job).children()}
    shown = fleet(nats, "show", job_set).out.decode()
    assert "2 hosts, 8 tasks" in shown
    assert "rank 1" in shown


def test_a_set_is_sound_until_an_image_is_changed(nats: servers.Server, job_set: Path, tmp_path: Path) -> None:
    """Its hash tells; the other host's image is still sound."""
    assert fleet(nats, "check", job_set).code == 0
    copy = shutil.copytree(job_set.parent, tmp_path / "copy") / "set"
    made = json.loads(copy.read_text())
    image = copy.with_name(made["hosts"][0]["image"].replace(":", "-"))
    data = bytearray(image.read_bytes())
    data[-1] ^= 1
    image.write_bytes(data)
    ran = fleet(nats, "check", copy)

    assert ran.code == 8
    assert "a: error no-image" in ran.out.decode()
    assert "not the one of the manifest" in fleet(nats, "diff", job_set, copy).err


def test_two_sets_of_a_quiet_job_are_equal(
    nats: servers.Server, relays: dict[str, RelayProcess], job: int, job_set: Path, sleeper: int, tmp_path: Path
) -> None:
    """A set of another tree differs, and so does one without a host."""
    words = "snapshot", "--root", str(job), "-o"
    assert fleet(nats, *words, tmp_path / "same", "--hosts", "a,b.example").code == 0
    assert fleet(nats, *words, tmp_path / "less", "--hosts", "a").code == 0
    assert fleet(nats, *words, tmp_path / "other", "--hosts", f"a,b.example={sleeper}").code == 0

    assert fleet(nats, "diff", job_set, tmp_path / "same").code == 0
    assert fleet(nats, "diff", job_set, tmp_path / "less").code == 1
    assert fleet(nats, "diff", job_set, tmp_path / "other").code == 1


def test_a_plan_names_the_pids_that_are_taken_on_the_target(nats: servers.Server, job: int, job_set: Path) -> None:
    """The original still runs there. In pid namespaces of their own the trees find every number free."""
    ran = fleet(nats, "plan", job_set, "--no-pidns", "--map", "a=b.example", "--json")
    row = json.loads(ran.out)["b.example"]

    assert ran.code == 5, ran.err
    assert row["from"] == "a"
    assert row["taken"][str(job)] == "sh"
    assert fleet(nats, "plan", job_set).code == 0


def test_a_map_of_a_host_that_is_not_in_the_set_is_refused(nats: servers.Server, job_set: Path) -> None:
    """The message has those that are."""
    ran = fleet(nats, "plan", job_set, "--map", "c=a")

    assert ran.code == 2
    assert "a, b.example" in ran.err


def test_events_of_another_host_are_those_of_its_daemon(
    nats: servers.Server, relays: dict[str, RelayProcess], tmp_path: Path
) -> None:
    """A shell that waits for a file makes a child, and ends; so does the verb."""
    script = f"while ! [ -e {tmp_path}/go ]; do read -t 0.05; done; (exit 3); exit 4"
    reader, writer = os.pipe()
    with subprocess.Popen(["bash", "-c", script], stdin=reader) as root:
        words = [sys.executable, "-m", "agent", "fleet", "events", "a", str(root.pid), "--json"]
        words += ["--nats", f"nats://{nats.address}"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as verb:
            deadline = time.monotonic() + 60
            while 'result="followed"' not in relays["a"].log.read_text():
                assert time.monotonic() < deadline
                time.sleep(0.02)
            (tmp_path / "go").touch()
            assert root.wait(20) == 4  # a zombie is not gone
            out, said = verb.communicate(timeout=60)
    os.close(reader)
    os.close(writer)
    found = [json.loads(line) for line in out.splitlines()]
    assert verb.returncode == 0, said
    assert [each["event"] for each in found][-1] == "end"
    births = [each for each in found if each["event"] == "birth" and each["parent"] == root.pid]
    deaths = {each["pid"]: each["exited"] for each in found if each["event"] == "death"}
    assert 3 in [deaths[birth["pid"]] for birth in births]
    assert deaths[root.pid] == 4
