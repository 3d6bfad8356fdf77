# SPDX-License-Identifier: Apache-2.0
"""Folders of plain files on this host, as a dump of CRIU is one: they are read, made whole or not at all, and copied."""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from agent.errors import CkptreeError

_SPARE_BYTES: Final = 64 << 20
"""Room that a folder leaves on the disk."""
_BUFFER_BYTES: Final = 1 << 20


def copy(source: Path, target: Path) -> None:
    """Copy the files of a folder on this host. The copy appears whole or not at all, for its owner alone.

    Args:
        source: it has files alone.
        target: the folder to make; only an empty one may be there.

    Raises:
        CkptreeError: the folder cannot be read, or has something else than files; the copy cannot be written, or the
            disk has no room for it.
    """
    names, size = names_in(source)
    with made(target, size, str(source)) as folder:
        for name in names:
            with opened(source / name) as file, new(folder / name) as copied:
                shutil.copyfileobj(file, copied, _BUFFER_BYTES)
                finish(copied, os.fstat(file.fileno()).st_mtime_ns)


@contextmanager
def made(target: Path, size: int, source: str) -> Iterator[Path]:
    """Yield a new folder that gets the name of the target with the end of the context, or is removed by an error.

    Args:
        target: the folder to make; only an empty one may be there.
        size: of all its files, bytes.
        source: of the files, for messages.

    Raises:
        CkptreeError: the folder cannot be written, or the disk has no room for it.
    """
    temporary = target.with_name(f".{target.name[:50]}.{os.urandom(8).hex()}")
    try:
        _check_room(target.parent, size, source)
        temporary.mkdir(mode=0o700)
        try:
            yield temporary
            temporary.rename(target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    except OSError as error:
        raise CkptreeError(f"cannot write {target}: {error.strerror or error}") from error


def _check_room(folder: Path, size: int, source: str) -> None:
    """Refuse to fill a disk."""
    about = os.statvfs(folder)
    free = about.f_bavail * about.f_frsize
    if size + _SPARE_BYTES > free:
        raise CkptreeError(
            f"cannot write into {folder}: {source} has {size >> 20} MiB, and of the {free >> 20} MiB that "
            f"are free there {_SPARE_BYTES >> 20} must stay so"
        )


def new(path: Path) -> BinaryIO:
    """Open a new file, for its owner alone."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


def finish(file: BinaryIO, written_ns: int | None) -> None:
    """Have a written file on the disk, with the time of its original: a dump is of the time of its files."""
    file.flush()
    if written_ns is not None:
        os.utime(file.fileno(), ns=(written_ns, written_ns))
    os.fsync(file.fileno())


def names_in(folder: Path) -> tuple[list[str], int]:
    """Return the names in a folder, in their order, and the bytes of all files.

    Raises:
        CkptreeError: it cannot be read.
    """
    try:
        names = sorted(os.listdir(folder))
        return names, sum((folder / name).lstat().st_size for name in names)
    except OSError as error:
        raise CkptreeError(f"cannot read {error.filename or folder}: {error.strerror or error}") from error


def opened(path: Path) -> BinaryIO:
    """Open a file of a folder.

    Raises:
        CkptreeError: it cannot be read, or is something else.
    """
    if path.is_symlink():
        raise CkptreeError(f"cannot copy {path}: a link leads out of its folder (the parent of an incremental dump?)")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise CkptreeError(f"cannot read {path}: {error.strerror or error}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise CkptreeError(f"cannot copy {path}: it is no file, and the folder must have files alone")
    return os.fdopen(fd, "rb")
