# SPDX-License-Identifier: Apache-2.0
"""The areas of strings that exec() has put into a process's memory, arguments and environment, as the exec hook saw them.

Theory
------
What the hook keeps of an area is a hash (bpf/arguments.c), so that somebody who has read the area later can be told whether
it is what it was. The hash has to hold against the process itself, which would like other strings with the same one. It is
universal: text and key, which is random, are multiplied half a word by half a word and added up, modulo 2**64. Who knows
the key, or some values, can compute such strings; so neither leaves the daemon, and a client is told equal or not, no more.
Without them nothing is left but to try: of two different texts one key in 2**66 makes the two sums the same.
"""

import struct
from typing import Final, NamedTuple

from agent import wire

HASHED_BYTES: Final = wire.STRINGS_BYTES
"""The most of an area that the exec hook hashes, from its start."""

Key = tuple[int, ...]
"""struct string_key: the factors of each word of text, low and high half in the first sum, and in the second one."""

_U64: Final = (1 << 64) - 1


class Area(NamedTuple):
    """One of the two areas, as the exec hook saw it.

    Attributes:
        address: of its first byte; another exec has another one, for the kernel chooses the stack's place at random.
        size: bytes.
        same: what was shown is this area: as many bytes, and the same in the first HASHED_BYTES.
        text: its first bytes, where the daemon keeps them.
    """

    address: int
    size: int
    same: bool
    text: bytes | None = None


class AtExec(NamedTuple):
    """What the exec hook saw of a process; None: it did not see it."""

    arguments: Area | None = None
    environment: Area | None = None


def string_hash(data: bytes, key: Key) -> tuple[int, int]:
    """The hash of an area's first bytes, as bpf/arguments.c takes it: the last block is filled up with NULs."""
    data = data[:HASHED_BYTES]
    data += bytes(-len(data) % wire.STRINGS_BLOCK)
    halves = struct.unpack(f"={len(data) // 4}I", data)
    low, high = halves[::2], halves[1::2]  # little endian, as all machines are that this runs on
    rows = [key[at::4] for at in range(4)]
    return (
        sum([a * x + b * y for x, y, a, b in zip(low, high, rows[0], rows[1], strict=False)]) & _U64,
        sum([a * x + b * y for x, y, a, b in zip(low, high, rows[2], rows[3], strict=False)]) & _U64,
    )


def compare(told: bytes | None, shown: bytes | None, size: int, key: Key) -> Area | None:
    """Compare what a record tells of an area with what somebody has read of it.

    Args:
        told: the end of struct record_strings, and the text that is kept; None: no hook saw it.
        shown: the first HASHED_BYTES of what was read; None: nothing.
        size: of all of that.
        key: of the hash.
    """
    if told is None:
        return None
    address, was, *hashes = wire.AREA.unpack_from(told)
    same = shown is not None and size == was and string_hash(shown, key) == tuple(hashes)
    return Area(address, was, same, told[wire.AREA.size :] or None)
