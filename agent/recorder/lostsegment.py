# SPDX-License-Identifier: Apache-2.0
"""A segment's file that cannot be read as one: its head is damaged, or it is not in the place where it was written.

Its blocks have check sums of their own, and tell up to when it had records. A file that ends within its head and has no
block is none of these: its writer has begun it this moment, or was broken off.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agent.record import NamedTuple
from agent.recorder import filebytes, segment

_MOST_NAMED: Final = 3
MISPLACED: Final = "it is not in the place where it was written"


class LostSegment(NamedTuple):
    """A segment that cannot be read.

    Attributes:
        name: of its file.
        why: a clause.
        next: the number expected behind its blocks; 0: no block tells.
        until_ns: the latest time that its blocks tell, CLOCK_REALTIME, ns; 0: none.
    """

    name: str
    why: str
    next: int
    until_ns: int

    def __str__(self) -> str:
        return f"{self.name} cannot be read: {self.why}"


def lost(path: Path, why: str) -> LostSegment | None:
    """Return what is known of a segment that cannot be read; None where no writer has written a block of it.

    Args:
        path: of the file.
        why: a clause.

    Raises:
        DroppedError: it is not there any more.
    """
    data = filebytes.FileBytes(path)
    found = [block for block in segment.blocks(data, 0, data.data_from) if block is not None]
    if not found and segment.is_begun(data):
        return None
    tapes = [block for block in found if block.kind == segment.TAPE]
    until_ns = max((block.last_ns + block.ahead_ns for block in tapes if block.last_ns), default=0)
    return LostSegment(path.name, why, max((block.next for block in tapes), default=0), until_ns)


def named(segments: Sequence[LostSegment]) -> str:
    """Return a text that names segments, the last ones where there are many; empty where there are none."""
    earlier = len(segments) - _MOST_NAMED
    also = [f"{earlier} earlier ones cannot be read"] if earlier > 0 else []
    return "; ".join([*also, *map(str, segments[-_MOST_NAMED:])])
