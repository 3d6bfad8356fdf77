# SPDX-License-Identifier: Apache-2.0
"""The command line: within this process, or as a process of its own."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from agent.__main__ import main


class Ran(NamedTuple):
    """The result of a run."""

    returncode: int
    stdout: bytes
    stderr: bytes


def ckptree(*arguments: str | Path, **options: Any) -> Ran:
    """Run the command line as a process, without a terminal."""
    given: dict[str, Any] = {"stdin": subprocess.DEVNULL, "timeout": 60} | options
    if "input" in given:
        del given["stdin"]
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | given
    ran: Any = subprocess.run([sys.executable, "-m", "agent", *arguments], check=False, **given)
    return Ran(ran.returncode, ran.stdout or b"", ran.stderr)


def here(
    *arguments: str | Path,
    data: bytes = b"",
    streams: Mapping[int, int] | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Ran:
    """Run the command line within this process, which takes a twentieth of the time.

    Args:
        arguments: words of the command line.
        data: standard input.
        streams: descriptors that take the place of 0, 1 or 2; what is written there is not in the result.
        cwd: working directory; None: that of this process.
        env: the whole environment; None: that of this process.
    """
    words = ["ckptree", *(os.fspath(argument) for argument in arguments)]
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(os.memfd_create(f"stream {number}"), "r+b")) for number in range(3)]
        files[0].write(data)
        files[0].seek(0)
        for number, file in enumerate(files):
            stack.enter_context(_led(number, (streams or {}).get(number, file.fileno())))
        with _surroundings(words, cwd, env), _streams():
            code = main()
        return Ran(code, *(os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0) for file in files[1:]))


@contextlib.contextmanager
def _led(number: int, target: int) -> Iterator[None]:
    """Let a descriptor lead elsewhere: a child that is forked, too, writes there."""
    kept = os.dup(number)
    os.dup2(target, number)
    try:
        yield
    finally:
        os.dup2(kept, number)
        os.close(kept)


@contextlib.contextmanager
def _streams() -> Iterator[None]:
    """Make Python's standard streams anew, as at the start of a process."""
    before = sys.stdin, sys.stdout, sys.stderr
    with (
        open(0, encoding="utf-8", closefd=False) as sys.stdin,
        open(1, "w", encoding="utf-8", closefd=False) as sys.stdout,
        open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False) as sys.stderr,
    ):
        try:
            yield
        finally:
            sys.stdin, sys.stdout, sys.stderr = before


@contextlib.contextmanager
def _surroundings(words: list[str], cwd: Path | None, env: Mapping[str, str] | None) -> Iterator[None]:
    """Give this process a command line, a working directory and an environment for a while."""
    before, environment, folder = sys.argv, dict(os.environ), os.open(".", os.O_PATH)
    try:
        sys.argv = words
        if env is not None:
            os.environ.clear()
            os.environ.update(env)
        if cwd is not None:
            os.chdir(cwd)
        yield
    finally:
        sys.argv = before
        os.fchdir(folder)
        os.close(folder)
        if env is not None:
            os.environ.clear()
            os.environ.update(environment)
