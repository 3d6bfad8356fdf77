# SPDX-License-Identifier: Apache-2.0
"""The clocks that count from a boot, CLOCK_MONOTONIC and CLOCK_BOOTTIME: a program must not see them go back.

CRIU notes both at the dump. Where this host's are behind, as after a boot or on another machine, a program that sleeps
until a time would sleep for the difference as well. So the tree gets a time namespace in which they go on from the times of
the dump. Where this host's clocks are ahead, the program sees them leap, as after a stop.
"""

import time
from pathlib import Path
from typing import Final

from agent.restart.contents.hostfacts import CAP_SYS_ADMIN, CAP_SYS_TIME, HostFacts
from agent.restart.contents.images import Images
from agent.restart.contents.refusals import Refused
from agent.restart.rebuild.timenamespace import NO_OFFSETS, OFFSETS, ClockOffsets

_NS_PER_S: Final = 10**9
_MOST_SECONDS: Final = 1 << 32
_BOOTTIME: Final = (time.CLOCK_BOOTTIME, 9)
"""CLOCK_BOOTTIME, and CLOCK_BOOTTIME_ALARM, which has the same time."""


def lag(images: Images) -> tuple[ClockOffsets, Refused | None]:
    """Return the nanoseconds by which each clock of this host is behind that of the images, 0 where it is not.

    A refusal goes with them if the images tell of a time that no clock has.
    """
    entry = images.clocks
    if entry is None:
        return NO_OFFSETS, None
    behind = []
    for clock, then in ((time.CLOCK_MONOTONIC, entry.monotonic), (time.CLOCK_BOOTTIME, entry.boottime)):
        seconds, nanoseconds = int(then.tv_sec), int(then.tv_nsec)
        if seconds >= _MOST_SECONDS or nanoseconds >= _NS_PER_S:
            text = f"the dump was made at {seconds} s and {nanoseconds} ns, which is no time of a clock: dump again"
            return NO_OFFSETS, Refused("clock", "CLOCK_MONOTONIC", "clock", text)
        behind.append(max(seconds * _NS_PER_S + nanoseconds - time.clock_gettime_ns(clock), 0))
    return ClockOffsets(*behind), None


def fault(offsets: ClockOffsets, host: HostFacts, proc: Path = Path("/proc")) -> Refused | None:
    """Return the refusal of a tree whose clocks are so far ahead, if it cannot have them here; None if it can."""
    if not any(offsets):
        return None
    text = (
        f"this host's is {max(offsets) / _NS_PER_S:.0f} s behind that of the dump, and would go back for the programs"
    )
    if not (proc / "self" / OFFSETS).exists():
        text = f"{text}: this kernel has no time namespaces against that"
    elif not (host.has(CAP_SYS_ADMIN) and host.has(CAP_SYS_TIME)):
        text = f"{text}: a time namespace against that takes CAP_SYS_ADMIN and CAP_SYS_TIME"
    else:
        return None
    return Refused("clock", "CLOCK_MONOTONIC", "clock", text)


def now(clock: int, offsets: ClockOffsets) -> int:
    """Return the time of a clock as the tree sees it, ns."""
    ahead = {time.CLOCK_MONOTONIC: offsets.monotonic, **dict.fromkeys(_BOOTTIME, offsets.boottime)}.get(clock, 0)
    return time.clock_gettime_ns(clock) + ahead
