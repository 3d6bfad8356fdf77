# SPDX-License-Identifier: Apache-2.0
"""Snapshots with and without a daemon: from inside containers, and where something is missing."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.capture.probes import Probes
from agent.capture.snapshots import Snapshots
from agent.capture.watch import Watch
from agent.config import Config
from agent.model import Tag
from agent.protocol.client import Client
from agent.rootname import parse
from agent.table import wire
from bpf.hooks import FEATURES
from exporters import registry
from tests.live.daemons import TOP, Ran, a_hard_tree, ckptree, differences
from tests.live.scenario import CONTAINER
from tests.live.treeprog import Tree

INSIDE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
OPTIONAL = ("pid.ino", "pid_namespace.ns_id")


def without_births(data: bytes) -> Any:
    """Return the parts that two snapshots of an unchanged tree have in common."""
    document = json.loads(data)
    for row in document["tasks"]:
        del row["birth"]
    return {key: document[key] for key in ("mode", "root", "boot_id", "namespaces", "pids", "tasks", "squashed")}


def test_without_a_daemon_a_snapshot_is_as_good_but_for_births(daemon_socket: Path, tmp_path: Path) -> None:
    """These were not observed, and it says so: exit code 0 all the same."""
    with a_hard_tree() as root:
        with Client(daemon_socket) as client:
            watched = client.snapshot(str(root), fmt="json")
        ran = ckptree("snapshot", str(root), "--source", "bpf", "-f", "json", "-o", tmp_path / "tree.json")
        written = (tmp_path / "tree.json").read_bytes()

        assert (ran.code, ran.out) == (0, b"")
        assert differences(registry.load(written), root) == []
    assert without_births(written) == without_births(watched.data)
    assert all(row["birth"]["creator"] is None for row in json.loads(written)["tasks"])
    assert registry.load(written).completeness.complete


def test_whoever_reads_the_output_does_not_wait_for_the_probes_to_go() -> None:
    """The child that detaches them holds no stream open: a pipe's end comes with the program's."""
    ran = ckptree("snapshot", str(os.getpid()), "--source", "bpf", "-f", "json")

    assert ran.code == 0
    assert registry.load(ran.out).number(Tag(1)) == os.getpid()


@pytest.mark.parametrize("without", [OPTIONAL[:1], OPTIONAL[1:], OPTIONAL])
def test_a_kernel_that_lacks_a_feature_is_read_as_well(without: tuple[str, ...]) -> None:
    """Older ones number neither pid objects nor namespaces: twins with the same numbers are still told apart."""
    with a_hard_tree() as before:
        watch = Watch.begin(Probes(Config().ring_bytes, without))
        snapshots = Snapshots(watch)
        try:
            with a_hard_tree() as after:
                for root in (before, after):
                    snapshot = snapshots.take(snapshots.find(parse(str(root))))
                    assert snapshot.completeness.complete, snapshot.completeness.reasons
                    assert differences(snapshot, root) == []
                    assert [row.level for row in snapshot.namespaces] == [0, 1, 1, 2]
            assert set(watch.probes.missing) >= set(without)
        finally:
            watch.close()


def test_without_a_hook_for_what_is_optional_every_snapshot_sweeps() -> None:
    """Sessions, groups, subreapers and reaps are then found by comparing all tasks."""
    optional = tuple(feature.name for feature in FEATURES if not feature.required)
    watch = Watch.begin(Probes(Config().ring_bytes, optional))
    snapshots = Snapshots(watch)
    try:
        with a_hard_tree() as root:
            snapshot = snapshots.take(snapshots.find(parse(str(root))))
            assert differences(snapshot, root) == []
        assert (watch.blind, snapshot.completeness.verified) == ([*optional], "sweep")
    finally:
        watch.close()


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="32-bit system calls by int 0x80 are x86's")
def test_a_subreaper_that_became_one_by_a_32_bit_call_has_its_orphans(client: Client, tmp_path: Path) -> None:
    """No tracepoint tells of such a call; its flag in the answer does."""
    source = TOP / "tests/live/quiet_subreaper.c"
    subprocess.run(["gcc", "-Wall", "-Wextra", "-Werror", "-o", tmp_path / "quiet", source], check=True)
    with subprocess.Popen([tmp_path / "quiet"], stdout=subprocess.PIPE, stdin=subprocess.PIPE) as program:
        assert program.stdout is not None
        orphan = int(program.stdout.readline())
        found = registry.load(client.snapshot(str(program.pid)).data)
        program.kill()

    assert [(found.number(task.pid), found.number(task.ppid)) for task in found.tasks] == [
        (program.pid, 0),
        (orphan, program.pid),
    ]


def test_a_process_that_the_walk_passes_over_makes_its_snapshot_incomplete() -> None:
    """On some machines no task iterator lists the init and its threads; on all others it lists all of them."""
    watch = Watch.begin(Probes(Config().ring_bytes))
    snapshots = Snapshots(watch)
    try:
        init = snapshots.find(parse("1"))
        snapshot = snapshots.take(init, "subtree")
        listed = {row[6] for row in wire.ROW.iter_unpack(watch.probes.rows())}
    finally:
        watch.close()
    threads = {int(tid) for tid in os.listdir("/proc/1/task")}
    shown = {snapshot.number(task.pid) for task in snapshot.tasks}

    assert snapshot.completeness.complete == (1 in listed)
    assert 1 not in listed or threads <= shown
    assert 1 in listed or any("1 (" in reason for reason in snapshot.completeness.reasons)


def test_a_container_has_the_details_of_its_processes_at_every_level(daemon_socket: Path, tmp_path: Path) -> None:
    """The host's /proc shows processes of inner namespaces, too; only its owner may read the file."""
    image = tmp_path / "tree.ckpt"
    with Tree() as tree:
        tree.run(CONTAINER + "fork 1 2; exec 2; fork 2 3 newpid; fork 3 4; thread 3 5; fork 1 6; exit 6 1")
        root = str(tree.number(1))
        ran = ckptree("snapshot", root, "--with-argv", "--socket", daemon_socket, "-o", image)
        status = {node: Path(f"/proc/{tree.number(node)}/status").read_text() for node in (1, 2, 3, 4, 6)}
        program = os.readlink(f"/proc/{root}/exe").encode()
    found = registry.load(image.read_bytes())
    details = {found.number(task.pid): task.details for task in found.tasks if task.details}

    assert (ran.code, found.mode, len(found.namespaces)) == (0, "container", 2)
    assert image.stat().st_mode & 0o777 == 0o600
    assert found.as_of_read == ("tty", "fown", "shares", "argv", "cwd", "env", "details")
    assert len(found.tasks) == len(details) + 1  # all but the thread
    for node, text in status.items():
        lines = dict(line.split(":", 1) for line in text.splitlines())
        told = details[tree.task(node).pid.numbers[1]]
        assert told.caps is not None
        assert f"{told.caps.effective:016x}" == lines["CapEff"].strip()
        assert f"{told.caps.bounding:016x}" == lines["CapBnd"].strip()
        assert told.uids == tuple(map(int, lines["Uid"].split()))
        assert told.groups == tuple(map(int, lines["Groups"].split()))
        assert told.umask == (int(lines["Umask"], 8) if "Umask" in lines else None)
        assert told.no_new_privs is False
        assert told.exe == (None if node == 6 else program)
        assert told.execed is (node == 2)


