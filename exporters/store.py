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
from typing import Final

from agent.errors import CkptreeError

_NAMED: Final = 50
"""Characters of a name that its temporary one shows: both are to fit into NAME_MAX bytes."""


def write(path: Path, data: bytes | Mapping[str, bytes]) -> None:
    """Write what a format gives: a file of mode 0600, or a folder of mode 0700 with such files, by their names.

    For a file, a path that is something else than one (a pipe, /dev/null) is written to as it is.

    Raises:
        CkptreeError: it cannot be written, or is a folder to be and a file or a folder with something in it stands
            there; what stood there before still does.
    """
    try:
        if isinstance(data, Mapping):
            _write_folder(_pointed_to(path), data)
            return
        place, special = _find(path)
        if special:
            _write_special(place, data)
            return
        # Of mode 0600 and new, under a name that nobody can know before.
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
    except RuntimeError as error:  # pathlib's, before Python 3.13, for links in a circle
        raise CkptreeError(f"cannot write {path}: {os.strerror(errno.ELOOP)}") from error
    except OSError as error:
        raise CkptreeError(f"cannot write {path}: {error.strerror or error}") from error


def _find(path: Path) -> tuple[Path, bool]:
    """Return where a file is to be, and whether something else than a file is there already, to be written to as it is.

    A link stays a link: what it points to is written. But a link or pipe that another user has laid in a folder where
    everybody may lay something, as /tmp, is refused. So does the kernel where fs.protected_symlinks and fs.protected_fifos
    say so; a name that is resolved here, or opened without O_CREAT, it does not see.

    Raises:
        CkptreeError: it was laid there.
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
            f"cannot write {path}: it is a {kind} of user {found.st_uid} in a folder of everybody's: name another file, "
            "or remove it"
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
    """Return what a path leads to, so that a link stays a link."""
    target = path.resolve()
    if target.is_symlink():  # links in a circle, from Python 3.13 on; before, pathlib has an error of its own
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
