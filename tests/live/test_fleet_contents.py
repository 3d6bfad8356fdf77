# SPDX-License-Identifier: Apache-2.0
"""Sets with the contents of their programs: they are dumped on one host, and run on on another one."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import jsonschema
import pytest

from agent.fleet.stores.natsstore import NatsStore
from tests.live.daemons import TOP
from tests.live.dumps import eventually, program
from tests.live.test_fleet_restart import Fleet, ended
from tests.support import servers
from tests.support.suitepackages import SUITE, criu

COUNTS = "i=0; while :; do i=$((i+1)); echo $i > new; mv new count; sleep 0.02; done"


class Counter:
    """A program that counts in its memory, and writes the number into a file.

    Args:
        folder: of the file.
        pid: of the program.
    """

    def __init__(self, folder: Path, pid: int) -> None:
        self.folder = folder
        self.pid = pid
        eventually(lambda: self.count > 3, "it counts")

    @property
    def count(self) -> int:
        """The number."""
        with suppress(FileNotFoundError, ValueError):
            return int((self.folder / "count").read_text())
        return 0


@contextmanager
def a_counter(folder: Path) -> Iterator[Counter]:
    """Run the program."""
    folder.mkdir()
    with program(["/bin/bash", "-c", COUNTS], folder) as pid:
        yield Counter(folder, pid)


@pytest.fixture
def counter(tmp_path: Path) -> Iterator[Counter]:
    """Run the program for a test."""
    with a_counter(tmp_path / "counter") as found:
        yield found


@pytest.fixture
def fleet(daemon_socket: Path, tmp_path: Path, counter: Counter) -> Iterator[Fleet]:
    """Run two hosts, of which `old` lets `ops` dump the program, and `new` lets its contents run on."""
    for name in ("key", "others"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    kept = tmp_path / "kept"
    kept.mkdir()
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("TMPDIR", str(kept))
        nats = stack.enter_context(servers.nats(tmp_path / "nats"))
        with NatsStore(f"nats://{nats.address}", "dumps") as bucket:
            bucket.make_bucket()
        rules = f"""
