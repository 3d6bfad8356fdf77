# SPDX-License-Identifier: Apache-2.0
"""Typed access to the maps of a document that someone else wrote.

Whoever asks for a field gets a value of the type and range asked for, or a FormatError that names the field. A missing
key and null are the same: absent.

Bytes as text
-------------
Kernel strings (comm, argv, cwd, env) are bytes, and JSON has none. Their text is their UTF-8, with two escapes:

    \\\\      one backslash
    \\xHH    one byte that is no part of valid UTF-8, in lower case hex

So every byte string has exactly one text, any text that `escape` gave comes back as the same bytes, and what is plain
text stays plain. Where the carrier has bytes of its own (msgpack), they are taken as they are.
"""

import re
import reprlib
from typing import TYPE_CHECKING, TypeVar

from agent.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_Word = TypeVar("_Word", bound=str)

_ESCAPE = re.compile(rb"\\(?:\\|x([0-9a-f]{2}))?")

S32_MAX = 2**31 - 1
U32_MAX = 2**32 - 1
U64_MAX = 2**64 - 1


def escape(raw: bytes) -> str:
    """The text of a byte string."""
    if b"\\" in raw:
        raw = raw.replace(b"\\", b"\\\\")
    return raw.decode("utf-8", "backslashreplace")


def unescape(text: str) -> bytes:
    """The byte string of a text; ValueError where an escape is none of ours."""

    def one(match: re.Match[bytes]) -> bytes:
        found = match.group(0)
        if len(found) == 1:
            raise ValueError(f"a backslash stands alone in {reprlib.repr(text)}: write it as two")
        return b"\\" if match.group(1) is None else bytes.fromhex(match.group(1).decode("ascii"))

    raw = text.encode("utf-8")
    return _ESCAPE.sub(one, raw) if b"\\" in raw else raw


class Fields:
    """One map of a document, and the way to it.

    Attributes:
        path: as in ``tasks[3].birth``; empty for the document itself.
    """

    __slots__ = ("_map", "path")

    def __init__(self, value: object, path: str = "") -> None:
        if not isinstance(value, dict):
            raise FormatError(path or "document", f"must be a map, not {reprlib.repr(value)}")
        self._map: dict[object, object] = value
        self.path = path

    def wrong(self, key: str, expected: str) -> FormatError:
        """The error that says what a field should have been."""
        value = self._map.get(key)
        return FormatError(
            self.at(key), f"must be {expected}, not {'absent' if value is None else reprlib.repr(value)}"
        )

    def at(self, key: str) -> str:
        """The path of a field."""
        return f"{self.path}.{key}" if self.path else key

    @property
    def whole(self) -> "Mapping[object, object]":
        """The map itself, with all that nobody asks for."""
        return self._map

    def has(self, key: str) -> bool:
        """True where the field is there and not null."""
        return self._map.get(key) is not None

    def is_integer(self, key: str) -> bool:
        """True where the field is an integer, of any size."""
        return type(self._map.get(key)) is int

    def integer(self, key: str, low: int, high: int) -> int:
        """An integer from `low` to `high`."""
        value = self._map.get(key)
        # bool is an int to Python, not to us.
        if type(value) is not int or not low <= value <= high:
            raise self.wrong(key, f"an integer from {low} to {high}")
        return value

    def maybe_integer(self, key: str, low: int, high: int) -> int | None:
        """An integer from `low` to `high`, or absent."""
        return None if self._map.get(key) is None else self.integer(key, low, high)

    def integers(self, key: str, low: int, high: int) -> tuple[int, ...]:
        """A list of integers; absent is the empty one."""
        values = self._list(key)
        for value in values:
            if type(value) is not int or not low <= value <= high:
                raise self.wrong(key, f"a list of integers from {low} to {high}")
        return tuple(values)  # type: ignore[arg-type]  # each one was looked at above

    def flag(self, key: str) -> bool | None:
        """True, false or absent."""
        value = self._map.get(key)
        if value is None or value is True or value is False:
            return value
        raise self.wrong(key, "true or false")

    def text(self, key: str, absent: str | None = None) -> str:
        """A string; `absent` is what a missing one reads as, if it may be missing."""
        value = self._map.get(key)
        if value is None and absent is not None:
            return absent
        if not isinstance(value, str) or not is_text(value):
            raise self.wrong(key, "a string")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; absent is the empty one."""
        values = self._list(key)
        for value in values:
            if not isinstance(value, str) or not is_text(value):
                raise self.wrong(key, "a list of strings")
        return tuple(values)  # type: ignore[arg-type]  # each one was looked at above

    def word(self, key: str, words: tuple[_Word, ...]) -> _Word:
        """One of the given words."""
        value = self._map.get(key)
        for word in words:
            if value == word:
                return word
        raise self.wrong(key, " or ".join(repr(str(word)) for word in words))

    def raw(self, key: str) -> bytes | None:
        """A byte string, or its text."""
        value = self._map.get(key)
        return None if value is None else self._raw(key, value)

    def raws(self, key: str) -> tuple[bytes, ...] | None:
        """A list of byte strings, or of their texts; unlike other lists it may be absent."""
        return tuple([self._raw(key, value) for value in self._list(key)]) if self.has(key) else None

    def map(self, key: str) -> "Fields":
        """A map within this one."""
        return Fields(self._map.get(key), self.at(key))

    def maps(self, key: str) -> "Iterator[Fields]":
        """The maps of a list; absent is the empty one."""
        path = self.at(key)
        for index, value in enumerate(self._list(key)):
            yield Fields(value, f"{path}[{index}]")

    def entries(self, key: str) -> "list[object]":
        """The entries of a list, whatever they are; none where it is no list."""
        value = self._map.get(key)
        return value if isinstance(value, list) else []

    def count(self, key: str) -> int:
        """Length of a list."""
        return len(self._list(key))

    def _list(self, key: str) -> "list[object]":
        value = self._map.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong(key, "a list")
        return value

    def _raw(self, key: str, value: object) -> bytes:
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str):
            raise self.wrong(key, "text")
        try:
            return unescape(value)
        except ValueError as error:
            raise FormatError(self.at(key), str(error)) from error


def is_text(value: str) -> bool:
    """False for half a surrogate pair, which JSON can spell and no other carrier can."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
