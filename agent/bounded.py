# SPDX-License-Identifier: Apache-2.0
"""Files that somebody names, read to a bound: a device or a stream may have no end."""

import contextlib
import io
import os
import stat
from typing import BinaryIO, Final

_CHUNK: Final = 1 << 20


class TooLargeError(Exception):
    """A file has more bytes than the bound; the text names that."""


def read(file: BinaryIO, most: int) -> bytes:
    """Read all of a file.

    Args:
        file: open for reading.
        most: how many bytes it may have.

    Raises:
        TooLargeError: it has more. Of a regular file nothing has been read then.
        OSError: it cannot be read.
    """
    with contextlib.suppress(io.UnsupportedOperation):  # of a stream in memory, which is no file
        about = os.fstat(file.fileno())
        if stat.S_ISREG(about.st_mode) and about.st_size > most:
            raise TooLargeError(_said(most))
    chunks = []
    left = most + 1
    while left and (chunk := file.read(min(left, _CHUNK))):
        chunks.append(chunk)
        left -= len(chunk)
    if not left:
        raise TooLargeError(_said(most))
    return b"".join(chunks)


def _said(most: int) -> str:
    unit = f"{most >> 20} MiB" if most >= 1 << 20 else f"{most >> 10} KiB"
    return f"has more than {most} bytes ({unit}), which is the most that is read of it"
