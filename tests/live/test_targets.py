# SPDX-License-Identifier: Apache-2.0
"""Cgroups and units as roots, on the kernel's own hierarchies."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from agent.model import Tag
from agent.proc.cgroups import Hierarchy, hierarchies
from exporters import registry
from tests.live.daemons import TOP, Ran, ckptree
from tests.live.livecgroups import SLEEPER, a_cgroup, running

UNIFIED = [one for one in hierarchies() if one.options is None]
NAMED = [one for one in hierarchies() if one.options is not None]


def snapshot(root: str, *options: str | Path) -> Ran:
    """Take a snapshot of a root by the command line."""
    return ckptree("snapshot", root, "--no-plan", "-f", "json", *options)


def needed(found: list[Hierarchy]) -> list[Hierarchy]:
    """The first one; a test that has none fails, and says so."""
    return found[:1] or [Hierarchy(None, "/", Path("/not mounted"), None)]


@pytest.mark.parametrize("hierarchy", [*needed(UNIFIED), *NAMED[:1], *NAMED[-1:]], ids=str)
def test_a_cgroup_is_captured_from_its_topmost_process_on(daemon_socket: Path, hierarchy: Hierarchy) -> None:
    """By its path in the hierarchy, and by that of the folder; those in cgroups below it belong to it."""
    name = f"ckptree-{os.getpid()}/inner"
    controllers = sorted((hierarchy.options or frozenset()) - {"rw", "xattr"})
    prefix = f"cgroup:{controllers[0]}:" if controllers else "cgroup:"
    with (
        a_cgroup(hierarchy, name) as inner,
        running(inner.parent, f"sh -c 'echo $$ > {inner}/cgroup.procs; {SLEEPER}; wait' & wait"),
    ):
        rans = [
            snapshot(root, "--socket", daemon_socket) for root in (f"{prefix}/{name[:-6]}", f"cgroup:{inner.parent}")
        ]
        inside = snapshot(f"cgroup:{inner}", "--socket", daemon_socket)

    assert [ran.code for ran in (*rans, inside)] == [0, 0, 0], inside.err
    for ran in rans:
        assert [task.comm for task in registry.load(ran.out).tasks] == [b"sh", b"sh", b"sleep"]
    assert [task.comm for task in registry.load(inside.out).tasks] == [b"sh", b"sleep"]


def test_the_root_in_a_cgroup_namespace_is_that_namespaces(daemon_socket: Path) -> None:
    """Seen through the host's mounts, which begin above it; and not the whole host."""
    with (
        a_cgroup(needed(UNIFIED)[0], f"ckptree-{os.getpid()}/own") as folder,
        running(folder, SLEEPER + "; wait") as pid,
    ):
        leave = 'echo $$ > "$0"; exec "$@"'
        enter = ("sh", "-c", f"echo $$ > {folder}/cgroup.procs && exec unshare --cgroup sh -c '{leave}' \"$@\"", "sh")
        command = (*enter, f"{folder.parent}/cgroup.procs", sys.executable, "-m", "agent")
        rans = []
        for root in ("cgroup:/", f"cgroup:{folder}"):
            arguments = ("snapshot", root, "--no-plan", "--json", "--socket", os.fspath(daemon_socket))
            rans.append(subprocess.run((*command, *arguments), cwd=TOP, capture_output=True, check=False, timeout=60))

    for ran in rans:
        assert ran.returncode == 0, ran.stderr.decode()
        assert registry.load(ran.stdout).number(Tag(1)) == pid


@pytest.mark.parametrize("source", [("--source", "bpf"), ("--source", "procfs", "--allow-incomplete")])
def test_every_source_takes_a_unit(source: tuple[str, ...]) -> None:
    """The cgroup of a unit is where systemd would put it: in its slices."""
    name = f"ckptree-{os.getpid()}"
    with (
        a_cgroup(needed(UNIFIED)[0], f"ckptree.slice/{name}.service") as folder,
        running(folder, "echo ready; sleep 100") as pid,
    ):
        ran = snapshot(f"unit:{name}", *source)
        none = snapshot(f"unit:{name}.scope", *source)

    assert ran.code == 0, ran.err
    assert registry.load(ran.out).number(Tag(1)) == pid
    assert (none.code, none.out) == (4, b"")
    assert f"unit:{name}.scope: no cgroup of that name" in none.err


