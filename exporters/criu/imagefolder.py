# SPDX-License-Identifier: Apache-2.0
"""A folder of CRIU's images: its files by name, opened with care.

The folder is untrusted: a file that is no regular file, as a link or a pipe, is refused.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol

from agent.errors import CkptreeError, FormatError
from exporters.criu import imagefile

if TYPE_CHECKING:
    from google.protobuf.message import Message

_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
PARENT: Final = "parent"
"""Name of the link to the folder of the dump before."""


class ImageFiles(Protocol):
    """Image files by name, in a folder or in memory."""

    def open(self, name: str) -> BinaryIO | None:
        """Open a file for reading; None where there is none. CkptreeError: it cannot be opened."""

    def names(self) -> list[str]:
        """Return the names of all files, sorted."""


class PageFolder(ImageFiles, Protocol):
    """Image files with the path of the folder in which tasks find their pages."""

    @property
    def path(self) -> Path:
        """Return the path of the folder."""


class ImageFolder:
    """The files of a folder.

    Args:
        path: of the folder.
        shown: its name in messages; empty: its path.

    Attributes:
        path: of the folder.
        shown: its name in messages.
    """

    def __init__(self, path: Path, shown: str = "") -> None:
        self.path = path
        self._path = os.fspath(path)
        self.shown = shown or self._path

    def open(self, name: str) -> BinaryIO | None:
        """Open a file for reading; None where there is none.

        Raises:
            CkptreeError: it cannot be opened, or is no regular file.
        """
        opened = self._opened(name)
        return None if opened is None else os.fdopen(opened[0], "rb")

    def content(self, name: str, most: int) -> bytes | None:
        """Return the first bytes of a file, at most so many; None where there is none; errors as of `open`."""
        opened = self._opened(name)
        if opened is None:
            return None
        fd, size = opened
        try:
            return os.read(fd, min(size, most))  # to make a buffer takes as long as to read a small file
        finally:
            os.close(fd)

    def _opened(self, name: str) -> tuple[int, int] | None:
        """Return the descriptor and the length of a file."""
        try:
            fd = os.open(f"{self._path}/{name}", _FLAGS)
        except FileNotFoundError:
            return None
        except OSError as error:
            reason = "it is a link" if error.errno == errno.ELOOP else error.strerror
            raise CkptreeError(f"cannot read {self.shown}/{name}: {reason}") from error
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            os.close(fd)
            raise CkptreeError(f"cannot read {self.shown}/{name}: it is no regular file")
        return fd, found.st_size

    def names(self) -> list[str]:
        """Return the names of all files, sorted.

        Raises:
            CkptreeError: the folder cannot be read.
        """
        try:
            return sorted(os.listdir(self.path))
        except OSError as error:
            raise CkptreeError(f"cannot read {self.shown}: {error.strerror or error}") from error

    def size(self) -> int:
        """Return the length of all files that hold messages, bytes; errors as of `names`."""
        try:
            with os.scandir(self.path) as found:
                return sum([each.stat().st_size for each in found if imagefile.kind_of(each.name) and each.is_file()])
        except OSError as error:
            raise CkptreeError(f"cannot read {self.shown}: {error.strerror or error}") from error

    def parent(self) -> "ImageFolder | None":
        """Return the folder of the dump before, which has the pages that did not change since; None: there is none."""
        path = self.path / PARENT
        return ImageFolder(path) if path.is_dir() else None


def is_image(data: bytes) -> bool:
    """Return True for the bytes of an image file, of any kind with a magic number."""
    return any(data.startswith(imagefile.image(stem, ())) for stem in imagefile.KINDS)


def entries(files: ImageFiles, name: str) -> Iterator[imagefile.ImageEntry]:
    """Yield the entries of an image file; none where there is no such file, as CRIU has it.

    Raises:
        FormatError: it is no image of its kind.
        CkptreeError: it cannot be opened.
    """
    opened = files.open(name)
    if opened is not None:
        with closing(opened):
            yield from imagefile.read(opened, name)


def content(files: ImageFiles, name: str, most: int) -> bytes | None:
    """Return the first bytes of a file, at most so many; None where there is none; CkptreeError: it cannot be opened."""
    if isinstance(files, ImageFolder):
        return files.content(name, most)
    opened = files.open(name)
    if opened is None:
        return None
    with closing(opened):
        return opened.read(most)


def optional(files: ImageFiles, name: str) -> "Message | None":
    """Return the message of a file that has one; None where there is no such file; errors as of `entries`."""
    opened = files.open(name)
    if opened is None:
        return None
    with closing(opened):
        return imagefile.one(opened, name)


def one(files: ImageFiles, name: str) -> "Message":
    """Return the message of a file that has one; FormatError where there is no such file; errors as of `entries`."""
    message = optional(files, name)
    if message is None:
        raise FormatError(name, "the folder has no such file")
    return message
