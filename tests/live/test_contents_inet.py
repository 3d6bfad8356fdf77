# SPDX-License-Identifier: Apache-2.0
"""Programs with sockets of IP run on after a restart: listeners, datagrams, options, connections."""

import ast
import socket
import sys
import time
from pathlib import Path

import pytest

from tests.live.dumps import NEWER, dump, eventually, program, restarted
from tests.live.standing import alike, dumped_at_a_stop

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
loose = socket.socket(socket.AF_INET, D)
loose.setsockopt(socket.SOL_IP, 15, 1)
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
    "freebind": [each.getsockopt(socket.SOL_IP, 15) for each in (loose, bound)],
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
    "freebind": [1, 0],
    "filter": b"\xfe\xff\xff\xff",
    "unused": (1, 5),
}


def test_sockets_of_ip_listen_and_send_again(tmp_path: Path, daemon_socket: Path) -> None:
    """Listeners that two processes share, of both families, several of one port, datagrams, a raw socket, options."""
    with program([sys.executable, "-c", INET], tmp_path) as pid:
        eventually((tmp_path / "begun").exists, "it has begun")
        time.sleep(0.1)
        images = dumped_at_a_stop(pid, tmp_path / "images", daemon_socket, suite=NEWER)
    ports = [each[1] for each in ast.literal_eval((tmp_path / "ports").read_text())]
    with alike(images, daemon_socket, suite=NEWER):
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


def _beside(port: int, kind: socket.SocketKind, option: int) -> bool:
    """Return True if a socket with an option gets a port of 127.0.0.1."""
    with socket.socket(type=kind) as other:
        other.setsockopt(socket.SOL_SOCKET, option, 1)
        try:
            other.bind(("127.0.0.1", port))
            if kind == socket.SOCK_STREAM:
                other.listen()
        except OSError:
            return False
    return True


def test_nobody_gets_an_address_beside_a_restored_socket_that_does_not_share_it(
    tmp_path: Path, daemon_socket: Path
) -> None:
    """Nor does a second restart of the same dump; the two listeners that share a port share it again."""
    with program([sys.executable, "-c", INET], tmp_path) as pid:
        eventually((tmp_path / "begun").exists, "it has begun")
        images = dump(pid, tmp_path / "images", daemon_socket, suite=NEWER)
    four, _, shared, _, bound, _ = (each[1] for each in ast.literal_eval((tmp_path / "ports").read_text()))
    with restarted(images):
        for option in (socket.SO_REUSEPORT, socket.SO_REUSEADDR):
            assert not _beside(four, socket.SOCK_STREAM, option)
            assert not _beside(bound, socket.SOCK_DGRAM, option)
        assert _beside(shared, socket.SOCK_STREAM, socket.SO_REUSEPORT)
        second = rf"ended with 7(.*\n)*.*inet-socket .*127.0.0.1 port {four}: Address already in use"
        with pytest.raises(AssertionError, match=second), restarted(images):
            pass


SHARED = """
import os, socket, time
S, A, P = socket.SOL_SOCKET, socket.SO_REUSEADDR, socket.SO_REUSEPORT
def bound(port, option=A, host="127.0.0.1"):
    each = socket.socket()
    each.setsockopt(S, option, 1)
    each.bind((host, port))
    each.setsockopt(S, option, 0)
    return each
waiting = bound(0)
port = waiting.getsockname()[1]
waiting.setsockopt(S, A, 1)
if os.fork() == 0:
    waiting.close()
    mine = socket.socket()
    mine.setsockopt(S, A, 1)
    mine.bind(("127.0.0.1", port))
    mine.listen(3)
    mine.setsockopt(S, A, 0)
    open("listens", "w").close()
    while True:
        client = mine.accept()[0]
        client.sendall(b"listener")
        client.close()
while not os.path.exists("listens"):
    time.sleep(0.02)
waiting.setsockopt(S, A, 0)
first = bound(0, P)
first.setsockopt(S, P, 1)
second = socket.socket()
second.setsockopt(S, P, 1)
second.bind(first.getsockname())
for each in (first, second):
    each.listen(2)
for each in (first, second):
    each.setsockopt(S, P, 0)
alone = socket.socket()
alone.bind(("127.0.0.1", 0))
with open("ports", "w") as file:
    print([port, first.getsockname()[1], alone.getsockname()[1]], file=file)
open("begun", "w").close()
while True:
    time.sleep(60)
"""