def test_a_tree_of_several_topmost_processes_is_shown_and_all_are_watched(daemon_socket: Path) -> None:
    """As after docker exec; with --json it is an array of documents.

    A watch looks at the cgroup again once it has subscribed, and an end before that look is none of its events. So one of
    the processes has children without end, and nobody is killed before the watch has told of one of them.
    """
    pipe = subprocess.PIPE
    with (
        a_cgroup(needed(UNIFIED)[0], f"ckptree-{os.getpid()}") as folder,
        running(folder, "echo ready; while :; do sleep 0.05; done") as first,
        running(folder, "echo ready; read line") as second,
    ):
        root = f"cgroup:{folder}"
        shown = ckptree("tree", root, "--socket", daemon_socket)
        documents = json.loads(ckptree("tree", root, "--json", "--socket", daemon_socket).out)
        command = (sys.executable, "-m", "agent", "watch", root, "--json", "--kind", "death", "--socket")
        with subprocess.Popen((*command, os.fspath(daemon_socket)), cwd=TOP, stdout=pipe) as watch:
            assert watch.stdout
            told = (json.loads(line)["pid"] for line in watch.stdout)
            assert next(told) not in (first, second)
            dead = []
            for pid in (second, first):
                os.kill(pid, signal.SIGKILL)
                dead.append(next(each for each in told if each in (first, second)))
            watch.kill()

    assert shown.code == 0, shown.err
    lines = shown.out.decode().splitlines()
    assert [line.split()[1] for line in lines if line.startswith((f"{first} ", f"{second} "))] == ["sh", "sh"]
    assert {document["pids"][0]["numbers"][0] for document in documents} == {first, second}
    assert dead == [second, first]


def test_several_topmost_processes_and_none_have_exit_codes_of_their_own(daemon_socket: Path, tmp_path: Path) -> None:
    """7 with all of them listed, and 4; nothing is written."""
    image = tmp_path / "image"
    with a_cgroup(needed(UNIFIED)[0], f"ckptree-{os.getpid()}") as folder:
        empty = snapshot(f"cgroup:{folder}", "--socket", daemon_socket, "-o", image)
        with running(folder, "echo ready; sleep 100") as first, running(folder, "echo ready; sleep 100") as second:
            several = snapshot(f"cgroup:{folder}", "--socket", daemon_socket, "-o", image)
    gone = snapshot(f"cgroup:{folder}", "--socket", daemon_socket)

    assert (empty.code, several.code, gone.code) == (4, 7, 4)
    assert "has no process" in empty.err
    assert "has 2 topmost processes" in several.err
    assert {int(line.split()[1]) for line in several.err.splitlines()[1:]} == {first, second}
    assert not image.exists()


def test_a_threaded_cgroup_has_no_processes_and_its_domain_has_them(daemon_socket: Path) -> None:
    """The kernel refuses to list them there; as a part of its domain it is no trouble."""
    with a_cgroup(needed(UNIFIED)[0], f"ckptree-{os.getpid()}/threads") as folder:
        (folder / "cgroup.type").write_text("threaded")
        with running(folder.parent, "echo ready; sleep 100") as pid:
            threaded = snapshot(f"cgroup:{folder}", "--socket", daemon_socket)
            domain = snapshot(f"cgroup:{folder.parent}", "--socket", daemon_socket)

    assert (threaded.code, threaded.out) == (2, b"")
    assert "is threaded: it has no processes; name its domain" in threaded.err
    assert registry.load(domain.out).number(Tag(1)) == pid


def test_version_2_alone_works_as_well(daemon_socket: Path) -> None:
    """Mounted on /sys/fs/cgroup in a mount namespace of its own, as a host without version 1 has it."""
    with (
        a_cgroup(needed(UNIFIED)[0], f"ckptree-{os.getpid()}") as folder,
        running(folder, "echo ready; sleep 100") as pid,
    ):
        command = f"umount -l /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup && exec {sys.executable} -m agent"
        with tempfile.TemporaryFile() as out:
            ran = subprocess.run(
                ["unshare", "--mount", "sh", "-c", f'{command} "$@"', "sh", "snapshot", "--json", "--socket",
                 os.fspath(daemon_socket), f"cgroup:/sys/fs/cgroup/{folder.name}"],
                cwd=TOP, stdout=out, stderr=subprocess.PIPE, check=False, timeout=60,
            )  # fmt: skip
            out.seek(0)
            assert ran.returncode == 0, ran.stderr.decode()
            assert registry.load(out.read()).number(Tag(1)) == pid


def test_a_process_that_the_callers_namespace_does_not_see_is_no_root_for_them(daemon_socket: Path) -> None:
    """From within a container: the kernel lists it as 0."""
    with a_cgroup(needed(UNIFIED)[0], f"ckptree-{os.getpid()}") as folder, running(folder, "echo ready; sleep 100"):
        inside = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
        ran = ckptree("snapshot", f"cgroup:{folder}", "--json", "--socket", daemon_socket, before=inside)

    assert (ran.code, ran.out) == (5, b"")
    assert "this pid namespace does not see" in ran.err
