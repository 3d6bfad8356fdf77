# SPDX-License-Identifier: Apache-2.0
"""A user with sub-ids, in a user namespace with the maps that newuidmap and newgidmap write: what is seen, and who
pays.

The daemon counts users as the initial user namespace does, so a namespace's root is whom it is mapped to.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.daemon.server import MAX_CLIENTS_PER_USER
from tests.hostile.compiled import noise
from tests.live.daemons import TOP, Daemon, a_daemon
from tests.support.dying import die_with_parent

USER, FIRST, COUNT = 64001, 0x7FFF0000, 1000
# Maps as newuidmap and newgidmap write them for a container without root: its root is the user, the others are sub-ids.
MAP = f"0 {USER} 1\n1 {FIRST} {COUNT}\n"
# Becomes the user, then another user in a namespace of the first; prints the daemon's answers and its connections.
INSIDE = f"""
import ctypes, json, os, sys
from agent.protocol.client import Client
from agent.errors import BusyError, CkptreeError
path, uid, tries, *roots = sys.argv[1:]
os.setgroups([])
os.setresgid({USER}, {USER}, {USER})
os.setresuid({USER}, {USER}, {USER})
if ctypes.CDLL(None).unshare(0x10000000):
    raise SystemExit("no user namespace")
print("unshared", flush=True)
sys.stdin.readline()
os.setresgid(*[int(uid)] * 3)
os.setresuid(*[int(uid)] * 3)
clients = []
for _ in range(int(tries)):
    try:
        clients.append(Client(path))
        clients[-1].hello()
    except BusyError:
        clients.pop()
        break
if clients or int(tries):
    print(json.dumps({{"in": len(clients)}}), flush=True)
    sys.stdin.readline()
    sys.exit()
own = os.fork()
if not own:
    ctypes.CDLL(None).prctl(1, 9)
    sys.stdin.readline()
    os._exit(0)
said = []
for root in (own, *roots):
    try:
        with Client(path) as client:
            said.append("shown" if client.snapshot(str(root)).complete else "incomplete")
    except CkptreeError as error:
        said.append(type(error).__name__)
with Client(path) as client:
    peer = client.hello()
print(json.dumps({{"uid": os.getuid(), "peer": peer.uid, "sees": peer.sees, "said": said}}), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """A daemon on whose host that user has sub-ids."""
    table = Path("/etc/subuid")
    before = table.read_text() if table.exists() else None
    table.write_text((before or "") + f"{USER}:{FIRST}:{COUNT}\n")
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents[:2]:
        folder.chmod(0o711)
    try:
        with a_daemon(tmp_path) as daemon:
            yield daemon
    finally:
        table.unlink() if before is None else table.write_text(before)


@contextlib.contextmanager
def somebody(*command: str) -> Iterator["subprocess.Popen[str]"]:
    """A process of the user's in a namespace of the user's, mapped by root as the set-user-id programs do it."""
    with subprocess.Popen(
        [sys.executable, "-c", *command],
        cwd=TOP,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "unshared\n"
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{process.pid}/{name}").write_text(MAP)
        process.stdin.write("\n")
        process.stdin.flush()
        try:
            yield process
        finally:
            process.kill()


def told(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """Read the line of JSON that a process prints."""
    assert process.stdout
    return dict(json.loads(process.stdout.readline()))


@pytest.fixture
def outside() -> Iterator[tuple[int, int]]:
    """Outside of the namespace: a process of the user's, and one of root's."""
    with (
        subprocess.Popen(["sleep", "99"], user=USER, group=USER, extra_groups=[], preexec_fn=die_with_parent) as own,
        subprocess.Popen(["sleep", "99"], preexec_fn=die_with_parent) as roots,
    ):
        yield own.pid, roots.pid
        own.kill()
        roots.kill()


def test_the_root_of_a_namespace_is_the_user_it_is_mapped_to(running: Daemon, outside: tuple[int, int]) -> None:
    """And no more than that: no task of the host's root is shown, however much root it is at home."""
    with somebody(INSIDE, os.fspath(running.socket), "0", "0", *map(str, outside)) as process:
        found = told(process)

    assert (found["uid"], found["peer"], found["sees"]) == (0, USER, "own")
    assert found["said"] == ["shown", "shown", "NotPermittedError"]


def test_a_sub_id_is_shown_what_is_that_ids_alone(running: Daemon, outside: tuple[int, int]) -> None:
    """Neither the user's tasks nor root's: the kernel keeps them from it as well."""
    with somebody(INSIDE, os.fspath(running.socket), "5", "0", *map(str, outside)) as process:
        found = told(process)

    assert (found["uid"], found["peer"], found["sees"]) == (5, FIRST + 4, "own")
    assert found["said"] == ["shown", "NotPermittedError", "NotPermittedError"]


def test_the_sub_ids_of_a_user_and_the_user_have_one_budget(running: Daemon) -> None:
    """The limit holds for the connections of all its users together."""
    socket, tries = os.fspath(running.socket), str(MAX_CLIENTS_PER_USER)
    with somebody(INSIDE, socket, "5", str(MAX_CLIENTS_PER_USER - 10)) as first:
        one = told(first)["in"]
        with somebody(INSIDE, socket, "6", tries) as second, somebody(INSIDE, socket, "0", tries) as root:
            two, three = told(second)["in"], told(root)["in"]

    assert one == MAX_CLIENTS_PER_USER - 10
    assert one + two + three == MAX_CLIENTS_PER_USER


def test_the_noise_of_a_sub_id_is_its_users(running: Daemon) -> None:
    """The kernel side charges the owner of the namespace."""
    script = INSIDE[: INSIDE.index("clients = []")] + "os.execv(path, [path, '3', 'flip-subreaper'])\n"
    with somebody(script, os.fspath(noise()), "7", "0") as process:
        assert process.stdout
        calls = int(process.stdout.readline())
    log = running.log.read_text()

    assert calls > 50_000, "the machine is too busy for noise"
    assert f"processes of user {USER} change their process groups" in log
