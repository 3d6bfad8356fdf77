# SPDX-License-Identifier: Apache-2.0
"""Files appear whole or not at all, readable by their owner alone."""

import contextlib
import os
import stat
from pathlib import Path

from agent.errors import CkptreeError


def write(path: Path, data: bytes) -> None:
    """Write a file: under another name beside it first, then, once it is on disk, under its own.

    A path that is something else than a file (a pipe, /dev/null) is written to as it is.

    Raises:
        CkptreeError: it cannot be written; what stood there before still does.
    """
    try:
        path = path.resolve()  # a link stays a link: what it points to is written
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            with path.open("wb") as out:
                out.write(data)
            return
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as out:
                out.write(data)
                out.flush()
                os.fsync(fd)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise CkptreeError(f"cannot write {path}: {error.strerror or error}") from error
