# SPDX-License-Identifier: Apache-2.0
"""Sets of trees through real relays, a real server of NATS and a real daemon."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporters import registry
from tests.live.daemons import Ran, ckptree
from tests.support import servers
from tests.support.relays import RelayProcess, a_relay

pytestmark = pytest.mark.live


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
        a_relay(folder, "a", url, daemon_socket) as a,
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
    assert [row["allow"] for row in found.values()] == [["snapshot"], ["snapshot"], []]
    assert all(row["tasks"] > 5 for row in found.values())
    assert abs(found["a"]["clock_offset_ns"]) < 1e9
    assert abs(found["b.example"]["clock_offset_ns"] - 5e9) < 1e9


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
