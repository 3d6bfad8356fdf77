# SPDX-License-Identifier: Apache-2.0
"""Programs with sockets run on after a restart: their peers, queues, names, options, descriptors in flight."""

import ast
import errno
import stat
import sys
import time
from pathlib import Path

import pytest

from tests.live.dumps import dump, eventually, program, restarted
from tests.live.standing import alike, dumped_at_a_stop

UNIX = """
import array, os, signal, socket, struct, sys, time
os.makedirs("sub", exist_ok=True)
os.umask(0)
S, D, Q = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET
listener = socket.socket(socket.AF_UNIX, S)
listener.bind(os.path.abspath("sub/listener"))
os.chmod("sub/listener", 0o640)
os.chown("sub/listener", 1234, 2345)
listener.listen(7)
os.chdir("sub")
relative = socket.socket(socket.AF_UNIX, Q)
relative.bind("relative")
relative.listen(3)
os.chdir("..")
abstract = socket.socket(socket.AF_UNIX, S)
abstract.bind(b"\\0ckptree-test-%d" % os.getpid())
abstract.listen(5)
one = socket.socket(socket.AF_UNIX, S)
one.connect(abstract.getsockname())
accepted = abstract.accept()[0]
waiting = socket.socket(socket.AF_UNIX, S)
waiting.connect(listener.getsockname())
second = socket.socket(socket.AF_UNIX, S)
second.connect(listener.getsockname())
gone = socket.socket(socket.AF_UNIX, S)
gone.bind(os.path.abspath("sub/gone"))
gone.listen(1)
left = socket.socket(socket.AF_UNIX, S)
left.bind(os.path.abspath("sub/left"))
left.connect(gone.getsockname())
kept = gone.accept()[0]
gone.close()
os.unlink("sub/gone")
closed, half = socket.socketpair(socket.AF_UNIX, S)
closed.send(b"last words")
closed.close()
a, b = socket.socketpair(socket.AF_UNIX, S)
a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
a.settimeout(None)
big = bytes(range(256)) * 200
a.send(big)
b.send(b"back")
c, d = socket.socketpair(socket.AF_UNIX, D)
for n in range(5):
    c.send(b"m%d" % n)
server = socket.socket(socket.AF_UNIX, D)
server.bind(os.path.abspath("sub/datagrams"))
client = socket.socket(socket.AF_UNIX, D)
client.connect(server.getsockname())
client.send(b"asked")
nobody = socket.socket(socket.AF_UNIX, D)
nobody.bind(os.path.abspath("sub/nobody"))
sender = socket.socket(socket.AF_UNIX, D)
sender.sendto(b"from a stranger", nobody.getsockname())
sender.close()
p, q = socket.socketpair(socket.AF_UNIX, Q)
r, w = os.pipe()
os.write(w, b"in flight")
only = os.open("flying", os.O_CREAT | os.O_RDWR, 0o600)
os.write(only, b"only in flight")
os.lseek(only, 5, 0)
p.sendmsg([b"take"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [r, only]))])
p.send(b"second")
os.close(only)
x, y = socket.socketpair(socket.AF_UNIX, S)
x.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
x.send(b"rest")
x.shutdown(socket.SHUT_WR)
parent, child = socket.socketpair(socket.AF_UNIX, S)
if os.fork() == 0:
    parent.close()
    other = one
    while True:
        word = child.recv(100)
        if not word:
            os._exit(0)
        child.send(b"child: " + word)
        other.send(b"to the accepted one: " + word)
child.close()
one.close()
open("begun", "w").close()
while not os.path.exists("ask"):
    time.sleep(0.02)
seen = {}
def note(name, call):
    try:
        seen[name] = call()
    except OSError as error:
        seen[name] = error.errno
parent.send(b"hello")
note("child", lambda: parent.recv(100))
note("accepted", lambda: accepted.recv(100))
note("accepted name", lambda: accepted.getsockname() == abstract.getsockname())
new = socket.socket(socket.AF_UNIX, S)
new.connect(abstract.getsockname())
new.send(b"new")
note("new", lambda: abstract.accept()[0].recv(10))
note("waiting", lambda: listener.accept()[0].send(b"welcome") and waiting.recv(10))
note("next", lambda: listener.accept()[0].send(b"you too") and second.recv(10))
note("listener", lambda: listener.getsockname() == os.path.abspath("sub/listener"))
note("relative", lambda: relative.getsockname())
names = tuple(map(os.path.abspath, ("sub/gone", "sub/left")))
note("kept", lambda: (kept.getsockname(), kept.getpeername()) == names)
note("kept talks", lambda: kept.send(b"x") and left.recv(10))
note("half", lambda: (half.recv(100), half.recv(100)))
got = b""
while len(got) < len(big):
    got += b.recv(100000)
note("big", lambda: got == big)
note("back", lambda: a.recv(100))
L = socket.SOL_SOCKET
note("options", lambda: (a.getsockopt(L, socket.SO_SNDBUF), x.getsockopt(L, socket.SO_PASSCRED)))
note("datagrams", lambda: [d.recv(100) for n in range(5)])
note("asked", lambda: server.recv(100))
note("asks", lambda: client.send(b"again") and server.recv(100))
note("nobody", lambda: nobody.recv(100))
message, extra, _, _ = q.recvmsg(100, 100)
fds = struct.unpack("ii", extra[0][2])
note("message", lambda: message)
note("pipe", lambda: os.read(fds[0], 100))
note("only", lambda: os.read(fds[1], 100))
note("second", lambda: q.recv(100))
note("rest", lambda: (y.recv(100), y.recv(100), y.send(b"still") and x.recv(100)))
note("shut", lambda: x.send(b"never", socket.MSG_NOSIGNAL))
with open("telling", "w") as file:
    print(seen, file=file)
os.rename("telling", "told")
time.sleep(60)
"""

