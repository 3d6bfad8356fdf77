# SPDX-License-Identifier: Apache-2.0
"""Values of unknown keys: the types that they may have, and their spelling in JSON.

    value = null | true | false | integer | float | text | bytes | [value...] | {text: value...}

Both JSON and msgpack have these types, except bytes, which JSON lacks. In JSON bytes are a map of one key, with the
text that exporters.content.fields defines:

    {"$bytes": "..."}

A key that is itself ``$bytes``, with any number of dollars, has one more dollar in JSON. So each value has exactly one
spelling, and each spelling one value. Values that one of the two formats cannot carry exactly are refused: integers
beyond 64 bits, NaN and infinity, half a surrogate pair, keys that are not text, msgpack's extension types, and values
nested deeper than `DEPTH_MAX`.
"""

import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from agent.errors import FormatError
from exporters.content.fields import U64_MAX, escape, is_text, unescape

DEPTH_MAX = 64
"""Number of lists and maps that may enclose a value, counted from the unknown key."""

_S64_MIN = -(2**63)
_WORD_MAX = 40
_BYTES = "$bytes"


class NotPlainError(ValueError):
    """A value that cannot be kept. Its path is built while the error propagates, because errors are rare.

    Attributes:
        message: the reason.
        steps: from the converted value down to the wrong one, the last step first.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
        self.steps: list[str | int] = []

    def at(self, way: Sequence[str | int]) -> FormatError:
        """Return the error for the field at `way` and the steps."""
        return FormatError(path_of([*way, *reversed(self.steps)]), self.message)


def plain(value: object, depth: int = 0) -> object:
    """Return the value with tuples for lists and sorted keys in each map; `depth` lists and maps enclose it.

    Raises:
        NotPlainError: the value has another type, or is out of range.
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
    held: Any = value  # a list or a map, indexed by its kind of step
    made = []
    for step in steps:
        try:
            made.append(plain(held[step], depth + 1))
        except NotPlainError as error:
            error.steps.append(step)
            raise
    return dict(zip(steps, made, strict=True)) if isinstance(value, dict) else tuple(made)


def in_order(found: Mapping[object, object]) -> list[str]:
    """Return the keys of a map, sorted; NotPlainError if one is no text."""
    keys = [key for key in found if isinstance(key, str) and is_text(key)]
    if len(keys) != len(found):
        raise NotPlainError("has a key that is no text")
    return sorted(keys)


def path_of(way: Sequence[str | int]) -> str:
    """Return a way as text for messages; a long or unusual key is shortened and quoted."""
    path = ""
    for step in way:
        if isinstance(step, int):
            path += f"[{step}]"
            continue
        word = step if step.isidentifier() and step.isascii() and len(step) <= _WORD_MAX else reprlib.repr(step)
        path += f".{word}" if path else word
    return path or "document"


def spelled(value: object) -> object:
    """Return a plain value in its JSON spelling."""
    if isinstance(value, bytes):
        return {_BYTES: escape(value)}
    if isinstance(value, tuple):
        return [spelled(each) for each in value]
    if isinstance(value, dict):
        return {spelled_key(key): spelled(each) for key, each in value.items()}
    return value


def spelled_key(key: str) -> str:
    """Return a key in its JSON spelling."""
    return f"${key}" if _is_dollars(key) else key


def _is_dollars(key: str) -> bool:
    """Return True for a key that could be taken for `_BYTES`: its word behind one dollar or more."""
    return key[:1] == "$" and key.lstrip("$") == "bytes"


def unspelled(found: dict[str, object]) -> object:
    """Return the value of a map of a JSON text, whose inner maps are converted already; FormatError for bad bytes."""
    if _BYTES in found and len(found) == 1:
        text = found[_BYTES]
        if not isinstance(text, str) or not is_text(text):
            raise FormatError("document", f'{{"{_BYTES}": ...}} stands for bytes and must have their text')
        try:
            return unescape(text)
        except ValueError as error:
            raise FormatError("document", str(error)) from error
    return {key[1:] if key[:2] == "$$" and _is_dollars(key) else key: each for key, each in found.items()}


def may_be_spelled(text: str) -> bool:
    """Return False for a JSON text in which no map needs `unspelled`: no key is ``$bytes``, written plainly or
    escaped."""
    return f'{_BYTES}"' in text or "\\u00" in text
