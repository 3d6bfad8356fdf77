# SPDX-License-Identifier: Apache-2.0
"""The records of a recording in which the bytes of a number occur, as they lie in parts of the ring."""

import struct
from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import Final

from agent.record import NamedTuple
from agent.recorder import tape
from agent.recorder.facts import Instant
from agent.recorder.recording import Recording
from agent.recorder.segment import Block
from agent.recorder.tapesegment import Hole, TapeSegment
from agent.table import wire

_HEAD: Final = struct.Struct("<I")
_HEAD_BYTES: Final = 8
_DISCARD: Final = 1 << 30
_LENGTH: Final = _DISCARD - 1
_NUMBER: Final = struct.Struct("=I")
_RECORD: Final = wire.reader(wire.RECORD, "seq", "kind", "time_ns").unpack_from

Damaged = Callable[[TapeSegment, Block | Hole], None]
"""Takes note of a block, or of a hole, that cannot be read."""


class SeenRecord(NamedTuple):
    """A record, as it lies in a part of the ring.

    Attributes:
        order, kind: its own.
        boottime_ns, ahead_ns: its time, and by how much CLOCK_REALTIME was ahead of it.
        data, at: the part, and the record's place in it.
    """

    order: int
    kind: int
    boottime_ns: int
    ahead_ns: int
    data: memoryview
    at: int

    def kept(self) -> "SeenRecord":
        """Return it with bytes of its own, so that it does not keep its block in memory."""
        end = self.at + wire.record_bytes(self.data, self.at, self.kind)
        return self._replace(data=memoryview(bytes(self.data[self.at : end])), at=0)


class NumberPlace(NamedTuple):
    """A block that may have records about a number.

    Attributes:
        segment: the index of its segment.
        keyframe: the number at which that begins.
        first, next: the numbers expected before and behind it.
    """

    segment: int
    keyframe: int
    first: int
    next: int


def places(recording: Recording, number: int, order: int, begin: int) -> Iterator[NumberPlace]:
    """Yield the blocks that may have records about a number, up to the first gap.

    Args:
        recording: the recording.
        number: the number.
        order: no block of smaller numbers is wanted.
        begin: the index of the segment to begin with: several may begin at one number, with gaps between them.
    """
    ahead = recording.segments[begin:]
    for index, (each, following) in enumerate(zip_longest(ahead, ahead[1:]), begin):
        for block, _ in each.about(number):
            if block.next >= order:
                yield NumberPlace(index, each.facts.first, block.first, block.next)
        if following is None or not following.joins(each, each.sealed_next or each.end_next):
            return


def records(
    recording: Recording, number: int, since: Instant, until: Instant, damaged: Damaged
) -> Iterator[tuple[int, SeenRecord]]:
    """Yield the records in which the bytes of a number occur, and their runs, from one instant to another.

    Args:
        recording: the recording.
        number: the number.
        since, until: the first record is at or behind `since`, the last one before `until`.
        damaged: called for each block that may have had such records.
    """
    for each, following in zip_longest(recording.segments, recording.segments[1:]):
        is_before = following is not None and (following.run, following.facts.first) <= (since.run, since.order)
        if is_before or (each.run, each.facts.first) > (until.run, until.order):
            continue
        for seen in _of_segment(each, number, damaged):
            if (since.run, since.order) <= (each.run, seen.order) < (until.run, until.order):
                yield each.run, seen


def _of_segment(of: TapeSegment, number: int, damaged: Damaged) -> Iterator[SeenRecord]:
    needle = _NUMBER.pack(number)
    for block, before_ns in of.about(number):
        content = None if isinstance(block, Hole) else of.content(block)
        if content is None:
            damaged(of, block)
            continue
        ahead_ns, begin = before_ns, 0
        found = content.find(needle)
        for entry in tape.entries(content):
            if found < 0:
                break
            begin += tape.ENTRY.size
            end = begin + len(entry.payload)
            if entry.kind == tape.CLOCK:
                ahead_ns = entry.value - entry.ns
            elif entry.kind == tape.PART and 0 <= (found := content.find(needle, max(found, begin))) < end:
                yield from _of_part(entry.payload, needle, entry.ns, ahead_ns)
            begin += tape.padded(len(entry.payload))


def _of_part(part: memoryview, needle: bytes, part_ns: int, ahead_ns: int) -> Iterator[SeenRecord]:
    data = bytes(part)
    at, end, found = 0, len(data), data.find(needle)
    while found >= 0 and at < end:
        (flags,) = _HEAD.unpack_from(data, at)
        behind = at + _HEAD_BYTES + tape.padded(flags & _LENGTH)
        if found < behind:
            if not flags & _DISCARD:
                seq, kind, time_ns = _RECORD(data, at + _HEAD_BYTES)
                yield SeenRecord(seq, kind, time_ns or part_ns, ahead_ns, part, at + _HEAD_BYTES)
            found = data.find(needle, behind)
        at = behind
