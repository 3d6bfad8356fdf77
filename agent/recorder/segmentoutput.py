# SPDX-License-Identifier: Apache-2.0
"""The file of the present segment of a recording, as its writer has it: it grows, and may be removed meanwhile."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agent.errors import HostError
from agent.recorder import folder, folderlock, folderrights
from agent.recorder.retention import Clocks, Retention
from agent.recorder.tape import Data

_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class RemovedError(HostError):
    """The removal of what is written, or of the folder it is in: nobody could find what is written from now on."""


class SegmentOutput:
    """The file of the present segment.

    Args:
        place: the folder.
        kept: the segments in it.
        group: number of the group that may read; None: none may.
        lock: descriptor of the folder's lock; negative: there is none.

    Attributes:
        size: of the segment, bytes.
        written_bytes: bytes of all segments that were written here.
        unsynced: True where bytes may not survive a power cut yet.
    """

    def __init__(self, place: Path, kept: Retention, group: int | None = None, lock: int = -1) -> None:
        self._place, self._kept, self._group, self._lock = place, kept, group, lock
        self._path = place
        self._file = -1
        self.size = self.written_bytes = 0
        self.unsynced = False

    @property
    def is_open(self) -> bool:
        """True where a segment can be written."""
        return self._file >= 0

    def begin(self, name: str, head: bytes) -> None:
        """Begin a segment. The one before is closed.

        Raises:
            RemovedError: the folder was removed or replaced: the one there now is not locked.
            OSError: it cannot be written.
        """
        if self._lock >= 0:
            self._check(folderlock.is_in, self._place, self._lock)
        self._path = self._place / name
        self.size = 0
        self._file = os.open(self._path, _FLAGS, 0o600)
        if self._group is not None:
            folderrights.permit(self._file, self._group, 0o640)
        self.write(head)
        folder.sync(self._place)

    def write(self, *pieces: Data) -> None:
        """Append to the segment; what cannot be written whole is taken back.

        Raises:
            OSError: it cannot be written.
        """
        total = sum(map(len, pieces))
        done = os.writev(self._file, pieces)
        if done < total:
            rest = memoryview(b"".join(pieces))[done:]
            try:
                while rest:
                    rest = rest[os.write(self._file, rest) :]
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, self.size)
                raise
        self.size += total
        self.written_bytes += total
        self._kept.grew(self._path, self.size, Clocks.now())
        self.unsynced = True

    def sync(self) -> None:
        """Have everything so far survive a power cut.

        Raises:
            RemovedError: it does not lie in the folder any more.
            OSError: it cannot be written.
        """
        self.unsynced = False
        if self._file >= 0:
            os.fdatasync(self._file)
            self._check(self._is_in)
            if self._lock >= 0:
                self._check(folderlock.is_in, self._place, self._lock)

    def _is_in(self) -> bool:
        return os.path.samestat(os.fstat(self._file), self._path.stat())

    def _check(self, is_in: Callable[..., bool], *arguments: object) -> None:
        """Compare what the folder's path leads to with what is open: it may be removed, renamed or replaced."""
        try:
            found = is_in(*arguments)
        except OSError:
            found = False
        if not found:
            raise RemovedError(
                f"{self._place}: the recording there was removed, renamed or replaced while it was written"
            )

    def close(self) -> None:
        """Close the segment."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.fdatasync(self._file)
            os.close(self._file)
            self._file = -1
