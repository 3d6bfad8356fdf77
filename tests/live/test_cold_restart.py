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
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.errors import CkptreeError
from agent.model import Capabilities, ProcessDetails, Snapshot
from agent.proc.details import program_file
from agent.proc.host import boot_id
from agent.restart.planning.search import make_plan
from agent.restart.rebuild.commands import own_arguments
from agent.restart.rebuild.coordinator import HELPER, Rebuild
from agent.restart.rebuild.failure import RebuildError
from agent.restart.rebuild.programpath import named_by_file
from agent.restart.rebuild.verify import read_status
from tests.support.builders import a_snapshot, a_task

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
    """Make a folder that all users may read."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def soon(condition: Any) -> bool:
    """Return True if a condition comes true within 10 seconds."""
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
    return not words or b"setpriv" in words or b"python3" in words  # it has none in the middle of an exec


def seen(pid: int) -> dict[str, Any]:
    """Return rights, arguments, environment, folder and program of a process, from /proc."""
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
            # In the middle of an exec a process has its new program, and no arguments yet.
            soon(lambda: [seen(now[pid]) for pid in pids[:-1]] == before[:-1])
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

    assert (refused.returncode, refused.stdout) == (7, "")
    assert f"({number}): its program was deleted, or its path leads elsewhere: {own}" in refused.stderr


def test_a_program_that_was_replaced_after_the_capture_is_refused_by_name(folder: Path) -> None:
    """Another program has its path now."""
    own = folder / "daemon"
    shutil.copy("/usr/bin/sleep", own)
    with subprocess.Popen([own, "1000"], cwd="/", start_new_session=True) as process:
        try:
            image = captured(folder, process.pid)
        finally:
            process.kill()
    shutil.copy("/usr/bin/sleep", folder / "new")
    (folder / "new").rename(own)
    refused = ckptree("restart", image, "--run", "argv", "--json")

    assert (refused.returncode, refused.stdout) == (7, "")
    assert f"({process.pid}): {own} is another file than the program that it ran" in refused.stderr


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
    """The user namespace of an ordinary user has no ids but the user's own."""
    with services(folder, DAEMONS[:1]) as root:
        number = children(root)[0]
        image = captured(folder, root)
    # Imported before: the checkout may be for its owner alone.
    text = """
import os, sys
from agent.errors import RefusedError
from agent.cli.fileverbs import load_file
from agent.restart.planning.search import make_plan
from agent.restart.rebuild.commands import own_arguments
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
    """In a user namespace of its own the caller may set neither groups nor other ids."""
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


def a_tool(folder: Path) -> tuple[Path, Snapshot]:
    """Make a program and the snapshot of a tree that ran it, as root."""
    tool = folder / "tool"
    shutil.copy("/usr/bin/sleep", tool)
    everything = int(Path("/proc/self/status").read_text().partition("CapBnd:")[2].split()[0], 16)
    details = ProcessDetails(
        *(os.fsencode(tool), None, (0,) * 4, (0,) * 4, (), Capabilities(0, everything, everything, everything, 0)),
        no_new_privs=False,
        umask=0o22,
        execed=True,
        exe_file=program_file(tool.stat()),
    )
    task = a_task(1, 0, argv=(b"nap", b"1006"), cwd=b"/", env=(), details=details)
    return tool, replace(a_snapshot([(1,)], [task], mode="container"), boot_id=boot_id())


@pytest.mark.parametrize("change", ["replaced", "removed", "written over", "made to set ids"])
def test_a_program_that_another_takes_the_place_of_while_the_tree_is_built_does_not_run(
    folder: Path, change: str
) -> None:
    """The task compares what is there with what was checked, and the tree goes."""
    tool, snapshot = a_tool(folder)
    plan = make_plan(snapshot)
    programs, _ = own_arguments(snapshot, plan)
    with Rebuild(plan, no_stdio=True) as made:
        made.build()
        made.activate()
        if change == "replaced":
            shutil.copy("/usr/bin/tail", folder / "other")
            (folder / "other").rename(tool)
        elif change == "written over":
            with tool.open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                file.write(b"x")
        elif change == "made to set ids":
            tool.chmod(0o4755)
        else:
            tool.unlink()
        why = "open: ENOENT" if change == "removed" else "another file is there, or it was changed, since the check"
        with pytest.raises(RebuildError, match=f"task 1 .*{why}"):  # noqa: PT012
            made.release(programs)
            made.wait()


@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_a_program_is_known_by_its_name_whoever_may_write_to_its_folder(folder: Path, mode: int) -> None:
    """Where others may, the very file that was checked is executed, if the kernel then gives its name to the task."""
    tool, snapshot = a_tool(folder)
    folder.chmod(mode)
    plan = make_plan(snapshot)
    programs, doubts = own_arguments(snapshot, plan)
    opened = programs[plan.tasks[0]].opened
    assert opened == (mode == 0o777 and named_by_file())
    assert bool(doubts) == (mode == 0o777 and not opened)
    with Rebuild(plan, no_stdio=True) as made:
        made.build()
        made.activate()
        made.release(programs)
        there = Path(f"/proc/{made.pids[plan.tasks[0]]}")
        assert soon(lambda: (there / "cmdline").read_bytes() == b"nap\0001006\0")
        assert (there / "comm").read_text() == "tool\n"
        assert (there / "exe").samefile(tool)
        assert sorted(os.listdir(there / "fd")) == ["0", "1", "2"]


FORKED = """
import os, threading, time
if os.fork() == 0:
    os.setgroups([7]), os.setgid(65533), os.setuid(65534)
    threading.Thread(target=time.sleep, args=(1000,)).start()
    open(PATH, "w").close()
