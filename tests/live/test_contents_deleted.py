# SPDX-License-Identifier: Apache-2.0
"""Programs with deleted files, FIFOs and locks run on after a restart."""

import ast
import fcntl
import os
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.daemons import ckptree
from tests.live.dumps import dump, eventually, leased, program, restarted, restarting
from tests.live.guardprocesses import kill_session
from tests.live.standing import alike, dumped, dumped_at_a_stop

FILES = """
import fcntl, mmap, os, struct, time
os.umask(0)
gone = open("gone", "w+b", buffering=0)
gone.write(b"content of the deleted file")
os.fchmod(gone.fileno(), 0o641)
os.fchown(gone.fileno(), 1234, 2345)
again = open("gone", "rb", buffering=0)
again.seek(11)
area = mmap.mmap(gone.fileno(), 0)
os.unlink("gone")
with open("gone", "w") as file:
    file.write("another one")
sparse = open("sparse", "w+b", buffering=0)
sparse.seek(1 << 22)
sparse.write(b"far")
os.unlink("sparse")
nameless = os.open(".", os.O_RDWR | os.O_TMPFILE, 0o600)
os.write(nameless, b"never had a name")
os.symlink("nowhere", "link")
link = os.open("link", os.O_PATH | os.O_NOFOLLOW)
linked = open("linked", "w+b", buffering=0)
linked.write(b"linked")
os.link("linked", "kept")
os.unlink("linked")
os.mkfifo("fifo")
both = os.open("fifo", os.O_RDWR)
reader = os.open("fifo", os.O_RDONLY | os.O_NONBLOCK)
writer = os.open("fifo", os.O_WRONLY)
os.close(both)
os.write(writer, b"in the fifo")
whole, part, third = (open(name, "w+b", buffering=0) for name in ("whole", "part", "third"))
fcntl.flock(whole, fcntl.LOCK_EX)
fcntl.lockf(part, fcntl.LOCK_EX, 10, 5)
fcntl.fcntl(third, 37, struct.pack("hh4xqqi4x", fcntl.F_RDLCK, 0, 7, 3, 0))
os.mkdir("folder")
os.chdir("folder")
os.rmdir("../folder")
os.chmod(".", 0o711)
own = open("/proc/self/status", "rb", buffering=0)
assert own.read(5) == b"Name:"
top = os.environ["TOP"]
open(top + "/begun", "w").close()
while not os.path.exists(top + "/ask"):
    time.sleep(0.02)
found, holes = os.fstat(gone.fileno()), os.fstat(sparse.fileno())
seen = {
    "again": again.read(),
    "mapped": area[:7],
    "stat": (found.st_mode & 0o7777, found.st_uid, found.st_gid, found.st_nlink, found.st_size),
    "sparse": (holes.st_size, holes.st_blocks < 64, os.pread(sparse.fileno(), 3, 1 << 22)),
    "linked": (linked.seek(0), linked.read(), os.fstat(linked.fileno()).st_nlink),
    "fifo": (os.read(reader, 100), os.write(writer, b"more"), os.read(reader, 100)),
    "own": (b"Pid:\\t%d\\n" % os.getpid() in own.read(), own.seek(0), own.read(5)),
    "nameless": (os.pread(nameless, 100, 0), os.fstat(nameless).st_nlink),
    "link": os.readlink("", dir_fd=link),
    "folder": (os.stat(".").st_nlink, os.stat(".").st_mode & 0o777),
}
gone.seek(0)
gone.write(b"written")
seen["shared"] = (again.seek(0), again.read(7), area[:7])
with open(top + "/telling", "w") as file:
    print(seen, file=file)
os.rename(top + "/telling", top + "/told")
time.sleep(60)
"""
SEEN = {
    "again": b"the deleted file",
    "mapped": b"content",
    "stat": (0o641, 1234, 2345, 0, 27),
    "sparse": ((1 << 22) + 3, True, b"far"),
    "linked": (0, b"linked", 1),
    "fifo": (b"in the fifo", 4, b"more"),
    "own": (True, 0, b"Name:"),
    "nameless": (b"never had a name", 0),
    "link": "nowhere",
    "folder": (0, 0o711),
    "shared": (0, b"written", b"written"),
}


