# SPDX-License-Identifier: Apache-2.0
"""Changes of a recording's segments: of their bytes, or of what is behind check sums, which are then right again.

The second kind is changed by the grammar of segments and tapes: facts, blocks, entries, records, the keyframe's numbers.
"""

import json
import random
import struct
import zlib
from collections.abc import Callable
from typing import Final, NamedTuple

import zstandard

from agent.recorder import blockindex, segment, tape

WORDS: Final = (0, 1, 7, 8, 15, 16, 63, 64, 65, 66, 128, 0xFF, 1 << 31, (1 << 32) - 1, (1 << 63), (1 << 64) - 1)
_FACTS: Final[tuple[object, ...]] = (0, -1, "", None, True, [], {}, 1 << 70, 1 << 61, "x", "x" * 3000, 1.5, *WORDS)
_COMPRESS: Final = zstandard.ZstdCompressor(level=1).compress
_DECOMPRESS: Final = zstandard.ZstdDecompressor().decompress
_HEAD: Final = struct.Struct("<8sIIII")
_U64: Final = (1 << 64) - 1


class Piece(NamedTuple):
    """A block of a segment, with its content."""

    block: segment.Block
    content: bytes


class Parsed(NamedTuple):
    """A segment in its parts."""

    facts: dict[str, object]
    pieces: tuple[Piece, ...]


def parsed(data: bytes) -> Parsed:
    """Return a sound segment in its parts."""
    facts, begin = segment.read_head(data)
    pieces = []
    for block in segment.blocks(data, begin):
        if block is not None:
            stored = data[block.at : block.end]
            content = stored if block.codec == segment.PLAIN else _DECOMPRESS(stored, max_output_size=block.size)
            pieces.append(Piece(block, content))
    return Parsed({name: getattr(facts, name) for name in segment.SegmentFacts.__slots__}, tuple(pieces))