time.sleep(1000)
"""


@contextmanager
def restarted(image: Path, *words: str, stdin: int = subprocess.DEVNULL) -> "Iterator[dict[int, int]]":
    """A tree that stands: the pid of each task by its tag."""
    command = [sys.executable, "-m", "agent", "restart", os.fspath(image), "--json", *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=TOP, stdin=stdin, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            line = process.stdout.readline()
            assert line, process.stderr.read()
            yield {task["tag"]: task["pid"] for task in json.loads(line)["tasks"]}
        finally:
            process.terminate()
            time.sleep(0.1)
            process.terminate()


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


def test_a_program_of_another_root_directory_is_not_run_as_the_file_of_that_path_here(folder: Path) -> None:
    """A path of a container may lead to another file outside."""
    script = f"mount --bind /usr/bin/sleep {folder}/sleep && touch {folder}/begun && exec {folder}/sleep 1000"
    (folder / "sleep").touch()
    with subprocess.Popen(["unshare", "--mount", "sh", "-c", script], cwd="/", start_new_session=True) as process:
        try:
            assert soon((folder / "begun").exists)
            assert soon(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n")
            image = captured(folder, process.pid)
            inside = ["nsenter", f"--mount=/proc/{process.pid}/ns/mnt", sys.executable, "-m", "agent"]
            command = [
                *inside,
                "restart",
                os.fspath(image),
                "--run",
                "argv",
                "--detach",
                "--pidfile",
                f"{folder}/guard",
            ]
            there = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False, timeout=60)
        finally:
            process.kill()
    os.kill(int((folder / "guard").read_text()), signal.SIGTERM)
    refused = ckptree("restart", image, "--run", "argv", "--json")

    assert there.returncode == 0, there.stderr
    assert (refused.returncode, refused.stdout) == (7, "")
    assert f"({process.pid}): it ran with other mounts than restart has here" in refused.stderr


@pytest.mark.parametrize(
    "inside",
    ["mount -o remount,bind,ro,nosuid /", "mount --bind $0/b $0/x && mount --bind $0/a $0/x"],
    ids=["read-only", "another order"],
)
def test_a_program_whose_mounts_differ_in_rights_or_order_is_not_run_outside(folder: Path, inside: str) -> None:
    """Outside of them it could write what it could not, or be another program."""
    for name in ("a", "b", "x"):
        (folder / name).mkdir()
    script = f"{inside} && exec sleep 1000"
    private = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, os.fspath(folder)]
    outside = f'mount --bind {folder}/a {folder}/x && mount --bind {folder}/b {folder}/x && exec "$@"'
    around = ["unshare", "--mount", "--propagation", "private", "sh", "-c", outside, "sh"]
    with subprocess.Popen(private, cwd="/", start_new_session=True) as process:
        try:
            assert soon(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n")
            image = captured(folder, process.pid)
        finally:
            process.kill()
    command = [sys.executable, "-m", "agent", "restart", os.fspath(image), "--run", "argv", "--json"]
    refused = subprocess.run([*around, *command], cwd=TOP, capture_output=True, text=True, check=False, timeout=60)

    assert (refused.returncode, refused.stdout) == (7, ""), refused.stderr
    assert f"({process.pid}): it ran with other mounts than restart has here" in refused.stderr


def test_a_program_of_a_user_namespace_is_not_run_outside_where_its_ids_are_the_same(folder: Path) -> None:
    """In a user namespace a set-user-id program gives no rights outside of that."""
    user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--bounding-set=-sys_resource"]
    command = [*user, "unshare", "--map-current-user", "sleep", "1000"]
    with subprocess.Popen(command, cwd="/", start_new_session=True) as process:
        try:
            assert soon(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n")
            image = captured(folder, process.pid)
        finally:
            process.kill()
    refused = ckptree("restart", image, "--run", "argv", "--json")

    assert (refused.returncode, refused.stdout) == (7, "")
    assert f"({process.pid}): it ran with another user namespace than restart has here" in refused.stderr


def test_a_tree_that_was_started_again_can_be_started_again_again(folder: Path) -> None:
    """The mounts of its own that a rebuilt tree has differ in /proc alone."""
    with subprocess.Popen(["sleep", "1000"], cwd="/", start_new_session=True) as process:
        try:
            first = captured(folder, process.pid)
        finally:
            process.kill()
    with restarted(first, "--run", "argv") as pids:
        assert soon(lambda: Path(f"/proc/{pids[1]}/comm").read_text() == "sleep\n")
        second = captured(folder, pids[1])
    with restarted(second, "--run", "argv") as pids:
        assert soon(lambda: Path(f"/proc/{pids[1]}/cmdline").read_bytes() == b"sleep\x001000\0")


def test_a_program_is_started_by_the_path_that_it_was_called_by(folder: Path) -> None:
    """A link to it may be what it goes by, and is what its process is called."""
    (folder / "busy").symlink_to("/usr/bin/sleep")
    with subprocess.Popen([folder / "busy", "1000"], cwd="/", start_new_session=True) as process:
        try:
            image = captured(folder, process.pid)
        finally:
            process.kill()
    with restarted(image, "--run", "argv") as pids:
        assert soon(lambda: os.readlink(f"/proc/{pids[1]}/exe") == "/usr/bin/sleep")
        assert Path(f"/proc/{pids[1]}/comm").read_text() == "busy\n"


def test_a_title_is_refused_by_name_where_it_covers_what_would_be_run(folder: Path) -> None:
    """It is no program's arguments, and starts another program, or none."""
    perl = 'BEGIN { $0 = "master of all daemons" } open my $f, ">", "PATH"; sleep 1000'
    command = ["perl", "-e", perl.replace("PATH", f"{folder}/begun"), "one", "two"]
    with subprocess.Popen(command, cwd="/", start_new_session=True) as process:
        try:
            assert soon((folder / "begun").exists)
            image = folder / "tree.ckpt"
            done = ckptree("snapshot", str(process.pid), "-o", image, "--with-argv", "--source", "bpf")
        finally:
            process.kill()
    refused = ckptree("restart", image, "--run", "argv", "--json")

    assert done.returncode == 0
    assert f"{process.pid} (" in done.stderr
    assert "its arguments: not known: " in done.stderr
    assert (refused.returncode, refused.stdout) == (7, "")
    assert f"({process.pid}): its arguments: not known" in refused.stderr


