# SPDX-License-Identifier: Apache-2.0
"""The gaps at the ends of a span of a recording: one rule for all that is told of it.

Theory
------
``#N`` is just before record N: behind each gap that ends there, also where no record is missing in it, and in front of one
in which N is missing. A time is where CLOCK_BOOTTIME puts it: CLOCK_REALTIME may be set back, and show it twice.
"""

from agent.recorder.facts import Gap, Instant
from agent.recorder.recording import Recording


def is_behind(recording: Recording, instant: Instant, gap: Gap) -> bool:
    """Return True if an instant is behind a gap."""
    place = recording.place_behind(gap)
    if place == len(recording.segments):  # of a block alone, or up to the end
        return (gap.next_run, gap.next) <= (instant.run, instant.order)
    return place <= recording.place(instant)


def is_begun(recording: Recording, gap: Gap, until: Instant) -> bool:
    """Return True if a gap begins before the end of a span, as it does where the time of the end is one of a gap."""
    begin, end = (gap.run, gap.first), (until.run, until.order)
    return bool(until.missing) or begin < end or (begin == end and is_behind(recording, until, gap))
