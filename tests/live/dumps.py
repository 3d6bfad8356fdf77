# SPDX-License-Identifier: Apache-2.0
"""Real programs that CRIU dumps, with the tree beside its images, and restarts of them by the command line."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from agent.restart.rebuild import orphans
from tests.support.suitepackages import SUITE, criu

_PATIENCE_S = 20.0


@contextmanager
def program(command: Sequence[str | Path], folder: Path, **more: Any) -> Iterator[int]:
    """Run a program in a session of its own, its output in FOLDER/out; yield its pid, and kill its session in the end.

    This process takes its orphans, so that no zombie keeps a pid that a restart needs.
    """
    orphans.adopt(wanted=True)
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, **more
        )
    try:
        yield process.pid
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-process.pid, 0)
        orphans.adopt(wanted=False)


NEWER: Final = "sid"
"""Debian's suite whose criu dumps sockets of IP on Linux 6.16 and later, which have no SO_PASSCRED any more."""


def dump(pid: int, images: Path, socket: Path, *options: str, suite: str = SUITE) -> Path:
    """Have a suite's CRIU dump a tree, which it ends, with the tree beside the images; return their folder."""
    images.mkdir(parents=True, exist_ok=True)
    hook = Path(sys.executable).with_name("ckptree-hook-criu")
    done = subprocess.run(
        [criu(suite), "dump", "-v4", "-t", str(pid), "-D", images, "-o", "dump.log", "--action-script", hook, *options],
        env={**os.environ, "CKPTREE_SOCKET": os.fspath(socket)},
        capture_output=True,
        text=True,
        check=False,
    )
    log = images / "dump.log"
    errors = [line for line in log.read_text().splitlines() if "Error" in line] if log.exists() else [done.stderr]
    assert done.returncode == 0, "\n".join(errors)
    return images


@contextmanager
def restarted(
    images: Path, *options: str, ended: bool = False, before: Sequence[str] = ()
) -> Iterator[Mapping[str, Any]]:
    """Restart a dump, and yield the ready line; the tree is taken down in the end.

    Args:
        images: the folder.
        options: of restart.
        ended: the root may have ended by itself, with success.
        before: words in front of the command.
    """
    command = [*before, sys.executable, "-m", "agent", "restart", f"criu:{images}", "--json", *options]
    process = subprocess.Popen(
        command,
        cwd=Path(__file__).parents[2],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = process.stdout.readline()
        if not line:
            process.wait(_PATIENCE_S)
            raise AssertionError(f"restart ended with {process.returncode}: {process.stderr.read()}")
        yield json.loads(line)
        assert process.poll() in (None, *([0] if ended else [])), (
            f"the tree ended: {process.returncode}: {process.stderr.read()}"
        )
    finally:
        for _ in range(2):
            if process.poll() is None:
                process.send_signal(signal.SIGKILL if before else signal.SIGTERM)
        process.wait(_PATIENCE_S)
        process.stdout.close()
        process.stderr.close()


def eventually(true: Callable[[], bool], what: str) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + _PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"after {_PATIENCE_S:.0f} s: not so: {what}"
        time.sleep(0.02)
