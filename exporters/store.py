# SPDX-License-Identifier: Apache-2.0
"""Atomic writing of files and folders: they appear whole or not at all, for their owner alone.

The data is written under a temporary name in the same folder, synced to disk, and renamed. A file replaces the one
before. A folder replaces only an empty folder: rename(2) refuses any other, and its contents may be the only copy.
"""

import contextlib
import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agent.errors import CkptreeError
from exporters import destination

_NAMED: Final = 50
"""Characters of a name that its temporary name repeats; both must fit into NAME_MAX bytes."""


def write(path: Path, data: bytes | Mapping[str, bytes]) -> None:
    """Write the data of a format: a file of mode 0600, or a folder of mode 0700 with such files, by their names.

    A path that exists and is no regular file (a pipe, /dev/null) is opened and written to. The target of a link is
    written, and the link stays.

    Raises:
        CkptreeError: the data cannot be written; a folder would replace a file or a folder that is not empty; or
            another user may have laid the link, pipe or device there (exporters.destination). The earlier contents are
            unchanged then.
    """
    try:
        found = destination.find(path)
        if isinstance(data, Mapping):
            _write_folder(found.path, data)
        elif found.special is not None:
            with os.fdopen(found.open(), "wb") as out:
                out.write(data)
        else:
            _write_file(found.path, data)
    except RuntimeError as error:  # pathlib's error before Python 3.13 for a cycle of links
        raise CkptreeError(f"cannot write {path}: {os.strerror(errno.ELOOP)}") from error
    except OSError as error:
        raise CkptreeError(f"cannot write {path}: {error.strerror or error}") from error


def _write_file(path: Path, data: bytes) -> None:
    temporary = _temporary(path)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
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


def _write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    for name in files:
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise CkptreeError(f"cannot write {path}: {name!r} is no name of a file in it")
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise CkptreeError(
            f"cannot write {path}: a new folder is to be made, and this exists: name another, or remove it"
        )
    temporary = _temporary(path)
    os.mkdir(temporary, 0o700)
    try:
        for name, data in files.items():
            fd = os.open(f"{temporary}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as out:
                out.write(data)
        # All are written before the first sync, so that the disk takes them in few writes.
        for name in (*files, "."):
            fd = os.open(f"{temporary}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        import shutil

        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _temporary(path: Path) -> str:
    """Return an unpredictable name in the same folder. The tempfile module needs 20 ms to start."""
    return os.fspath(path.parent / f".{path.name[:_NAMED]}.{os.urandom(8).hex()}")
