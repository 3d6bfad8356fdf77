# SPDX-License-Identifier: Apache-2.0
"""Plain values (maps, lists, strings, numbers, bytes) <-> msgpack, for whoever carries them.

Kernel strings stay bytes: msgpack has them. A string that Python read with stand-ins for foreign bytes (surrogates),
which no UTF-8 can carry, is written with them escaped.
"""

from collections.abc import Sequence

import msgpack

from agent.errors import FormatError


def pack(value: object) -> bytes:
    """The msgpack of a value; its maps in the order that they have."""
    packed: bytes
    try:
        packed = msgpack.packb(value)
    except UnicodeEncodeError:
        # Python's stand-in for a foreign byte. An error handler that was always there would slow down every string.
        packed = msgpack.packb(value, unicode_errors="backslashreplace")
    return packed


def pack_map_head(count: int) -> bytes:
    """How a map of that many keys begins; the keys and values follow, packed one by one."""
    head: bytes = msgpack.Packer().pack_map_header(count)
    return head


def pack_pairs(pairs: Sequence[tuple[str, object]]) -> bytes:
    """Keys and values as they stand in a map, behind its head."""
    try:
        return _pairs(pairs, msgpack.Packer(autoreset=False))
    except UnicodeEncodeError:
        return _pairs(pairs, msgpack.Packer(autoreset=False, unicode_errors="backslashreplace"))


def _pairs(pairs: Sequence[tuple[str, object]], packer: msgpack.Packer) -> bytes:
    for key, value in pairs:
        packer.pack(key)
        packer.pack(value)
    packed: bytes = packer.bytes()
    return packed


def unpack(data: bytes, path: str) -> object:
    """The one value that these bytes are; FormatError, about `path`, for anything else."""
    try:
        # Lists are allocated for the length they claim. Skipping first allocates nothing and fails on a claim that the
        # bytes do not keep, so that what is built afterwards is no larger than what is there.
        walker = msgpack.Unpacker(max_buffer_size=max(len(data), 1))
        walker.feed(data)
        walker.skip()
        value: object = msgpack.unpackb(data)
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise FormatError(path, f"is no msgpack ({type(error).__name__} {error})") from error
    return value
