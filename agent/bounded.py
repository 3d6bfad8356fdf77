# SPDX-License-Identifier: Apache-2.0
"""A reader of files with a bound: a device or a stream may have no end."""

import contextlib
import io
import os
import stat
from typing import BinaryIO, Final

_CHUNK: Final = 1 << 20


class TooLargeError(Exception):
    """A file with more bytes than the bound, which the text names."""


def read(file: BinaryIO, most: int) -> bytes:
    """Read all of a file.

    Args:
        file: open for reading.
        most: the bound, bytes.

    Raises:
        TooLargeError: the file has more. Of a regular file nothing has been read then.
        OSError: the file cannot be read.
    """
    with contextlib.suppress(io.UnsupportedOperation):  # a stream in memory has no descriptor
        about = os.fstat(file.fileno())
        if stat.S_ISREG(about.st_mode) and about.st_size > most:
            raise TooLargeError(said(most))
    chunks = []
    left = most + 1
    while left and (chunk := file.read(min(left, _CHUNK))):
        chunks.append(chunk)
        left -= len(chunk)
    if not left:
        raise TooLargeError(said(most))
    return b"".join(chunks)


def said(most: int) -> str:
    """Return the words for a file with more bytes than the bound."""
    unit = f"{most >> 20} MiB" if most >= 1 << 20 else f"{most >> 10} KiB"
    return f"has more than {most} bytes ({unit}), which is the most that is read of it"