# ---- from inside a container ---------------------------------------------------------------------------------------


def from_inside(script: str, daemon_socket: Path) -> Any:
    """A shell as init of a new pid namespace, which runs ckptree; what it prints."""
    program = f"{sys.executable} -m agent snapshot --socket {daemon_socket} --json --mode subtree"
    ran = subprocess.run(
        [*INSIDE, "sh", "-c", f"{script.format(program)}; exit $?"],
        cwd=TOP,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr.decode()
    return json.loads(ran.stdout)


def test_a_caller_in_a_container_names_roots_by_his_own_numbers(daemon_socket: Path) -> None:
    """1 is the client's init, not the host's; and the answer has the numbers of the client's namespace."""
    document = from_inside("sleep 100 & {} 1", daemon_socket)

    assert [(row["comm"], row["depth"]) for row in document["tasks"][:2]] == [("sh", 0), ("sleep", 0)]
    assert [row["numbers"] for row in document["pids"]][:2] == [[1], [2]]
    assert [row["level"] for row in document["namespaces"]] == [0]


def test_a_child_of_his_is_found_by_its_number_there(daemon_socket: Path) -> None:
    """On the host that number belongs to another process, or to none."""
    document = from_inside("sleep 100 & {} $!", daemon_socket)

    assert [(row["comm"], row["pid"]) for row in document["tasks"]] == [("sleep", document["root"])]
    assert document["pids"][0]["numbers"] == [2]


@pytest.mark.parametrize("arguments", [("daemon",), ("snapshot", "1", "--source", "bpf")])
def test_watching_from_inside_a_container_is_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Exit code 5: the kernel would show only a part of the tasks, without a sign of that."""
    options = ("--socket", tmp_path / "socket") if arguments == ("daemon",) else ()
    ran = ckptree(*arguments, *options, before=INSIDE)

    assert (ran.code, ran.out) == (5, b"")
    assert "not in the initial pid namespace" in ran.err
    assert "Traceback" not in ran.err
    assert os.listdir(tmp_path) == []


# ---- where something is missing ------------------------------------------------------------------------------------


def assert_cannot(ran: Ran, *words: str) -> None:
    """Exit code 5, no data, no traceback, and the words that help."""
    assert (ran.code, ran.out) == (5, b""), ran.err
    assert "Traceback" not in ran.err
    for word in words:
        assert word in ran.err


@pytest.mark.parametrize("verb", ["daemon", "snapshot"])
def test_another_bcc_is_told_from_the_compiler(tmp_path: Path, verb: str) -> None:
    """PyPI's package of that name is something else, and stands before the system's on the path."""
    (tmp_path / "bcc").mkdir()
    (tmp_path / "bcc/__init__.py").write_text('"""Crystals."""\n')
    socket = ("--socket", tmp_path / "socket") if verb == "daemon" else ("1", "--source", "bpf")
    ran = ckptree(verb, *socket, env={"PYTHONPATH": os.fspath(tmp_path)})

    assert_cannot(ran, "python3-bpfcc", "PyPI", str(tmp_path / "bcc/__init__.py"))
    assert not (tmp_path / "socket").exists()


def test_a_python_without_bcc_is_told_how_to_get_it(tmp_path: Path) -> None:
    """A virtual environment that does not see the system's packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    path = os.pathsep.join([os.fspath(TOP), sysconfig.get_path("purelib")])
    ran = ckptree(
        *("snapshot", "1", "--source", "bpf"),
        env={"PYTHONPATH": path},
        python=os.fspath(tmp_path / "venv/bin/python"),
    )

    assert_cannot(ran, "apt-get install python3-bpfcc", "--system-site-packages", "PyPI", "--source procfs")


@pytest.fixture
def public() -> Iterator[Path]:
    """Copy the files that ckptree needs to a folder that all users may read."""
    site = Path(sysconfig.get_path("purelib"))
    with tempfile.TemporaryDirectory(prefix="ckptree-public-") as name:
        folder = Path(name)
        folder.chmod(0o777)
        for package in (TOP / "agent", TOP / "bpf", TOP / "exporters", site / "msgpack"):
            shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__"))
        yield folder


def test_a_plain_user_is_told_to_be_root(public: Path) -> None:
    """Exit code 5; no socket stays."""
    ran = subprocess.run(
        [f"{sys.base_prefix}/bin/python3", "-P", "-m", "agent", "daemon", "--socket", public / "socket"],
        cwd=public,
        env={"PYTHONPATH": os.fspath(public), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
        user=65534,
        group=65534,
        extra_groups=[],
        capture_output=True,
        check=False,
        timeout=60,
    )

    assert_cannot(Ran(ran.returncode, ran.stdout, ran.stderr.decode()), "not permitted", "root")
    assert not (public / "socket").exists()


def test_what_lies_in_the_current_folder_is_not_run(tmp_path: Path) -> None:
    """Root may well stand in a folder that others write."""
    for name in ("agent", "bpf", "bcc", "json"):
        (tmp_path / f"{name}.py").write_text(f"open({os.fspath(tmp_path / 'ran')!r}, 'w')\n")
    installed = Path(sys.executable).with_name("ckptree")
    ran = [
        subprocess.run([installed, *words], cwd=tmp_path, capture_output=True, check=False)
        for words in (("snapshot", str(os.getpid()), "--source", "bpf", "-f", "json"), ("doctor",))
    ]

    assert not (tmp_path / "ran").exists()
    assert ran[0].returncode == 0, ran[0].stderr