def test_an_address_that_sockets_of_a_tree_share_without_an_option_is_theirs_alone(
    tmp_path: Path, daemon_socket: Path
) -> None:
    """A listener and a socket that is only bound, of two processes; two listeners; a socket alone that is only bound."""
    with program([sys.executable, "-c", SHARED], tmp_path) as pid:
        eventually((tmp_path / "begun").exists, "it has begun")
        images = dump(pid, tmp_path / "images", daemon_socket, suite=NEWER)
    shared, twice, alone = ast.literal_eval((tmp_path / "ports").read_text())
    with restarted(images):
        for option in (socket.SO_REUSEPORT, socket.SO_REUSEADDR):
            assert [_beside(each, socket.SOCK_STREAM, option) for each in (shared, twice, alone)] == [False] * 3
            assert not _bound_beside(alone, option)
        with socket.create_connection(("127.0.0.1", shared)) as client:
            assert client.recv(100) == b"listener"


def _bound_beside(port: int, option: int) -> bool:
    """Return True if a socket of TCP with an option is bound to a port of 127.0.0.1, without listening."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, option, 1)
        try:
            other.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


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
    """Queued messages come through; a message of two bytes does not."""
    with program([sys.executable, "-c", FILTERED], tmp_path) as pid:
        eventually((tmp_path / "ready").exists, "it is ready")
        images = dumped_at_a_stop(pid, tmp_path / "images", daemon_socket)
    (tmp_path / "go").touch()
    with alike(images, daemon_socket):
        eventually((tmp_path / "told").exists, "it tells")
    assert (tmp_path / "told").read_text() == "b'queued before the filter' b'yes'\n"


TCP = """
import os, socket, sys, time
family = socket.AF_INET6 if sys.argv[2] == "::1" else socket.AF_INET
outside = socket.create_connection((sys.argv[2], int(sys.argv[1])))
outside.send(b"begun")
listener = socket.socket(family, socket.SOCK_STREAM)
listener.bind((sys.argv[2], 0))
listener.listen(5)
client = socket.create_connection(listener.getsockname()[:2])
server = listener.accept()[0]
server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
big = bytes(range(256)) * 300
client.setblocking(False)
sent = client.send(big)
client.setblocking(True)
server.send(b"not read yet")
time.sleep(0.2)
open("begun", "w").close()
while not os.path.exists("ask"):
    time.sleep(0.02)
seen = {"unread": client.recv(100), "inside": b""}
while len(seen["inside"]) < sent:
    seen["inside"] += server.recv(100000)
seen["inside"] = seen["inside"] == big[:sent]
seen["nodelay"] = server.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
seen["reuse"] = [each.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) for each in (server, client)]
server.send(b"answer")
seen["answer"] = client.recv(100)
seen["outside"] = outside.recv(100)
outside.send(b"after")
seen["asked"] = outside.recv(100)
with open("telling", "w") as file:
    print(seen, file=file)
os.rename("telling", "told")
outside.close()
time.sleep(60)
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_connections_go_on_where_that_is_asked_for(host: str, tmp_path: Path, daemon_socket: Path) -> None:
    """One within the tree, with full queues, and one to a process outside; without the option both are refused."""
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        command = [sys.executable, "-c", TCP, str(listener.getsockname()[1]), host]
        with program(command, tmp_path) as pid:
            peer = listener.accept()[0]
            assert peer.recv(100) == b"begun"
            eventually((tmp_path / "begun").exists, "it has begun")
            peer.send(b"waiting there")
            time.sleep(0.1)
            options = ("--tcp-established", "--network-lock", "skip")
            images = dump(pid, tmp_path / "images", daemon_socket, *options, suite=NEWER)
        with pytest.raises(AssertionError, match="use --tcp-established"), restarted(images):
            pass
        with restarted(images, "--tcp-established"):
            (tmp_path / "ask").touch()
            assert peer.recv(100) == b"after"
            peer.send(b"asked")
            eventually((tmp_path / "told").exists, "it tells")
            assert peer.recv(100) == b""
        peer.close()
    assert ast.literal_eval((tmp_path / "told").read_text()) == {
        "unread": b"not read yet",
        "inside": True,
        "nodelay": 1,
        "reuse": [1, 0],
        "answer": b"answer",
        "outside": b"waiting there",
        "asked": b"asked",
    }
