# SPDX-License-Identifier: Apache-2.0
"""Folders of images in memory, of which a fuzzer reads again only what an input has changed.

What a reader makes of a file depends on its bytes alone, and the tree on a few files alone. So both are kept for each dump,
and given to the readers where an input has not changed them. Messages are the readers' to change in one case, a deleted
file's path; those of such a file are not kept.
"""

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from agent.errors import FormatError
from agent.model import Snapshot
from agent.restart.planning.search import decide
from exporters.checking import criucheck
from exporters.content.findings import Finding
from exporters.criu import criutree, imagefile
from exporters.criu.imagefile import ImageEntry, ImageKind
from tests.fuzz.imagechanges import PARENT, Dump

_OF_TREE: Final = frozenset(("inventory", "pstree", "core", "ids", "creds", "userns"))
_CHANGED_BY_READERS: Final = ("remap-fpath.img", "files.img")
"""The file that has readers change messages, and the file whose messages they change."""
_AT_ONCE: Final = 1 << 16
"""Bytes of a file, at most, of which the reader yields no entry before it has found all sound."""
_READ: Final = imagefile.read
_LOAD: Final = criutree.load
_FILE_FAULTS: Final = criucheck._file_faults


class _KnownFile(io.BytesIO):
    """A file of a dump, as it is there."""

    def __init__(self, data: bytes, entries: list[ImageEntry]) -> None:
        super().__init__(data)
        self.entries = entries


class _ChangedFile(io.BytesIO):
    """A changed file, which is read once for all readers of an input.

    Attributes:
        kept: what has been read of each file of the input: its entries, or the error that ends the reading.
    """

    def __init__(self, data: bytes, kept: "dict[str, list[ImageEntry] | FormatError]") -> None:
        super().__init__(data)
        self.kept = kept


class KeptDump:
    """A dump, with what the readers make of it.

    Args:
        dump: the dump.
        path: of a folder that has its files of pages.

    Attributes:
        place: the path of that folder.
        texts: the texts that its messages have, paths among them.
        snapshot, plan: its tree.
    """

    def __init__(self, dump: Dump, path: Path) -> None:
        self.dump = dump
        self.path = path
        self.place = os.fsencode(path)
        self.texts = frozenset(dump.texts)
        self.entries: dict[str, list[ImageEntry]] = {}
        self._encoded: dict[str, bytes] = {}
        for folder, files in ((path, dump.files), (path / "parent", dump.before)):
            folder.mkdir(parents=True)
            for name, data in files.items():
                if imagefile.kind_of(name) is None:
                    (folder / name).write_bytes(data)
        for name in dump.entries.keys() & dump.files.keys():
            if _CHANGED_BY_READERS[0] not in dump.names or name != _CHANGED_BY_READERS[1]:
                self.entries[name] = list(_READ(io.BytesIO(dump.files[name]), name))
                self._encoded[name] = self._encode(name)
        self.snapshot: Snapshot = _LOAD(DumpFolder(self, {}))
        self.plan = decide(self.snapshot, pidns=True, any_numbers=False)[1]

    def hold(self) -> None:
        """Hold that the messages that are kept are as they were read."""
        for name, encoded in self._encoded.items():
            assert self._encode(name) == encoded, f"a reader has changed the messages of {name}"

    def _encode(self, name: str) -> bytes:
        return b"".join(each.message.SerializeToString(deterministic=True) for each in self.entries[name])


class DumpFolder:
    """A dump in which some files are changed.

    Args:
        kept: the dump.
        changed: the contents of changed files, by name; None of one that is gone.

    Attributes:
        path: of the folder with its files of pages.
        same_tree: True if no file of the tree is changed.
        kept: the dump.
        changed: the changed files.
        opened: the names that were asked for.
    """

    def __init__(self, kept: KeptDump, changed: Mapping[str, bytes | None], *, before: bool = False) -> None:
        self.kept = kept
        self.path = kept.path / "parent" if before else kept.path
        self._files = kept.dump.before if before else kept.dump.files
        mine = (each for each in changed.items() if each[0].startswith(PARENT) == before)
        self.changed = {name.removeprefix(PARENT): data for name, data in mine}
        self._before = before
        self.opened: set[str] = set()
        self._read: dict[str, list[ImageEntry] | FormatError] = {}
        kinds = [imagefile.kind_of(name) for name in self.changed]
        self.same_tree = not before and not any(kind is not None and kind.stem in _OF_TREE for kind in kinds)

    def open(self, name: str) -> BinaryIO | None:
        """Open a file for reading; None where there is none."""
        self.opened.add(name)
        if name in self.changed:
            data = self.changed[name]
            if data is None:
                return None
            alone = name != _CHANGED_BY_READERS[1] and len(data) <= _AT_ONCE
            return _ChangedFile(data, self._read) if alone else io.BytesIO(data)
        if name not in self._files:
            return None
        entries = None if self._before else self.kept.entries.get(name)
        return io.BytesIO(self._files[name]) if entries is None else _KnownFile(self._files[name], entries)

    def names(self) -> list[str]:
        """Return the names of all files, sorted."""
        if not self.changed:
            return sorted(self._files)
        gone = {name for name, data in self.changed.items() if data is None}
        return sorted((self._files.keys() | self.changed.keys()) - gone)

    def contents(self) -> Iterator[bytes]:
        """Yield the contents of all files of messages."""
        for name in self.names():
            data = self.changed.get(name) or self._files.get(name, b"")
            if imagefile.kind_of(name) is not None:
                yield data


class _ChangedFiles:
    """The changed files of a folder, as if there were no others."""

    def __init__(self, folder: DumpFolder) -> None:
        self.open = folder.open
        self._names = sorted(name for name, data in folder.changed.items() if data is not None)

    def names(self) -> list[str]:
        return self._names


@contextmanager
def keeping() -> Iterator[None]:
    """Have the readers take what is kept, and the check look for the faults of changed files alone."""
    imagefile.read, criutree.load, criucheck._file_faults = _read, _load, _file_faults
    try:
        yield
    finally:
        imagefile.read, criutree.load, criucheck._file_faults = _READ, _LOAD, _FILE_FAULTS


def _file_faults(files: Any) -> Iterator[Finding]:
    return _FILE_FAULTS(_ChangedFiles(files) if isinstance(files, DumpFolder) else files)


def _read(file: BinaryIO, name: str, kind: ImageKind | None = None) -> Iterator[ImageEntry]:
    if isinstance(file, _KnownFile):
        return iter(file.entries)
    if not isinstance(file, _ChangedFile):
        return _READ(file, name, kind)
    if name not in file.kept:
        try:
            file.kept[name] = list(_READ(file, name, kind))
        except FormatError as error:
            file.kept[name] = error
    found = file.kept[name]
    return _raised(found) if isinstance(found, FormatError) else iter(found)


def _raised(error: FormatError) -> Iterator[ImageEntry]:
    raise error
    yield  # the reader is a generator, too: it raises when it is asked for the first entry


def _load(files: Any) -> Snapshot:
    return files.kept.snapshot if isinstance(files, DumpFolder) and files.same_tree else _LOAD(files)
