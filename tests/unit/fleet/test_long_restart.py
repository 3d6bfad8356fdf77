# SPDX-License-Identifier: Apache-2.0
"""A restart that takes longer than the server of NATS lets a relay answer."""

import re
import socket
import subprocess
import time
from pathlib import Path

import pytest

from agent.cli import fleetrestartverb
from agent.fleet import manifest
from agent.fleet.clocks import Offset
from agent.fleet.manifest import FleetSet, HostImage
from agent.protocol import codec
from tests.support import servers
from tests.support.commandline import here
from tests.support.fakedaemon import a_server
from tests.support.relays import a_relay

pytestmark = pytest.mark.slow
PAGE = Path(__file__).parents[3] / "docs" / "fleet.md"
TOOK_S = 4.0


def test_a_relay_is_asked_again_while_the_tree_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The permissions are those of the page, but that answers are let through for a second. The service is asked once."""
    monkeypatch.setattr(fleetrestartverb, "_AGAIN_S", 0.4)
    page = PAGE.read_text()
    relay_of = re.search(r"^RELAY_OF_NODE1 \{.*?^\}", page, re.MULTILINE | re.DOTALL)
    assert relay_of
    assert relay_of[0].count('  publish: ["_INBOX.>"]\n') == 1
    (tmp_path / "nats.conf").write_text(
        relay_of[0].replace('publish: ["_INBOX.>"]', 'publish: {deny: ">"}\n  allow_responses: {max: 1, expires: "1s"}')
        + "\nauthorization {users: [{user: ops, password: ops}, {user: r, password: r, permissions: $RELAY_OF_NODE1}]}\n"
    )
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    image = manifest.hash_of(b"tree")
    host = HostImage("old", "1", image, 4, 1, 0, 1, Offset(0, 0), complete=True)
    (tmp_path / "set").write_bytes(manifest.dumps(FleetSet("x", 7, (host,))))
    (tmp_path / image.replace(":", "-")).write_bytes(b"tree")
    words: list[str | Path] = [
        "ssh-keygen",
        "-q",
        "-Y",
        "sign",
        "-f",
        tmp_path / "key",
        "-n",
        "ckptree",
        tmp_path / "set",
    ]
    subprocess.run(words, check=True, capture_output=True)
    asked: list[codec.Message] = []

    def serve(connection: socket.socket) -> None:
        decoder = codec.Decoder(1 << 20)
        for answer in ({"ok": True, "ready": {"root": 4711, "tasks": []}}, {"ok": True}):
            while (message := decoder.pop()) is None:
                decoder.push(connection.recv(1 << 16))
            asked.append(message)
            if len(asked) == 1:
                time.sleep(TOOK_S)
            connection.sendall(codec.encode(answer))

    rule = f"""allow = ["restart"]
restart_socket = "{tmp_path}/service.sock"
[[restart]]
requester = "ops"
run = ["hold"]
signers = "{tmp_path}/key.pub"
"""
    with servers.nats(tmp_path / "nats", "-c", str(tmp_path / "nats.conf")) as nats:
        relay = a_relay(tmp_path, "node1", f"nats://r:r@{nats.address}", more=rule, image=True)
        with relay, a_server(tmp_path / "service.sock", serve):
            words = ["fleet", "restart", tmp_path / "set", "--map", "old=node1", "--as", "ops"]
            ran = here(*words, "--nats", f"nats://ops:ops@{nats.address}")

    assert ran.returncode == 0, ran.stderr.decode()
    assert b"the root is 4711" in ran.stdout
    assert [message.get("keep", False) for message in asked] == [False, True]
