# SPDX-License-Identifier: Apache-2.0
"""``ckptree hook criu`` below a real criu: the tree beside the images is the tree in the images."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from agent.model import Snapshot
from exporters import registry
from exporters.checking.criucheck import check_folder
from exporters.criu.imagefolder import ImageFolder
from tests.live import criurpc
from tests.live.criutrees import dumped_tree, snapshot_tree
from tests.live.daemons import only_child
from tests.live.dumps import HOOK, attempt, eventually, program

BIN = Path(sys.executable).parent
OPTIONS = ("--action-script", HOOK)

# Each side of the pipe is a subshell, and every 50 ms there is a new `sleep`, which no snapshot at another time would have.
PIPELINE = """
while :; do echo line; sleep 0.05; done | while read -r line; do echo "$line" >> out; : > ready; done &
sleep 1000
"""
ORPHAN_BELOW_A_SUBREAPER = """
import ctypes, os, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(3)
    if os.fork() == 0:
        os._exit(5)
    time.sleep(1000)
os.wait()
stopped = os.fork()
if stopped == 0:
    time.sleep(1000)
os.kill(stopped, 19)
os.waitpid(stopped, os.WUNTRACED)
open("ready", "w").close()
time.sleep(1000)
"""
THREADS = """
import os, threading, time
def count():
    number = 0
    while True:
        number += 1
        with open("unfinished", "w") as out:
            out.write(str(number))
        os.rename("unfinished", "count")
        time.sleep(0.01)
for target in (count, *[lambda: time.sleep(1000)] * 3):
    threading.Thread(target=target, daemon=True).start()
open("ready", "w").close()
time.sleep(1000)
"""
PROGRAMS = {
    "a pipeline": ("bash", "-c", PIPELINE),
    "an orphan, a zombie and a stopped process below a subreaper": ("/usr/bin/python3", "-c", ORPHAN_BELOW_A_SUBREAPER),
    "threads": ("/usr/bin/python3", "-c", THREADS),
}


@contextmanager
def a_program(folder: Path, *command: str) -> Iterator[int]:
    """Run a program, and yield its pid once it has made the file `ready`."""
    with program(command, folder) as pid:
        eventually((folder / "ready").exists, f"{command[0]} is ready")
        yield pid


def tree_beside(folder: Path) -> Snapshot:
    """Return the snapshot that the hook has written."""
    return registry.load((folder / "tree.ckpt").read_bytes())


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_tree_beside_the_images_is_the_tree_in_the_images(name: str, daemon_socket: Path, tmp_path: Path) -> None:
    """Numbers, parents, groups, sessions, threads and states are equal, and all births but the root's creator are known."""
    with a_program(tmp_path, *PROGRAMS[name]) as pid:
        done = attempt(pid, tmp_path / "images", *OPTIONS, env={"CKPTREE_SOCKET": daemon_socket})

    assert done.code == 0, done.log
    snapshot = tree_beside(done.folder)
    assert snapshot_tree(snapshot) == dumped_tree(done.folder)
    assert check_folder(ImageFolder(done.folder)) == []
    assert snapshot.completeness.complete
    assert all(task.birth is not None and task.birth.observed for task in snapshot.tasks)
    assert [task.pid for task in snapshot.tasks if task.birth and task.birth.creator is None] == [snapshot.tasks[0].pid]
    assert [path.name for path in done.folder.iterdir() if path.name.startswith(".")] == []


def test_a_program_that_is_left_running_runs_on(daemon_socket: Path, tmp_path: Path) -> None:
    """Its threads go on counting, and the tree beside the images is theirs."""
    with a_program(tmp_path, *PROGRAMS["threads"]) as pid:
        done = attempt(pid, tmp_path / "images", "--leave-running", *OPTIONS, env={"CKPTREE_SOCKET": daemon_socket})
        count = int((tmp_path / "count").read_text())
        eventually(lambda: int((tmp_path / "count").read_text()) > count + 3, "it counts on")

        assert done.code == 0, done.log
        assert len(tree_beside(done.folder).tasks) == 5
        assert snapshot_tree(tree_beside(done.folder)) == dumped_tree(done.folder)


def test_a_dump_behind_a_pre_dump_has_the_tree_and_the_pre_dump_has_none(daemon_socket: Path, tmp_path: Path) -> None:
    """criu runs no action script for a pre-dump. A kernel that does not track memory allows no pre-dump."""
    script, told = tmp_path / "script", tmp_path / "told"
    script.write_text(f'#!/bin/sh\necho $CRTOOLS_SCRIPT_ACTION >> {told}\nexec {HOOK} "$@"\n')
    script.chmod(0o755)
    options, env = ("--action-script", script), {"CKPTREE_SOCKET": daemon_socket}
    with a_program(tmp_path, *PROGRAMS["threads"]) as pid:
        first = attempt(pid, tmp_path / "first", *options, verb="pre-dump", env=env)
        assert not told.exists()
        chain = () if first.code else ("--track-mem", "--prev-images-dir", "../first")
        last = attempt(pid, tmp_path / "last", *chain, *options, env=env)

    assert last.code == 0, last.log
    assert told.read_text().split().count("post-dump") == 1
    assert not (first.folder / "tree.ckpt").exists()
    assert snapshot_tree(tree_beside(last.folder)) == dumped_tree(last.folder)


