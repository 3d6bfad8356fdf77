# SPDX-License-Identifier: Apache-2.0
"""System V objects after a dump by CRIU and a restart: the kernel gives them under their numbers, with all they had."""

import os
from ast import literal_eval
from pathlib import Path

from tests.live.daemons import ckptree
from tests.live.standing import dumped, restored
from tests.support.criuimages import changed

WITHIN = ("unshare", "--ipc")
"""CRIU dumps these objects with an IPC namespace of the tree's own alone."""
CALLS = """
libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
PRIVATE, CREATE = 0, 0o1000

def read(address, size):
    return ctypes.string_at(address, size)

def attached(number, flags=0):
    found = libc.shmat(number, None, flags)
    if found == 2**64 - 1:
        raise OSError(ctypes.get_errno(), "shmat")
    return found

def said(kind):
    with open(f"/proc/sysvipc/{kind}") as file:
        names, *rows = (line.split() for line in file)
    return [{**dict(zip(names, map(int, row))), "perms": int(row[names.index("perms")], 8)} for row in rows]
"""
SEGMENTS = """
gone = [call("shmget", PRIVATE, PAGE, 0o600) for _ in range(3)]
for each in gone:
    call("shmctl", each, 0, None)
named = call("shmget", 0x1234, 3 * PAGE + 100, CREATE | 0o640)
unseen = call("shmget", PRIVATE, 2 * PAGE, 0o600)
at = attached(unseen)
write(at + PAGE, b"nobody has it")
call("shmdt", at)
one = attached(named)
write(one + 3 * PAGE, b"the last page")
left = call("shmget", PRIVATE, PAGE, 0o600)
of_left = attached(left)
write(of_left, b"removed")
call("shmctl", left, 0, None)
reader = attached(named, 0o10000)
if os.fork() == 0:
    def written():
        write(one, b"from the child")
        return read(of_left, 7), call("shmdt", of_left)
    stand("child", written)

def answer():
    found = read(one, 14), read(reader + 3 * PAGE, 13), read(attached(unseen) + PAGE, 13), read(of_left, 7)
    rows = [(row["shmid"], row["key"], row["perms"], row["size"], row["nattch"]) for row in said("shm")]
    call("shmdt", of_left)
    return (named, unseen, left), found, rows, sorted(row["shmid"] for row in said("shm"))
stand("one", answer)
"""


def test_segments_come_back_under_their_numbers(tmp_path: Path, daemon_socket: Path) -> None:
    """Two processes share them again; one that was removed goes with the last that has it attached."""
    standing = dumped(CALLS + SEGMENTS, tmp_path, daemon_socket, ("one", "child"), within=WITHIN)
    with restored(standing, daemon_socket):
        child = literal_eval(standing.ask("child"))
        (named, unseen, left), found, rows, after = literal_eval(standing.ask("one"))
        maps = Path(f"/proc/{standing.pid('one')}/maps").read_text()
    page = os.sysconf("SC_PAGESIZE")

    assert child == (b"removed", 0)
    assert found == (b"from the child", b"the last page", b"nobody has it", b"removed")
    assert sorted(rows) == sorted(
        [
            (named, 0x1234, 0o640, 3 * page + 100, 4),
            (unseen, 0, 0o600, 2 * page, 1),
            (left, 0, 0o1600, page, 1),
        ]
    )
    assert after == sorted([named, unseen])
    assert "/SYSV00001234 (deleted)" in maps


DIVIDED = """
number = call("shmget", PRIVATE, 8 * PAGE, 0o600)
at = attached(number)
for page in range(8):
    write(at + page * PAGE, b"page %d" % page)
call("mprotect", at + 2 * PAGE, PAGE, 1)
call("munmap", at + 5 * PAGE, PAGE)
call("munmap", at + 7 * PAGE, PAGE)
other = attached(number)
call("munmap", other, 2 * PAGE)
def answer():
    found = [read(at + page * PAGE, 6) for page in (0, 2, 4, 6)], read(other + 7 * PAGE, 6)
    write(other + 4 * PAGE, b"PAGE 4")
    seen = read(at + 4 * PAGE, 6)
    return found, seen, call("shmdt", at), [row["nattch"] for row in said("shm")]
stand("one", answer)
"""


def test_a_segment_that_was_divided_can_be_detached_as_a_whole(tmp_path: Path, daemon_socket: Path) -> None:
    """The kernel detaches all areas of one attachment, which it knows by their file and their offsets."""
    standing = dumped(CALLS + DIVIDED, tmp_path, daemon_socket, within=WITHIN)
    with restored(standing, daemon_socket):
        found, seen, detached, attachments = literal_eval(standing.ask("one"))

    assert found == ([b"page 0", b"page 2", b"page 4", b"page 6"], b"page 7")
    assert (seen, detached, attachments) == (b"PAGE 4", 0, [1])


OTHERS = """
open("/proc/sys/kernel/msgmax", "w").write("9000")
counts = (ctypes.c_ushort * 3)(7, 0, 65)
call("semctl", call("semget", PRIVATE, 1, 0o600), 0, 0)
semaphores = call("semget", 0x77, 3, CREATE | 0o660)
call("semctl", semaphores, 0, 17, ctypes.byref(counts))
queue = call("msgget", 0x99, CREATE | 0o620)
os.fork() == 0 and os._exit(0)
for kind, text in ((5, b"first"), (3, b""), (5, b"x" * 8500)):
    call("msgsnd", queue, ctypes.c_char_p(kind.to_bytes(8, "little") + text), len(text), 0)
os.wait()
def taken(kind):
    room = ctypes.create_string_buffer(10000)
    size = call("msgrcv", queue, room, 9000, kind, 0o4000)
    return int.from_bytes(room.raw[:8], "little"), room.raw[8 : 8 + size]
def answer():
    found = (ctypes.c_ushort * 3)()
    call("semctl", semaphores, 0, 13, ctypes.byref(found))
    rows = [(row["semid"] == semaphores, row["key"], row["perms"], row["nsems"]) for row in said("sem")]
    queues = [(row["msqid"] == queue, row["key"], row["perms"], row["qnum"], row["uid"], row["gid"]) for row in said("msg")]
    return list(found), rows, queues, taken(3), taken(0), taken(5), int(open("/proc/sys/kernel/msgmax").read())
stand("one", answer)
"""


