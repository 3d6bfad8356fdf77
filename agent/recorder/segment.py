# SPDX-License-Identifier: Apache-2.0
"""A segment of a recording as bytes: a head, then blocks, each compressed and with check sums of its own. Pure.

Theory
------
A segment begins at a point between two inputs. Its *keyframe*, the watch's memory at that point, is a block of its own: it
is made beside the daemon's loop, so it comes a moment later than the first blocks of the tape. A segment whose keyframe is
missing still goes on from the one before it.

A segment is only appended to. So a reader may read it while it is written, and what a crash leaves is whole but for its
last block. A block that is damaged does not hide those behind it: its head has a check sum of its own, and where that is
wrong too, the next head is searched for.

Grammar (little endian)::

    segment  := head, block*
    head     := "ckptape\\0", u32 version, u32 bytes of facts, u32 CRC-32 of facts, u32 before, facts (JSON, UTF-8)
    block    := "ckptblk\\0", u32 kind, u8 codec, u24 number, u32 stored bytes, u32 bytes, u64 first, u64 next,
                u64 first_ns, u64 last_ns, i64 ahead_ns, u32 CRC-32 of the stored bytes, u32 CRC-32 of the head so far,
                stored bytes
    kind     := 1: a tape (agent.recorder.tape) | 2: the keyframe (agent.capture.memorywriter)
              | 3: the index | 4: the place of the index (agent.recorder.blockindex)
    codec    := 0: as it is | 1: Zstandard, one frame

``number`` counts the blocks of a segment, from 1 on, and behind the largest from 1 on again: so a block that is missing,
doubled, or not in its place is noticed, also where it has no records. ``before`` is the number of the last block in front
of the index of the segment that this one goes on from. 0: none is told, as by an older program, and in the place of the
index.

A reader passes over blocks of a kind that it does not know, so a new kind makes no new version. A segment that is
complete ends with its index and the place of it; one that is written, that a crash has ended, or that an older program has
written, has none.

``first`` is `Stream.next` before the block's tape, ``next`` the least that it can be behind it; the times are those of the
block's parts, CLOCK_BOOTTIME, ns, and ``ahead_ns`` is what CLOCK_REALTIME was ahead of that clock at its end.
"""

import hashlib
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Protocol

from agent.record import NamedTuple

VERSION: Final = 1
MAGIC: Final = b"ckptape\0"
BLOCK_MAGIC: Final = b"ckptblk\0"
TAPE: Final = 1
KEYFRAME: Final = 2
INDEX: Final = 3
PLACE: Final = 4
PLAIN: Final = 0
ZSTD: Final = 1

_HEAD: Final = struct.Struct("<8sIIII")
_BLOCK: Final = struct.Struct("<8sIIIIQQQQqII")
BLOCK_HEAD: Final = _BLOCK.size
"""Bytes of a block's head."""
MOST_HEAD: Final = 1 << 17
"""Bytes in which the head of a segment has room."""
_BEFORE_CHECK: Final = _BLOCK.size - 4
_NUMBER_SHIFT: Final = 8
_CODEC: Final = (1 << _NUMBER_SHIFT) - 1
_MOST_FACTS: Final = 1 << 16
_FACTS_BELOW: Final = 1 << 63  # a bound of the numbers among them
MOST_BYTES: Final = 1 << 30
"""The most bytes of a block, stored or not: the memory of four million tasks, a kernel's maximum, takes less."""
MOST_TAPE_BYTES: Final = 1 << 25
"""The most bytes of a block of the tape: a writer begins another one behind a megabyte (agent.recorder.compression),
and an entry has less than the 16 megabytes of the channel (agent.daemon.recording)."""
MOST_NUMBER: Final = (1 << 24) - 1
"""The largest number of a block."""
_WINDOW: Final = 1 << 20  # bytes that are searched at once

Data = memoryview | bytes


