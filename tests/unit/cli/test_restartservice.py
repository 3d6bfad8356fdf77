# SPDX-License-Identifier: Apache-2.0
"""The permission for a restart, and the requests that are refused before anything is started."""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.cli.restartservice import permitted
from agent.errors import NotPermittedError, UsageError
from agent.fleet import manifest
from agent.fleet.clocks import Offset
from agent.fleet.manifest import FleetSet, HostContents, HostImage
from agent.fleet.relaysettings import RestartRule
from agent.protocol import codec

RULES = (
    RestartRule("ops", ("hold", "/usr/bin/worker --again"), Path("/signers")),
    RestartRule("ops", ("argv",), Path("/few")),
    RestartRule("night", (), Path("/signers")),
)


NOBODY = str(1 << 22)


def a_dump(**changes: Any) -> dict[str, Any]:
    """Return a request for a dump, with some changes."""
    request = {
        "what": "dump",
        "requester": "ops",
        "id": "1",
        "root": NOBODY,
        "end": False,
        "at_ns": 0,
        "left_ns": 10**10,
    }
    return {**request, **changes}


def asked(**changes: Any) -> dict[str, Any]:
    """Return a request, with some changes."""
    request = {
        "requester": "ops",
        "id": "1",
        "host": "a",
        "run": "hold",
        "pids": True,
        "pidns": True,
        "contents": False,
        "plan": False,
        "left_ns": 10**10,
    }
    return {**request, "manifest": b"", "signature": b"", "image": b"", **changes}


@pytest.mark.parametrize(("run", "rule"), [("hold", 0), ("/usr/bin/worker --again", 0), ("argv", 1)])
def test_the_permission_is_that_of_the_requester_for_just_this_command(run: str, rule: int) -> None:
    """Each has signers of its own."""
    assert permitted(asked(run=run), RULES) is RULES[rule]


@pytest.mark.parametrize(
    ("requester", "run"),
    [
        ("eve", "hold"),
        ("night", "hold"),
        ("ops", "/usr/bin/worker"),
        ("ops", "/usr/bin/worker --again; sh"),
        ("ops", ""),
    ],
)
def test_all_else_is_refused(requester: str, run: str) -> None:
    """A command is the same word for word, or another one."""
    with pytest.raises(NotPermittedError, match=requester):
        permitted(asked(requester=requester, run=run), RULES)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (asked(requester="eve"), "may restart nothing here"),
        (asked(left_ns="soon"), "left_ns"),
        (asked(image="text"), "image"),
        (asked(id="../../x"), "id"),
        ({}, "id"),
        (asked(), "set"),  # its manifest is none
        (asked(contents=True), "set"),
        (asked(contents="yes"), "contents"),
        (a_dump(requester="eve"), "'eve' may have nothing dumped here"),
        (a_dump(root="unit:other"), "may not have 'unit:other' dumped here"),
        (a_dump(end=True), "may not end"),
        (a_dump(end="yes"), "end"),
        (a_dump(at_ns=1 << 62), "at_ns"),
        (a_dump(requester="*"), "requester"),
        (a_dump(), "there is no process"),
    ],
)
def test_the_relay_is_told_why(request_: dict[str, Any], said: str, tmp_path: Path) -> None:
    """No process of a tree is made."""
    config = tmp_path / "relay.toml"
    rules = f'[[restart]]\nrequester = "ops"\nrun = ["hold"]\nsigners = "{tmp_path}/signers"\n'
    config.write_text(f'{rules}[[dump]]\nrequester = "ops"\nroots = ["{NOBODY}"]\nstore = "nats://dumps"\n')
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(codec.encode(request_))
        command = [sys.executable, "-m", "agent", "relay", "--serve-restart", "--config", str(config)]
        ran = subprocess.run(command, stdin=theirs.fileno(), capture_output=True, text=True, check=False, timeout=60)
        ours.settimeout(10)
        (answer,) = codec.Decoder(1 << 20).feed(ours.recv(1 << 20))

    assert ran.returncode != 0
    assert answer["ok"] is False
    assert said in answer["error"]
    assert 'result="refused"' in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_connection_without_a_request_is_let_go(tmp_path: Path) -> None:
    """Nobody is left to answer to."""
    ours, theirs = socket.socketpair()
    with theirs:
        ours.close()
        command = [sys.executable, "-m", "agent", "relay", "--serve-restart", "--config", str(tmp_path / "none")]
        ran = subprocess.run(command, stdin=theirs.fileno(), capture_output=True, text=True, check=False, timeout=60)

    assert ran.returncode == 2
    assert "Traceback" not in ran.stderr


def a_manifest(store: str) -> bytes:
    """Return the manifest of a set whose host has contents in a store."""
    contents = HostContents(store, manifest.hash_of(b""), 1)
    host = HostImage("a", "1", manifest.hash_of(b""), 1, 1, 0, 1, Offset(0, 0), complete=True, contents=contents)
    return manifest.dumps(FleetSet("x", 7, (host,)))


def test_contents_need_a_permission_for_their_store() -> None:
    """A permission for commands is none; the store is the same word for word."""
    rules = (*RULES, RestartRule("ops", (), Path("/signers"), ("nats://dumps",)))
    assert permitted(asked(contents=True, manifest=a_manifest("nats://dumps")), rules) is rules[-1]
    with pytest.raises(NotPermittedError, match="no contents from nats://dumps"):
        permitted(asked(plan=True, manifest=a_manifest("nats://dumps")), RULES)
    for store in ("nats://dumps/other", "nats://dump", "s3://dumps"):
        with pytest.raises(NotPermittedError, match=f"no contents from {store}"):
            permitted(asked(contents=True, manifest=a_manifest(store)), rules)
    with pytest.raises(UsageError, match="no contents of 'b'"):
        permitted(asked(contents=True, host="b", manifest=a_manifest("nats://dumps")), rules)