def test_semaphores_and_messages_come_back(tmp_path: Path, daemon_socket: Path) -> None:
    """Counts, messages in their order, keys and permissions; and the limits of their namespace."""
    standing = dumped(CALLS + OTHERS, tmp_path, daemon_socket, within=WITHIN)
    with restored(standing, daemon_socket):
        counts, sets, queues, *messages, most = literal_eval(standing.ask("one"))

    assert counts == [7, 0, 65]
    assert sets == [(True, 0x77, 0o660, 3)]
    assert queues == [(True, 0x99, 0o620, 3, 0, 0)]
    assert messages == [(3, b""), (5, b"first"), (5, b"x" * 8500)]
    assert most == 9000


LOWERED = """
at = attached(call("shmget", PRIVATE, 2 * PAGE, 0o600))
write(at, b"kept")
for _ in range(2):
    call("shmget", PRIVATE, PAGE, 0o600)
semaphores = call("semget", PRIVATE, 3, 0o600)
queue = call("msgget", PRIVATE, 0o600)
for number in range(5):
    call("msgsnd", queue, ctypes.c_char_p((1).to_bytes(8, "little") + b"%d" % number * 500), 500, 0)
room = ctypes.create_string_buffer(120)
call("msgctl", queue, 2, room)
room[88:96] = (100).to_bytes(8, "little")
call("msgctl", queue, 1, room)
for name, value in (("sem", "1 32000 10 1"), ("msgmni", "0"), ("shmmax", "4096"), ("shmall", "1"), ("shmmni", "1")):
    with open(f"/proc/sys/kernel/{name}", "w") as file:
        file.write(value)
def answer():
    limits = [open(f"/proc/sys/kernel/{name}").read().split() for name in ("sem", "msgmni", "shmmax", "shmmni")]
    call("msgctl", queue, 2, room)
    taken = [call("msgrcv", queue, ctypes.create_string_buffer(600), 500, 0, 0o4000) for _ in range(5)]
    return read(at, 4), taken, int.from_bytes(room[88:96], "little"), limits
stand("one", answer)
"""


def test_limits_may_be_lower_than_what_is_there(tmp_path: Path, daemon_socket: Path) -> None:
    """A limit counts for new objects alone, and a queue keeps more messages than it would take now."""
    standing = dumped(CALLS + LOWERED, tmp_path, daemon_socket, within=WITHIN)
    with restored(standing, daemon_socket):
        content, taken, room, limits = literal_eval(standing.ask("one"))

    assert (content, taken, room) == (b"kept", [500] * 5, 100)
    assert limits == [["1", "32000", "10", "1"], ["0"], ["4096"], ["1"]]


FORCED = """
at = attached(call("shmget", PRIVATE, 2 * PAGE, 0o600))
write(at, b"kept")
open("/proc/sys/kernel/shm_rmid_forced", "w").write("1")
def answer():
    forced = open("/proc/sys/kernel/shm_rmid_forced").read()
    return read(at, 4), forced, len(said("shm")), call("shmdt", at), len(said("shm"))
stand("one", answer)
"""


def test_a_segment_comes_back_where_the_kernel_removes_each_that_nobody_has(
    tmp_path: Path, daemon_socket: Path
) -> None:
    """No process has it for a moment while its pages are read."""
    standing = dumped(CALLS + FORCED, tmp_path, daemon_socket, within=WITHIN)
    with restored(standing, daemon_socket):
        assert literal_eval(standing.ask("one")) == (b"kept", "1\n", 1, 0, 0)


def test_objects_of_the_host_are_not_touched(tmp_path: Path, daemon_socket: Path) -> None:
    """The tree gets an IPC namespace of its own; a caller who may make none is refused."""
    standing = dumped(CALLS + SEGMENTS, tmp_path, daemon_socket, ("one", "child"), within=WITHIN)
    before = Path("/proc/sysvipc/shm").read_text()
    with restored(standing, daemon_socket, compared=False):
        assert Path(f"/proc/{standing.pid('one')}/ns/ipc").readlink() != Path("/proc/self/ns/ipc").readlink()
        assert Path("/proc/sysvipc/shm").read_text() == before
    without = ("setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin")
    refused = ckptree("restart", f"criu:{standing.images}", "--no-pidns", before=without)

    assert refused.code == 7
    assert "ipc" in refused.err
    assert "to make one takes CAP_SYS_ADMIN" in refused.err


def test_an_area_of_a_segment_that_the_images_lack_is_refused(tmp_path: Path, daemon_socket: Path) -> None:
    """It is named with its addresses."""
    standing = dumped(CALLS + DIVIDED, tmp_path, daemon_socket, within=WITHIN)
    (image,) = standing.images.glob("ipcns-shm-*.img")
    changed(standing.images, image.name, lambda entry: setattr(entry, "size", 4096))
    smaller = ckptree("restart", f"criu:{standing.images}")
    changed(standing.images, image.name, lambda entry: setattr(entry.desc, "id", 99))
    another = ckptree("restart", f"criu:{standing.images}")

    assert (smaller.code, another.code) == (7, 7)
    assert "it is larger than the System V shared memory" in smaller.err
    assert "the images do not have the System V shared memory" in another.err
