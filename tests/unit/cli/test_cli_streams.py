# SPDX-License-Identifier: Apache-2.0
"""The command line with standard streams that are closed, full, or gone."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.model import Tag
from exporters import registry


def closing(descriptor: int) -> Callable[[], None]:
    """Return a function that closes a descriptor in the child, as a shell does for ``1>&-``."""
    return lambda: os.close(descriptor)


def snapshot(*, closed: int | None = None, stdout: int = subprocess.PIPE) -> "subprocess.CompletedProcess[bytes]":
    """Write a snapshot of this process to standard output."""
    command = [sys.executable, "-m", "agent", "snapshot", str(os.getpid()), "--source", "procfs", "--allow-incomplete"]
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL if closed != 0 else None,
        stdout=stdout,
        stderr=subprocess.PIPE,
        preexec_fn=None if closed is None else closing(closed),
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("descriptor", [0, 2])
def test_data_comes_whole_where_another_stream_is_closed(descriptor: int) -> None:
    """A supervisor may start programs so; the exit code is 0, because nothing failed."""
    ran = snapshot(closed=descriptor)

    assert ran.returncode == 0
    assert registry.load(ran.stdout).number(Tag(1)) == os.getpid()


def test_nowhere_to_write_to_is_a_failure_and_no_traceback() -> None:
    """No reader can have the output."""
    ran = snapshot(closed=1)

    assert ran.returncode == 1
    assert ran.stderr.startswith(b"ckptree: ")
    assert b"Traceback" not in ran.stderr


def test_a_full_disk_behind_standard_output_is_a_failure() -> None:
    """The error of the last write counts too."""
    with Path("/dev/full").open("wb") as full:
        ran = snapshot(stdout=full.fileno())

    assert ran.returncode == 1
    assert b"No space left on device" in ran.stderr
    assert b"Traceback" not in ran.stderr


def test_a_reader_that_has_gone_ends_the_verb_by_its_signal() -> None:
    """The command is ``ckptree snapshot PID | true``."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ran = snapshot(stdout=writer)
    finally:
        os.close(writer)

    assert ran.returncode == -signal.SIGPIPE
    assert b"Traceback" not in ran.stderr
