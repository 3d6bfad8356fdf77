# SPDX-License-Identifier: Apache-2.0
"""The end of what a folder has already, which a recording that another daemon has begun must not overlap.

A daemon that waits for the folder keeps what comes in meanwhile, while the other daemon records the same. Two recordings
of one time would tell everything twice, and the gap between them would end before it begins.
"""

from pathlib import Path

from agent.recorder import folder, segment
from agent.recorder.tapesegment import TapeSegment, head_of


def recorded_ns(place: Path, boot_id: str) -> int:
    """Return the CLOCK_BOOTTIME up to which a folder's newest segment has a boot, ns; 0: it has nothing of that boot.

    Args:
        place: the folder.
        boot_id: of the boot.

    Raises:
        HostError: the folder cannot be read.
    """
    for each in reversed(folder.stored(place)):
        try:
            facts, begin = head_of(each.path)
        except (OSError, segment.DamagedError):
            continue  # the one before it may tell
        return TapeSegment(each.path, facts, begin, 0).known_ns if facts.boot_id == boot_id else 0
    return 0
