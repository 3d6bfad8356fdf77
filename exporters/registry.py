# SPDX-License-Identifier: Apache-2.0
"""The formats by name, and the recognition of a file's format.

The writer chooses a format by name. The reader recognizes a format by the content alone, never by a suffix. A format is
a row of `FORMATS`, or one that another package brings (exporters.format tells how). No other module lists the formats.

The module of a format is imported at its first use. Naming a format, or passing on an image that a daemon has written,
imports none. The search for other packages takes longer than a snapshot. So it starts only if a name or a file matches
none of our formats.
"""

from typing import TYPE_CHECKING, Final

from agent.errors import CkptreeError, FormatError, UsageError
from agent.record import replace
from exporters.format import Dump, Format, Reader
from exporters.image.records import HEAD_BYTES, HEAD_MAGIC

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
        name: one of `FORMATS`, or that of a format of another package.
        dialect: the dialect to write, in formats that have it; None: the snapshot's own.

    Returns:
        The file, or the files of a folder (`Format.directory`), with sentences on the facts that they cannot hold.

    Raises:
        UsageError: there is no format of that name.
        CkptreeError: the snapshot cannot be written, or the format of another package is broken.
    """
    return find(name).dump(replace(snapshot, dialect=dialect) if dialect else snapshot)


def image(snapshot: "Snapshot", name: str = "ckpt", dialect: "Dialect | None" = None) -> bytes:
    """Return a snapshot's bytes in one of the `LOSSLESS` formats, which are files without notes; errors as of
    `dump`."""
    data = dump(snapshot, name, dialect).data if name in LOSSLESS else None
    if not isinstance(data, bytes):
        raise UsageError(f"format {name!r} cannot be read back; those that can be are {', '.join(LOSSLESS)}")
    return data


def load(data: bytes) -> "Snapshot":
    """Read a snapshot in any format that is recognized; FormatError for all other bytes."""
    return _recognize(data)[1].load(data)


def recognize(data: bytes) -> Format:
    """Return the format of these bytes; FormatError if no format recognizes them."""
    return _recognize(data)[0]


def find(name: str) -> Format:
    """Return the format of a name.

    Raises:
        UsageError: there is none.
        CkptreeError: the format of another package is broken.
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
    # Either byte order: the reader's error for a big-endian image says more than "unknown".
    magic = data[HEAD_BYTES : HEAD_BYTES + 8]
    return magic in (HEAD_MAGIC.to_bytes(8, "little"), HEAD_MAGIC.to_bytes(8, "big"))


def _is_json(data: bytes) -> bool:
    return data.removeprefix(_BOM).lstrip(_BLANKS)[:1] == b"{"


def _is_msgpack(data: bytes) -> bool:
    """Return True for a map with a string as its first key, by the first byte of each."""
    length = _MAP_LENGTH_BYTES.get(data[0]) if data else None
    return length is not None and data[1 + length : 2 + length] in _MSGPACK_STRINGS


def _dump_checkpoint(snapshot: "Snapshot") -> Dump:
    from exporters.image import checkpoint

    return Dump(checkpoint.dumps(snapshot, snapshot.dialect))


def _load_checkpoint(data: bytes) -> "Snapshot":
    from exporters.image import checkpoint

    return checkpoint.loads(data)


def _dump_json(snapshot: "Snapshot") -> Dump:
    from exporters.documents import jsonfmt

    return Dump(jsonfmt.dumps(snapshot))


def _load_json(data: bytes) -> "Snapshot":
    from exporters.documents import jsonfmt

    return jsonfmt.loads(data)


def _dump_msgpack(snapshot: "Snapshot") -> Dump:
    from exporters.documents import msgpackfmt

    return Dump(msgpackfmt.dumps(snapshot))


def _load_msgpack(data: bytes) -> "Snapshot":
    from exporters.documents import msgpackfmt

    return msgpackfmt.loads(data)


def _dump_criu(snapshot: "Snapshot") -> Dump:
    from exporters.criu import criuformat

    return criuformat.dump(snapshot)


def _dump_dot(snapshot: "Snapshot") -> Dump:
    from exporters.drawing import dot

    return Dump(dot.dumps(snapshot))


def _dump_html(snapshot: "Snapshot") -> Dump:
    from exporters.drawing import htmlpage

    return Dump(htmlpage.dumps(snapshot))


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
        Format(name="html", dump=_dump_html, text=True),
    )
}
"""The formats that come with ckptree, in the order of recognition."""

LOSSLESS: Final = tuple(row.name for row in FORMATS.values() if row.reader)
"""Names of the formats that can be read back: they hold a whole snapshot."""
