# SPDX-License-Identifier: Apache-2.0
"""What a format is to the registry, and what a package has to do to bring its own.

A package that writes snapshots in another way names a `Format` in its metadata, under the format's own name:

    [project.entry-points."ckptree.exporters"]
    mermaid = "my_package.mermaid:FORMAT"

It is imported when its name is asked for, or when a file is in none of the formats that come with ckptree, and not
before: who does not use it does not wait for it. One that cannot be used is reported by name and stops no other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # naming a format takes no snapshot
    from agent.model import Snapshot

ENTRY_POINTS = "ckptree.exporters"
"""The entry-point group."""


class Dump(NamedTuple):
    """A snapshot, written.

    Attributes:
        data: the file; or the files of a folder, by name, in a format that is a folder.
        notes: sentences, for people: what of this snapshot the format cannot say. Empty where all is said.
    """

    data: bytes | dict[str, bytes]
    notes: tuple[str, ...] = ()


class Reader(NamedTuple):
    """How a format's files are known and read.

    Attributes:
        recognize: True for bytes that can be of no other format.
        load: reads them; FormatError for bytes that are not of this format.
        looks_like: how they begin, for people.
    """

    recognize: Callable[[bytes], bool]
    load: "Callable[[bytes], Snapshot]"
    looks_like: str


@dataclass(frozen=True, slots=True)
class Format:
    """One way to write a snapshot, and perhaps to read it back.

    What can be read is lossless: writing again what was read gives the same bytes. What is lossy can only be written.

    Attributes:
        name: as the registry and the command line take it.
        dump: writes it, in the dialect that the snapshot names where the format has dialects.
        reader: reads it; None where it can only be written, as folders always are.
        text: True where people can read it, so that it may go to a terminal.
        directory: True where it is a folder of files, which `dump` gives by name.
    """

    name: str
    dump: "Callable[[Snapshot], Dump]"
    reader: Reader | None = None
    text: bool = False
    directory: bool = False
