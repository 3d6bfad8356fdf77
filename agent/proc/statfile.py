# SPDX-License-Identifier: Apache-2.0
"""Files of a task below /proc: opened below its directory, read whole, and the fields of its stat."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from agent.model import ProgramFile

UNREADABLE: Final = (FileNotFoundError, ProcessLookupError, PermissionError)
"""The errors of procfs for a task that is gone, or that the reader may not see."""

_NAMES: Final = {"cmdline": "argv", "environ": "env"}  # fields whose names differ from those of the files


@contextmanager
def opened(path: str | Path, directory: int | None = None) -> Iterator[int]:
    """Open a directory, below another one where that is given, for the time of the block; it stays with one process."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_at(directory: int, name: str, denied: list[str] | None = None) -> bytes | None:
    """Read a whole file below an opened directory; None where it is gone or not permitted, which `denied` notes."""
    try:
        # Unbuffered, so that one call reads the whole file: its halves are rarely of two moments.
        with open(os.open(name, os.O_RDONLY, dir_fd=directory), "rb", buffering=0) as file:
            return file.read()
    except UNREADABLE as error:
        note(error, name, denied)
        return None


def note(error: OSError, name: str, denied: list[str] | None) -> None:
    """Note the field of a file that the reader may not read."""
    if denied is not None and isinstance(error, PermissionError):
        denied.append(_NAMES.get(name, name))


def stat_fields(stat: bytes) -> list[bytes]:
    """Return the fields of a stat file from the third one on.

    The second is the name of the task, in parentheses, which may contain spaces, newlines and ")". No field after it
    does, so the *last* parenthesis ends it.
    """
    return stat.rpartition(b")")[2].split()


def program_file(status: os.stat_result) -> ProgramFile:
    """Return the identity of the file that has this status."""
    return ProgramFile(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
