# SPDX-License-Identifier: Apache-2.0
"""Values whose meaning nobody here knows: what they may be, and how JSON spells what it has no word for.

    value = null | true | false | integer | float | text | bytes | [value...] | {text: value...}

That is what both JSON and msgpack can say, and bytes, which only msgpack can. In JSON they are a map of one key, with
the text that exporters.fields has for bytes:

    {"$bytes": "..."}

A key that is itself ``$bytes``, with any number of dollars, has one dollar more in JSON than it has. So each value has
one spelling, and each spelling is one value's. What the two formats do not both carry to the last bit is refused by
name: integers beyond 64 bits, NaN and infinity, half a surrogate pair, keys that are no text, msgpack's extension
types, and what is nested deeper than `DEPTH_MAX`.
"""

import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from agent.errors import FormatError
from exporters.fields import U64_MAX, escape, is_text, unescape

DEPTH_MAX = 64
"""Lists and maps that may stand around a value, counted from the key that nobody knows."""

_S64_MIN = -(2**63)
_WORD_MAX = 40
_BYTES = "$bytes"
_DOLLARS = re.compile(r"\$+bytes")


class NotPlainError(ValueError):
    """A value that cannot be kept; where it is, is put together on the way out, for that is rarely asked.

    Attributes:
        message: why.
        steps: from the value that was asked for to the one at fault, the last one first.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
        self.steps: list[str | int] = []

    def at(self, way: Sequence[str | int]) -> FormatError:
        """The error that names the field."""
        return FormatError(path_of([*way, *reversed(self.steps)]), self.message)


def plain(value: object, depth: int = 0) -> object:
    """The value, with tuples for lists and the keys of each map in order, that many lists and maps around it.

    Raises:
        NotPlainError: it is none of the above.
    """
    if value is None or isinstance(value, bool | bytes):
        return value
    if isinstance(value, str):
        if not is_text(value):
            raise NotPlainError("holds half a surrogate pair, which has no UTF-8")
        return value
    if isinstance(value, int):
        if not _S64_MIN <= value <= U64_MAX:
            raise NotPlainError("is an integer beyond 64 bits")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NotPlainError("is not finite, and JSON has no such number")
        return value
    if not isinstance(value, list | dict):
        raise NotPlainError(f"is a {type(value).__name__}, which JSON has no word for")
    if depth == DEPTH_MAX:
        raise NotPlainError(f"is nested deeper than {DEPTH_MAX} lists and maps")
    steps: Sequence[str | int] = in_order(value) if isinstance(value, dict) else range(len(value))
    held: Any = value  # either of the two, by either kind of step
    made = []
    for step in steps:
        try:
            made.append(plain(held[step], depth + 1))
        except NotPlainError as error:
            error.steps.append(step)
            raise
    return dict(zip(steps, made, strict=True)) if isinstance(value, dict) else tuple(made)


def in_order(found: Mapping[object, object]) -> list[str]:
    """The keys of a map, sorted; NotPlainError where one is no text."""
    keys = [key for key in found if isinstance(key, str) and is_text(key)]
    if len(keys) != len(found):
        raise NotPlainError("has a key that is no text")
    return sorted(keys)


def path_of(way: Sequence[str | int]) -> str:
    """A way as people write it; a key on it may be of any length, and what a terminal would obey."""
    path = ""
    for step in way:
        if isinstance(step, int):
            path += f"[{step}]"
            continue
        word = step if step.isidentifier() and step.isascii() and len(step) <= _WORD_MAX else reprlib.repr(step)
        path += f".{word}" if path else word
    return path or "document"


def spelled(value: object) -> object:
    """A plain value as JSON says it."""
    if isinstance(value, bytes):
        return {_BYTES: escape(value)}
    if isinstance(value, tuple):
        return [spelled(each) for each in value]
    if isinstance(value, dict):
        return {spelled_key(key): spelled(each) for key, each in value.items()}
    return value


def spelled_key(key: str) -> str:
    """A key as JSON says it."""
    return f"${key}" if _DOLLARS.fullmatch(key) else key


def unspelled(found: dict[str, object]) -> object:
    """What a map of a JSON text says, whatever is below it having been asked already; FormatError for no text."""
    if _BYTES in found and len(found) == 1:
        text = found[_BYTES]
        if not isinstance(text, str) or not is_text(text):
            raise FormatError("document", f'{{"{_BYTES}": ...}} stands for bytes and must have their text')
        try:
            return unescape(text)
        except ValueError as error:
            raise FormatError("document", str(error)) from error
    return {key[1:] if key[:2] == "$$" and _DOLLARS.fullmatch(key) else key: each for key, each in found.items()}


def may_be_spelled(text: str) -> bool:
    """False for a JSON text in which no map needs `unspelled`: it has no such key, and no way to hide one."""
    return f'{_BYTES}"' in text or "\\u00" in text
