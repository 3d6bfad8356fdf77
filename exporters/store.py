# SPDX-License-Identifier: Apache-2.0
"""Atomic writing of files and folders: they appear whole or not at all, for their owner alone.

The data is written under a temporary name in the same folder, synced to disk, and renamed. A file replaces the one
before. A folder replaces only an empty folder: rename(2) refuses any other, and its contents may be the only copy.
"""

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agent.errors import CkptreeError

_NAMED: Final = 50
"""Characters of a name that its temporary name repeats; both must fit into NAME_MAX bytes."""


def write(path: Path, data: bytes | Mapping[str, bytes]) -> None:
    """Write the data of a format: a file of mode 0600, or a folder of mode 0700 with such files, by their names.

    A path that exists and is no regular file (a pipe, /dev/null) is opened and written to.

    Raises:
        CkptreeError: the data cannot be written, or a folder would replace a file or a folder that is not empty. The
            earlier contents are unchanged then.
    """
    try:
        if isinstance(data, Mapping):
            _write_folder(_pointed_to(path), data)
            return
        place, special = _find(path)
        if special:
            _write_special(place, data)
            return
        # mkstemp makes a new file of mode 0600 under an unpredictable name.
        fd, temporary = tempfile.mkstemp(prefix=f".{place.name[:_NAMED]}.", dir=place.parent)
        try:
            with os.fdopen(fd, "wb") as out:
                out.write(data)
                out.flush()
                os.fsync(fd)
            os.replace(temporary, place)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except RuntimeError as error:  # pathlib's error before Python 3.13 for a cycle of links
        raise CkptreeError(f"cannot write {path}: {os.strerror(errno.ELOOP)}") from error
    except OSError as error:
        raise CkptreeError(f"cannot write {path}: {error.strerror or error}") from error


def _find(path: Path) -> tuple[Path, bool]:
    """Return the path to write, and True if something other than a regular file exists there, to be written in place.

    The target of a link is written, and the link stays. A link or pipe of another user in a folder where every user
    may create files, as /tmp, is refused. The kernel refuses it too if fs.protected_symlinks and fs.protected_fifos are
    set, but not for a name that was resolved first, or an open without O_CREAT.

    Raises:
        CkptreeError: another user put it there.
    """
    file = path.parent.resolve() / path.name
    try:
        found, folder = os.lstat(path), path.parent.stat()
    except FileNotFoundError:
        return file, False
    is_link = stat.S_ISLNK(found.st_mode)
    shared = folder.st_mode & stat.S_ISVTX and folder.st_mode & stat.S_IWOTH
    laid = is_link or stat.S_ISFIFO(found.st_mode)
    if shared and laid and found.st_uid not in (os.geteuid(), folder.st_uid):
        kind = "link" if is_link else "pipe"
        raise CkptreeError(
            f"cannot write {path}: it is a {kind} of user {found.st_uid} in a folder that every user may write to: "
            "name another file, or remove it"
        )
    if not is_link:
        return file, not stat.S_ISREG(found.st_mode)
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):  # a pipe may have no name: /dev/stdout leads to it
        return path, True
    return _pointed_to(path), False


def _write_special(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(fd, "wb") as out:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            raise CkptreeError(f"cannot write {path}: it has become another file meanwhile")
        out.write(data)


def _pointed_to(path: Path) -> Path:
    """Return the target of a link, so that the link stays; any other path as it is."""
    target = path.resolve()
    if target.is_symlink():  # a cycle of links, from Python 3.13 on; earlier versions raise RuntimeError
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return target


def _write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    for name in files:
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise CkptreeError(f"cannot write {path}: {name!r} is no name of a file in it")
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise CkptreeError(
            f"cannot write {path}: a new folder is to be made, and this exists: name another, or remove it"
        )
    temporary = tempfile.mkdtemp(prefix=f".{path.name[:_NAMED]}.", dir=path.parent)
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
        shutil.rmtree(temporary, ignore_errors=True)
        raise
