# SPDX-License-Identifier: Apache-2.0
"""The segments of a folder as a recording has them, those at both ends that cannot be read, and the tapes of the others."""

import contextlib
from collections.abc import Generator, Sequence
from pathlib import Path

from agent.record import NamedTuple
from agent.recorder import folder, idleblock, lostsegment, segment, tapesegment
from agent.recorder.filebytes import DroppedError
from agent.recorder.lostsegment import LostSegment
from agent.recorder.tapesegment import TapeSegment


class StoredSegments(NamedTuple):
    """The segments of a folder.

    Attributes:
        whole: those whose heads can be read, and that are in their places; oldest first.
        lost_first, lost_last: those in front of and behind the `whole` ones that cannot be read.
        between: phrases on those between that cannot be read, or whose files are missing, by the index of the whole one
            behind them, which does not join the one in front.
    """

    whole: list[TapeSegment]
    lost_first: list[LostSegment]
    lost_last: list[LostSegment]
    between: dict[int, str]


def opened(place: Path) -> StoredSegments:
    """Return the segments of a folder. The head of each is read.

    Raises:
        HostError: it cannot be read.
    """
    whole: list[TapeSegment] = []
    lost_first: list[LostSegment] = []
    lost: list[LostSegment] = []
    between: dict[int, str] = {}
    passed = 0  # files since the last whole one
    for each in folder.stored(place):
        passed += 1
        try:
            facts, begin = tapesegment.head_of(each.path)
        except FileNotFoundError:
            continue  # dropped meanwhile
        except (OSError, segment.DamagedError) as error:
            lost += _lost(each.path, str(error.strerror) if isinstance(error, OSError) else str(error))
            continue
        last = whole[-1] if whole else None
        if facts.first != each.first or not _is_placed(facts, whole):
            lost += _lost(each.path, lostsegment.MISPLACED)
            continue
        new = last is None or (last.facts.boot_id, last.facts.ring) != (facts.boot_id, facts.ring)
        if last is None:
            lost_first = lost
        elif text := "; ".join(filter(None, (lostsegment.named(lost), _missing(last.facts, facts, passed - 1)))):
            between[len(whole)] = text
        lost, passed = [], 0
        whole.append(TapeSegment(each.path, facts, begin, (last.run + new) if last else 0))
    if whole:
        whole[-1].idle = idleblock.read(place)
    return StoredSegments(whole, lost_first, lost, between)


def _missing(before: segment.SegmentFacts, behind: segment.SegmentFacts, there: int) -> str:
    """Return a phrase on the files that are missing between two segments, of which others are there; empty: none is."""
    first, last = before.sequence + 1, behind.sequence - 1
    count = last - first + 1 - there
    if count <= 0:
        return ""
    if there:
        return f"of the files {folder.name_of(first)} to {folder.name_of(last)} {count} cannot be found"
    if count == 1:
        return f"the file {folder.name_of(first)} is missing"
    return f"the files {folder.name_of(first)} to {folder.name_of(last)} are missing"


def _is_placed(facts: segment.SegmentFacts, before: list[TapeSegment]) -> bool:
    """Return True if a segment may be behind those before it: no boot comes again, and in each one time goes on."""
    last = before[-1].facts if before else None
    if last is None:
        return True
    if facts.boot_id != last.boot_id:
        return all(each.facts.boot_id != facts.boot_id for each in before)
    if not facts.continues:
        return facts.boottime_ns > last.boottime_ns
    is_same_run = facts.ring == last.ring
    return facts.boottime_ns >= last.boottime_ns and (not is_same_run or facts.sequence > last.sequence)


def _lost(path: Path, why: str) -> list[LostSegment]:
    """Return what is known of a segment that cannot be read, if it is one, and there still."""
    with contextlib.suppress(DroppedError):
        if (found := lostsegment.lost(path, why)) is not None:
            return [found]
    return []


def places(segments: Sequence[TapeSegment]) -> dict[tuple[int, int, int], int]:
    """Return the index of the segment behind a gap, by the run, the number and CLOCK_REALTIME (ns) with which it begins.

    Several may begin at one number and time: the gap is in front of the first one that does not go on from another.
    """
    found: dict[tuple[int, int, int], int] = {}
    for place, of in enumerate(segments):
        begin = of.run, of.facts.first, of.facts.realtime_ns
        if begin not in found or _begins(segments, place) > _begins(segments, found[begin]):
            found[begin] = place
    return found


def _begins(segments: Sequence[TapeSegment], place: int) -> tuple[bool, bool]:
    """Return True if a segment does not go on from another, and True if a replay may begin with it."""
    of = segments[place]
    return not of.joins(segments[place - 1] if place else None), of.keyframe() is not None


def tapes(segments: Sequence[TapeSegment], order: int = 0) -> Generator[bytes, None, bool]:
    """Yield the tapes of segments, up to the first gap, but for blocks that end before a number.

    Returns:
        True where they end in front of damage; False: in front of the end, or of a gap in which nothing was written.
    """
    for index, each in enumerate(segments):
        before = segments[index - 1]
        if index and not each.joins(before):
            is_next = each.facts.sequence == before.facts.sequence + 1
            return each.facts.continues or not is_next or not before.ends_whole
        blocks = each.blocks[:-1] if each.blocks[-1:] == [None] else each.blocks  # nothing joins an end that breaks off
        for block in blocks:
            if block is None:
                return True
            if block.kind == segment.TAPE and block.next >= order:
                content = each.content(block)
                if content is None:
                    return True
                yield content
    return bool(segments) and not segments[-1].ends_whole


def are_broken(segments: Sequence[TapeSegment], order: int) -> bool:
    """Return True if the tapes of segments end in front of damage; see `tapes`."""
    ahead = tapes(segments, order)
    while True:
        try:
            next(ahead)
        except StopIteration as end:
            return bool(end.value)