[[restart]]
requester = "mover"
run = []
signers = "{tmp_path}/key.pub"
contents = ["nats://dumps"]
options = ["--tcp-close"]
[[dump]]
requester = "mover"
roots = ["{counter.pid}"]
store = "nats://dumps"
options = ["--tcp-established"]
end = true
criu = "{criu(SUITE)}"
[[dump]]
requester = "night"
roots = ["{counter.pid}"]
store = "nats://dumps"
criu = "{criu(SUITE)}"
"""
        yield Fleet(tmp_path, nats, daemon_socket, tmp_path / "key", stack, rules)


def taken(fleet: Fleet, counter: Counter, *more: str | Path, requester: str = "mover") -> tuple[int, str]:
    """Take a set with contents; return the exit code and the messages."""
    words = ["snapshot", "--hosts", "old", "--root", str(counter.pid), "--contents", "--as", requester]
    ran = fleet.run(*words, "--deadline", "120", "--sign", fleet.key, "-o", fleet.folder / "set", *more)
    return ran.code, ran.err


def in_use(fleet: Fleet) -> list[str]:
    """Return what lies in the folder for images that are needed for a while."""
    return os.listdir(fleet.folder / "kept")


def test_a_program_counts_on_on_another_host(fleet: Fleet, counter: Counter) -> None:
    """The set names the contents by their hash; they are checked, planned, and let run on."""
    code, said = taken(fleet, counter, "--end")
    assert code == 0, said + fleet.said("old")
    before = counter.count
    made = json.loads((fleet.folder / "set").read_text())
    jsonschema.validate(made, json.loads((TOP / "docs" / "ckptree-set.schema.json").read_text()))
    (host,) = made["hosts"]
    assert host["contents"]["store"] == "nats://dumps"
    assert host["contents"]["bytes"] > 100_000
    assert (host["complete"], host["tasks"] >= 1) == (True, True)
    assert in_use(fleet) == []
    assert "in nats://dumps" in fleet.run("show", fleet.folder / "set").out.decode()
    checked = fleet.run("check", fleet.folder / "set")
    assert (checked.code, "sound" in checked.err) == (0, True), checked.err

    mapped = ("--map", "old=new", "--as", "mover", "--json")
    planned = fleet.run("plan", fleet.folder / "set", "--contents", *mapped)
    assert planned.code == 0, planned.err + fleet.said("new")
    row = json.loads(planned.out)["new"]
    assert (row["refused"], row["unplanned"]) == ([], None)

    ran = fleet.run("restart", fleet.folder / "set", "--contents", "--deadline", "120", *mapped)
    assert ran.code == 0, ran.err + fleet.said("new")
    ready = json.loads(ran.out)["new"]
    eventually(lambda: counter.count > before + 3, "it counts on")
    assert len(ready["tasks"]) == host["tasks"]
    eventually(lambda: in_use(fleet) == [], "the images are gone while the program runs")
    assert 'dump requester="mover"' in fleet.said("old")
    assert 'contents="sha256:' in fleet.said("old")
    ended(ready["root"])


def test_a_program_runs_on_where_its_end_is_not_asked_for(fleet: Fleet, counter: Counter) -> None:
    """A piece that is changed in the store is found, and nothing of it runs."""
    code, said = taken(fleet, counter, requester="night")
    assert code == 0, said + fleet.said("old")
    before = counter.count
    eventually(lambda: counter.count > before, "it still counts")
    made = json.loads((fleet.folder / "set").read_text())
    with NatsStore(f"nats://{fleet.nats.address}", "dumps") as store:
        name = made["hosts"][0]["contents"]["list"].replace(":", "-")
        files = json.loads(store.get(name))["files"]
        store.put(f"sha256-{files['pages-1.img']['pieces'][0]}", b"x")
    checked = fleet.run("check", fleet.folder / "set")
    assert (checked.code, "old: error no-contents: " in checked.out.decode()) == (8, True), checked.err
    ran = fleet.run("restart", fleet.folder / "set", "--contents", "--map", "old=new", "--as", "mover")
    assert ran.code != 0
    assert "it has been changed" in ran.err, ran.err
    assert in_use(fleet) == []


@pytest.mark.parametrize(
    ("requester", "more", "refusal"),
    [
        ("ops", (), "'ops' may have nothing dumped here"),
        ("night", ("--end",), "`end` in the configuration does not allow it"),
        ("mover", ("--hosts", "old=1"), "may not have '1' dumped here"),
    ],
)
def test_nothing_is_dumped_without_a_permission(
    fleet: Fleet, counter: Counter, requester: str, more: tuple[str, ...], refusal: str
) -> None:
    """The program is not touched, and the set is not written."""
    code, said = taken(fleet, counter, *more, requester=requester)
    assert (code, refusal in said) == (6, True), said
    assert not (fleet.folder / "set").exists()
    assert "Connection from" not in fleet.said("old")


def test_contents_run_on_only_with_a_permission_for_their_store(fleet: Fleet, counter: Counter) -> None:
    """That of a requester for the tree alone is none; neither is a set that another key has signed."""
    code, said = taken(fleet, counter)
    assert code == 0, said
    mapped = ("--contents", "--map", "old=new")
    ran = fleet.run("restart", fleet.folder / "set", *mapped, "--as", "ops")
    assert (ran.code, "may let no contents from nats://dumps run on here" in ran.err) == (5, True), ran.err
    planned = fleet.run("plan", fleet.folder / "set", *mapped, "--as", "ops")
    assert (planned.code, "may let no contents" in planned.out.decode()) == (7, True), planned.err
    words: list[str | Path] = ["ssh-keygen", "-q", "-Y", "sign", "-f", fleet.folder / "others", "-n", "ckptree"]
    shutil.copy(fleet.folder / "set", fleet.folder / "other")
    subprocess.run([*words, fleet.folder / "other"], check=True, capture_output=True)
    ran = fleet.run("restart", fleet.folder / "other", *mapped, "--as", "mover")
    assert ran.code != 0
    assert "does not allow the signer" in ran.err, ran.err
    assert in_use(fleet) == []
