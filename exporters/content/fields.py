# SPDX-License-Identifier: Apache-2.0
"""Typed access to the maps of a document from outside.

Each method returns a value of the requested type and range, or raises FormatError, which names the field. A missing key
and null are the same: absent.

Bytes as text
-------------
Kernel strings (comm, argv, cwd, env) are bytes, and JSON has none. Their text is UTF-8 with two escapes:

    \\\\      one backslash
    \\xHH    one byte that is not part of valid UTF-8, in lower case hex

So every byte string has exactly one text, `unescape` reverses `escape`, and plain text stays as it is. A format with
bytes of its own (msgpack) stores the bytes.
"""

import re
import reprlib
from typing import TYPE_CHECKING, TypeVar

from agent.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_Word = TypeVar("_Word", bound=str)

_ESCAPE = rb"\\(?:\\|x([0-9a-f]{2}))?"  # compiled where there is a backslash

S32_MAX = 2**31 - 1
U32_MAX = 2**32 - 1
S64_MIN, S64_MAX = -(2**63), 2**63 - 1
U64_MAX = 2**64 - 1


def escape(raw: bytes) -> str:
    """Return the text of a byte string."""
    if b"\\" in raw:
        raw = raw.replace(b"\\", b"\\\\")
    return raw.decode("utf-8", "backslashreplace")


def unescape(text: str) -> bytes:
    """Return the byte string of a text; ValueError for an unknown escape."""

    def one(match: re.Match[bytes]) -> bytes:
        found = match.group(0)
        if len(found) == 1:
            raise ValueError(f"a backslash stands alone in {reprlib.repr(text)}: write it as two")
        return b"\\" if match.group(1) is None else bytes.fromhex(match.group(1).decode("ascii"))

    raw = text.encode("utf-8")
    return re.sub(_ESCAPE, one, raw) if b"\\" in raw else raw


class Fields:
    """One map of a document, with its path.

    Attributes:
        path: as in ``tasks[3].birth``; empty for the document.
    """

    __slots__ = ("_map", "path")

    def __init__(self, value: object, path: str = "") -> None:
        if not isinstance(value, dict):
            raise FormatError(path or "document", f"must be a map, not {reprlib.repr(value)}")
        self._map: dict[object, object] = value
        self.path = path

    def wrong(self, key: str, expected: str) -> FormatError:
        """Return the error for a field that is not `expected`."""
        value = self._map.get(key)
        return FormatError(
            self.at(key), f"must be {expected}, not {'absent' if value is None else reprlib.repr(value)}"
        )

    def at(self, key: str) -> str:
        """Return the path of a field."""
        return f"{self.path}.{key}" if self.path else key

    @property
    def whole(self) -> "Mapping[object, object]":
        """The map itself, unknown keys included."""
        return self._map

    def has(self, key: str) -> bool:
        """Return True if the field is there and not null."""
        return self._map.get(key) is not None

    def is_integer(self, key: str) -> bool:
        """Return True if the field is an integer, of any size."""
        return type(self._map.get(key)) is int

    def integer(self, key: str, low: int, high: int) -> int:
        """Return an integer from `low` to `high`, both included."""
        value = self._map.get(key)
        # bool is a subclass of int in Python.
        if type(value) is not int or not low <= value <= high:
            raise self.wrong(key, f"an integer from {low} to {high}")
        return value

    def maybe_integer(self, key: str, low: int, high: int) -> int | None:
        """Return an integer from `low` to `high`, or None if absent."""
        return None if self._map.get(key) is None else self.integer(key, low, high)

    def integers(self, key: str, low: int, high: int) -> tuple[int, ...]:
        """Return a list of integers from `low` to `high`; empty if absent."""
        values = self._list(key)
        for value in values:
            if type(value) is not int or not low <= value <= high:
                raise self.wrong(key, f"a list of integers from {low} to {high}")
        return tuple(values)  # type: ignore[arg-type]  # each one was checked above

    def flag(self, key: str) -> bool | None:
        """Return True, False, or None if absent."""
        value = self._map.get(key)
        if value is None or value is True or value is False:
            return value
        raise self.wrong(key, "true or false")

    def text(self, key: str, absent: str | None = None) -> str:
        """Return a string. `absent` is returned for a missing one; without it a missing one is an error."""
        value = self._map.get(key)
        if value is None and absent is not None:
            return absent
        if not isinstance(value, str) or not is_text(value):
            raise self.wrong(key, "a string")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of strings; empty if absent."""
        values = self._list(key)
        for value in values:
            if not isinstance(value, str) or not is_text(value):
                raise self.wrong(key, "a list of strings")
        return tuple(values)  # type: ignore[arg-type]  # each one was checked above

    def word(self, key: str, words: tuple[_Word, ...]) -> _Word:
        """Return one of the given words."""
        value = self._map.get(key)
        for word in words:
            if value == word:
                return word
        raise self.wrong(key, " or ".join(repr(str(word)) for word in words))

    def raw(self, key: str) -> bytes | None:
        """Return a byte string, or the bytes of its text; None if absent."""
        value = self._map.get(key)
        return None if value is None else self._raw(key, value)

    def raws(self, key: str) -> tuple[bytes, ...] | None:
        """Return a list of byte strings, or of the bytes of their texts; None if absent."""
        return tuple([self._raw(key, value) for value in self._list(key)]) if self.has(key) else None

    def map(self, key: str) -> "Fields":
        """Return a map within this one."""
        return Fields(self._map.get(key), self.at(key))

    def maps(self, key: str) -> "Iterator[Fields]":
        """Yield the maps of a list; none if absent."""
        path = self.at(key)
        for index, value in enumerate(self._list(key)):
            yield Fields(value, f"{path}[{index}]")

    def entries(self, key: str) -> "list[object]":
        """Return the entries of a list, of any type; empty if the field is no list."""
        value = self._map.get(key)
        return value if isinstance(value, list) else []

    def count(self, key: str) -> int:
        """Return the length of a list."""
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
    """Return False for half a surrogate pair, which JSON can spell and UTF-8 cannot encode."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
