# SPDX-License-Identifier: Apache-2.0
"""The build id of a program or library: it tells builds apart that have the same size."""

import os
import struct
from pathlib import Path
from typing import BinaryIO, Final

_ELF: Final = struct.Struct("<4sB27xQ14xHH")
_HEADER: Final = struct.Struct("<IIQQQQQQ")
_NOTE: Final = struct.Struct("<III")
_PT_NOTE: Final = 4
_BUILD_ID: Final = 3
_MOST: Final = 1 << 16
"""Bytes of headers or notes, at most."""


def build_id(path: Path) -> bytes:
    """Return the build id of a program of 64 bits; empty where the file has none or cannot be read."""
    try:
        with open(path, "rb", opener=_opened) as file:
            return _build_id(file)
    except (OSError, struct.error, ValueError):
        return b""


def _opened(path: str, flags: int) -> int:
    """Open a file; another user may have put a FIFO there meanwhile, for which this process must not wait."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def recorded(words: "list[int]") -> bytes:
    """Return a build id as CRIU records it: words of four bytes, the last one filled up with zeros."""
    return struct.pack(f"<{len(words)}I", *words)


def same(have: bytes, wanted: bytes) -> bool:
    """Return True if a build id is the recorded one."""
    return have.ljust(len(wanted), b"\0") == wanted


def _build_id(file: BinaryIO) -> bytes:
    magic, width, offset, size, count = _ELF.unpack(file.read(_ELF.size))
    if magic != b"\x7fELF" or (width, size) != (2, _HEADER.size):
        return b""
    file.seek(offset)
    headers = file.read(size * count)
    for kind, _, place, _, _, length, *_ in _HEADER.iter_unpack(headers):
        if kind == _PT_NOTE:
            file.seek(place)
            found = _from_notes(file.read(min(length, _MOST)))
            if found:
                return found
    return b""


def _from_notes(notes: bytes) -> bytes:
    at = 0
    while at + _NOTE.size <= len(notes):
        name_size, size, kind = _NOTE.unpack_from(notes, at)
        name = at + _NOTE.size
        content = name + (name_size + 3) // 4 * 4
        if kind == _BUILD_ID and notes[name : name + name_size] == b"GNU\0":
            return notes[content : content + size]
        at = content + (size + 3) // 4 * 4
    return b""