UNIX_SEEN = {
    "child": b"child: hello",
    "accepted": b"to the accepted one: hello",
    "accepted name": True,
    "new": b"new",
    "waiting": b"welcome",
    "next": b"you too",
    "listener": True,
    "relative": "relative",
    "kept": True,
    "kept talks": b"x",
    "half": (b"last words", b""),
    "big": True,
    "back": b"back",
    "options": (131072, 1),
    "datagrams": [b"m0", b"m1", b"m2", b"m3", b"m4"],
    "asked": b"asked",
    "asks": b"again",
    "nobody": b"from a stranger",
    "message": b"take",
    "pipe": b"in flight",
    "only": b"in flight",
    "second": b"second",
    "rest": (b"rest", b"", b"still"),
    "shut": errno.EPIPE,
}


def test_unix_sockets_keep_peers_queues_and_names(tmp_path: Path, daemon_socket: Path) -> None:
    """Pairs, connections, listeners with clients that wait, datagrams, descriptors in flight, shutdown, closed peers."""
    with program([sys.executable, "-c", UNIX], tmp_path) as pid:
        eventually((tmp_path / "begun").exists, "it has begun")
        time.sleep(0.1)
        images = dumped_at_a_stop(pid, tmp_path / "images", daemon_socket)
    with alike(images, daemon_socket):
        (tmp_path / "ask").touch()
        eventually((tmp_path / "told").exists, "it tells")
        found = (tmp_path / "sub" / "listener").stat()
    seen = ast.literal_eval((tmp_path / "told").read_text())
    assert seen == UNIX_SEEN
    assert stat.S_ISSOCK(found.st_mode)
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, 1234, 2345)


FLYING = """
import array, os, select, socket, time
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
poll = select.epoll()
poll.register(b, select.EPOLLIN)
a.sendmsg([b"take"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [poll.fileno()]))])
poll.close()
open("ready", "w").close()
time.sleep(100)
"""


def test_a_file_in_flight_that_cannot_be_restored_is_refused_by_name(tmp_path: Path, daemon_socket: Path) -> None:
    """No process has a descriptor of it; its targets are known by numbers of descriptors."""
    with program([sys.executable, "-c", FLYING], tmp_path) as pid:
        eventually((tmp_path / "ready").exists, "it is ready")
        images = dump(pid, tmp_path / "images", daemon_socket)
    refused = r"restart ended with 7: .*epoll \d+: it waits for descriptor"
    with pytest.raises(AssertionError, match=refused), restarted(images):
        pass


PACKED = """
import array, os, socket, sys, time
a, b = socket.socketpair()
rights = lambda *files: [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))]
first = os.memfd_create("first")
os.write(first, b"first")
second = os.memfd_create("second", os.MFD_ALLOW_SEALING)
os.write(second, b"second")
inner, other = socket.socketpair()
other.sendmsg([b"in"], rights(second))
a.sendmsg([b"out"], rights(first, inner.fileno()))
if os.fork():
    a.close()
for each in (first, second):
    os.close(each)
inner.close()
def received(end, most):
    _, more, _, _ = end.recvmsg(10, 100)
    files = array.array("i")
    files.frombytes(more[0][2][: most * files.itemsize])
    return files
open("ready", "w").close()
while not os.path.exists("ask"):
    time.sleep(0.02)
if a.fileno() < 0:
    memory, socket_of = received(b, 2)
    (within,) = received(socket.socket(fileno=socket_of), 1)
    with open("telling", "w") as file:
        file.write(repr([(os.readlink(f"/proc/self/fd/{each}"), os.pread(each, 9, 0)) for each in (memory, within)]))
    os.rename("telling", "told")
time.sleep(60)
"""


def test_memory_that_messages_alone_have_comes_back(tmp_path: Path, daemon_socket: Path) -> None:
    """A memfd in flight, and one in flight to a socket in flight."""
    with program([sys.executable, "-c", PACKED], tmp_path) as pid:
        eventually((tmp_path / "ready").exists, "it is ready")
        images = dump(pid, tmp_path / "images", daemon_socket)
    with restarted(images):
        (tmp_path / "ask").touch()
        eventually((tmp_path / "told").exists, "it tells")
        told = ast.literal_eval((tmp_path / "told").read_text())

    assert told == [("/memfd:first (deleted)", b"first"), ("/memfd:second (deleted)", b"second")]


REPLACED = """
import os, socket, time
def bound():
    made = socket.socket(socket.AF_UNIX)
    made.bind("place")
    made.listen(3)
    return made
first = bound()
os.rename("place", "aside")
second = bound()
os.rename("aside", "place")  # now the first has its file again, and the second has none
open("begun", "w").close()
while not os.path.exists("ask"):
    time.sleep(0.02)
client = socket.socket(socket.AF_UNIX)
client.connect("place")
first.settimeout(5)
with open("telling", "w") as file:
    file.write(repr((first.getsockname(), second.getsockname(), first.accept()[0] is not None)))
os.rename("telling", "told")
time.sleep(60)
"""


def test_a_listener_whose_file_another_one_has_replaced_comes_back(tmp_path: Path, daemon_socket: Path) -> None:
    """Both have the name; a client gets to the one that has the file."""
    with program([sys.executable, "-c", REPLACED], tmp_path) as pid:
        eventually((tmp_path / "begun").exists, "it has begun")
        images = dumped_at_a_stop(pid, tmp_path / "images", daemon_socket)
    with alike(images, daemon_socket):
        (tmp_path / "ask").touch()
        eventually((tmp_path / "told").exists, "it tells")

    assert (tmp_path / "told").read_text() == repr(("place", "place", True))
    assert (tmp_path / "place").is_socket()
