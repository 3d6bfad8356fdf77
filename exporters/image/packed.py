# SPDX-License-Identifier: Apache-2.0
"""Plain values (maps, lists, strings, numbers, bytes) <-> msgpack.

Kernel strings stay bytes. msgpack strings are UTF-8, so the surrogates that Python makes of foreign bytes are written
as backslash escapes.
"""

from collections.abc import Sequence

import msgpack

from agent.errors import FormatError


def pack(value: object) -> bytes:
    """Return the msgpack of a value, its maps in their own order."""
    packed: bytes
    try:
        packed = msgpack.packb(value)
    except UnicodeEncodeError:
        # Python's stand-in for a foreign byte. A permanent error handler would slow down every string.
        packed = msgpack.packb(value, unicode_errors="backslashreplace")
    return packed


def pack_map_head(count: int) -> bytes:
    """Return the head of a map of `count` keys; the packed keys and values follow it."""
    head: bytes = msgpack.Packer().pack_map_header(count)
    return head


def pack_pairs(pairs: Sequence[tuple[str, object]]) -> bytes:
    """Return packed keys and values, as they follow the head of a map."""
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
    """Return the value of these bytes; FormatError about `path` unless they are exactly one value."""
    try:
        # unpackb allocates a list for the length that it claims. Skipping allocates nothing and fails if the bytes are not
        # there, so the value built afterwards is no larger than the data.
        walker = msgpack.Unpacker(max_buffer_size=max(len(data), 1))
        walker.feed(data)
        walker.skip()
        value: object = msgpack.unpackb(data)
    except msgpack.OutOfData as error:
        raise FormatError(path, "is cut short: the bytes end here, before their msgpack does", len(data)) from error
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise FormatError(path, f"is no msgpack ({type(error).__name__} {error})") from error
    return value
