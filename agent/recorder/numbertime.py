# SPDX-License-Identifier: Apache-2.0
"""The time of a number in each of several runs, out of the heads of the blocks and of one block: nothing is replayed."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from agent.recorder import tape
from agent.recorder.facts import NumberRun
from agent.recorder.instant import written
from agent.recorder.replay import times
from agent.recorder.segment import Block
from agent.recorder.tapesegment import TapeSegment

_MOST_NAMED: Final = 3  # runs


def ambiguous(order: int, having: Sequence[tuple[NumberRun, TapeSegment]]) -> str:
    """Return a text with the times of a number that several runs have, the last ones where there are many.

    Args:
        order: the number.
        having: the runs, and of each the segment that has it.
    """
    named = []
    for run, of in having[-_MOST_NAMED:]:
        time_ns = time_before(of, order)
        between = f"a time from {written(run.first.time_ns)} to {written(run.last.time_ns)}"
        named.append(between if time_ns is None else written(time_ns))
    earlier = len(having) - len(named)
    also = f", and {earlier} earlier time{'s' * (earlier > 1)}" if earlier else ""
    return (
        f"TIME '#{order}': numbers begin anew where a daemon starts without the records of the one before, and the "
        f"recording has this number {len(having)} times: name the time, {' or '.join(named)}{also}"
    )


def time_before(of: TapeSegment, order: int) -> int | None:
    """Return CLOCK_REALTIME of the last record of a segment below a number, or of its beginning, ns.

    Args:
        of: the segment.
        order: the number, no less than the segment's first one.

    Returns:
        The time; None: what is before the number is damaged.
    """
    tapes = of.tapes
    place = bisect_left(tapes, order, key=lambda block: block.next)
    if order > of.facts.first and place == len(tapes):
        return None
    while place >= 0 and order > of.facts.first:
        block = tapes[place]
        if block.next > block.first:  # else it has no record but those that have come early, perhaps
            content = of.content(block)
            try:
                found = None if content is None else _last_below(content, order, _ahead_before(of, tapes, place))
            except tape.TornError:
                found = None
            if found is None or found:
                return found
        place -= 1
    return of.facts.realtime_ns


def _ahead_before(of: TapeSegment, tapes: Sequence[Block], place: int) -> int:
    return tapes[place - 1].ahead_ns if place else of.ahead_ns


def _last_below(content: bytes, order: int, ahead_ns: int) -> int:
    """Return CLOCK_REALTIME of the last record of a tape below a number, ns; 0: it has none.

    Raises:
        TornError: it is not whole.
    """
    last_ns = last_ahead_ns = 0
    for entry in tape.entries(content):
        if entry.kind == tape.CLOCK:
            ahead_ns = entry.value - entry.ns
        elif entry.kind == tape.PART:
            here_ns = max(
                (time_ns or entry.ns for number, time_ns in times(entry.payload) if number < order), default=0
            )
            if here_ns >= last_ns > 0 or here_ns > 0 == last_ns:
                last_ns, last_ahead_ns = here_ns, ahead_ns
    return last_ns + last_ahead_ns
