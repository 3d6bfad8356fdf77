# SPDX-License-Identifier: Apache-2.0
"""The end of what a folder has already, from which a recording goes on, or which it must not overlap.

A daemon that waits for the folder keeps what comes in meanwhile, while the other daemon records the same. Two recordings
of one time would tell everything twice, and the gap between them would end before it begins.
"""

import contextlib
from pathlib import Path

from agent.recorder import folder, segment
from agent.recorder.filebytes import DroppedError
from agent.recorder.tapesegment import TapeSegment, head_of


def recorded_ns(place: Path, boot_id: str) -> int:
    """Return the CLOCK_BOOTTIME up to which a folder's newest segment has a boot, ns; 0: it has nothing of that boot.

    Args:
        place: the folder.
        boot_id: of the boot.

    Raises:
        HostError: the folder cannot be read.
    """
    newest = _newest(place)
    return newest.known_ns if newest is not None and newest.facts.boot_id == boot_id else 0


def last_number(place: Path) -> int:
    """Return the number of the last block of a folder's newest segment, in front of its index; 0: it has none.

    Raises:
        HostError: the folder cannot be read.
    """
    with contextlib.suppress(DroppedError):
        newest = _newest(place)
        return newest.last_number if newest is not None else 0
    return 0


def _newest(place: Path) -> TapeSegment | None:
    """Return the newest segment whose head can be read."""
    for each in reversed(folder.stored(place)):
        try:
            facts, begin = head_of(each.path)
        except (OSError, segment.DamagedError):
            continue  # the one before it may tell
        return TapeSegment(each.path, facts, begin, 0)
    return None
