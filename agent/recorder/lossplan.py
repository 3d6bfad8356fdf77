# SPDX-License-Identifier: Apache-2.0
"""The segments of a recording in which records were lost.

Theory
------
Each keyframe has how many records the daemon had lost. Where two of one stretch without a gap agree, no record between them
is missing for good. Where they differ, the segments between are halved. A segment with no keyframe behind it has its tape
looked through for numbers that were given up; no record of it is replayed.
"""

from collections.abc import Sequence
from itertools import pairwise

from agent.capture import memorytask
from agent.capture.memoryreader import UnusableMemoryError
from agent.recorder import tape
from agent.recorder.recording import Recording
from agent.recorder.tapesegment import TapeSegment
from agent.table.inputs import Input

_GIVEN_UP = frozenset((Input.GIVE_UP, Input.GIVE_UP_BELOW))


def lossy(recording: Recording, first: int, last: int) -> set[int]:
    """Return the indices of the segments that have a loss, or in which one was not told yet that came before.

    Args:
        recording: the recording.
        first, last: indices of the first and the last segment that are asked for.
    """
    begins = [first, *sorted(recording.place_behind(gap) for gap in recording.seams), last + 1]
    plan = _LossPlan(recording.segments)
    for begin, end in pairwise(begin for begin in begins if first <= begin <= last + 1):
        plan.search(begin, end, is_joined=False)
    return plan.found & set(range(first, last + 1))


class _LossPlan:
    """The search.

    Attributes:
        found: the indices of the segments.
    """

    def __init__(self, segments: Sequence[TapeSegment]) -> None:
        self._segments = segments
        self._losses: dict[int, int | None] = {}
        self.found: set[int] = set()

    def search(self, begin: int, end: int, *, is_joined: bool) -> None:
        """Look for losses in the segments from one index on and below another; `is_joined`: no gap is behind them."""
        if begin >= end:
            return
        one, other = self._at(begin), self._at(end) if is_joined else None
        if one is not None and other is not None and one == other:
            return
        if end - begin > 1:
            middle = (begin + end) // 2 if is_joined else end - 1  # its keyframe is the last one that tells
            self.search(begin, middle, is_joined=True)
            self.search(middle, end, is_joined=is_joined)
        elif None not in (one, other) or _gives_up(self._segments[begin]):
            self.found |= {begin, end} if is_joined else {begin}  # it may be told at the next record alone

    def _at(self, place: int) -> int | None:
        """Return what the keyframe of a segment has of losses; None: it has none that can be read."""
        if place not in self._losses:
            keyframe = self._segments[place].keyframe()
            try:
                self._losses[place] = None if keyframe is None else memorytask.losses_of(keyframe)
            except UnusableMemoryError:
                self._losses[place] = None
        return self._losses[place]


def _gives_up(of: TapeSegment) -> bool:
    """Return True if the tape of a segment has numbers that were given up in front of what is damaged of it."""
    for block in of.tapes:
        content = of.content(block)
        if content is None:
            return False
        if any(entry.kind in _GIVEN_UP for entry in tape.entries(content)):
            return True
    return False
