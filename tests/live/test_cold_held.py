# SPDX-License-Identifier: Apache-2.0
"""A cold restart of processes that only forked: they hold, with their own ids."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.coldrestarts import PYTHON, captured, ckptree, restarted, soon

FORKED = """
import os, threading, time
if os.fork() == 0:
    os.setgroups([7]), os.setgid(65533), os.setuid(65534)
    threading.Thread(target=time.sleep, args=(1000,)).start()
    open(PATH, "w").close()
time.sleep(1000)
"""


@pytest.fixture
def forked(folder: Path) -> Iterator[Path]:
    """Return the image of a program's process and of its child, which only forked, has a thread, and another user."""
    folder.chmod(0o777)
    source = FORKED.replace("PATH", repr(os.fspath(folder / "begun")))
    with subprocess.Popen([PYTHON, "-c", source], cwd="/", start_new_session=True) as process:
        try:
            assert soon((folder / "begun").exists)
            yield captured(folder, process.pid)
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def ids(pid: int) -> "tuple[list[str], ...]":
    """User, group and groups of a task."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return tuple(lines[name].split() for name in ("Uid", "Gid", "Groups"))


def test_who_only_forked_holds_with_its_threads_under_its_own_ids(forked: Path, folder: Path) -> None:
    """Its leader and its thread have one table of descriptors; and nothing of the caller's is among them."""
    reader, writer = os.pipe()
    try:
        with restarted(forked, "--run", "argv", stdin=reader) as pids:
            leader, thread = pids[2], pids[3]
            assert soon(lambda: os.listdir(f"/proc/{leader}/fd") == ["0", "1", "2"])
            assert {os.readlink(f"/proc/{leader}/fd/{n}") for n in range(3)} == {"/dev/null"}
            assert ids(leader) == ids(thread) == (["65534"] * 4, ["65533"] * 4, ["7"])
            assert soon(lambda: Path(f"/proc/{leader}/cmdline").read_bytes().startswith(b"ckptree: held 2"))
            assert Path(f"/proc/{leader}/status").stat().st_uid == 0  # what it shares with its guard is not its user's
    finally:
        os.close(reader)
        os.close(writer)


def test_who_holds_has_its_own_ids_and_not_the_callers_streams(forked: Path) -> None:
    """Neither what is typed nor what is piped is for a tree that runs nothing."""
    reader, writer = os.pipe()
    try:
        with restarted(forked, stdin=reader) as pids:
            assert soon(lambda: ids(pids[2]) == (["65534"] * 4, ["65533"] * 4, ["7"]))
            assert soon(lambda: ids(pids[3])[:2] == (["65534"] * 4, ["65533"] * 4))
            assert ids(pids[1])[:2] == (["0"] * 4, ["0"] * 4)
            for pid in pids.values():
                assert {os.readlink(f"/proc/{pid}/fd/{n}") for n in range(3)} == {"/dev/null"}
    finally:
        os.close(reader)
        os.close(writer)


def test_a_tree_that_only_forked_has_nothing_to_run(folder: Path) -> None:
    """It is refused, not held: that has a name of its own."""
    child = os.fork()
    if not child:
        os.setsid()
        signal.pause()
    try:
        image = captured(folder, child)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    refused = ckptree("restart", image, "--run", "argv", "--json")

    assert (refused.returncode, refused.stdout) == (7, "")
    assert "there is nothing to run, for no process of the image has called exec" in refused.stderr
    assert f"task 1 ({child}) has only forked" in refused.stderr


def test_who_only_forked_is_left_out_where_that_is_asked_for(forked: Path) -> None:
    """Its program will fork it again."""
    with restarted(forked, "--run", "argv", "--drop-held") as pids:
        assert list(pids) == [1]
        assert soon(lambda: os.readlink(f"/proc/{pids[1]}/exe") == os.path.realpath(PYTHON))
