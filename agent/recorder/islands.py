# SPDX-License-Identifier: Apache-2.0
"""The records of a number that lie behind damage, in front of the next keyframe: what each of them tells is certain.

Theory
------
No replay gets over damage, for what a record does to other tasks depends on those that are missing. But a record has the
whole state of the task that it is about. So what it tells of that task itself is true, whatever is missing: its birth, its
exec, its death, its session, its group, its subreaper's flag. All else that is found there is assumed, as behind a loss.

A record counts whose place in the order is known: its number is the one expected there. One that has come early or late is
passed over, and so is one whose time is not known: the clock may have been set within the damage. The index has the clock
before each block; without one, the next look at the clocks has the first time that is known. A block that no index
names is one of the segment, if its numbers and times are behind those of the blocks before it.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from agent.events.announced import OWN
from agent.record import NamedTuple
from agent.recorder import segment, tape
from agent.recorder.tapesegment import TapeSegment
from agent.table import wire
from agent.table.inputs import Input
from agent.table.wire import Kind

_RING_HEAD: Final = 8
_FLAGS: Final = wire.reader((("flags", "I"),), "flags").unpack_from
_DISCARD: Final = 1 << 30
_LENGTH: Final = _DISCARD - 1
_RECORD: Final = wire.reader(wire.RECORD, "seq", "kind", "time_ns").unpack_from
_TID: Final = wire.reader(wire.RECORD_TASK, "tid").unpack_from
_AROUND: Final = wire.reader(wire.RECORD_TASK, "parent_tid", "by_tid").unpack_from
_ARGUMENT: Final = wire.reader(wire.RECORD_TASK, "argument").unpack_from
_STRINGS_OF: Final = wire.reader(wire.RECORD_STRINGS, "tid").unpack_from


class IslandRecord(NamedTuple):
    """A record of a number behind damage.

    Attributes:
        order: its number.
        own: the event that it announces of its task; empty: it has the strings of the exec before it.
        said: fields of that event that name other tasks, which the table may lack.
        pieces: a piece of a tape that has it alone, behind a look at the clocks.
    """

    order: int
    own: str
    said: dict[str, int]
    pieces: bytes


class _Clock:
    """The difference CLOCK_REALTIME minus CLOCK_BOOTTIME along the blocks, ns; None: it is not known."""

    ahead_ns: int | None = None


def records(segments: Sequence[TapeSegment], number: int, first: int, end: int) -> Iterator[IslandRecord]:
    """Yield the records of the tasks that have a number, in their order.

    Args:
        segments: those in which something is damaged, up to the next keyframe that is whole.
        number: the number.
        first, end: of the records: those in front of the damage, and behind the gap, are told already.
    """
    for of in segments:
        rows = {(row.at, row.check): row for row in of.index() or ()}
        last: segment.Block | None = None
        is_broken = False
        clock = _Clock()
        clock.ahead_ns = of.ahead_ns
        for block in of.blocks:
            if block is None:
                is_broken = True
            if block is None or block.kind != segment.TAPE:
                continue
            row = rows.get((block.begin, block.check))
            if row is None and not _is_behind(block, last):
                is_broken = True
                continue
            last = block
            if row is not None:
                clock.ahead_ns = row.ahead_ns
            elif is_broken:
                clock.ahead_ns = None
            content = of.content(block)
            is_broken = content is None
            if content is not None and block.next >= first:
                yield from _of_block(content, block, number, clock, (first, end))
            clock.ahead_ns = block.ahead_ns if content is not None else None


def _is_behind(block: segment.Block, last: segment.Block | None) -> bool:
    """Return True if a block that no index names may be behind another one of its segment."""
    if last is None:
        return True
    is_numbered = not block.number or block.number > last.number
    return is_numbered and block.first >= last.next and (not block.first_ns or block.first_ns >= last.last_ns)


def _of_block(
    content: bytes, block: segment.Block, number: int, clock: _Clock, bounds: tuple[int, int]
) -> Iterator[IslandRecord]:
    """Yield the records of a block; `bounds` as `first` and `end` of `records`."""
    has_looks = any(entry.kind == tape.CLOCK for entry in _whole(content))
    if clock.ahead_ns is None and not has_looks:
        clock.ahead_ns = block.ahead_ns
    expected, last_exec = block.first, -1
    for entry in _whole(content):
        if entry.kind == tape.CLOCK:
            clock.ahead_ns = entry.value - entry.ns
        elif entry.kind == Input.GIVE_UP:
            expected = max(expected, entry.value + 1)
        elif entry.kind == Input.GIVE_UP_BELOW:
            expected = max(expected, entry.value)
        elif entry.kind == tape.PART:
            for at, seq, kind, time_ns in _records_of(entry.payload):
                is_expected, expected = seq == expected, max(expected, seq + 1) if seq == expected else expected
                if not (is_expected and bounds[0] <= seq < bounds[1] and time_ns and clock.ahead_ns is not None):
                    continue
                own = OWN.get(kind, "")
                if own and _TID(entry.payload, at)[0] == number:
                    last_exec = seq if own == "exec" else -1
                elif not (kind == Kind.STRINGS and last_exec >= 0 and _STRINGS_OF(entry.payload, at)[0] == number):
                    continue
                said = _said(own, entry.payload, at)
                yield IslandRecord(seq, own, said, _alone(entry, at, seq, time_ns, clock.ahead_ns))
            expected = max(expected, entry.value)


def _said(own: str, data: memoryview, at: int) -> dict[str, int]:
    """Return the fields of a record's own event that name other tasks, by their numbers in the initial pid namespace."""
    if own == "birth":
        parent, creator = _AROUND(data, at)
        return {"parent": parent, "creator": creator}
    return {"old_tid": _ARGUMENT(data, at)[0]} if own == "exec" else {}


def _alone(entry: tape.TapeEntry, at: int, seq: int, time_ns: int, ahead_ns: int) -> bytes:
    """Return a piece of a tape that has one record of a part, and all numbers before it given up."""
    length = _FLAGS(entry.payload, at - _RING_HEAD)[0] & _LENGTH
    record = bytes(entry.payload[at - _RING_HEAD : at + tape.padded(length)])
    return b"".join(
        (
            tape.pack(Input.GIVE_UP_BELOW, seq),
            tape.pack(tape.CLOCK, time_ns + ahead_ns, time_ns),
            tape.pack(tape.PART, seq + 1, entry.ns, record),
        )
    )


def _records_of(part: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Yield the place, the number, the kind and the time (CLOCK_BOOTTIME, ns; 0: not told) of each record of a part."""
    at = 0
    while at + _RING_HEAD < len(part):
        (flags,) = _FLAGS(part, at)
        if not flags & _DISCARD:
            yield at + _RING_HEAD, *_RECORD(part, at + _RING_HEAD)
        at += _RING_HEAD + tape.padded(flags & _LENGTH)


def _whole(content: bytes) -> Iterator[tape.TapeEntry]:
    """Yield the entries of a tape, as far as they are whole."""
    try:
        yield from tape.entries(content)
    except tape.TornError:
        return