def test_without_a_daemon_the_dump_goes_on_and_says_so(tmp_path: Path) -> None:
    """The tree of an earlier dump into the same folder is of other images, and goes."""
    images = tmp_path / "images"
    images.mkdir()
    (images / "tree.ckpt").write_bytes(b"an earlier one")
    with a_program(tmp_path, *PROGRAMS["threads"]) as pid:
        done = attempt(pid, images, *OPTIONS, env={"CKPTREE_SOCKET": tmp_path / "none"})

    assert done.code == 0, done.log
    assert f"ckptree: no daemon on {tmp_path}/none" in done.log
    assert "ckptree: this dump has no tree.ckpt" in done.log
    assert len(dumped_tree(images)) == 1
    assert not (images / "tree.ckpt").exists()


def test_a_dump_that_requires_the_tree_fails_without_a_daemon(tmp_path: Path) -> None:
    """The program runs on. Options need a script, because criu passes none."""
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\nexec '{BIN}/ckptree' hook criu --required --socket '{tmp_path}/none'\n")
    script.chmod(0o755)
    with a_program(tmp_path, *PROGRAMS["threads"]) as pid:
        done = attempt(pid, tmp_path / "images", "--action-script", script)
        count = int((tmp_path / "count").read_text())
        eventually(lambda: int((tmp_path / "count").read_text()) > count + 3, "it counts on")

    assert done.code != 0
    assert f"ckptree: no daemon on {tmp_path}/none" in done.log
    assert "exited with 3" in done.log or "status=3" in done.log
    assert not (done.folder / "tree.ckpt").exists()


def test_the_words_of_the_command_line_are_a_name_that_criu_finds(daemon_socket: Path, tmp_path: Path) -> None:
    """criu looks on PATH for a program of the whole name that it is given."""
    env = {"CKPTREE_SOCKET": str(daemon_socket), "PATH": f"{BIN}:{os.environ['PATH']}"}
    with a_program(tmp_path, *PROGRAMS["threads"]) as pid:
        done = attempt(pid, tmp_path / "images", "--action-script", "ckptree hook criu", env=env)

    assert done.code == 0, done.log
    assert snapshot_tree(tree_beside(done.folder)) == dumped_tree(done.folder)


@contextmanager
def a_container(folder: Path, *command: str) -> Iterator[int]:
    """Run a program as init of a pid namespace, and yield its pid here; CRIU refuses a session from outside."""
    with a_program(folder, "unshare", "--pid", "--fork", "--kill-child", *command) as outer:
        yield psutil.Process(outer).children()[0].pid


def test_a_criu_outside_dumps_a_container(daemon_socket: Path, tmp_path: Path) -> None:
    """The numbers are those within. A task that entered from outside is in neither of the two trees."""
    with (
        a_container(tmp_path, "setsid", *PROGRAMS["a pipeline"]) as init,
        subprocess.Popen(["nsenter", "-t", str(init), "-p", "sleep", "1000"]) as entered,
    ):
        only_child(entered.pid, "sleep")
        done = attempt(init, tmp_path / "images", *OPTIONS, env={"CKPTREE_SOCKET": daemon_socket})
        entered.kill()

    assert done.code == 0, done.log
    tree = tree_beside(done.folder)
    assert snapshot_tree(tree) == dumped_tree(done.folder)
    assert check_folder(ImageFolder(done.folder)) == []
    assert tree.number(tree.tasks[0].pid) == 1


def test_a_criu_inside_counts_as_its_container(daemon_socket: Path, tmp_path: Path) -> None:
    """The daemon is outside, and translates the pid by the namespace of the client."""
    # CRIU wants files of the mount namespace that the program is in. The init outlives the program, and so does criu.
    starts = 'setsid "$@" </dev/null >/dev/null 2>&1 & echo $! > number; exec sleep 1000'
    with a_container(tmp_path, "--mount-proc", "sh", "-c", starts, "sh", *PROGRAMS["a pipeline"]) as init:
        number = int((tmp_path / "number").read_text())
        enter = ("nsenter", "-t", str(init), "-p", "-m")
        done = attempt(number, tmp_path / "images", *OPTIONS, env={"CKPTREE_SOCKET": daemon_socket}, before=enter)

    assert done.code == 0, done.log
    tree = tree_beside(done.folder)
    assert snapshot_tree(tree) == dumped_tree(done.folder)
    assert check_folder(ImageFolder(done.folder)) == []
    assert tree.number(tree.tasks[0].pid) == number < 10


def test_a_container_runtime_passes_the_hook_by_a_file_of_options(daemon_socket: Path, tmp_path: Path) -> None:
    """As runc does: it talks to criu over a socket, and names a file."""
    images, config, script = tmp_path / "images", tmp_path / "runc.conf", tmp_path / "script"
    images.mkdir()
    script.write_text(f"#!/bin/sh\nCKPTREE_SOCKET='{daemon_socket}' exec {HOOK}\n")
    script.chmod(0o755)
    config.write_text(f"action-script {script}\n")
    with a_program(tmp_path, *PROGRAMS["threads"]) as pid:
        done = criurpc.dump(pid, images, config)

    assert done.success, (images / "dump.log").read_text()
    assert "post-dump" in done.told
    assert snapshot_tree(tree_beside(images)) == dumped_tree(images)
