# SPDX-License-Identifier: Apache-2.0
"""Processes that share a table of descriptors without being threads: after a restart the kernel says that they still do."""

import ctypes
import os
from ast import literal_eval
from pathlib import Path

from tests.live.daemons import ckptree
from tests.live.standing import dumped, restored

KCMP, KCMP_FILES = 312, 2
CLONE_FILES = 0x400
SHARING = """
def cloned(flags):
    return libc.syscall(56, ctypes.c_long(flags | signal.SIGCHLD), 0, 0, 0, 0)

def opened(name, content):
    with open(name, "w") as file:
        file.write(content)
    return os.open(name, os.O_RDWR)

one = opened("one-file", "content of one")
os.lseek(one, 8, os.SEEK_SET)
shared = mmap.mmap(-1, PAGE)
memory = os.memfd_create("memory")
os.ftruncate(memory, PAGE)
lock = opened("locked", "")
fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
reader, writer = os.pipe()
if cloned(0x400) == 0:
    os.chdir("/")
    os.umask(0o27)
    mapped = mmap.mmap(opened("/proc/self/cwd/dev/shm/ckptree-{tag}", "x" * PAGE), PAGE)
    os.unlink("/dev/shm/ckptree-{tag}")
    if cloned(0x400) == 0:
        os.chdir("{folder}")
        def opens():
            return os.read(one, 2), bytes(mapped[:3]), os.open("/dev/null", os.O_RDONLY), bytes(shared[:4])
        stand("grandchild", opens)
    os.chdir("{folder}")
    def moves():
        return os.read(one, 3), os.dup2(one, 77), os.close(memory), os.umask(0)
    stand("child", moves)
if cloned(0) == 0:
    stand("apart", lambda: (os.read(one, 1), os.fstat(memory).st_size, os.path.exists("/proc/self/fd/77")))
shared[:4] = b"same"
def answer():
    return os.read(77, 1), "memfd" in os.readlink(f"/proc/self/fd/{memory}"), os.write(writer, b"x") and os.read(reader, 1)
stand("one", answer)
"""


def same_table(one: int, two: int) -> bool:
    """Return True if the kernel says that two processes share a table of descriptors."""
    answer = ctypes.CDLL(None, use_errno=True).syscall(KCMP, one, two, KCMP_FILES, 0, 0)
    assert answer >= 0, os.strerror(ctypes.get_errno())
    return bool(answer == 0)


def test_a_table_of_descriptors_is_shared_again(tmp_path: Path, daemon_socket: Path) -> None:
    """A descriptor that one opens is seen by the other, and one that it closes is gone for both; a fork has its own."""
    source = SHARING.replace("{folder}", str(tmp_path)).replace("{tag}", tmp_path.name)
    names = ("one", "child", "grandchild", "apart")
    standing = dumped(source, tmp_path, daemon_socket, names, ["--file-locks"])
    planned = ckptree("plan", f"criu:{standing.images}")
    with restored(standing, daemon_socket, options=["--file-locks"]):
        pids = [standing.pid(name) for name in names]
        same = [same_table(pids[0], each) for each in pids]
        child = literal_eval(standing.ask("child"))
        one = literal_eval(standing.ask("one"))
        grandchild = literal_eval(standing.ask("grandchild"))
        apart = literal_eval(standing.ask("apart"))

    assert planned.code == 0
    assert "the contents were examined on this host: 4 processes, " in planned.err
    assert planned.out.count(b" with its table of descriptors") == 2
    assert same == [True, True, True, False]
    assert child == (b"of ", 77, None, 0o27)
    assert one == (b"o", False, b"x")
    assert (grandchild[:2], grandchild[3]) == ((b"ne", b"xxx"), b"same")
    assert apart == (b"", os.sysconf("SC_PAGESIZE"), False)
    assert grandchild[2] > 2
