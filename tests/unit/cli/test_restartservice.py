# SPDX-License-Identifier: Apache-2.0
"""The permission for a restart, and the requests that are refused before anything is started."""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.cli.restartservice import permitted
from agent.errors import NotPermittedError
from agent.fleet.relaysettings import RestartRule
from agent.protocol import codec

RULES = (
    RestartRule("ops", ("hold", "/usr/bin/worker --again"), Path("/signers")),
    RestartRule("ops", ("argv",), Path("/few")),
    RestartRule("night", (), Path("/signers")),
)


def asked(**changes: Any) -> dict[str, Any]:
    """Return a request, with some changes."""
    request = {
        "requester": "ops",
        "id": "1",
        "host": "a",
        "run": "hold",
        "pids": True,
        "pidns": True,
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
    ],
)
def test_the_relay_is_told_why(request_: dict[str, Any], said: str, tmp_path: Path) -> None:
    """No process of a tree is made."""
    config = tmp_path / "relay.toml"
    config.write_text(f'[[restart]]\nrequester = "ops"\nrun = ["hold"]\nsigners = "{tmp_path}/signers"\n')
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
