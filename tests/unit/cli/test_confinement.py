# SPDX-License-Identifier: Apache-2.0
"""The confinement of a process that reads a foreign file."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from agent.cli.confinement import seccomp_filter

# Tries all calls in the given folder; prints the refused ones, and the rights that were given up.
_TRIES = """
import ctypes, fcntl, json, os, resource, signal, socket, sys
from agent.cli import confinement

folder = sys.argv[1]
kept = open(folder + "/kept", "rb")
own = os.getpid()
pipe, _ = os.pipe()
os.setxattr(folder + "/kept", "user.x", b"")
given_up = confinement.read_only()
libc = ctypes.CDLL(None, use_errno=True)

def called(*arguments):
    if libc.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "")

tries = {
    "read what is open": lambda: kept.read(),
    "read another": lambda: open(folder + "/kept").read(),
    "list": lambda: os.listdir(folder),
    "import": lambda: __import__("wave"),
    "duplicate": lambda: fcntl.fcntl(pipe, fcntl.F_DUPFD_CLOEXEC, 0),
    "fork": lambda: os.waitpid(os.fork() or os._exit(0), 0),
    "write": lambda: open(folder + "/kept", "r+"),
    "append": lambda: os.open(folder + "/kept", os.O_WRONLY | os.O_APPEND),
    "make": lambda: open(folder + "/new", "w"),
    "truncate": lambda: os.truncate(folder + "/kept", 0),
    "rename": lambda: os.rename(folder + "/kept", folder + "/moved"),
    "remove": lambda: os.unlink(folder + "/kept"),
    "link": lambda: os.link(folder + "/kept", folder + "/linked"),
    "symlink": lambda: os.symlink("x", folder + "/linked"),
    "mkdir": lambda: os.mkdir(folder + "/sub"),
    "chmod": lambda: os.chmod(folder + "/kept", 0o777),
    "run": lambda: os.execv("/bin/true", ["true"]),
    "signal": lambda: os.kill(own, 0),
    "connect": lambda: socket.socket(socket.AF_INET),
    "unshare": lambda: called({unshare}, 0),
    "chmod anew": lambda: called(452, -100, (folder + "/kept").encode(), 0o4777, 0),
    "remove an attribute": lambda: os.removexattr(folder + "/kept", "user.x"),
    "set times": lambda: os.utime(folder + "/kept", (1, 1)),
    "have a pipe signal others": lambda: fcntl.fcntl(pipe, fcntl.F_SETOWN, own),
    "choose that signal": lambda: fcntl.fcntl(pipe, 10, 9),
    "limit": lambda: resource.prlimit(own, resource.RLIMIT_NOFILE),
    "share memory": lambda: called({shmget}, 0, 4096, 0o600),
    "trace": lambda: called({ptrace}, 0, 0, 0, 0),
}
refused = []
for name, attempt in tries.items():
    try:
        attempt()
    except OSError as error:
        refused.append(name)
json.dump([refused, given_up, open("/proc/self/status").read()], sys.stdout)
"""
_NUMBERS = {
    "x86_64": {"unshare": 272, "ptrace": 101, "shmget": 29},
    "aarch64": {"unshare": 97, "ptrace": 117, "shmget": 194},
}
STAYS = ["read what is open", "read another", "list", "import", "duplicate", "fork"]


@pytest.fixture
def tried(tmp_path: Path) -> tuple[list[str], list[str], dict[str, str]]:
    """Return the calls that a confined process was refused, the rights that it gave up, and its status."""
    (tmp_path / "kept").write_text("kept")
    script = _TRIES
    for name, number in _NUMBERS[os.uname().machine].items():
        script = script.replace("{" + name + "}", str(number))
    ran = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, capture_output=True)
    assert (tmp_path / "kept").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    refused, given_up, status = json.loads(ran.stdout)
    return refused, given_up, dict(line.split(":\t", 1) for line in status.splitlines())


def test_it_reads_and_computes_and_nothing_else(tried: tuple[list[str], list[str], dict[str, str]]) -> None:
    """Any call that changes a file system, another process or the system is refused."""
    refused, given_up, _ = tried

    assert "seccomp" in given_up
    assert not set(STAYS) & set(refused)
    assert len(refused) == 22


def test_its_children_are_confined_as_well(tried: tuple[list[str], list[str], dict[str, str]]) -> None:
    """Only the capability to read is left, and no other can be regained."""
    _, _, status = tried

    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"
    assert int(status["CapPrm"], 16) & ~(1 << 2) == 0
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_filter_never_jumps_out_of_itself(machine: str) -> None:
    """The kernel would refuse such a filter. It ends with an instruction that allows."""
    code = list(struct.iter_unpack("=HBBI", seccomp_filter(machine)))

    assert all(at + 1 + max(yes, no) < len(code) for at, (_, yes, no, _) in enumerate(code[:-1]))
    assert code[-1] == (0x06, 0, 0, 0x7FFF0000)
    assert len(code) < 4096


def test_a_machine_whose_calls_are_not_known_has_no_filter() -> None:
    """A wrong filter would be worse than none."""
    assert seccomp_filter("riscv64") == b""
