# SPDX-License-Identifier: Apache-2.0
"""Retention: the segments that a writer keeps, within bounds of bytes and of age. The oldest segment goes first.

Theory
------
A clock that is wrong for a moment must not end the past. So ages count by CLOCK_BOOTTIME, which nobody sets. For segments
that were there before the writer began the file system has CLOCK_REALTIME alone. That clock counts once, when it has stood
for ten minutes since the writer began, or for the bound of age where that is shorter: a host that boots with a wrong clock
is mostly set right by then. A segment whose last write is in the future is as old as the look at it.
"""

import time
from pathlib import Path
from typing import Final

from agent.record import NamedTuple
from agent.recorder import folder

_STANDS_S: Final = 600.0
_STEP_S: Final = 2.0  # a clock that is slewed moves by 0.3 s in ten minutes


class Clocks(NamedTuple):
    """The clocks of a moment.

    Attributes:
        realtime_s: CLOCK_REALTIME, s.
        boottime_s: CLOCK_BOOTTIME, s.
    """

    realtime_s: float
    boottime_s: float

    @classmethod
    def now(cls) -> "Clocks":
        """Read the clocks."""
        return cls(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME))


class Retention:
    """The segments that a writer keeps, and their sizes.

    Args:
        place: the folder.
        max_bytes: bound of all segments together.
        max_age_s: age of a segment's last write after which it goes; 0: none is too old.

    Attributes:
        dropped: count of segments removed.
    """

    def __init__(self, place: Path, max_bytes: int, max_age_s: int) -> None:
        self._max_bytes, self._max_age_s = max_bytes, max_age_s
        self._sizes: dict[Path, int] = {}
        self._written_s: dict[Path, float] = {}  # CLOCK_BOOTTIME of the last write, where it is known
        self._found_s: dict[Path, float] = {}  # CLOCK_REALTIME of the last write, until that clock counts
        self._stood: Clocks | None = None
        for each in folder.stored(place):
            try:
                found = each.path.stat()
            except FileNotFoundError:
                continue
            self._sizes[each.path] = found.st_size
            self._found_s[each.path] = found.st_mtime
        self.dropped = 0

    @property
    def bytes(self) -> int:
        """Bytes of all segments."""
        return sum(self._sizes.values())

    @property
    def count(self) -> int:
        """Count of segments."""
        return len(self._sizes)

    def grew(self, path: Path, size: int, now: Clocks) -> None:
        """Note the size of the newest segment, which was written."""
        self._sizes[path] = size
        self._written_s[path] = now.boottime_s
        self._found_s.pop(path, None)

    def trim(self, now: Clocks) -> None:
        """Remove the oldest segments beyond the bounds, never the newest.

        Raises:
            OSError: one cannot be removed.
        """
        if self._max_age_s and self._found_s:
            self._judge(now)
        for path in list(self._sizes)[:-1]:
            if self.bytes <= self._max_bytes and not self._is_old(path, now):
                return
            path.unlink(missing_ok=True)
            del self._sizes[path]
            self._written_s.pop(path, None)
            self._found_s.pop(path, None)
            self.dropped += 1

    def _judge(self, now: Clocks) -> None:
        """Tell the ages of the segments that were found, once CLOCK_REALTIME has stood for long enough."""
        stood = self._stood
        if stood is None or abs(_ahead_s(now) - _ahead_s(stood)) > _STEP_S:
            self._stood = now
        elif now.boottime_s - stood.boottime_s >= min(_STANDS_S, self._max_age_s):
            for path, written_s in self._found_s.items():
                self._written_s[path] = now.boottime_s - max(0.0, now.realtime_s - written_s)
            self._found_s.clear()

    def _is_old(self, path: Path, now: Clocks) -> bool:
        written_s = self._written_s.get(path, now.boottime_s)
        return 0 < self._max_age_s < now.boottime_s - written_s


def _ahead_s(clocks: Clocks) -> float:
    return clocks.realtime_s - clocks.boottime_s