def test_a_caller_in_a_time_namespace_is_told_what_others_are_told(folder: Path) -> None:
    """The kernel shows it all starts on a clock of its own."""
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as process:
        try:
            asking = [sys.executable, "-m", "agent", "snapshot", str(process.pid), "--with-argv", "-f", "json"]
            answers = [
                json.loads(
                    subprocess.run(
                        [*around, *asking, "--source", source], cwd=TOP, capture_output=True, check=code
                    ).stdout
                )
                for around in (
                    [],
                    ["unshare", "--time", "--boottime", "86400"],
                    ["unshare", "--time", "--boottime", "-2"],
                )
                for source, code in (("bpf", True), ("procfs", False))
            ]
        finally:
            process.kill()

    assert [[task["argv"] for task in each["tasks"]] for each in answers] == [[["sleep", "1000"]]] * 6
    assert all(set(each["as_of_read"]) >= {"argv", "cwd", "env", "details"} for each in answers)
    starts = [each["tasks"][0]["start_ns"] for each in answers]
    assert starts[0] == starts[2] == starts[4]
    assert max(starts) - min(starts) < 10_000_000


def test_who_only_forked_is_left_out_where_that_is_asked_for(forked: Path) -> None:
    """Its program will fork it again."""
    with restarted(forked, "--run", "argv", "--drop-held") as pids:
        assert list(pids) == [1]
        assert soon(lambda: os.readlink(f"/proc/{pids[1]}/exe") == os.path.realpath(PYTHON))
