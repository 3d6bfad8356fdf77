# SPDX-License-Identifier: Apache-2.0
"""The options of a restart with contents, and callers that are not root."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.restart.contents.resumer import PROGRAM as RESUMER
from agent.restart.rebuild.coordinator import HELPER
from tests.live.daemons import ckptree
from tests.live.dumps import HOOK, attempt, dump, eventually, leased, program, restarted
from tests.live.guardprocesses import running

TOP = Path(__file__).parents[2]
PIPE = 4096
WRITE = "exec > lines; while :; do echo line; sleep 0.02; done"
COUNT = "while :; do echo line >> lines; sleep 0.02; done"


@pytest.fixture
def images(tmp_path: Path, daemon_socket: Path) -> Path:
    """Dump a shell that appends to a file, and its `sleep`."""
    with program(["/bin/bash", "-c", COUNT], tmp_path) as pid:
        eventually((tmp_path / "lines").exists, "it writes")
        return dump(pid, tmp_path / "images", daemon_socket)


def size(images: Path) -> int:
    """Return the length of the file that the shell appends to."""
    return (images.parent / "lines").stat().st_size


def grows(images: Path) -> bool:
    """Return True once the file has become longer."""
    before = size(images)
    eventually(lambda: size(images) > before, "it writes on")
    return True


def command(images: Path, *options: str) -> Sequence[str | Path]:
    """Return the words that restart a dump."""
    return [sys.executable, "-m", "agent", "restart", f"criu:{images}", *options]


def test_nobody_runs_before_the_ready_line_is_out(images: Path) -> None:
    """The line goes into a pipe that is full: until it is read from, every task stands still."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE)
    os.write(write, b"\n" * PIPE)
    before = size(images)
    process = subprocess.Popen(command(images, "--json"), cwd=TOP, stdout=write, start_new_session=True)
    os.close(write)
    try:
        eventually(lambda: _waits_in(process.pid, "pipe_write"), "it waits for the pipe")
        time.sleep(0.3)
        assert size(images) == before
        assert os.read(read, PIPE) == b"\n" * PIPE
        assert json.loads(os.read(read, PIPE))["root"]
        assert grows(images)
    finally:
        process.kill()
        process.wait()
        os.close(read)


def test_an_output_that_takes_nothing_is_a_failure_of_restart_and_nothing_runs(images: Path) -> None:
    """1 would be taken for the root's status."""
    before = size(images)
    with Path("/dev/full").open("wb") as full:
        ran = subprocess.run(
            command(images, "--json"), cwd=TOP, stdout=full, stderr=subprocess.PIPE, check=False, timeout=60
        )

    assert ran.returncode == 125
    assert ran.stderr.splitlines()[-1].startswith(b"ckptree: cannot write to standard output"), ran.stderr
    assert size(images) == before


def _waits_in(pid: int, function: str) -> bool:
    return function in Path(f"/proc/{pid}/wchan").read_text()


def test_a_detached_tree_runs_on_until_its_guard_is_asked_to_end_it(images: Path, tmp_path: Path) -> None:
    """The command returns at once; the guard removes the file with its number."""
    pidfile = tmp_path / "pid"
    done = subprocess.run(
        command(images, "--detach", "--pidfile", os.fspath(pidfile), "--json"),
        cwd=TOP,
        capture_output=True,
        text=True,
        check=True,
    )
    root = json.loads(done.stdout)["root"]
    assert grows(images)
    os.kill(int(pidfile.read_text()), signal.SIGTERM)
    eventually(lambda: not pidfile.exists() and not Path(f"/proc/{root}").exists(), "all is gone")


def test_a_tree_in_the_callers_namespace_has_the_pids_that_it_had(images: Path) -> None:
    """They are free, for the dump has ended the program."""
    with restarted(images, "--no-pidns") as ready:
        assert {task["pid"] for task in ready["tasks"]} == {task["numbers"][0] for task in ready["tasks"]}
        assert grows(images)


def test_a_program_that_runs_on_keeps_its_pids_and_its_files_are_copied_while_it_is_held(
    tmp_path: Path, daemon_socket: Path
) -> None:
    """The action script of the page: with the copies in place the dump can be restarted again and again."""
    data, script = tmp_path / "lines", tmp_path / "hook"
    copy = f'cp --archive {data} "$CRTOOLS_IMAGE_DIR/../lines.then" || exit 1'
    script.write_text(f'#!/bin/sh\nif [ "$CRTOOLS_SCRIPT_ACTION" = post-dump ]; then {copy}; fi\nexec {HOOK}\n')
    script.chmod(0o700)
    with program(["/bin/bash", "-c", WRITE], tmp_path) as pid:
        eventually(lambda: data.exists() and data.stat().st_size > 0, "it writes")
        options = ("--leave-running", "--action-script", script)
        done = attempt(pid, tmp_path / "images", *options, env={"CKPTREE_SOCKET": daemon_socket})
        assert done.code == 0, done.log
        held = (tmp_path / "lines.then").stat().st_size
        eventually(lambda: data.stat().st_size > held, "it writes on")
        refused = ckptree("plan", f"criu:{done.folder}")
        assert (refused.code, f"and had {held} at the dump" in refused.err) == (7, True), refused.err
        os.kill(pid, signal.SIGSTOP)
        ahead = data.read_bytes()
        data.write_bytes((tmp_path / "lines.then").read_bytes())
        taken = ckptree("plan", f"criu:{done.folder}", "--no-pidns")
        assert (taken.code, f"the number {pid} is taken by bash" in taken.err) == (5, True), taken.err
        data.write_bytes(ahead)
    for _ in range(2):
        shutil.copy(tmp_path / "lines.then", data)
        with restarted(done.folder):
            assert grows(done.folder)


def test_a_signal_ends_a_restart_one_of_whose_tasks_waits_for_long(images: Path) -> None:
    """A lease on a file, which is not given up, has the task that opens it wait for 45 s."""
    others = running(HELPER, RESUMER)
    with leased(images.parent / "out"):
        process = subprocess.Popen(command(images), cwd=TOP, start_new_session=True, stdin=subprocess.DEVNULL)
        try:
            eventually(lambda: "BREAKING" in Path("/proc/locks").read_text(), "a task waits for the lease")
            eventually(lambda: len(running(RESUMER) - others) == 1, "all are traced")
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 128 + signal.SIGTERM
        finally:
            process.kill()
            process.wait()
    eventually(lambda: running(HELPER, RESUMER) == others, "nothing is left")


def test_a_user_without_rights_is_refused_by_name(images: Path) -> None:
    """The program was root's, so each thing that such a user cannot give is told, and nothing is made."""
    only = "-all,+dac_read_search"  # the checkout and the images may be in a folder of root's
    done = subprocess.run(
        [
            *("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"),
            *(f"--inh-caps={only}", f"--ambient-caps={only}", f"--bounding-set={only}"),
            *command(images),
        ],
        cwd=TOP,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 7, done.stderr
    assert "there is no user 0 here" in done.stderr
    assert "there is no group 0 here" in done.stderr