def changed(data: bytes, chance: random.Random) -> bytes:
    """Return bytes with some changes: flipped bits, words, and parts cut out, doubled or moved."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5))):
        if not out:
            break
        at = chance.randrange(len(out))
        length = chance.randrange(1, 1 + min(64, len(out) - at))
        how = chance.randrange(6)
        if how < 2:
            out[at] ^= 1 << chance.randrange(8)
        elif how == 2:
            size = chance.choice((4, 8))
            at &= -4 if chance.random() < 0.7 else -1
            out[at : at + size] = (chance.choice(WORDS) & ((1 << 8 * size) - 1)).to_bytes(size, "little")
        elif how == 3:
            del out[at : at + length]
        elif how == 4:
            out[at:at] = out[at : at + length]
        elif chance.random() < 0.3:
            del out[at:]
    return bytes(out)


def rewritten(whole: Parsed, other: Parsed, chance: random.Random) -> bytes:
    """Return a segment in which a fact or a few blocks are changed, with right check sums.

    Args:
        whole: the segment.
        other: another one, of which parts may come into it.
        chance: of the changes.
    """
    head = _changed_head(whole.facts, chance) if chance.random() < 0.15 else _head(whole.facts)
    pieces = list(whole.pieces)
    out = [head]
    victim = chance.randrange(len(pieces)) if pieces else -1
    how = chance.random()
    if pieces and how < 0.25:
        _reorder(pieces, victim, other, chance)
        victim = -1
    at = len(head)
    for place, piece in enumerate(pieces):
        made = _encoded(piece, at, len(head), chance, harmed=place == victim)
        out.append(made)
        at += len(made)
    return b"".join(out)


def _reorder(pieces: list[Piece], victim: int, other: Parsed, chance: random.Random) -> None:
    """Drop, double, move or borrow a block."""
    match chance.randrange(4):
        case 0:
            del pieces[victim]
        case 1:
            pieces.insert(chance.randrange(len(pieces)), pieces[victim])
        case 2:
            chance.shuffle(pieces)
        case _ if other.pieces:
            pieces[victim : victim + chance.randrange(2)] = [chance.choice(other.pieces)]


def _encoded(piece: Piece, at: int, head: int, chance: random.Random, *, harmed: bool) -> bytes:
    """Return a block at an offset, whose content, numbers, kind or codec are changed if it is `harmed`."""
    block, content = piece
    kind, numbers = block.kind, (block.first, block.next)
    times, codec, size = (block.first_ns, block.last_ns, block.ahead_ns), block.codec, None
    if harmed:
        how = chance.random()
        if how < 0.1:
            numbers = (chance.choice(WORDS), chance.choice(WORDS))
        elif how < 0.2:
            times = (chance.choice(WORDS), chance.choice(WORDS), chance.choice(WORDS) - (1 << 63))
            times = (times[0], times[1], min(times[2], (1 << 63) - 1))
        elif how < 0.25:
            kind = chance.choice((0, 1, 2, 3, 4, 5, 99))
        elif how < 0.3:
            codec = chance.choice((0, 1, 2, 255))
        elif how < 0.35:
            size = chance.choice((0, len(content) + 1, len(content) * 3, 1 << 20, *WORDS)) & 0xFFFFFFFF
        else:
            content = _CHANGES.get(block.kind, changed)(content, chance)
    if kind == segment.PLACE and not harmed and len(content) == blockindex.PLACE.size:
        content = blockindex.PLACE.pack(max(at - 64, head))
    packed = content if codec == segment.PLAIN else _COMPRESS(content)
    made = segment.block(kind, packed, len(content) if size is None else size, numbers, times, codec, block.number)
    return b"".join(map(bytes, made))


def _changed_tape(content: bytes, chance: random.Random) -> bytes:
    """Return a tape in which an entry is changed, left out, doubled or moved, or a record in it."""
    try:
        entries = [(each.kind, each.value, each.ns, bytes(each.payload)) for each in tape.entries(content)]
    except tape.TornError:
        return changed(content, chance)
    if not entries or chance.random() < 0.2:
        return changed(content, chance)
    at = chance.randrange(len(entries))
    kind, value, ns, payload = entries[at]
    match chance.randrange(7):
        case 0:
            del entries[at]
        case 1:
            entries.insert(chance.randrange(len(entries)), entries[at])
        case 2:
            entries[at] = (chance.choice((0, *range(1, 12), 63, 64, 65, 66, 67, 1 << 31)), value, ns, payload)
        case 3:
            entries[at] = (kind, (value + chance.choice((-1, 1, *WORDS))) & _U64, ns, payload)
        case 4:
            entries[at] = (kind, value, (ns + chance.choice((-1, 1, *WORDS))) & _U64, payload)
        case _:
            entries[at] = (kind, value, ns, changed(payload, chance))
    return b"".join(tape.pack(*each) for each in entries)


_CHANGES: Final[dict[int, Callable[[bytes, random.Random], bytes]]] = {segment.TAPE: _changed_tape}


def _head(facts: dict[str, object]) -> bytes:
    return segment.head(segment.SegmentFacts(**facts))  # type: ignore[arg-type]  # of a sound segment, or hostile


def _changed_head(facts: dict[str, object], chance: random.Random) -> bytes:
    """Return a head in which a fact is another one, missing, new, or no JSON at all, with a right check sum."""
    said = dict(facts)
    name = chance.choice(list(said))
    how = chance.random()
    if how < 0.75:
        said[name] = chance.choice(_FACTS)
    elif how < 0.85:
        del said[name]
    elif how < 0.9:
        said["host"] = {"machine": chance.choice(_FACTS), "x": [[1]]}
    else:
        text = chance.choice(
            (b"", b"[]", b"null", b"[" * 60000, b'{"a":' * 9000, b"1" * 5000, b"\xff", b'"' + b"x" * 70000)
        )
        return _with_check(text)
    return _with_check(json.dumps(said, separators=(",", ":")).encode())


def _with_check(text: bytes) -> bytes:
    return _HEAD.pack(segment.MAGIC, segment.VERSION, len(text), zlib.crc32(text), 0) + text
