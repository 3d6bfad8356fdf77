# SPDX-License-Identifier: Apache-2.0
"""The places in a recording of the records in which the bytes of a number occur, as they lie in parts of the ring."""

import struct
from collections.abc import Iterator
from itertools import zip_longest
from typing import Final

from agent.record import NamedTuple
from agent.recorder import tape
from agent.recorder.recording import Recording
from agent.recorder.tapesegment import Hole, TapeSegment
from agent.table import wire
from agent.table.wire import Kind

_HEAD: Final = struct.Struct("<I")
_HEAD_BYTES: Final = 8
_DISCARD: Final = 1 << 30
_LENGTH: Final = _DISCARD - 1
_NUMBER: Final = struct.Struct("=I")
_SEQ_AND_KIND: Final = wire.reader(wire.RECORD, "seq", "kind").unpack_from


class RecordExtent(NamedTuple):
    """The extent of the records of a segment that may be about a number: no other record of it is about that.

    Attributes:
        first, last: their smallest and their largest number.
        whole: False where some of the blocks that may have such records cannot be read.
        records: buffers and offsets in them of the records that can be.
    """

    first: int
    last: int
    whole: bool
    records: tuple[tuple[bytes, int], ...]


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


def extent(of: TapeSegment, number: int) -> RecordExtent | None:
    """Return the extent of the records of a segment that are about a number; None where it has none."""
    found: list[tuple[bytes, int]] = []
    whole = True
    for block, _ in of.about(number):
        content = None if isinstance(block, Hole) else of.content(block)
        if content is None:
            whole = False
        else:
            found += _records(content, number)
    if not found:
        return None if whole else RecordExtent(of.facts.first, of.facts.first, whole=False, records=())
    numbers = [_SEQ_AND_KIND(data, at)[0] for data, at in found]
    return RecordExtent(min(numbers), max(numbers), whole, tuple(found))


def has_exit(of: TapeSegment, number: int) -> bool:
    """Return True if a segment has, or may have, a record of the exit of a task that has a number."""
    for block, _ in of.about(number):
        content = None if isinstance(block, Hole) else of.content(block)
        if content is None or any(_SEQ_AND_KIND(data, at)[1] == Kind.EXIT for data, at in _records(content, number)):
            return True
    return False


def records_of(of: TapeSegment, number: int, read: dict[int, bytes]) -> Iterator[tuple[bytes, int]]:
    """Yield the buffers and offsets in them of records of a segment in which the bytes of a number occur.

    All records that are about the number are among them, but for those in blocks that cannot be read.

    Args:
        of: the segment.
        number: the number.
        read: the contents of blocks that have been read, by the blocks' offsets. Others are added.
    """
    for block, _ in of.about(number):
        content = None if isinstance(block, Hole) else read.get(block.at) or of.content(block)
        if content is not None and not isinstance(block, Hole):
            read[block.at] = content
            yield from _records(content, number)


def _records(content: bytes, number: int) -> Iterator[tuple[bytes, int]]:
    """Yield the buffers and offsets in them of the records of a block in which the bytes of a number occur."""
    needle = _NUMBER.pack(number)
    begin, found = 0, content.find(needle)
    for entry in tape.entries(content):
        if found < 0:
            return
        begin += tape.ENTRY.size
        end = begin + len(entry.payload)
        if entry.kind == tape.PART and 0 <= (found := content.find(needle, max(found, begin))) < end:
            yield from _of_part(entry.payload, needle)
        begin += tape.padded(len(entry.payload))


def _of_part(part: memoryview, needle: bytes) -> Iterator[tuple[bytes, int]]:
    data = bytes(part)
    at, end, found = 0, len(data), data.find(needle)
    while found >= 0 and at < end:
        (flags,) = _HEAD.unpack_from(data, at)
        behind = at + _HEAD_BYTES + tape.padded(flags & _LENGTH)
        if found < behind:
            if not flags & _DISCARD:
                yield data, at + _HEAD_BYTES
            found = data.find(needle, behind)
        at = behind
