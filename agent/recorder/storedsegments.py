# SPDX-License-Identifier: Apache-2.0
"""The segments of a folder, as a recording has them: those that can be read, and those at both ends that cannot."""

import contextlib
from pathlib import Path
from typing import NamedTuple

from agent.recorder import folder, idleblock, lostsegment, segment, tapesegment
from agent.recorder.filebytes import DroppedError
from agent.recorder.lostsegment import LostSegment
from agent.recorder.tapesegment import TapeSegment


class StoredSegments(NamedTuple):
    """The segments of a folder.

    Attributes:
        whole: those whose heads can be read, and that are in their places; oldest first.
        lost_first, lost_last: those in front of and behind the `whole` ones that cannot be read. Between them there may be
            others, which the next one does not join.
    """

    whole: list[TapeSegment]
    lost_first: list[LostSegment]
    lost_last: list[LostSegment]


def opened(place: Path) -> StoredSegments:
    """Return the segments of a folder. The head of each is read.

    Raises:
        HostError: it cannot be read.
    """
    whole: list[TapeSegment] = []
    lost_first: list[LostSegment] = []
    lost: list[LostSegment] = []
    for each in folder.stored(place):
        try:
            facts, begin = tapesegment.head_of(each.path)
        except FileNotFoundError:
            continue  # dropped meanwhile
        except (OSError, segment.DamagedError) as error:
            lost += _lost(each.path, str(error.strerror) if isinstance(error, OSError) else str(error))
            continue
        last = whole[-1] if whole else None
        new = last is None or (last.facts.boot_id, last.facts.ring) != (facts.boot_id, facts.ring)
        is_placed = last is None or new or not facts.continues or last.facts.sequence < facts.sequence
        if facts.first != each.first or not is_placed:
            lost += _lost(each.path, lostsegment.MISPLACED)
            continue
        if last is None:
            lost_first = lost
        lost = []
        whole.append(TapeSegment(each.path, facts, begin, (last.run + new) if last else 0))
    if whole:
        whole[-1].idle = idleblock.read(place)
    return StoredSegments(whole, lost_first, lost)


def _lost(path: Path, why: str) -> list[LostSegment]:
    """Return what is known of a segment that cannot be read, if it is one, and there still."""
    with contextlib.suppress(DroppedError):
        if (found := lostsegment.lost(path, why)) is not None:
            return [found]
    return []
