# SPDX-License-Identifier: Apache-2.0
"""Programs of two users in one tree: after a dump by CRIU and a restart by root each task is its own user's, zombies too.

A root without CAP_SYS_RESOURCE cannot have CRIU dump another user's processes. So there all is in a user namespace, whose
root may choose no numbers in the caller's pid namespace.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import psutil
import pytest

from agent.restart.contents.hostfacts import CAP_SYS_RESOURCE, this_host
from tests.live.dumps import dump, eventually, program, restarted
from tests.live.realprograms import short_folder
from tests.live.restartverb import TOP
from tests.support import usernamespace

FAMILY: Final = """
import ctypes, os, threading, time
def member(uid, gid, groups, code=None, fixed=False):
    if os.fork():
        return
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    if fixed:
        ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
    os.setresuid(uid, uid, uid)
    if code is not None:
        os._exit(code)
    os.close(os.open(f"there-{uid}-{gid}", os.O_CREAT))
    while True:
        time.sleep(60)
member(1001, 1002, [7, 8], fixed=True)
member(1003, 1004, [])
member(0, 5, [9])
member(1001, 1002, [], code=3)
member(1003, 1004, [], code=4)
member(0, 0, [], code=5)
while True:
    time.sleep(60)
"""
READER: Final = """
import ctypes, os, time
null = os.open("/dev/null", os.O_RDWR)
os.dup2(null, 1)
os.dup2(null, 2)  # the caller's file is not for this user
os.setgroups([])
os.setresgid(1001, 1001, 1001)
os.setresuid(1001, 1001, 1001)
os.close(os.open("there", os.O_CREAT))
while not os.path.exists("key"):
    time.sleep(0.02)
text = ctypes.create_string_buffer(100)
libc = ctypes.CDLL(None, use_errno=True)
length = libc.syscall(250, 11, int(open("key").read()), text, 100)
with open("found", "w") as file:
    file.write(text.value.decode() if length >= 0 else os.strerror(ctypes.get_errno()))
os.rename("found", "told")
time.sleep(600)
"""
LIVING: Final = "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"
ALL_RIGHTS: Final = this_host(pidns=False).has(CAP_SYS_RESOURCE)
AROUND: Final = () if ALL_RIGHTS else usernamespace.WORDS
"""Words in front of a command that CRIU is to dump, and in front of its restart."""
FAULTS: Final = {
    "groups": "has the groups none instead of 9",
    "bounding": "has the bounding capabilities",
    "user": "has the user ids 0 instead of 1001",
}
"""Faults of tests/live/wrongrestart.py, and what the restart says of each."""


def lines(pid: int) -> dict[str, str]:
    """Return the lines of /proc/PID/status."""
    text = Path(f"/proc/{pid}/status").read_text()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def rights(pids: Mapping[int, int]) -> dict[int, dict[str, str]]:
    """Return the rights of processes by their numbers in the image; of zombies the ids and the exit code alone."""
    found = {}
    for number, pid in pids.items():
        told = lines(pid)
        is_zombie = told["State"].startswith("Z")
        found[number] = {name: told[name] for name in (("Uid", "Gid") if is_zombie else LIVING)}
        if is_zombie:
            found[number]["code"] = Path(f"/proc/{pid}/stat").read_text().split()[-1]
    return found


def zombies(root: psutil.Process) -> int:
    """Return the number of zombies among the children of a process."""
    return sum(child.status() == psutil.STATUS_ZOMBIE for child in root.children())


def dumped(folder: Path, socket: Path) -> dict[int, dict[str, str]]:
    """Dump the family into FOLDER/images; return the rights of its processes by their numbers."""
    folder.chmod(0o777)
    with program([*AROUND, sys.executable, "-c", FAMILY], folder) as pid:
        root = psutil.Process(pid)
        eventually(lambda: len(list(folder.glob("there-*"))) == 3 and zombies(root) == 3, "all are there")
        before = rights({each: each for each in (pid, *(child.pid for child in root.children()))})
        dump(pid, folder / "images", socket)
    return before


@pytest.mark.parametrize("options", [(), *([("--no-pidns",)] if ALL_RIGHTS else [])], ids=" ".join)
def test_each_task_of_a_tree_of_several_users_is_its_own_users(options: tuple[str, ...], daemon_socket: Path) -> None:
    """Ids, groups, capabilities and no_new_privs are those before the dump; of zombies ids and exit codes."""
    with short_folder() as folder:
        before = dumped(folder, daemon_socket)
        with restarted(folder / "images", *options, before=AROUND) as ready:
            assert rights({task["numbers"][0]: task["pid"] for task in ready["tasks"]}) == before


@pytest.mark.parametrize("fault", FAULTS)
def test_a_task_that_has_taken_other_rights_is_found_before_any_task_runs(fault: str, daemon_socket: Path) -> None:
    """The restart fails, names the task and what the kernel says of it, and takes the tree down."""
    with short_folder() as folder:
        dumped(folder, daemon_socket)
        command = [*AROUND, sys.executable, "-m", "tests.live.wrongrestart", fault, f"criu:{folder / 'images'}"]
        environment = {**os.environ, "PYTHONPATH": os.fspath(TOP)}
        ran = subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=False, cwd=TOP, env=environment
        )

    assert (ran.returncode, ran.stdout) == (125, ""), ran.stderr
    assert FAULTS[fault] in ran.stderr


def test_a_program_of_another_user_cannot_read_keys_of_the_caller(daemon_socket: Path) -> None:
    """A session keyring is read by all who possess it, and a child has that of its parent."""
    with short_folder() as folder:
        folder.chmod(0o777)
        with program([*AROUND, sys.executable, "-c", READER], folder) as pid:
            eventually((folder / "there").exists, "it has begun")
            dump(pid, folder / "images", daemon_socket)
        new, key = folder / "new", folder / "key"
        command = [*AROUND, sys.executable, "-m", "tests.live.keyedrestart", new, f"criu:{folder / 'images'}", "--json"]
        process = subprocess.Popen(command, cwd=TOP, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            new.rename(key)
            eventually((folder / "told").exists, "it has asked")
            assert (folder / "told").read_text() == "Permission denied"
        finally:
            process.terminate()
            process.communicate(timeout=60)