def _is_locked(path: Path, kind: str) -> bool:
    with path.open("r+b") as file:
        try:
            if kind == "flock":
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            else:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 12 if kind == "part" else 8)
        except BlockingIOError:
            return True
    return False


def test_deleted_files_fifos_and_locks_are_as_they_were(tmp_path: Path, daemon_socket: Path) -> None:
    """Deleted files are deleted again, with content, size, mode and owner; another file has the path of one."""
    environment = {**os.environ, "TOP": os.fspath(tmp_path)}
    with program([sys.executable, "-c", FILES], tmp_path, env=environment) as pid:
        eventually((tmp_path / "begun").exists, "it has begun")
        time.sleep(0.1)
        images = dumped_at_a_stop(pid, tmp_path / "images", daemon_socket, "--link-remap", "--file-locks")
    with alike(images, daemon_socket, "--link-remap", "--file-locks"):
        for name, kind in (("whole", "flock"), ("part", "part"), ("third", "third")):
            assert _is_locked(tmp_path / name, kind), name
        (tmp_path / "ask").touch()
        eventually((tmp_path / "told").exists, "it tells")
    assert ast.literal_eval((tmp_path / "told").read_text()) == SEEN
    assert (tmp_path / "gone").read_text() == "another one"
    left = {each.name for each in tmp_path.iterdir()}
    assert left == {
        "gone",
        "kept",
        "fifo",
        "whole",
        "part",
        "third",
        "link",
        "begun",
        "ask",
        "told",
        "images",
        "images.again",
        "out",
    }


LEASES = """
import fcntl, os, signal, time
for name in ("read", "written"):
    open(name, "w").close()
read, written = os.open("read", os.O_RDONLY), os.open("written", os.O_RDWR)
fcntl.fcntl(read, fcntl.F_SETLEASE, fcntl.F_RDLCK)
fcntl.fcntl(written, fcntl.F_SETLEASE, fcntl.F_WRLCK)
fcntl.fcntl(written, fcntl.F_SETSIG, signal.SIGRTMIN)
def give_up(*_):
    fcntl.fcntl(written, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    open("broken", "w").close()
signal.signal(signal.SIGRTMIN, give_up)
open("begun", "w").close()
while not os.path.exists("ask"):
    time.sleep(0.02)
with open("telling", "w") as file:
    file.write(repr([fcntl.fcntl(each, fcntl.F_GETLEASE) for each in (read, written)]))
os.rename("telling", "told")
while True:
    time.sleep(60)
"""


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.mknod(path, 0o600 | stat.S_IFCHR, 0x103)])
def test_a_path_that_has_a_file_of_another_type_is_refused(
    make: Callable[[Path], None], tmp_path: Path, daemon_socket: Path
) -> None:
    """A task would wait for ever for somebody who writes into a FIFO, and a device may act when it is opened."""
    standing = dumped('held = open("held", "w"); stand("one", int)', tmp_path, daemon_socket)
    (tmp_path / "held").unlink()
    make(tmp_path / "held")
    refused = ckptree("restart", f"criu:{standing.images}")

    assert refused.code == 7
    assert f"{tmp_path}/held is a file of another type than at the dump" in refused.err


GHOSTS = """
held = []
for number in range(5):
    held.append(open(f"gone{number}", "w+b"))
    held[-1].write(b"secret" * 100000)
    held[-1].flush()
    os.unlink(f"gone{number}")
stand("one", int)
"""


def test_no_deleted_file_stays_when_the_restart_is_killed(tmp_path: Path, daemon_socket: Path) -> None:
    """Nobody may find it by its name after that, alone the tasks of a restart that goes on."""
    standing = dumped(GHOSTS, tmp_path, daemon_socket)
    before = sorted(tmp_path.iterdir())
    with leased(tmp_path / "out"):
        process = restarting(standing.images)
        eventually(lambda: (tmp_path / "gone4").exists(), "deleted files are there")
        kill_session(process.pid)
        process.communicate()
        eventually(lambda: sorted(tmp_path.iterdir()) == before, "none is there")


