# SPDX-License-Identifier: Apache-2.0
"""Snapshots of containers: leaks, tasks that have entered, and what these have left behind."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import RefusedError
from agent.protocol.client import Client
from exporters import registry
from tests.live.daemons import a_container, ckptree, differences, only_child


def test_a_container_that_leaks_is_refused_and_every_leak_is_named(daemon_socket: Path, tmp_path: Path) -> None:
    """Exit code 7: its session and its group are its maker's. Nothing is written; as a subtree it can be had."""
    output = tmp_path / "tree.ckpt"
    with a_container("sleep", "100") as init:
        refused = ckptree("snapshot", str(init), "--socket", daemon_socket, "-o", output)
        alone = ckptree("snapshot", str(init), "--source", "bpf", "-o", output)
        assert os.listdir(tmp_path) == []
        subtree = ckptree("snapshot", str(init), "--socket", daemon_socket, "--mode", "subtree", "-o", output)

    for ran in (refused, alone):
        assert (ran.code, ran.out) == (7, b"")
        named = [
            line.split(", ")[0].split(": ", 2)[2] for line in ran.err.splitlines() if f"{init}/1 (sleep): its" in line
        ]
        assert [line.partition(" (")[0] for line in named] == [
            f"its group is {os.getpgid(0)}",
            f"its session is {os.getsid(0)}",
        ]
        assert "--mode subtree" in ran.err
    assert subtree.code == 0
    root = registry.load(output.read_bytes()).tasks[0]
    assert (root.pgid, root.sid) == (0, 0)


@pytest.fixture
def entered() -> Iterator[tuple[int, int]]:
    """A sound container, and a task in it that came from outside."""
    with a_container("setsid", "sleep", "100") as init:
        command = ["nsenter", "--target", str(init), "--pid", "setsid", "sleep", "200"]
        with subprocess.Popen(command) as outer:
            try:
                yield init, only_child(outer.pid, "sleep")
            finally:
                for child in Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split():
                    os.kill(int(child), 9)
                outer.kill()


def test_who_entered_a_container_is_a_leak(daemon_socket: Path, tmp_path: Path, entered: tuple[int, int]) -> None:
    """No process of the namespace is its parent, so none could fork it."""
    init, guest = entered
    ran = ckptree("snapshot", str(init), "--socket", daemon_socket, "-o", tmp_path / "tree.ckpt")

    assert (ran.code, ran.out) == (7, b"")
    assert f"{guest}/2 (sleep)" in ran.err
    assert "--without-entered" in ran.err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("source", ["daemon", "bpf"])
def test_who_entered_can_be_left_out_and_is_listed(
    daemon_socket: Path, tmp_path: Path, entered: tuple[int, int], source: str
) -> None:
    """On stderr, and in the file by name."""
    init, guest = entered
    where = ("--socket", daemon_socket) if source == "daemon" else ()
    output = tmp_path / "tree.json"
    ran = ckptree(*("snapshot", str(init), "--source", source, *where, "--without-entered", "-f", "json", "-o", output))
    written = registry.load(output.read_bytes())

    assert (ran.code, ran.out) == (0, b"")
    assert f"{guest}/2 (sleep)" in ran.err
    assert [written.number(task.pid) for task in written.tasks] == [1]
    assert [line for line in written.entered if "sleep" in line] == list(written.entered) != []


@pytest.mark.parametrize("source", ["daemon", "bpf", "procfs"])
def test_what_one_that_entered_has_left_behind_is_left_out_with_it(
    daemon_socket: Path, tmp_path: Path, source: str
) -> None:
    """It is in a session from outside, and the container's init is its parent: as after `docker exec` of a job."""
    where = ("--socket", daemon_socket) if source == "daemon" else ()
    options = ("--source", source, *where, "--allow-incomplete", "-f", "json", "-o", tmp_path / "tree.json")
    with a_container("setsid", "sleep", "100") as init:
        job = "sh -c 'sleep 200 & echo $$; wait' & read _"
        command = ["nsenter", "--target", str(init), "--pid", "sh", "-c", job]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as outer:
            assert outer.stdout
            assert outer.stdin
            outer.stdout.readline()
            outer.stdin.close()
        refused = ckptree("snapshot", str(init), *options)
        ran = ckptree("snapshot", str(init), *options, "--without-entered")
        written = registry.load((tmp_path / "tree.json").read_bytes())

    assert (refused.code, ran.code) == (7, 0), refused.err + ran.err
    assert "left behind by one that entered from outside" in refused.err
    assert "leave out what entered from outside with --without-entered" in refused.err
    assert "start its init with setsid" not in refused.err
    assert [written.number(task.pid) for task in written.tasks] == [1]
    assert sorted(line.partition(" ")[2] for line in written.entered) == ["(sh)", "(sleep)"]


def test_what_one_that_entered_has_left_behind_in_a_session_of_its_own_is_known_by_its_birth(
    daemon_socket: Path, tmp_path: Path
) -> None:
    """None of its ids is from outside: the watch has seen who made it, though that one is dead."""
    output = tmp_path / "tree.json"
    options = ("--socket", daemon_socket, "-f", "json", "-o", output)
    with a_container("setsid", "sleep", "100") as init:
        job = ["setsid", "sh", "-c", "sleep 60 >/dev/null 2>&1 & exit 0"]
        subprocess.run(["nsenter", "--target", str(init), "--pid", *job], check=True)
        time.sleep(0.5)
        refused = ckptree("snapshot", str(init), *options)
        assert not output.exists()
        ran = ckptree("snapshot", str(init), *options, "--without-entered")
        written = registry.load(output.read_bytes())

    assert (refused.code, ran.code) == (7, 0), refused.err + ran.err
    assert "(sleep): left behind by one that entered from outside" in refused.err
    assert [written.number(task.pid) for task in written.tasks] == [1]
    assert [line.partition(" ")[2] for line in written.entered] == ["(sleep)"]


def test_a_snapshot_of_a_container_through_its_namespace(client: Client) -> None:
    """``pidns:INUM``, as a link in /proc/PID/ns has it."""
    with a_container("setsid", "sleep", "100") as init:
        inum = os.stat(f"/proc/{init}/ns/pid").st_ino
        found = registry.load(client.snapshot(f"pidns:{inum}").data)

        assert differences(found, init) == []
    assert found.mode == "container"


def test_the_arguments_of_a_containers_tasks_are_read_by_the_numbers_that_they_have_outside(
    daemon_socket: Path,
) -> None:
    """Inside, it is 1, as many others are; and the root is named as `show` prints its namespace."""
    with a_container("setsid", "sleep", "100") as init:
        inum = os.stat(f"/proc/{init}/ns/pid").st_ino
        ran = ckptree("snapshot", f"pidns:[{inum}]", "--socket", daemon_socket, "--json", "--with-argv")
    task = json.loads(ran.out)["tasks"][0]

    assert (ran.code, task["argv"], task["cwd"]) == (0, ["sleep", "100"], os.getcwd())


def test_a_refusal_is_the_same_error_through_the_client(client: Client) -> None:
    """With its leaks, for a program to act on."""
    with a_container("sleep", "100") as init, pytest.raises(RefusedError) as caught:
        client.snapshot(str(init))

    assert len(caught.value.leaks) == 2
