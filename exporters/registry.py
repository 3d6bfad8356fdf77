# SPDX-License-Identifier: Apache-2.0
"""The formats by name, and which of them a file is in.

A name chooses what is written. What is read is known by its content alone: a suffix says what someone hoped for.
A format is a row of `FORMATS`; nothing else knows how many there are.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from agent.errors import FormatError, UsageError
from agent.model import Dialect, Snapshot
from exporters import checkpoint, jsonfmt
from exporters.head import HEAD_MAGIC
from exporters.records import HEAD_BYTES

_BLANKS = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Format:
    """One way to write a snapshot and to read it back.

    Attributes:
        name: as `dump` and the command line take it.
        text: True where people can read it, so that it may go to a terminal.
        looks_like: how its files begin, for people.
        dump: writes it.
        load: reads it; FormatError for bytes that are not of this format.
        recognize: True for bytes that can be of no other format.
    """

    name: str
    text: bool
    looks_like: str
    dump: Callable[[Snapshot, Dialect], bytes]
    load: Callable[[bytes], Snapshot]
    recognize: Callable[[bytes], bool]


def dump(snapshot: Snapshot, name: str = "ckpt", dialect: Dialect = "seed") -> bytes:
    """Write a snapshot in the format of that name; UsageError where there is none."""
    found = FORMATS.get(name)
    if found is None:
        raise UsageError(f"no format is called {name!r}; there are {', '.join(FORMATS)}")
    return found.dump(snapshot, dialect)


def load(data: bytes) -> Snapshot:
    """Read a snapshot in whatever format it is; FormatError where it is in none."""
    return recognize(data).load(data)


def recognize(data: bytes) -> Format:
    """The format that these bytes are in; FormatError where it is none."""
    for candidate in FORMATS.values():
        if candidate.recognize(data):
            return candidate
    expected = "; ".join(f"{candidate.name} begins with {candidate.looks_like}" for candidate in FORMATS.values())
    what = f"begins with {data[:16].hex(' ')}" if data else "is empty"
    raise FormatError("file", f"{what}, which is no format known here: {expected}", 0)


def _is_checkpoint(data: bytes) -> bool:
    # The magic in either byte order: the reader has a better word for a foreign machine's image than "unknown".
    magic = data[HEAD_BYTES : HEAD_BYTES + 8]
    return magic in (HEAD_MAGIC.to_bytes(8, "little"), HEAD_MAGIC.to_bytes(8, "big"))


def _is_json(data: bytes) -> bool:
    return data.removeprefix(_BOM).lstrip(_BLANKS)[:1] == b"{"


def _dump_json(snapshot: Snapshot, dialect: Dialect) -> bytes:
    return jsonfmt.dumps(replace(snapshot, dialect=dialect))


FORMATS: Final = {
    row.name: row
    for row in (
        Format(
            name="ckpt",
            text=False,
            looks_like=f"a record head of {HEAD_BYTES} bytes and the magic 0x{HEAD_MAGIC:016x}, little endian",
            dump=checkpoint.dumps,
            load=checkpoint.loads,
            recognize=_is_checkpoint,
        ),
        Format(name="json", text=True, looks_like="'{'", dump=_dump_json, load=jsonfmt.loads, recognize=_is_json),
    )
}
"""The formats there are, in the order in which a file is tried."""
