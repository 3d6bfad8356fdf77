# SPDX-License-Identifier: Apache-2.0
"""Files, and folders of files, appear whole or not at all, for their owner alone.

What is to appear is made under another name beside it, brought to disk, and renamed. A file takes the place of the one
before. A folder takes no place but that of an empty one: the kernel renames over nothing else, and what stands there
may be somebody's only copy.
"""

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from agent.errors import CkptreeError


def write(path: Path, data: bytes | Mapping[str, bytes]) -> None:
    """Write what a format gives: a file of mode 0600, or a folder of mode 0700 with such files, by their names.

    For a file, a path that is something else than one (a pipe, /dev/null) is written to as it is.

    Raises:
        CkptreeError: it cannot be written, or is a folder to be and a file or a folder with something in it stands
            there; what stood there before still does.
    """
    try:
        if isinstance(data, Mapping):
            _write_folder(path.resolve(), data)
            return
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):  # a pipe may have no name: /dev/stdout leads to it
            with path.open("wb") as out:
                out.write(data)
            return
        path = path.resolve()  # a link stays a link: what it points to is written
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
    except RuntimeError as error:  # what pathlib has for links in a circle
        raise CkptreeError(f"cannot write {path}: {os.strerror(errno.ELOOP)}") from error
    except OSError as error:
        raise CkptreeError(f"cannot write {path}: {error.strerror or error}") from error


def _write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    for name in files:
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise CkptreeError(f"cannot write {path}: {name!r} is no name of a file in it")
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise CkptreeError(
            f"cannot write {path}: a new folder is to be made, and this exists: name another, or remove it"
        )
    temporary = tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        for name, data in files.items():
            fd = os.open(f"{temporary}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as out:
                out.write(data)
        # All are written before the first is waited for: the disk then takes them in few strokes.
        for name in (*files, "."):
            fd = os.open(f"{temporary}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
