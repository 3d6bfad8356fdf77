# SPDX-License-Identifier: Apache-2.0
"""The bytes of a file that may come from anywhere, each read when it is needed.

A file that is mapped ends the process (SIGBUS) where it is cut short meanwhile, and one that is read whole takes the
memory that its size says. So each look reads its part, and what is not there any more is missing. Few files stay open,
for a folder may have more of them than a process may open. One that is opened again must be the same.

Retention removes the oldest file of a folder, perhaps before a reader has come to it. It is not passed over then, for the
answer would lack it without a word.
"""

import contextlib
import errno
import os
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import ClassVar, Final

from agent.errors import CkptreeError

_MOST_OPEN: Final = 256  # of 1024 that a process may have by default


class DroppedError(CkptreeError):
    """The removal of a file before it was read."""


class FileBytes:
    """The bytes of a file, up to its end as of the first look; none where it cannot be opened.

    Args:
        path: of the file.

    Raises:
        DroppedError: it is not there any more; each look raises this.
    """

    _opened: ClassVar["OrderedDict[int, weakref.ref[FileBytes]]"] = OrderedDict()  # the one that was used last is last

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1
        self._status: os.stat_result | None = None
        self._size = 0
        self._behind = b""
        with contextlib.suppress(OSError):
            self._size = os.fstat(self._open()).st_size

    def __len__(self) -> int:
        return self._size + len(self._behind)

    def extend(self, at: int, data: bytes) -> None:
        """Have further bytes behind the end, if that is at an offset."""
        if at == self._size and not self._behind:
            self._behind = data

    def __getitem__(self, part: slice) -> bytes:
        """Return the bytes of a part, which are fewer where the file is shorter now.

        Raises:
            MemoryError: there is no room for them.
        """
        begin, end, _ = part.indices(len(self))
        if begin >= self._size:
            return self._behind[begin - self._size : max(0, end - self._size)]
        try:
            found = os.pread(self._open(), max(0, min(end, self._size) - begin), begin)
        except OSError:
            return b""
        return found + self._behind[: end - self._size] if end > self._size else found

    def data_from(self, at: int) -> int:
        """Return the offset of the next byte that is in no hole of the file; the end where there is none."""
        if at >= self._size:
            return min(at, len(self))
        try:
            return min(self._size, os.lseek(self._open(), at, os.SEEK_DATA))
        except OSError:
            return self._size

    def close(self) -> None:
        """Close the file; it is opened again where it is needed."""
        if self._file >= 0:
            self._opened.pop(self._file, None)
            os.close(self._file)
            self._file = -1

    def __del__(self) -> None:
        self.close()

    def _open(self) -> int:
        """Return the descriptor of the file.

        Raises:
            DroppedError: it is not there any more.
            OSError: it cannot be opened, or is another one now.
        """
        if self._file >= 0:
            self._opened.move_to_end(self._file)
            return self._file
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except FileNotFoundError as error:
            raise DroppedError(
                f"{self._path}: it was removed while the recording was read, as the oldest part is: ask again"
            ) from error
        found = os.fstat(file)
        if self._status is not None and not os.path.samestat(found, self._status):
            os.close(file)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        self._status, self._file = self._status or found, file
        self._opened[file] = weakref.ref(self)
        if len(self._opened) > _MOST_OPEN and (oldest := next(iter(self._opened.values()))()) is not None:
            oldest.close()
        return file
