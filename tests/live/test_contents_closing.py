# SPDX-License-Identifier: Apache-2.0
"""Connections of TCP that are being made or closed, after a dump by CRIU and a restart; and those that come back closed."""

import ast
import json
import socket
import sys
import threading
from pathlib import Path

import pytest

from tests.live.daemons import ckptree
from tests.live.dumps import NEWER, dump, eventually, program, restarted

SKIP = ("--network-lock", "skip")
STATES = """
import os, socket, struct, sys, time
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
NAMES = {1: "established", 2: "syn-sent", 4: "fin-wait-1", 5: "fin-wait-2", 7: "close", 8: "close-wait", 9: "last-ack"}

def state(end):
    return NAMES[end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]]

listener = socket.socket(family)
listener.bind((sys.argv[1], 0))
listener.listen(9)
address = listener.getsockname()[:2]

def pair():
    client = socket.create_connection(address)
    return client, listener.accept()[0]

half, other = pair()
half.send(b"the last words")
half.shutdown(socket.SHUT_WR)
gone, heard = pair()
gone.send(b"unread")
heard.send(b"said")
gone.shutdown(socket.SHUT_WR)
heard.shutdown(socket.SHUT_WR)
reset, killer = pair()
killer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
killer.close()
waiting = [socket.socket(family) for _ in range(3)]
for each in waiting:
    each.setblocking(False)
    each.connect_ex((sys.argv[1], int(sys.argv[2])))
time.sleep(0.3)
ends = {"half": half, "other": other, "gone": gone, "heard": heard, "reset": reset, "waiting": waiting[2]}
before = {name: state(end) for name, end in ends.items()}
open("begun", "w").close()
while not os.path.exists("ask"):
    time.sleep(0.02)
seen = {"states": {name: state(end) for name, end in ends.items()}, "before": before}
seen["read"] = [other.recv(100), other.recv(100), heard.recv(100), heard.recv(100), gone.recv(100), gone.recv(100)]
other.send(b"an answer")
seen["answer"] = half.recv(100)
other.close()
time.sleep(0.1)
seen["end"] = half.recv(100), state(half)
for _ in range(500):
    if state(waiting[2]) == "established":
        break
    time.sleep(0.02)
seen["made"] = state(waiting[2])
with open("telling", "w") as file:
    print(seen, file=file)
os.rename("telling", "told")
time.sleep(60)
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_connections_are_in_the_states_that_they_were_in(host: str, tmp_path: Path, daemon_socket: Path) -> None:
    """The kernel tells the states; data come before their end; one that waits for its peer is made when that is ready."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as full:
        full.bind((host, 0))
        full.listen(0)
        taken: list[socket.socket] = []
        taking = threading.Timer(0, lambda: taken.extend(full.accept()[0] for _ in range(2)))
        arguments = host, str(full.getsockname()[1])
        with program([sys.executable, "-c", STATES, *arguments], tmp_path) as pid:
            eventually((tmp_path / "begun").exists, "it has begun")
            images = dump(pid, tmp_path / "images", daemon_socket, "--tcp-established", *SKIP, suite=NEWER)
        with restarted(images, "--tcp-established"):
            (tmp_path / "ask").touch()
            taking.start()
            eventually((tmp_path / "told").exists, "it tells")
            taking.join()
        for each in taken:
            each.close()
    seen = ast.literal_eval((tmp_path / "told").read_text())

    assert seen["states"] == seen["before"]
    assert {name: seen["before"][name] for name in ("half", "other", "reset", "waiting")} == {
        "half": "fin-wait-2",
        "other": "close-wait",
        "reset": "close",
        "waiting": "syn-sent",
    }
    assert seen["read"] == [b"the last words", b"", b"unread", b"", b"said", b""]
    assert (seen["answer"], seen["end"]) == (b"an answer", (b"", "close"))
    assert (seen["made"], len(taken)) == ("established", 2)


CLOSED = """
import os, socket, sys, time
listener = socket.create_server((sys.argv[1], 0))
client = socket.create_connection(listener.getsockname()[:2])
server = listener.accept()[0]
open("begun", "w").close()
while not os.path.exists("ask"):
    time.sleep(0.02)
def sent():
    try:
        return client.send(b"x")
    except BrokenPipeError as error:
        return error.errno
seen = {"read": (server.recv(10), client.recv(10)), "sent": sent()}
again = socket.create_connection(listener.getsockname()[:2])
again.send(b"again")
seen["again"] = listener.accept()[0].recv(10)
with open("telling", "w") as file:
    print(seen, file=file)
os.rename("telling", "told")
time.sleep(60)
"""


def test_connections_come_back_closed_where_that_is_asked_for(tmp_path: Path, daemon_socket: Path) -> None:
    """Their program reads an end, and its listener takes new ones; `plan` takes the same options."""
    with program([sys.executable, "-c", CLOSED, "127.0.0.1"], tmp_path) as pid:
        eventually((tmp_path / "begun").exists, "it has begun")
        images = dump(pid, tmp_path / "images", daemon_socket, "--tcp-established", *SKIP, suite=NEWER)
    with restarted(images, "--tcp-close"):
        (tmp_path / "ask").touch()
        eventually((tmp_path / "told").exists, "it tells")
    seen = ast.literal_eval((tmp_path / "told").read_text())
    found = [
        [each["rule"] for each in json.loads(ckptree("plan", f"criu:{images}", "--json", *options).out)["contents"]]
        for options in ((), ("--tcp-established",), ("--tcp-close",))
    ]
    both = ckptree("plan", f"criu:{images}", "--tcp-established", "--tcp-close")
    without = ckptree("plan", str(images / "tree.ckpt"), "--tcp-established")

    assert seen == {"read": (b"", b""), "sent": 32, "again": b"again"}
    assert found == [["connection"] * 2, [], []]
    assert (both.code, without.code) == (2, 2)
    assert "leave out one" in both.err
