# SPDX-License-Identifier: Apache-2.0
"""Real programs that CRIU dumps, with or without the tree beside its images, and restarts of them by the command line."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import psutil

from agent.restart.rebuild import orphans
from tests.support.suitepackages import SUITE, criu

_PATIENCE_S: Final = 120.0
"""Seconds; emulated machines are slow."""
_HEARD_S: Final = 1.0
_DUMP_S: Final = 300.0
HOOK: Final = Path(sys.executable).with_name("ckptree-hook-criu")
NEWER: Final = "sid"
"""Debian's suite whose criu dumps sockets of IP on Linux 6.16 and later, which have no SO_PASSCRED any more."""


@contextmanager
def program(command: Sequence[str | Path], folder: Path, **more: Any) -> Iterator[int]:
    """Run a program in a session of its own, its output in FOLDER/out; yield its pid. Kill all of it in the end.

    This process takes its orphans, so that no zombie keeps a pid that a restart needs.
    """
    orphans.adopt(wanted=True)
    others = set(psutil.Process().children())
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, **more
        )
    try:
        yield process.pid
    finally:
        if process.poll() is None:
            for each in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    each.kill()
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-process.pid, 0)
        for each in set(psutil.Process().children()) - others:  # orphans of other groups
            with suppress(ChildProcessError):
                os.waitpid(each.pid, 0)
        orphans.adopt(wanted=False)


class Dumped(NamedTuple):
    """A run of criu.

    Attributes:
        code: its exit code.
        folder: of the images.
        log: the lines that criu, and its action script, wrote.
    """

    code: int
    folder: Path
    log: str


def attempt(
    pid: int,
    folder: Path,
    *options: str | Path,
    verb: str = "dump",
    env: Mapping[str, str | Path] | None = None,
    before: Sequence[str] = (),
    suite: str = SUITE,
) -> Dumped:
    """Have CRIU dump a tree.

    Args:
        pid: of the root, as criu counts.
        folder: for the images; it is made if it is not there.
        options: of criu.
        verb: ``dump`` or ``pre-dump``.
        env: variables that criu gets beside this process's.
        before: words in front of criu's command.
        suite: the suite of Debian whose criu it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ran = subprocess.run(
        [*before, criu(suite), verb, "-t", str(pid), "-D", folder, *options],
        env={**os.environ, **{name: str(value) for name, value in (env or {}).items()}},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=_DUMP_S,
    )
    return Dumped(ran.returncode, folder, ran.stdout)


def dump(pid: int, images: Path, socket: Path, *options: str, suite: str = SUITE, before: Sequence[str] = ()) -> Path:
    """Have CRIU dump a tree, which it ends, with the tree beside the images; return their folder.

    Args:
        pid: of the root, as criu counts.
        images: the folder.
        socket: of the daemon.
        options: of criu.
        suite: the suite of Debian whose criu it is.
        before: words in front of criu's command.
    """
    script = ("-v4", "--action-script", HOOK)
    done = attempt(pid, images, *script, *options, env={"CKPTREE_SOCKET": socket}, suite=suite, before=before)
    assert done.code == 0, "\n".join(line for line in done.log.splitlines() if "Error" in line) or done.log
    return images


def restarting(
    images: Path | str, *options: str | Path, before: Sequence[str] = (), env: Mapping[str, str] | None = None
) -> "subprocess.Popen[str]":
    """Begin a restart of a dump in a session of its own; its ready line is JSON.

    Args:
        images: the folder, or its address in a store.
        options: of restart.
        before: words in front of the command.
        env: the whole environment; None: that of this process.
    """
    return subprocess.Popen(
        [*before, sys.executable, "-m", "agent", "restart", f"criu:{images}", "--json", *options],
        cwd=Path(__file__).parents[2],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@contextmanager
def restarted(
    images: Path | str,
    *options: str,
    ended: bool = False,
    before: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> Iterator[Mapping[str, Any]]:
    """Restart a dump, and yield the ready line; the tree is taken down in the end.

    Args:
        images: the folder, or its address in a store.
        options: of restart.
        ended: the root may have ended by itself, with success.
        before: words in front of the command.
        env: the whole environment; None: that of this process.
    """
    process = restarting(images, *options, before=before, env=env)
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
        for patience in (
            _HEARD_S,
            _PATIENCE_S,
        ):  # an init without a handler ignores the first; the second ends the tree
            if process.poll() is None:
                process.send_signal(signal.SIGKILL if before else signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience)
        assert process.poll() is not None, "restart does not end"
        process.stdout.close()
        process.stderr.close()


@contextmanager
def leased(path: Path) -> Iterator[None]:
    """Have whoever opens a file wait meanwhile, at most for /proc/sys/fs/lease-break-time, 45 s."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # the kernel asks for the lease so
    try:
        with path.open("ab") as file:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            yield
    finally:
        signal.signal(signal.SIGIO, before)


def eventually(true: Callable[[], bool], what: str) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + _PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"after {_PATIENCE_S:.0f} s: not so: {what}"
        time.sleep(0.02)