def test_leases_come_back(tmp_path: Path, daemon_socket: Path) -> None:
    """The kernel tells them, and sends the signal when somebody else opens the file."""
    with program([sys.executable, "-c", LEASES], tmp_path) as pid:
        eventually((tmp_path / "begun").exists, "it has begun")
        images = dumped_at_a_stop(pid, tmp_path / "images", daemon_socket, "--file-locks")
    with alike(images, daemon_socket, "--file-locks"):
        (tmp_path / "ask").touch()
        eventually((tmp_path / "told").exists, "it tells")
        with (tmp_path / "written").open() as file:  # waits until the program gives its lease up
            assert file.read() == ""
        eventually((tmp_path / "broken").exists, "it has given its lease up")

    assert ast.literal_eval((tmp_path / "told").read_text()) == [fcntl.F_RDLCK, fcntl.F_WRLCK]


LINKS_AND_DEVICES = """
import os, stat, time
os.mknod("null", stat.S_IFCHR | 0o600, os.makedev(1, 5))
os.chmod("null", 0o642)
os.chown("null", 12, 34)
device = os.open("null", os.O_RDWR)
os.symlink("where it led", "link")
os.chown("link", 56, 78, follow_symlinks=False)
link = os.open("link", os.O_PATH | os.O_NOFOLLOW)
os.unlink("null")
os.unlink("link")
open("begun", "w").close()
while not os.path.exists("ask"):
    time.sleep(0.02)
def said(file):
    one = os.fstat(file)
    return one.st_mode, one.st_uid, one.st_gid, one.st_nlink
with open("telling", "w") as file:
    zeros = os.read(device, 4)
    file.write(repr((said(device), zeros, os.fstat(device).st_rdev, said(link), os.readlink("", dir_fd=link))))
os.rename("telling", "told")
time.sleep(60)
"""


def test_deleted_links_and_devices_come_back(tmp_path: Path, daemon_socket: Path) -> None:
    """A link leads where it led; a device reads as it did; owners and modes are as they were."""
    with program([sys.executable, "-c", LINKS_AND_DEVICES], tmp_path) as pid:
        eventually((tmp_path / "begun").exists, "it has begun")
        images = dumped_at_a_stop(pid, tmp_path / "images", daemon_socket)
    with alike(images, daemon_socket):
        assert not {"null", "link"} & {each.name for each in tmp_path.iterdir()}
        (tmp_path / "ask").touch()
        eventually((tmp_path / "told").exists, "it tells")

    assert ast.literal_eval((tmp_path / "told").read_text()) == (
        *((stat.S_IFCHR | 0o642, 12, 34, 0), bytes(4), os.makedev(1, 5)),
        *((stat.S_IFLNK | 0o777, 56, 78, 0), "where it led"),
    )


def test_a_deleted_file_whose_folder_is_gone_comes_back(tmp_path: Path, daemon_socket: Path) -> None:
    """The folder is not there afterwards."""
    (tmp_path / "folder").mkdir()
    script = (
        "import os, time; f = open('folder/gone', 'w+'); f.write('what was in it'); f.flush(); os.unlink('folder/gone')\n"
        "open('begun', 'w').close()\n"
        "while not os.path.exists('ask'): time.sleep(0.02)\n"
        "f.seek(0); open('telling', 'w').write(f.read()); os.rename('telling', 'told'); time.sleep(60)"
    )
    with program([sys.executable, "-c", script], tmp_path) as pid:
        eventually((tmp_path / "begun").exists, "it has begun")
        images = dump(pid, tmp_path / "images", daemon_socket)
    (tmp_path / "folder").rmdir()
    with restarted(images):
        assert not (tmp_path / "folder").exists()
        (tmp_path / "ask").touch()
        eventually((tmp_path / "told").exists, "it tells")
    assert (tmp_path / "told").read_text() == "what was in it"
