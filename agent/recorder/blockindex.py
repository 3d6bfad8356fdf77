# SPDX-License-Identifier: Apache-2.0
"""The index of a segment: for each block of its tape, the numbers that the block's records are about. Pure.

Theory
------
The history of a number needs the few records that are about it, out of a recording of any length. A record is about the
number of its task in the initial pid namespace; a session, a group or a subreaper's flag that a thread gave its process
is about the number of the process, too; and a wait call is about the number that it returned. Other numbers in a record,
those of parents, creators, groups and sessions, are not in the index: the init's would be in each block.

An index only tells which blocks need not be read. It has all blocks of its segment's tape, or it is not written. It is
bound to its segment by the check sum of the facts, and each of its rows to a block by that of the block's bytes: where one
differs, the index does not count. So an index that is missing or damaged costs time and changes no answer.

Grammar (little endian)::

    index    := u32 count of blocks, u32 CRC-32 of the facts in the segment's head, row*, numbers*
    row      := u64 offset of the block's head in the segment, i64 ahead_ns before the block, u32 CRC-32 of its stored
                bytes, u32 count of its numbers
    numbers  := u32*    of a block, rising; the blocks are in the order of the rows
    place    := u64 offset of the head of the index's block
"""

import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

from agent.record import NamedTuple
from agent.recorder import tape
from agent.recorder.tape import Data
from agent.table import wire
from agent.table.wire import Kind

PLACE: Final = struct.Struct("<Q")
_HEAD: Final = struct.Struct("<II")
_ROW: Final = struct.Struct("<QqII")
_WORD: Final = 4
_RING_HEAD: Final = 8
_DISCARD: Final = 1 << 30
_MOST_RECORD: Final = wire.STRINGS.size + wire.KEPT_BYTES
STEPS: Final = tuple((length + _RING_HEAD + 7 & ~7) // _WORD for length in range(_MOST_RECORD + 1))
"""The words from one record of a part to the next, by the first one's length."""


def word_at(fields: wire.Fields, name: str) -> int:
    """Return the place of a field of a record in a part of the ring, in words behind the record's head there."""
    names = [each for each, _ in fields]
    before = "".join(code for _, code in fields[: names.index(name)])
    return (_RING_HEAD + struct.calcsize("=" + before)) // _WORD


_KIND_AT: Final = word_at(wire.RECORD, "kind")
_LEVELS_AT: Final = word_at(wire.RECORD_TASK, "levels")
_OBJECTS_AT: Final = (_RING_HEAD + wire.TASK_BYTES) // _WORD
_NUMBER_WORDS: Final = wire.NUMBER.size // _WORD
_TASK_AT: Final = word_at(wire.RECORD_TASK, "tid")
_NONE: Final = 0
_OF_PROCESS: Final = -1


def _number_at(kind: int) -> int:
    """Return the place of the number that records of a kind are about, or `_NONE`, or `_OF_PROCESS`."""
    if kind in (Kind.SESSION, Kind.GROUP, Kind.SUBREAPER):
        return _OF_PROCESS
    if kind in (Kind.GONE, Kind.FREE, Kind.RELEASE):
        return word_at(wire.RECORD_END, "tid")
    if kind == Kind.WAITED:
        return word_at(wire.RECORD_CALL, "value")
    if kind == Kind.STRINGS:
        return word_at(wire.RECORD_STRINGS, "tid")
    return _TASK_AT if 0 < kind <= Kind.STATE else _NONE


_NUMBERS_AT: Final = tuple(_number_at(kind) for kind in range(max(Kind) + 1))


class BlockNumbers(NamedTuple):
    """The entry of a block.

    Attributes:
        at: offset of the block's head in the segment.
        ahead_ns: by how much CLOCK_REALTIME was ahead of CLOCK_BOOTTIME before the block.
        check: CRC-32 of the block's stored bytes.
        numbers: that its records are about, rising.
    """

    at: int
    ahead_ns: int
    check: int
    numbers: "array[int] | memoryview"


def numbers_of(words: "array[int]", end: int) -> "array[int] | None":
    """Return the numbers that the records of a tape are about, rising; None where it has what no daemon writes.

    Args:
        words: the tape and what else there is: an array tells a word in two thirds of the time that a view takes.
        end: count of the tape's words.
    """
    found: set[int] = set()
    at, head = 0, tape.ENTRY.size // _WORD
    try:
        while at < end:
            kind, length = words[at], words[at + 1]
            at += head
            behind = at + tape.padded(length) // _WORD
            if kind == tape.PART:
                _collect(words, at, behind, found)
            at = behind
    except IndexError:
        return None
    return array("I", sorted(found))


def _collect(words: "array[int]", at: int, end: int, found: set[int]) -> None:
    """Add the numbers that the records of a part are about."""
    add, numbers_at, kind_at, steps = found.add, _NUMBERS_AT, _KIND_AT, STEPS
    while at < end:
        try:
            step = steps[words[at]]
        except IndexError:  # it is discarded: looking it up so costs less than a test of each length
            at += steps[words[at] ^ _DISCARD]
            continue
        place = numbers_at[words[at + kind_at]]
        if place > 0:
            add(words[at + place])
        elif place == _OF_PROCESS:
            add(words[at + _TASK_AT])
            levels = words[at + _LEVELS_AT]
            if levels >> 8 & 0xFF:  # the process has a number of its own: a thread has made the call
                add(words[at + _OBJECTS_AT + _NUMBER_WORDS * (levels & 0xFF)])
        at += step


def pack(rows: list[BlockNumbers], facts_check: int) -> bytes:
    """Return an index as bytes.

    Args:
        rows: of all blocks of the segment's tape.
        facts_check: CRC-32 of the facts in the segment's head.
    """
    heads = [_ROW.pack(row.at, row.ahead_ns, row.check, len(row.numbers)) for row in rows]
    return b"".join([_HEAD.pack(len(rows), facts_check), *heads, *(row.numbers.tobytes() for row in rows)])


def unpack(content: Data, facts_check: int) -> list[BlockNumbers] | None:
    """Read an index; None where it contradicts its grammar, or is of another segment than that with these facts."""
    view = memoryview(content)
    if len(view) < _HEAD.size:
        return None
    count, check = _HEAD.unpack_from(view)
    numbers_at = _HEAD.size + count * _ROW.size
    if check != facts_check or numbers_at > len(view) or (len(view) - numbers_at) % _WORD:
        return None
    numbers, begin = view[numbers_at:].cast("I"), 0
    rows = []
    for at, ahead_ns, check, length in _ROW.iter_unpack(view[_HEAD.size : numbers_at]):
        rows.append(BlockNumbers(at, ahead_ns, check, numbers[begin : begin + length]))
        begin += length
    return rows if begin == len(numbers) else None


def about(rows: list[BlockNumbers], number: int) -> Iterator[BlockNumbers]:
    """Yield the rows of the blocks that have records about a number."""
    for row in rows:
        place = bisect_left(row.numbers, number)
        if place < len(row.numbers) and row.numbers[place] == number:
            yield row
