# SPDX-License-Identifier: Apache-2.0
"""Runs of ckptree restart as a program, for tests."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TOP = Path(__file__).parents[2]


def command(*arguments: str | Path) -> list[str]:
    """Return the command line of restart."""
    return [sys.executable, "-m", "agent", "restart", *(os.fspath(argument) for argument in arguments)]


def ran(*arguments: str | Path, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run restart to its end, for 30 seconds at most."""
    given: dict[str, Any] = {"stdin": subprocess.DEVNULL, "timeout": 30} | options
    return subprocess.run(command(*arguments), cwd=TOP, capture_output=True, text=True, check=False, **given)


@contextmanager
def running(*arguments: str | Path) -> Iterator[tuple["subprocess.Popen[str]", dict[str, Any]]]:
    """Start restart, and yield its process and its ready line; kill it at the end."""
    process = subprocess.Popen(
        command(*arguments, "--json"), cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield process, json.loads(line)
    finally:
        process.kill()
        process.communicate()


def soon(condition: Any, *, within: float = 5) -> bool:
    """Return True if a condition comes true within some seconds."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
