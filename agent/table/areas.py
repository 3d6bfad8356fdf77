# SPDX-License-Identifier: Apache-2.0
"""The areas of strings that exec() has put into a process's memory, arguments and environment, as the exec hook saw
them.

Theory
------
The hook keeps a hash of an area (bpf/arguments.c), with which the daemon can compare a later content of the area. The
hash must resist the process itself, which may look for other strings with the same hash. It is universal: half words of
text and of a random key are multiplied and added up, modulo 2**64. A process that knew the key, or some hashes, could
compute such strings; so neither leaves the daemon, and a client learns equal or not, no more. Without them a process
can only guess: for two different texts one key in 2**66 makes both sums equal.
"""

import struct
from typing import Final, NamedTuple

from agent.table import wire

HASHED_BYTES: Final = wire.STRINGS_BYTES
"""Bytes of an area that the exec hook hashes at most, from its start."""

Key = tuple[int, ...]
"""struct string_key: the factors of each word of text, low and high half in the first sum, and in the second one."""

_U64: Final = (1 << 64) - 1


class Area(NamedTuple):
    """One of the two areas, as the exec hook saw it.

    Attributes:
        address: of its first byte; it differs after another exec, for the kernel chooses the stack's place at random.
        size: bytes.
        same: True where the shown bytes are this area's: of the same number, and equal in the first HASHED_BYTES.
        text: its first bytes, where the daemon keeps them.
    """

    address: int
    size: int
    same: bool
    text: bytes | None = None


class AtExec(NamedTuple):
    """The areas of arguments and environment that the exec hook saw; None: it did not see the area."""

    arguments: Area | None = None
    environment: Area | None = None


def string_hash(data: bytes, key: Key) -> tuple[int, int]:
    """Return the hash of an area's first bytes, as bpf/arguments.c takes it: the last block is filled up with NULs."""
    data = data[:HASHED_BYTES]
    data += bytes(-len(data) % wire.STRINGS_BLOCK)
    halves = struct.unpack(f"={len(data) // 4}I", data)
    low, high = halves[::2], halves[1::2]  # little endian, as all supported machines are
    rows = [key[at::4] for at in range(4)]
    return (
        sum([a * x + b * y for x, y, a, b in zip(low, high, rows[0], rows[1], strict=False)]) & _U64,
        sum([a * x + b * y for x, y, a, b in zip(low, high, rows[2], rows[3], strict=False)]) & _U64,
    )


def compare(told: bytes | None, shown: bytes | None, size: int, key: Key) -> Area | None:
    """Compare the record of an area with the bytes that a client has read of it.

    Args:
        told: the end of struct record_strings, and the text that is kept; None: the hook did not see the area.
        shown: the first HASHED_BYTES of the bytes that the client has read; None: it could read none.
        size: the number of all bytes that the client has read.
        key: of the hash.

    Returns:
        The area; None if the hook did not see it.
    """
    if told is None:
        return None
    address, was, *hashes = wire.AREA.unpack_from(told)
    same = shown is not None and size == was and string_hash(shown, key) == tuple(hashes)
    return Area(address, was, same, told[wire.AREA.size :] or None)
