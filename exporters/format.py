# SPDX-License-Identifier: Apache-2.0
"""A format as the registry sees it, and the way for a package to bring its own.

A package that writes snapshots in another way names a `Format` in its metadata, under the format's own name:

    [project.entry-points."ckptree.exporters"]
    mermaid = "my_package.mermaid:FORMAT"

ckptree imports it when a user names it, or when a file is in none of ckptree's own formats, and not before: the import
costs other users no time. A package that cannot be used is reported by name and does not disturb the others.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from agent.record import NamedTuple, record

if TYPE_CHECKING:  # the registry needs no snapshot
    from agent.model import Snapshot

ENTRY_POINTS = "ckptree.exporters"
"""The entry-point group of formats."""


class Dump(NamedTuple):
    """A written snapshot.

    Attributes:
        data: the file; for a format that is a folder, its files by name.
        notes: sentences on the facts of this snapshot that the format cannot hold; empty if it holds all.
    """

    data: bytes | dict[str, bytes]
    notes: tuple[str, ...] = ()


@record
class Reader:
    """The reading side of a format.

    Attributes:
        recognize: True for bytes that can be in no other format.
        load: makes a snapshot from bytes; FormatError for bytes in another format.
        looks_like: the beginning of such files, in words.
    """

    recognize: Callable[[bytes], bool]
    load: "Callable[[bytes], Snapshot]"
    looks_like: str


@record
class Format:
    """One way to write a snapshot, and perhaps to read it back.

    A format with a reader is lossless: a snapshot that was read is written to the same bytes. A lossy one has no
    reader.

    Attributes:
        name: for the registry and the command line.
        dump: writes a snapshot, in the snapshot's dialect if the format has dialects.
        reader: None for a format that can only be written, as every folder.
        text: True for text that may go to a terminal.
        directory: True for a folder of files; then `dump` returns them by name.
    """

    name: str
    dump: "Callable[[Snapshot], Dump]"
    reader: Reader | None = None
    text: bool = False
    directory: bool = False
