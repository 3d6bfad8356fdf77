# SPDX-License-Identifier: Apache-2.0
"""A tree of services is captured, killed, and started again with its old pids and the rights of each."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.errors import CkptreeError
from agent.model import Capabilities, ProcessDetails
from agent.restart.planning import make_plan
from agent.restart.programs import own_arguments
from agent.restart.rebuild import HELPER, Rebuild
from agent.restart.verify import read_status
from tests.builders import a_snapshot, a_task

pytestmark = pytest.mark.live
TOP = Path(__file__).parents[2]
PYTHON = "/usr/bin/python3"
RIGHTS = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Umask")

# A root that starts daemons, and forks one worker that is no program of its own.
MANAGER = """
import os, subprocess, sys, time
if not os.path.exists(sys.argv[1]):
    open(sys.argv[1], "w").close()
    for words in WORDS:
        subprocess.Popen(words, cwd="/usr", env={"WHO": words[-1], "EMPTY": ""})
    if not os.fork():
        time.sleep(1000)
time.sleep(1000)
"""
DROPPED = ["setpriv", "--reuid", "65534", "--regid", "65533", "--groups", "5,6,7", "--bounding-set=-all,+net_raw"]
AMBIENT = ["--inh-caps=-all,+net_raw", "--ambient-caps=-all,+net_raw"]
# Root with one capability, and no way to get more: exec leaves it so, for privileges are never new again.
FEWER = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
words = (ctypes.c_uint32 * 6)(1 << 13, 1 << 13)
if libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), words) or libc.prctl(38, 1, 0, 0, 0):
    raise OSError(ctypes.get_errno())
os.execvp("sleep", ["sleep", "1004"])
"""
DAEMONS = (
    [*DROPPED, "--no-new-privs", "sleep", "1001"],
    [*DROPPED, *AMBIENT, "sleep", "1002"],
    ["setpriv", "--bounding-set=-sys_admin,-setuid", "sleep", "1003"],
    [PYTHON, "-c", FEWER],
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody may look into."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def soon(condition: Any) -> bool:
    """Whether it comes true within a few seconds."""
    deadline = time.monotonic() + 10
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def children(pid: int) -> list[int]:
    """In the order of their births."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def starting(pid: int) -> bool:
    """It is not yet what it is to be."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes()
    return b"setpriv" in words or b"python3" in words


def seen(pid: int) -> dict[str, Any]:
    """What the kernel says that a process is and may do."""
    there = Path(f"/proc/{pid}")
    lines = dict(line.split(":", 1) for line in (there / "status").read_text().splitlines())
    return {
        **{name: lines[name].split() for name in RIGHTS},
        **{name: (there / name).read_bytes() for name in ("cmdline", "environ")},
        **{name: os.readlink(there / name) for name in ("cwd", "exe")},
    }


def ckptree(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    """To its end."""
    command = [sys.executable, "-m", "agent", *(os.fspath(word) for word in words)]
    return subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False, timeout=60)


@contextmanager
def services(folder: Path, daemons: "tuple[list[str], ...]") -> Iterator[int]:
    """The tree, under its root, a session of its own."""
    source = MANAGER.replace("WORDS", repr(daemons))
    command = ["sh", "-c", 'umask 027; exec "$@"', "sh", PYTHON, "-c", source, os.fspath(folder / "begun")]
    process = subprocess.Popen(command, cwd="/", start_new_session=True, env={"PATH": os.environ["PATH"]})
    try:
        assert soon(lambda: len(children(process.pid)) == len(daemons) + 1)
        pids = children(process.pid)[: len(daemons)]
        assert soon(lambda: not any(starting(pid) for pid in pids))
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def captured(folder: Path, root: int) -> Path:
    """With what it takes to start it again."""
    image = folder / "tree.ckpt"
    done = ckptree("snapshot", str(root), "-o", image, "--with-argv", "--source", "bpf")
    assert done.returncode == 0, done.stderr
    return image


def test_services_are_started_again_as_they_were_and_workers_that_only_forked_are_held(folder: Path) -> None:
    """Old pids in a namespace of their own; ids, groups, capabilities, arguments, folder, environment as before."""
    with services(folder, DAEMONS) as root:
        pids = [root, *children(root)]
        before = [seen(pid) for pid in pids]
        image = captured(folder, root)
    command = [sys.executable, "-m", "agent", "restart", os.fspath(image), "--run", "argv", "--json"]
    with subprocess.Popen(command, cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            line = process.stdout.readline()
            assert line, process.stderr.read()
            tasks = json.loads(line)["tasks"]
            now = {task["numbers"][0]: task["pid"] for task in tasks}
            assert set(now) == set(pids)
            programs = [was["exe"] for was in before[:-1]]
            assert soon(lambda: [seen(now[pid])["exe"] for pid in pids[:-1]] == programs)
            after = [seen(now[pid]) for pid in pids]
            assert after[:-1] == before[:-1]
            assert os.path.basename(after[-1]["exe"]) == "ckptree-rebuild"
            status = read_status(now[pids[-1]])
            assert status is not None
            assert status.state == "S"
            assert [was["NoNewPrivs"] for was in before] == [["0"], ["1"], ["0"], ["0"], ["1"], ["0"]]
            assert before[1]["Uid"] == ["65534"] * 4
            assert before[2]["CapEff"] == before[4]["CapEff"] == ["0000000000002000"]
        finally:
            process.terminate()
            time.sleep(0.1)
            process.terminate()
        assert f"({pids[-1]}) has only forked, and holds" in process.stderr.read()


def test_a_program_that_was_deleted_is_refused_by_name_before_anything_is_made(folder: Path) -> None:
    """With the task, its number, and the path."""
    own = folder / "daemon"
    shutil.copy("/usr/bin/sleep", own)
    with services(folder, ([os.fspath(own), "1001"],)) as root:
        assert soon(lambda: os.readlink(f"/proc/{children(root)[0]}/exe") == os.fspath(own))
        own.unlink()
        number = children(root)[0]
        image = captured(folder, root)
    refused = ckptree("restart", image, "--run", "argv", "--json")

    assert (refused.returncode, refused.stdout) == (125, "")
    assert f"({number}): its program was deleted: {own}" in refused.stderr


def test_a_call_that_is_refused_while_rights_are_given_up_takes_the_tree_down(folder: Path) -> None:
    """The folder is there, and yet not for this user: task, call and error are named."""
    closed = folder / "closed"
    closed.mkdir()
    with services(folder, (["sh", "-c", f'cd {closed} && exec "$@"', "sh", *DAEMONS[0]],)) as root:
        number = children(root)[0]
        image = captured(folder, root)
    closed.chmod(0o700)
    failed = ckptree("restart", image, "--run", "argv", "--json")

    assert failed.returncode == 125
    assert f"({number}) cannot run its program: chdir: EACCES" in failed.stderr
    assert all(read_status(task["pid"]) is None for task in json.loads(failed.stdout)["tasks"])


def test_ids_that_an_ordinary_user_cannot_give_are_refused_by_name(folder: Path) -> None:
    """His user namespace has none but his own."""
    with services(folder, DAEMONS[:1]) as root:
        number = children(root)[0]
        image = captured(folder, root)
    # Imported before: the checkout may be for its owner alone.
    text = """
import os, sys
from agent.errors import RefusedError
from agent.fileverbs import load_file
from agent.restart.planning import make_plan
from agent.restart.programs import own_arguments
snapshot = load_file(sys.argv[1])
plan = make_plan(snapshot)
os.setgroups([]), os.setgid(1000), os.setuid(1000)
try:
    own_arguments(snapshot, plan)
except RefusedError as error:
    print(*error.leaks, sep="\\n")
"""
    done = subprocess.run(
        [sys.executable, "-c", text, os.fspath(image)], cwd=TOP, capture_output=True, text=True, check=False
    )

    assert f"({number}): user 65534 cannot be had here" in done.stdout, done.stderr
    assert f"({root}): user 0 cannot be had here" in done.stdout


def test_an_ordinary_user_starts_his_own_services_again(folder: Path) -> None:
    """In a user namespace of his own, where he may set neither groups nor other ids."""
    helper = folder / "helper"
    shutil.copy(HELPER, helper)
    caps = Capabilities(0, 0, 0, (1 << 64) - 1, 0)
    details = ProcessDetails(
        *(b"/usr/bin/sleep", None, (1000,) * 4, (1000,) * 4, (), caps),
        no_new_privs=True,
        umask=0o22,
        execed=True,
    )
    task = a_task(1, 0, argv=(b"nap", b"1004"), cwd=b"/usr", env=(), details=details)
    snapshot = a_snapshot([(1,)], [task], mode="container")
    plan = make_plan(snapshot)
    child = os.fork()
    if not child:
        code = 1
        try:
            os.setgroups([])
            os.setgid(1000)
            os.setuid(1000)
            programs, _ = own_arguments(snapshot, plan)
            with Rebuild(plan, helper=helper, no_stdio=True) as made:
                made.build()
                made.activate()
                made.release(programs)
                there = Path(f"/proc/{made.pids[0]}")
                assert soon(lambda: (there / "cmdline").read_bytes() == b"nap\0001004\0")
                now = seen(made.pids[0])
                assert (now["Uid"], now["NoNewPrivs"], now["cwd"]) == (["1000"] * 4, ["1"], "/usr")
                assert now["CapEff"] == now["CapPrm"] == ["0000000000000000"]
            code = 0
        except (AssertionError, CkptreeError, OSError):
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def test_a_root_that_has_changed_its_ids_still_dies_with_its_guard() -> None:
    """A change of ids makes the kernel forget the signal that was asked for."""
    everything = int(Path("/proc/self/status").read_text().partition("CapBnd:")[2].split()[0], 16)
    details = ProcessDetails(
        *(b"/usr/bin/sleep", None, (65534,) * 4, (65534,) * 4, (), Capabilities(0, 0, 0, everything, 0)),
        no_new_privs=False,
        umask=0o22,
        execed=True,
    )
    task = a_task(1, 0, argv=(b"nap", b"1005"), cwd=b"/", env=(), details=details)
    snapshot = a_snapshot([(1,)], [task], mode="container")
    plan = make_plan(snapshot)
    programs, _ = own_arguments(snapshot, plan)
    with Rebuild(plan, no_stdio=True) as made:
        made.build()
        made.activate()
        made.release(programs)
        root = made.pids[plan.tasks[0]]
        assert soon(lambda: Path(f"/proc/{root}/cmdline").read_bytes() == b"nap\0001005\0")
        os.kill(made.guard, signal.SIGKILL)
        assert soon(lambda: (found := read_status(root)) is None or found.state in "ZX")
