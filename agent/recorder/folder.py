# SPDX-License-Identifier: Apache-2.0
"""The folder of a recording: its segments by name.

A segment's name is ``SEQUENCE-FIRST.tape``: its number in the folder, eight digits or more, and the first number of a
record that it may have, sixteen hexadecimal digits. So the folder alone is an index.
"""

import os
import re
from pathlib import Path
from typing import Final

from agent.errors import HostError
from agent.record import NamedTuple

_NAME: Final = re.compile(r"(\d{8,})-([0-9a-f]{16})\.tape")


class SegmentFile(NamedTuple):
    """A segment's file.

    Attributes:
        sequence, first: as its name has them.
        path: of the file.
    """

    sequence: int
    first: int
    path: Path


def name_of(sequence: int, first: int | None = None) -> str:
    """Return the name of a segment's file; with a star for the first number where that is not known."""
    return f"{sequence:08d}-{'*' if first is None else f'{first:016x}'}.tape"


def is_segment(name: str) -> bool:
    """Return True if a file of that name is a segment."""
    return _NAME.fullmatch(name) is not None


def stored(folder: Path) -> list[SegmentFile]:
    """Return the segments of a folder, oldest first.

    A folder may come from anywhere: a FIFO or a device with a segment's name is none, for to open it could take for ever.

    Raises:
        HostError: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_file()]
    except OSError as error:
        raise HostError(f"{folder}: cannot be read: {error.strerror}") from error
    found = [(match, name) for name in names if (match := _NAME.fullmatch(name))]
    return sorted(SegmentFile(int(match[1]), int(match[2], 16), folder / name) for match, name in found)


def make(folder: Path) -> None:
    """Make the folder, for its owner alone, where there is none, and the folders above, which their owner alone may change.

    Raises:
        HostError: it cannot be made.
    """
    try:
        for each in [each for each in reversed(folder.parents) if not each.exists()]:
            each.mkdir(mode=0o755, exist_ok=True)  # whatever the umask is
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise HostError(f"{folder}: no folder for the recording can be made: {error.strerror}") from error


def sync(folder: Path) -> None:
    """Have the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
