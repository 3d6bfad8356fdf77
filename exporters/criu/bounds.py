# SPDX-License-Identifier: Apache-2.0
"""The bounds of a message: two bytes of an untrusted file can become an object of a hundred bytes.

A message of up to `SMALL` bytes takes at most some 100 MiB, whatever it holds, and is decoded without more ado. The
messages within a larger one are counted first. Sound ones have at least `LEAST` bytes each: an area of memory takes
some 60, a watch of inotify 40, a signal 130.
"""

from functools import cache
from typing import Final

from exporters.criu import criuschema

MOST: Final = 64 << 20
"""Bound of a message, bytes. The largest is a memory map: a million areas, the most of large databases, take 60 MiB."""
SMALL: Final = 1 << 20
LEAST: Final = 12

_DEEPEST: Final = 100  # of messages within messages, as the protobuf library has it
_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5  # wire types


class BoundError(Exception):
    """A message that is too crowded or too deep; the text tells which."""


def check(data: bytes, message: str) -> None:
    """Check that decoding a message takes a bounded amount of memory.

    Args:
        data: the message.
        message: its name in criuschema.MESSAGES.

    Raises:
        BoundError: it would take more, or it cannot be decoded.
    """
    if len(data) <= SMALL:
        return
    left = len(data) // LEAST
    # Places that are still to be walked: begin, end, message, depth.
    places = [(0, len(data), message, 0)]
    while places:
        at, end, name, depth = places.pop()
        if depth > _DEEPEST:
            raise BoundError(f"more than {_DEEPEST} messages within each other")
        inner = _inner(name)
        while at < end:
            tag, at = _varint(data, at, end)
            wire = tag & 7
            if wire == _VARINT:
                _, at = _varint(data, at, end)
            elif wire == _EIGHT:
                at += 8
            elif wire == _FOUR:
                at += 4
            elif wire == _LENGTH:
                length, at = _varint(data, at, end)
                if length <= end - at and (within := inner.get(tag >> 3)) is not None:
                    left -= 1
                    if not left:
                        raise BoundError(f"more than {len(data) // LEAST} messages within it")
                    places.append((at, at + length, within, depth + 1))
                at += length
            else:
                raise BoundError(f"a field of wire type {wire}, which CRIU does not use")
        if at > end:
            raise BoundError("a field that ends behind its message")


@cache
def _inner(name: str) -> dict[int, str]:
    """Return the fields of a message that are messages, by number."""
    return {field.number: field.type for field in criuschema.fields(name) if field.type in criuschema.MESSAGES}


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return a number at an offset, and the offset behind it."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise BoundError("a number that does not end within its message")
