# SPDX-License-Identifier: Apache-2.0
"""The owners of sub-ids, from /etc/subuid: a user may have tens of thousands, which must not give as many shares.

Grammar (subuid(5))::

    line := (login name | uid) ":" first ":" count

Two users may have an id in common; the first line that has it counts.
"""

import os
import pwd
from pathlib import Path
from typing import Final

from agent.record import NamedTuple

SUBUID: Final = Path("/etc/subuid")
_MAX_BYTES: Final = 1 << 20


class Range(NamedTuple):
    """Sub-ids of a user.

    Attributes:
        first, end: bounds of the ids, without `end`.
        owner: the user's own id.
    """

    first: int
    end: int
    owner: int


def parse(text: str) -> list[Range]:
    """Read the valid lines; others are ignored."""
    found = []
    for line in text.splitlines():
        name, _, rest = line.strip().partition(":")
        first, _, count = rest.partition(":")
        if not (first.isdecimal() and count.isdecimal() and name):
            continue
        try:
            owner = int(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid
        except (KeyError, OSError):
            continue
        found.append(Range(int(first), int(first) + int(count), owner))
    return found


class SubIds:
    """The file, read again whenever it has changed.

    Args:
        path: of the file; there may be none.
    """

    def __init__(self, path: Path = SUBUID) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._ranges: list[Range] = []

    def owner(self, uid: int) -> int | None:
        """Return the uid of the user whose sub-id that is; None: it is no sub-id."""
        self._refresh()
        return next((found.owner for found in self._ranges if found.first <= uid < found.end), None)

    def _refresh(self) -> None:
        try:
            status = os.stat(self._path)
            seen = (status.st_mtime_ns, status.st_ino)
            if seen == self._seen:
                return
            with self._path.open(encoding="utf-8", errors="replace") as lines:
                ranges = parse(lines.read(_MAX_BYTES))
        except OSError:
            seen, ranges = None, []
        self._seen = seen
        self._ranges = ranges
