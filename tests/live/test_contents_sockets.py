# SPDX-License-Identifier: Apache-2.0
"""Programs with sockets run on after a restart: their peers, queues, names, options, descriptors in flight."""

import ast
import errno
import socket
import stat
import sys
import time
from pathlib import Path

import pytest

from tests.live.dumps import NEWER, dump, eventually, program, restarted

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
        images = dump(pid, tmp_path / "images", daemon_socket)
    with restarted(images):
        (tmp_path / "ask").touch()
        eventually((tmp_path / "told").exists, "it tells")
        found = (tmp_path / "sub" / "listener").stat()
    seen = ast.literal_eval((tmp_path / "told").read_text())
    assert seen == UNIX_SEEN
    assert stat.S_ISSOCK(found.st_mode)
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, 1234, 2345)


INET = """
import os, socket, struct, time
S, D = socket.SOCK_STREAM, socket.SOCK_DGRAM
four = socket.socket(socket.AF_INET, S)
four.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
four.bind(("127.0.0.1", 0))
four.listen(9)
six = socket.socket(socket.AF_INET6, S)
six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
six.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
six.bind(("::", 0))
six.listen(3)
both = [socket.socket(socket.AF_INET, S) for n in range(2)]
for each in both:
    each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    each.bind(("127.0.0.1", both[0].getsockname()[1]))
    each.listen(2)
bound = socket.socket(socket.AF_INET, D)
bound.bind(("127.0.0.1", 0))
asking = socket.socket(socket.AF_INET, D)
asking.setsockopt(socket.SOL_IP, socket.IP_TTL, 17)
asking.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
asking.connect(bound.getsockname())
fresh = socket.socket(socket.AF_INET6, D)
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
raw.setsockopt(255, 1, struct.pack("I", 0xfffffffe))
unused = socket.socket(socket.AF_INET, S)
unused.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
unused.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 5))
names = [each.getsockname() for each in (four, six, *both, bound, asking)]
if os.fork() == 0:
    while True:
        client = four.accept()[0]
        client.sendall(b"child: " + client.recv(100))
        client.close()
with open("ports", "w") as file:
    print(names, file=file)
open("begun", "w").close()
while not os.path.exists("ask"):
    time.sleep(0.02)
L = socket.SOL_SOCKET
seen = {
    "names": names == [each.getsockname() for each in (four, six, *both, bound, asking)],
    "reuse": [each.getsockopt(L, socket.SO_REUSEADDR) for each in (four, six, both[0])],
    "reuseport": [each.getsockopt(L, socket.SO_REUSEPORT) for each in (four, six, *both)],
    "only": six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY),
    "nodelay": six.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
    "ttl": asking.getsockopt(socket.SOL_IP, socket.IP_TTL),
    "broadcast": asking.getsockopt(L, socket.SO_BROADCAST),
    "udp": asking.send(b"hello") and bound.recv(10),
    "peer": asking.getpeername() == bound.getsockname(),
    "fresh": fresh.getsockname()[:2],
    "filter": raw.getsockopt(255, 1, 4),
    "unused": (unused.getsockopt(L, socket.SO_KEEPALIVE), unused.getsockopt(L, socket.SO_LINGER, 8)[4]),
}
with open("telling", "w") as file:
    print(seen, file=file)
os.rename("telling", "told")
while True:
    client = six.accept()[0]
    client.sendall(b"six")
    client.close()
"""
INET_SEEN = {
    "names": True,
    "reuse": [1, 0, 0],
    "reuseport": [0, 0, 1, 1],
    "only": 1,
    "nodelay": 1,
    "ttl": 17,
    "broadcast": 1,
    "udp": b"hello",
    "peer": True,
    "fresh": ("::", 0),
    "filter": b"\xfe\xff\xff\xff",
    "unused": (1, 5),
}


def test_sockets_of_ip_listen_and_send_again(tmp_path: Path, daemon_socket: Path) -> None:
    """Listeners that two processes share, of both families, several of one port, datagrams, a raw socket, options."""
    with program([sys.executable, "-c", INET], tmp_path) as pid:
        eventually((tmp_path / "begun").exists, "it has begun")
        time.sleep(0.1)
        images = dump(pid, tmp_path / "images", daemon_socket, suite=NEWER)
    ports = [each[1] for each in ast.literal_eval((tmp_path / "ports").read_text())]
    with restarted(images):
        (tmp_path / "ask").touch()
        eventually((tmp_path / "told").exists, "it tells")
        with socket.create_connection(("127.0.0.1", ports[0])) as client:
            client.sendall(b"hello")
            assert client.recv(100) == b"child: hello"
        with socket.create_connection(("::1", ports[1])) as client:
            assert client.recv(100) == b"six"
    assert ast.literal_eval((tmp_path / "told").read_text()) == INET_SEEN


def test_a_port_that_another_program_has_taken_is_refused_by_name(tmp_path: Path, daemon_socket: Path) -> None:
    """Nothing is made."""
    with program([sys.executable, "-c", INET], tmp_path) as pid:
        eventually((tmp_path / "begun").exists, "it has begun")
        images = dump(pid, tmp_path / "images", daemon_socket, suite=NEWER)
    ports = [each[1] for each in ast.literal_eval((tmp_path / "ports").read_text())]
    with socket.socket(socket.AF_INET) as taker:
        taker.bind(("127.0.0.1", ports[0]))
        taker.listen()
        with (
            pytest.raises(AssertionError, match=rf"ended with 7.*\n?.*inet-socket .*127.0.0.1 port {ports[0]}"),
            restarted(images),
        ):
            pass


FILTERED = """
import ctypes, os, socket, struct, time
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
a.send(b"queued before the filter")
code = b"".join(struct.pack("<HBBI", *each) for each in (
    (0x80, 0, 0, 0),  # load the length
    (0x35, 1, 0, 3),  # skip one if it is at least 3
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 65535),  # take all
))
program = ctypes.create_string_buffer(code, len(code))
b.setsockopt(socket.SOL_SOCKET, 26, struct.pack("<HxxxxxxQ", 4, ctypes.addressof(program)))
open("ready", "w").close()
while not os.path.exists("go"):
    time.sleep(0.01)
a.send(b"no")
a.send(b"yes")
with open("telling", "w") as file:
    print(b.recv(100), b.recv(100), file=file)
os.rename("telling", "told")
time.sleep(100)
"""


def test_the_filter_of_a_socket_drops_what_it_dropped(tmp_path: Path, daemon_socket: Path) -> None:
    """What was queued comes through; a message of two bytes does not."""
    with program([sys.executable, "-c", FILTERED], tmp_path) as pid:
        eventually((tmp_path / "ready").exists, "it is ready")
        images = dump(pid, tmp_path / "images", daemon_socket)
    (tmp_path / "go").touch()
    with restarted(images):
        eventually((tmp_path / "told").exists, "it tells")
    assert (tmp_path / "told").read_text() == "b'queued before the filter' b'yes'\n"
