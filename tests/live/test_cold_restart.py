# SPDX-License-Identifier: Apache-2.0
"""A tree of services is captured, killed, and started again with its old pids and the rights of each."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

from agent.errors import CkptreeError
from agent.model import Capabilities, ProcessDetails
from agent.restart.planning.search import make_plan
from agent.restart.rebuild.commands import own_arguments
from agent.restart.rebuild.coordinator import HELPER, Rebuild
from agent.restart.rebuild.taskanswers import read_status
from tests.live.coldrestarts import PYTHON, TOP, captured, children, ckptree, restarted, seen, services, soon
from tests.support.builders import a_snapshot, a_task

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
