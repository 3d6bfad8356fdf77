# SPDX-License-Identifier: Apache-2.0
"""The start of a verb: a plain command line loads little, for imports are most of the time of a short verb."""

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.fakedaemon import a_server, answering

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

TOP = Path(__file__).parents[3]
WEB, LATER = (os.fspath(TOP / "docs" / "example" / name) for name in ("web.ckpt", "web-later.ckpt"))
HEAVY = {
    *("typer", "click", "rich", "psutil", "importlib.metadata"),
    *("argparse", "asyncio", "dataclasses", "inspect", "json", "logging", "platform", "selectors", "shutil", "socket"),
    *("subprocess", "tempfile", "threading", "uuid"),
}
"""Modules that a short verb does without. Each takes a millisecond or several."""

PROGRAM = """
import sys
before = set(sys.modules)
from agent.__main__ import main
code = main()
print(*sorted(set(sys.modules) - before), file=sys.stderr)
sys.exit(code)
"""
# What answers about a tree, and about a daemon.
SNAPSHOT = {
    "ok": True,
    "complete": True,
    "verified": "sweep",
    "reasons": [],
    "squashed": [],
    "entered": [],
    "tasks": 9,
    "kernel_threads_left_out": 0,
    "elapsed_ns": 1,
    "order": 1,
    "data": Path(WEB).read_bytes(),
}
STATUS = {"ok": True, "hooks": {"fork": ["raw"]}, "tried": {}, "missing": [], "pid": 1}


def loaded_by(*words: str) -> tuple[int, set[str]]:
    """Run a command line as a process; return its exit code, and the modules that it loaded beside the interpreter's.

    Without `site`, that adds modules of its own on some hosts.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.fspath(TOP), *filter(None, sys.path)])}
    command = [sys.executable, "-S", "-c", PROGRAM, *words]
    ran = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=60)
    return ran.returncode, set(ran.stderr.decode().splitlines()[-1].split())


@pytest.mark.parametrize(
    ("words", "answer", "code"),
    [
        (("show", WEB), None, 0),
        (("check", WEB), None, 0),
        (("plan", WEB), None, 0),
        (("diff", WEB, LATER), None, 1),
        (("status",), STATUS, 0),
        (("snapshot", "1"), SNAPSHOT, 0),
        (("tree", "1"), SNAPSHOT, 0),
    ],
    ids=lambda words: words[0] if isinstance(words, tuple) else "",
)
def test_a_plain_line_loads_nothing_that_only_explains(
    tmp_path: Path, words: tuple[str, ...], answer: Any, code: int
) -> None:
    """It has the exit code of the verb, so the verb has run."""
    socket = tmp_path / "socket"
    server: AbstractContextManager[None] = nullcontext() if answer is None else a_server(socket, answering(answer))
    with server:
        status, loaded = loaded_by(*words, *([] if answer is None else ["--socket", os.fspath(socket)]))

    assert status == code
    assert "agent.cli.main" in loaded
    assert not loaded & HEAVY


def test_help_loads_what_explains() -> None:
    """So the test above can fail."""
    _, loaded = loaded_by("show", "x", "--no-such-option")

    assert {"typer", "click"} <= loaded