class Sliceable(Protocol):
    """Bytes of which parts can be had."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Data: ...


class DamagedError(ValueError):
    """Bytes that are no head of a segment, or no block."""


@dataclass(frozen=True, slots=True)
class SegmentFacts:
    """The facts in a segment's head.

    Attributes:
        sequence: its number in the folder; each segment has a larger one than all before it.
        first: `Stream.next` at its beginning.
        continues: True where its beginning is the end of the segment before it, with no input between.
        why: the reason why it does not continue; empty where it does.
        boot_id, ring: of the run (agent.recorder.facts).
        boottime_ns, realtime_ns, monotonic_ns: the clocks at its beginning.
        head_bytes: size of a record's head (bpf/events.h), which tells its fields.
        memory: version of the keyframe's grammar.
        by: version of the program that wrote it.
        host: the fields of agent.model.Header that a snapshot needs.
    """

    sequence: int
    first: int
    continues: bool
    why: str
    boot_id: str
    ring: str
    boottime_ns: int
    realtime_ns: int
    monotonic_ns: int
    head_bytes: int
    memory: int
    by: str
    host: dict[str, Any] = field(default_factory=dict)


class Block(NamedTuple):
    """The head of a block.

    Attributes:
        at: offset of its stored bytes in the segment.
        kind, codec, stored, size, first, next, first_ns, last_ns, ahead_ns, check, number: see the grammar.
    """

    at: int
    kind: int
    codec: int
    stored: int
    size: int
    first: int
    next: int
    first_ns: int
    last_ns: int
    ahead_ns: int
    check: int
    number: int = 0

    @property
    def begin(self) -> int:
        """Offset of its head."""
        return self.at - _BLOCK.size

    @property
    def end(self) -> int:
        """Offset behind its stored bytes."""
        return self.at + self.stored


def head(facts: SegmentFacts, before: int = 0) -> bytes:
    """Return the head of a segment.

    Args:
        facts: the facts in it.
        before: see the grammar.
    """
    said = json.dumps(asdict(facts), separators=(",", ":")).encode()
    return _HEAD.pack(MAGIC, VERSION, len(said), zlib.crc32(said), before) + said


def most_of_head(begun: Data) -> int:
    """Return the length of a head of which the first bytes are known; no more than a head can have."""
    if len(begun) < _HEAD.size:
        return len(begun)
    return _HEAD.size + min(int(_HEAD.unpack_from(begun)[2]), _MOST_FACTS)


def is_begun(data: Sliceable) -> bool:
    """Return True if bytes are the beginning of a head that is not all there."""
    begun = data[: _HEAD.size]
    is_head = MAGIC.startswith(bytes(begun[: len(MAGIC)]))
    return is_head and (len(begun) < _HEAD.size or len(data) < most_of_head(begun))


def read_head(data: Data) -> tuple[SegmentFacts, int]:
    """Read the head of a segment; return its facts and its length.

    Raises:
        DamagedError: it is damaged, or of another version; the text says which.
    """
    if len(data) < _HEAD.size:
        raise DamagedError("it ends within its head")
    magic, version, length, check, _ = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise DamagedError("it does not begin as a segment")
    if version != VERSION:
        raise DamagedError(f"it is of version {version}, and this program reads {VERSION}")
    said = bytes(data[_HEAD.size : _HEAD.size + length])
    if length > _MOST_FACTS or len(said) < length:
        raise DamagedError("it ends within its head")
    if zlib.crc32(said) != check:
        raise DamagedError("the check sum of its head is wrong")
    try:
        said_facts = json.loads(said)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"its head contradicts the grammar: {error}") from error
    _check_types(said_facts)
    return SegmentFacts(**said_facts), _HEAD.size + length


def identity(of_head: Data) -> bytes:
    """Return the identity of a segment, 16 bytes, by which a copy of it is known elsewhere.

    Args:
        of_head: its head, which has the clocks of its beginning.
    """
    return hashlib.sha256(of_head).digest()[:16]


def _check_types(said: Any) -> None:
    types = {each.name: dict if each.name == "host" else each.type for each in fields(SegmentFacts)}
    right = isinstance(said, dict) and said.keys() == types.keys()
    if not right or any(
        type(said[name]) is not kind or (kind is int and not 0 <= said[name] < _FACTS_BELOW)
        for name, kind in types.items()
    ):
        raise DamagedError("its head contradicts the grammar: a fact is missing, or none")


def block(
    kind: int,
    stored: Data,
    size: int,
    numbers: tuple[int, int],
    times_ns: tuple[int, int, int],
    codec: int = ZSTD,
    number: int = 0,
) -> tuple[bytes, Data]:
    """Return a block as its head and its stored bytes.

    Args:
        kind, codec, number: see the grammar.
        stored: the bytes as stored.
        size: their length before compression.
        numbers: first and next.
        times_ns: first_ns, last_ns and ahead_ns.
    """
    how = codec | number << _NUMBER_SHIFT
    begun = _BLOCK.pack(BLOCK_MAGIC, kind, how, len(stored), size, *numbers, *times_ns, zlib.crc32(stored), 0)
    return begun[:_BEFORE_CHECK] + struct.pack("<I", zlib.crc32(begun[:_BEFORE_CHECK])), stored


def facts_check(data: Sliceable) -> int:
    """Return CRC-32 of the facts of a head that is read already; 0 where it is not there any more."""
    head = data[: _HEAD.size]
    return int(_HEAD.unpack(head)[3]) if len(head) == _HEAD.size else 0


def blocks_before(data: Sliceable) -> int:
    """Return the number of the last block of the segment before, as a head that is read already tells; 0: it does not."""
    head = data[: _HEAD.size]
    return int(_HEAD.unpack(head)[4]) if len(head) == _HEAD.size else 0


def number_behind(number: int) -> int:
    """Return the number of the block behind one; 0: behind the head."""
    return number % MOST_NUMBER + 1


def begin_of_last(data: Sliceable, size: int) -> int:
    """Return the offset of the head of a last block that has so many stored bytes; negative where there is no room."""
    return len(data) - _BLOCK.size - size


def block_at(data: Sliceable, at: int) -> Block | None:
    """Return the head of the block that begins at an offset; None where no whole head is there."""
    head = data[at : at + _BLOCK.size] if at >= 0 else b""
    if len(head) < _BLOCK.size:
        return None
    magic, kind, how, *told, own = _BLOCK.unpack(head)
    if magic != BLOCK_MAGIC or zlib.crc32(head[:_BEFORE_CHECK]) != own:
        return None
    found = Block._make((at + _BLOCK.size, kind, how & _CODEC, *told, how >> _NUMBER_SHIFT))
    most = MOST_TAPE_BYTES if found.kind == TAPE else MOST_BYTES
    return found if max(found.stored, found.size) <= most else None


def blocks(data: Sliceable, at: int, data_from: Callable[[int], int] = lambda at: at) -> Iterator[Block | None]:
    """Yield the heads of the blocks from an offset on, and None for each span that is damaged.

    A last block that is not all there counts as damaged; its writer may still be at work.

    Args:
        data: the segment.
        at: the offset.
        data_from: returns the offset of the next byte that is in no hole of its file.
    """
    while at < len(data):
        found = block_at(data, at)
        if found is not None and found.end <= len(data):
            yield found
            at = found.end
            continue
        yield None
        at = _next_head(data, at + 1, data_from)


def _next_head(data: Sliceable, at: int, data_from: Callable[[int], int]) -> int:
    """Return the offset of the next whole head of a block; the end where there is none."""
    while (at := data_from(at)) < len(data):
        window = bytes(data[at : at + _WINDOW])
        found = window.find(BLOCK_MAGIC)
        while found >= 0:
            is_there = found + _BLOCK.size <= len(window)
            if (block_at(window, found) if is_there else block_at(data, at + found)) is not None:
                return at + found
            found = window.find(BLOCK_MAGIC, found + 1)
        if len(window) < _WINDOW:
            break
        at += _WINDOW - len(BLOCK_MAGIC) + 1
    return len(data)


def is_whole(stored: Data, of: Block) -> bool:
    """Return True if the stored bytes of a block are those that were written."""
    return len(stored) == of.stored and zlib.crc32(stored) == of.check
