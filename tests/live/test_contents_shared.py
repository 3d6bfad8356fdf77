# SPDX-License-Identifier: Apache-2.0
"""Memory that processes share, after a dump by CRIU and a restart: each sees what the others then write."""

import mmap
from pathlib import Path

from exporters.criu import imagefile, imagefolder
from exporters.criu.imagefolder import ImageFolder
from tests.live.daemons import ckptree
from tests.live.standing import dumped, restored

SHM = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory is
FORKED = """
shared = mmap.mmap(-1, 3 << 20)
shared[5:10] = b"hello"
shared[2 << 20 : (2 << 20) + 5] = b"there"
def write_down():
    shared[0:3] = b"one"
    return bytes(shared[5:10])
if os.fork() == 0:
    if os.fork() == 0:
        stand("grandchild", lambda: bytes(shared[:10]))
    stand("child", lambda: bytes(shared[2 << 20 : (2 << 20) + 5]))
stand("one", write_down)
"""


def test_anonymous_memory_is_shared_again_by_all_that_forked(tmp_path: Path, daemon_socket: Path) -> None:
    """Three processes have one object, whose pages were written before; a write by one is read by another."""
    standing = dumped(FORKED, tmp_path, daemon_socket, ("one", "child", "grandchild"))
    with restored(standing, daemon_socket):
        maps = Path(f"/proc/{standing.pid('child')}/maps").read_text()
        found = [standing.ask(name) for name in ("child", "one", "grandchild")]

    assert found == [repr(b"there"), repr(b"hello"), repr(b"one\0\0hello")]
    assert "/dev/zero (deleted)" in maps  # as before, and no memfd of ours


MEMFDS = """
F_ADD_SEALS, F_GET_SEALS = 1033, 1034
plain = os.memfd_create("a name", os.MFD_ALLOW_SEALING)
os.ftruncate(plain, 5 * PAGE + 100)
plain_map = mmap.mmap(plain, 5 * PAGE)
plain_map[PAGE : PAGE + 4] = b"here"
os.write(plain, b"begin")
reader = os.open(f"/proc/self/fd/{plain}", os.O_RDONLY)
os.lseek(reader, PAGE, os.SEEK_SET)
os.fchmod(plain, 0o640)
sealed = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
os.write(sealed, b"x" * 10000)
fcntl.fcntl(sealed, F_ADD_SEALS, 0x8 | 0x4 | 0x2 | 0x1)
sealed_map = mmap.mmap(sealed, PAGE, prot=mmap.PROT_READ)
future = os.memfd_create("future", os.MFD_ALLOW_SEALING)
os.write(future, b"y" * 10000)
future_map = mmap.mmap(future, 2 * PAGE)
fcntl.fcntl(future, F_ADD_SEALS, 0x10)
private = mmap.mmap(future, 2 * PAGE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
private[0:3] = b"own"
empty = os.memfd_create("", 0)

def refused(act):
    try:
        act()
    except PermissionError:
        return True

def answer():
    future_map[1:2] = b"z"
    os.write(plain, b" end")
    return (
        os.read(reader, 4), os.read(sealed, 1), os.fstat(plain).st_mode & 0o777,
        refused(lambda: os.pwrite(sealed, b"n", 0)), refused(lambda: os.pwrite(future, b"n", 0)),
        refused(lambda: fcntl.fcntl(empty, F_ADD_SEALS, 1)), bytes(private[0:3]), os.fstat(plain).st_size,
    )

if os.fork() == 0:
    os.close(plain)
    stand("child", lambda: (bytes(plain_map[0:9]), bytes(future_map[0:2]), sealed_map[0:1]))
stand("one", answer)
"""


def test_memfds_come_back_with_names_seals_sizes_and_positions(tmp_path: Path, daemon_socket: Path) -> None:
    """Descriptors and areas of one memfd are one file; a sealed one refuses writes; a child reads its parent's."""
    standing = dumped(MEMFDS, tmp_path, daemon_socket, ("one", "child"))
    with restored(standing, daemon_socket):
        one = standing.ask("one")
        child = standing.ask("child")

    size = 5 * mmap.PAGESIZE + 100
    assert one == repr((b"here", b"", 0o640, True, True, True, b"own", size))
    assert child == repr((b"begin end", b"yz", b"x"))


POSIX = """
with open("/dev/shm/{name}", "w+b") as file:
    file.truncate(2 * PAGE)
    shared = mmap.mmap(file.fileno(), 2 * PAGE)
with open("data", "w+b") as file:
    file.write(b"-" * PAGE)
    file.flush()
    data = mmap.mmap(file.fileno(), PAGE)
shared[0:3] = b"old"
data[0:3] = b"old"
def write_down():
    before = bytes(shared[0:3]), bytes(data[0:3])
    shared[0:3] = data[0:3] = b"new"
    return before
if os.fork() == 0:
    stand("child", lambda: (bytes(shared[0:3]), bytes(data[0:3])))
stand("one", write_down)
"""


def test_files_that_are_mapped_to_be_shared_are_written_again(tmp_path: Path, daemon_socket: Path) -> None:
    """POSIX shared memory is a file of /dev/shm; another file is mapped likewise."""
    name = f"ckptree-test-{tmp_path.name}"
    try:
        standing = dumped(POSIX.replace("{name}", name), tmp_path, daemon_socket, ("one", "child"))
        with restored(standing, daemon_socket):
            answers = [standing.ask("one"), standing.ask("child")]
        content = (SHM / name).read_bytes()[:3]
    finally:
        (SHM / name).unlink(missing_ok=True)

    assert answers == [repr((b"old", b"old")), repr((b"new", b"new"))]
    assert content == (tmp_path / "data").read_bytes()[:3] == b"new"


def test_an_object_that_no_process_can_map_is_refused(tmp_path: Path, daemon_socket: Path) -> None:
    """Images are not trusted: the size of a memfd is whatever they say."""
    standing = dumped(FORKED, tmp_path, daemon_socket, ("one", "child", "grandchild"))
    path = standing.images / "memfd.img"
    (inode,) = (each.message for each in imagefolder.entries(ImageFolder(standing.images), "memfd.img"))
    found = []
    for size in (1 << 45, 1 << 47, (1 << 64) - 1):
        inode.size = size  # type: ignore[attr-defined]
        path.write_bytes(imagefile.image("memfd", [inode]))
        refused = ckptree("restart", f"criu:{standing.images}")
        found.append((refused.code, " bytes " in refused.err, "Traceback" in refused.err))

    assert found == [(7, True, False)] * 3
