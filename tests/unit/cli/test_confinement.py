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
import ctypes, errno, fcntl, json, os, resource, signal, socket, sys, termios, threading
from agent.cli import confinement

folder = sys.argv[1]
kept = open(folder + "/kept", "rb")
own = os.getpid()
pipe, _ = os.pipe()
master, slave = os.openpty()
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
    "look at a terminal": lambda: (termios.tcgetattr(slave), os.get_terminal_size(slave), os.isatty(slave)),
    "count what waits": lambda: fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)),
    "keep from children": lambda: os.set_inheritable(pipe, True) or os.set_inheritable(pipe, False),
    "limit itself": lambda: resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 40)),
    "run a thread": lambda: threading.Thread(target=int).start(),
    "type at a terminal": lambda: fcntl.ioctl(slave, termios.TIOCSTI, b"i"),
    "choose the foreground": lambda: fcntl.ioctl(slave, termios.TIOCSPGRP, bytes(4)),
    "set up a terminal": lambda: fcntl.ioctl(slave, 0x5402, bytes(64)),
    "set a file's flags": lambda: fcntl.ioctl(kept, 0x40086602, bytes(8)),
    "set a file's project": lambda: fcntl.ioctl(kept, 0x401C5820, bytes(28)),
    "lock": lambda: fcntl.flock(kept, fcntl.LOCK_SH),
    "lock a range": lambda: fcntl.lockf(kept, fcntl.LOCK_SH | fcntl.LOCK_NB),
    "lease": lambda: fcntl.fcntl(kept, fcntl.F_SETLEASE, fcntl.F_UNLCK),
    "resize a pipe": lambda: fcntl.fcntl(pipe, 1031, 4096),
    "have a pipe signal others": lambda: fcntl.fcntl(pipe, fcntl.F_SETOWN, own),
    "choose that signal": lambda: fcntl.fcntl(pipe, 10, 9),
    "limit": lambda: resource.prlimit(own, resource.RLIMIT_NOFILE),
    "make a namespace": lambda: called({clone}, 0x10000000 | 17, 0, 0, 0, 0),
    "give the parent a child": lambda: called({clone}, 0x8000 | 17, 0, 0, 0, 0),
    "group for scheduling": lambda: called({prctl}, 62, 1, own, 0, 0),
    "close for good": lambda: os.close(os.dup(pipe)),
}
# Calls by number, with arguments that are wrong, so that only the filter answers EPERM.
numbers = {denied}
refused = []
for name, attempt in tries.items():
    try:
        attempt()
    except OSError:
        refused.append(name)
for name, number in numbers.items():
    if libc.syscall(number, -1, -1, -1, -1, -1, -1) == -1 and ctypes.get_errno() == errno.EPERM:
        refused.append(name)
if libc.syscall(435, 0, 0) == -1 and ctypes.get_errno() == errno.ENOSYS:
    refused.append("clone3")
json.dump([refused, given_up, open("/proc/self/status").read()], sys.stdout)
"""
_NUMBERS = {
    "x86_64": {"unshare": 272, "clone": 56, "prctl": 157},
    "aarch64": {"unshare": 97, "clone": 220, "prctl": 167},
}
STAYS = [
    *("read what is open", "read another", "list", "import", "duplicate", "close for good", "fork", "run a thread"),
    *("look at a terminal", "count what waits", "keep from children", "limit itself"),
]
# What changes, reads or waits upon what is not the process's own, on x86-64 and arm64.
BY_NUMBER = {
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "msgget": (68, 186),
    "msgctl": (71, 187),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "semget": (64, 190),
    "semctl": (66, 191),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "mq_timedsend": (242, 182),
    "mq_timedreceive": (243, 183),
    "mq_notify": (244, 184),
    "mq_getsetattr": (245, 185),
    "setns": (308, 268),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "move_mount": (429, 429),
    "mount_setattr": (442, 442),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_mrelease": (448, 448),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "kcmp": (312, 272),
    "get_robust_list": (274, 100),
    "setpgid": (109, 154),
    "setsid": (112, 157),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_setup": (206, 0),
    "io_submit": (209, 2),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "seccomp": (317, 277),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "socketpair": (53, 199),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
    "setsockopt": (54, 208),
    "shutdown": (48, 210),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "remap_file_pages": (216, 234),
    "splice": (275, 76),
    "vmsplice": (278, 75),
    "copy_file_range": (326, 285),
    "ftruncate": (77, 46),
    "sync": (162, 81),
    "syncfs": (306, 267),
    "setrlimit": (160, 164),
    "personality": (135, 92),
    "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27),
    "fanotify_init": (300, 262),
    "name_to_handle_at": (303, 264),
    "mbind": (237, 235),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "syslog": (103, 116),
    "sethostname": (170, 161),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
}


@pytest.fixture
def tried(tmp_path: Path) -> tuple[list[str], list[str], dict[str, str]]:
    """Return the calls that a confined process was refused, the rights that it gave up, and its status."""
    (tmp_path / "kept").write_text("kept")
    script = _TRIES
    for name, number in _NUMBERS[os.uname().machine].items():
        script = script.replace("{" + name + "}", str(number))
    column = sorted(_NUMBERS, reverse=True).index(os.uname().machine)
    script = script.replace("{denied}", repr({name: numbers[column] for name, numbers in BY_NUMBER.items()}))
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
    assert not set(BY_NUMBER) - set(refused)
    assert refused[-1] == "clone3"  # with ENOSYS: libc makes threads by clone
    assert len(refused) == 32 + len(BY_NUMBER) + 1


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
