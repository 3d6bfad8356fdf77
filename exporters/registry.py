# SPDX-License-Identifier: Apache-2.0
"""The formats by name, and which of them a file is in.

A name chooses what is written. What is read is known by its content alone: a suffix says what someone hoped for.
A format is a row of `FORMATS`, or one that another package brings (exporters.format tells how); nothing else knows how
many there are.

The module of a format is imported when it is used first: to name one, or to pass on what a daemon has written, takes
none of them. Other packages are looked for where a name or a file is none of ours, and not otherwise: that takes longer
than a snapshot.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from agent.errors import CkptreeError, FormatError, UsageError
from exporters.format import Dump, Format, Reader
from exporters.records import HEAD_BYTES, HEAD_MAGIC

if TYPE_CHECKING:
    from agent.model import Dialect, Snapshot

_BLANKS = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"

# The first byte of a msgpack map -> how many bytes of length follow it: fixmap, map 16 and map 32.
_MAP_LENGTH_BYTES = dict.fromkeys(range(0x80, 0x90), 0) | {0xDE: 2, 0xDF: 4}
# The first byte of a msgpack string: fixstr, str 8, str 16 and str 32.
_MSGPACK_STRINGS = {bytes([code]) for code in (*range(0xA0, 0xC0), 0xD9, 0xDA, 0xDB)}


def dump(snapshot: "Snapshot", name: str = "ckpt", dialect: "Dialect | None" = None) -> Dump:
    """Write a snapshot.

    Args:
        snapshot: what to write.
        name: of the format: one of `FORMATS`, or one that another package brings.
        dialect: which one to write, in formats that have it; the snapshot's own where it is not given.

    Returns:
        The file, or the files of a folder (`Format.directory`), and what they cannot say, in sentences for people.

    Raises:
        UsageError: there is no format of that name.
        CkptreeError: it cannot be written, or the format is another package's and broken.
    """
    return find(name).dump(replace(snapshot, dialect=dialect) if dialect else snapshot)


def image(snapshot: "Snapshot", name: str = "ckpt", dialect: "Dialect | None" = None) -> bytes:
    """Write a snapshot in one of the `LOSSLESS` formats, which are one file each and need no notes; else as `dump`."""
    data = dump(snapshot, name, dialect).data if name in LOSSLESS else None
    if not isinstance(data, bytes):
        raise UsageError(f"format {name!r} cannot be read back; those that can be are {', '.join(LOSSLESS)}")
    return data


def load(data: bytes) -> "Snapshot":
    """Read a snapshot in whatever format it is; FormatError where it is in none."""
    return _recognize(data)[1].load(data)


def recognize(data: bytes) -> Format:
    """The format that these bytes are in; FormatError where it is none."""
    return _recognize(data)[0]


def find(name: str) -> Format:
    """The format of that name.

    Raises:
        UsageError: there is none.
        CkptreeError: it is another package's and broken.
    """
    found = FORMATS.get(name)
    if found is None:
        from exporters import plugins

        found = plugins.find(name)
        if found is None:
            known = ", ".join(dict.fromkeys((*FORMATS, *plugins.names())))
            raise UsageError(f"no format is called {name!r}; there are {known}")
    return found


def _recognize(data: bytes) -> tuple[Format, Reader]:
    for candidate in FORMATS.values():
        if candidate.reader and candidate.reader.recognize(data):
            return candidate, candidate.reader
    from exporters import plugins

    others = plugins.survey(FORMATS)
    broken = list(others.broken)
    for candidate in others.formats:
        try:
            if candidate.reader and candidate.reader.recognize(data):
                return candidate, candidate.reader
        except CkptreeError as error:
            broken.append(str(error))
    known = [(each.name, each.reader.looks_like) for each in (*FORMATS.values(), *others.formats) if each.reader]
    expected = "; ".join(f"{name} begins with {looks_like}" for name, looks_like in known)
    what = f"begins with {data[:16].hex(' ')}" if data else "is empty"
    raise FormatError("file", "; ".join([f"{what}, which is no format known here: {expected}", *broken]), 0)


def _is_checkpoint(data: bytes) -> bool:
    # The magic in either byte order: the reader has a better word for a foreign machine's image than "unknown".
    magic = data[HEAD_BYTES : HEAD_BYTES + 8]
    return magic in (HEAD_MAGIC.to_bytes(8, "little"), HEAD_MAGIC.to_bytes(8, "big"))


def _is_json(data: bytes) -> bool:
    return data.removeprefix(_BOM).lstrip(_BLANKS)[:1] == b"{"


def _is_msgpack(data: bytes) -> bool:
    """A map with a string for its first key, by the first bytes of each."""
    length = _MAP_LENGTH_BYTES.get(data[0]) if data else None
    return length is not None and data[1 + length : 2 + length] in _MSGPACK_STRINGS


def _dump_checkpoint(snapshot: "Snapshot") -> Dump:
    from exporters import checkpoint

    return Dump(checkpoint.dumps(snapshot, snapshot.dialect))


def _load_checkpoint(data: bytes) -> "Snapshot":
    from exporters import checkpoint

    return checkpoint.loads(data)


def _dump_json(snapshot: "Snapshot") -> Dump:
    from exporters import jsonfmt

    return Dump(jsonfmt.dumps(snapshot))


def _load_json(data: bytes) -> "Snapshot":
    from exporters import jsonfmt

    return jsonfmt.loads(data)


def _dump_msgpack(snapshot: "Snapshot") -> Dump:
    from exporters import msgpackfmt

    return Dump(msgpackfmt.dumps(snapshot))


def _load_msgpack(data: bytes) -> "Snapshot":
    from exporters import msgpackfmt

    return msgpackfmt.loads(data)


def _dump_criu(snapshot: "Snapshot") -> Dump:
    from exporters import criu

    return criu.dump(snapshot)


def _dump_dot(snapshot: "Snapshot") -> Dump:
    from exporters import dot

    return Dump(dot.dumps(snapshot))


FORMATS: Final = {
    row.name: row
    for row in (
        Format(
            name="ckpt",
            dump=_dump_checkpoint,
            reader=Reader(
                _is_checkpoint,
                _load_checkpoint,
                f"a record head of {HEAD_BYTES} bytes and the magic 0x{HEAD_MAGIC:016x}, little endian",
            ),
        ),
        Format(
            name="msgpack",
            dump=_dump_msgpack,
            reader=Reader(_is_msgpack, _load_msgpack, "a msgpack map whose first key is a string"),
        ),
        Format(name="json", dump=_dump_json, reader=Reader(_is_json, _load_json, "'{'"), text=True),
        Format(name="criu", dump=_dump_criu, directory=True),
        Format(name="dot", dump=_dump_dot, text=True),
    )
}
"""The formats that come with ckptree, in the order in which a file is tried."""

LOSSLESS: Final = tuple(row.name for row in FORMATS.values() if row.reader)
"""Names of those that can be read back: each says all that a snapshot says."""
