# SPDX-License-Identifier: Apache-2.0
"""Folders of files in a store, for instance a dump of CRIU: pieces of files under their hashes, and a list of them.

The files are cut into pieces of 32 MiB, each an object named by its SHA-256: two dumps share the pieces that are the
same, and one that broke off goes on where it was. The list has names, sizes, times and pieces of all files. It is
written last, as an object named by its own SHA-256. So who knows that hash, from a set or a signature, knows every byte.

A dump has plain files alone. A folder within it, a link (that of an incremental dump to its parent) or a device is refused.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from agent import foreignjson
from agent.errors import CkptreeError, FormatError
from agent.fleet.stores import address as addresses
from agent.fleet.stores import plainfolder
from agent.fleet.stores.address import Address
from agent.fleet.stores.store import bound, sha256
from agent.record import NamedTuple

if TYPE_CHECKING:
    from agent.fleet.stores.store import ObjectStore

PIECE_BYTES: Final = 32 << 20
MOST_BYTES: Final = 256 << 30
"""Bound of all files of a folder that is read, where the caller names no other."""

Report = Callable[[int, int], None]
"""It is told how many bytes of how many have come."""

_FORMAT, _VERSION = "ckptree-folder", 1
_LIST_END_BYTES: Final = 100
"""The end of a list that has its format and version: its keys are sorted."""
_MOST_LIST: Final = 64 << 20
_MOST_FILES: Final = 100_000
_DIGITS: Final = frozenset("0123456789abcdef")


def object_name(digits: str, prefix: str = "") -> str:
    """Return the name of an object that is named by its hash.

    Args:
        digits: the hash, hexadecimal.
        prefix: what stands before it, as ``sets/``.
    """
    return f"{prefix}sha256-{digits}"


def list_address(place: str, digits: str) -> Address:
    """Return the address of a list that is named by its hash.

    Args:
        place: where folders lie: ``nats://BUCKET``, ``s3://BUCKET/PREFIX``, ``oci://REGISTRY/REPO``.
        digits: the hash of the list, hexadecimal.

    Raises:
        UsageError: there can be no folders at such a place.
    """
    between = ":" if place.startswith("oci://") else "/"
    return addresses.parse(f"{place}{between}{object_name(digits)}")


def put_folder(store: "ObjectStore", folder: Path, prefix: str = "", report: Report | None = None) -> str:
    """Write the files of a folder into a store.

    Args:
        store: where to.
        folder: it has files alone.
        prefix: of the names of all objects.
        report: is told after each piece how many bytes have gone.

    Returns:
        The hash of the list, hexadecimal: by it `get_folder` finds the folder.

    Raises:
        CkptreeError: the folder cannot be read, or has something else than files.
        StoreError: the store does not take it. What it has taken names no folder, and another attempt finds it.
    """
    return _put(store, _put_files(store, folder, prefix, report), prefix)[0]


def put_named(store: "ObjectStore", name: str, folder: Path, report: Report | None = None) -> None:
    """Write the files of a folder into a store, and give the list a name: it replaces what has the name.

    Args:
        store: where to.
        name: of the list; the pieces lie beside it.
        folder: it has files alone.
        report: is told after each piece how many bytes have gone.

    Raises:
        CkptreeError: as for `put_folder`.
    """
    store.put(name, _put_files(store, folder, prefix_of(name), report))


def get_folder(store: "ObjectStore", digits: str, target: Path, prefix: str = "", most: int = MOST_BYTES) -> None:
    """Read a folder from a store. It appears whole or not at all, for its owner alone.

    Args:
        store: where from.
        digits: the hash of its list, hexadecimal.
        target: the folder to make; only an empty one may be there.
        prefix: of the names of all objects.
        most: bound of all files together, bytes.

    Raises:
        FormatError: a piece or the list has another hash, or the list makes no sense.
        CkptreeError: the folder cannot be written, or the disk has no room for it; a piece is missing; the store does not
            answer.
    """
    where = f"{store.address}: {object_name(digits, prefix)}"
    _Reading(store, where, prefix, _got(store, digits, prefix, _MOST_LIST), most).write(target)


def get_named(
    store: "ObjectStore",
    name: str,
    target: Path,
    most: int = MOST_BYTES,
    *,
    without: str = "",
    report: Report | None = None,
) -> str:
    """Read a folder whose list has a name; return the hash of the list, hexadecimal.

    Args:
        store: where from.
        name: of the list.
        target: the folder to make; only an empty one may be there.
        most: bound of all files together, bytes.
        without: files whose names begin so are left out; empty: none is.
        report: is told after each piece how many bytes have come.

    Raises:
        CkptreeError: as for `get_folder`.
    """
    where = f"{store.address}: {name}"
    listed = store.get(name, _MOST_LIST)
    _Reading(store, where, prefix_of(name), listed, most, without).write(target, report)
    return sha256(listed)


def verify(store: "ObjectStore", name: str, report: Report | None = None) -> str:
    """Read all of a folder whose list has a name, and keep nothing; return the hash of the list, hexadecimal.

    Args:
        store: where from.
        name: of the list.
        report: is told after each piece how many bytes have come.

    Raises:
        CkptreeError: as for `get_folder`, but for what is about the disk.
    """
    listed = store.get(name, _MOST_LIST)
    _Reading(store, f"{store.address}: {name}", prefix_of(name), listed, MOST_BYTES).check(report)
    return sha256(listed)


def is_list(data: bytes) -> bool:
    """Return True for an object that says that it is the list of a folder, sound or not."""
    return f'"format":"{_FORMAT}"'.encode() in data[-_LIST_END_BYTES:]


def prefix_of(name: str) -> str:
    """Return what stands before the names of objects that lie beside one."""
    folder, slash, _ = name.rpartition("/")
    return folder + slash


def _put_files(store: "ObjectStore", folder: Path, prefix: str, report: Report | None) -> bytes:
    """Write all pieces; return the list."""
    files: dict[str, Any] = {}
    gone = 0
    try:
        names, whole = plainfolder.names_in(folder)
        for name in names:
            pieces = []
            with plainfolder.opened(folder / name) as file:
                for piece in _cut(file):
                    pieces.append(_put(store, piece, prefix))
                    gone += len(piece)
                    if report is not None:
                        report(gone, whole)
                written_ns = os.fstat(file.fileno()).st_mtime_ns
            size = sum(size for _, size in pieces)
            files[name] = {"size": size, "pieces": [digits for digits, _ in pieces], "mtime_ns": written_ns}
    except OSError as error:
        raise CkptreeError(f"cannot read {error.filename or folder}: {error.strerror or error}") from error
    document = {"format": _FORMAT, "version": _VERSION, "files": files}
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


class _Listed(NamedTuple):
    """A file as the list has it.

    Attributes:
        size: bytes.
        pieces: hashes, hexadecimal.
        written_ns: when it was changed last, CLOCK_REALTIME; None: the list does not say.
    """

    size: int
    pieces: list[Any]
    written_ns: int | None


class _Reading:
    """The files of a list, as they are read from a store.

    Args:
        store: where from.
        where: the list, for messages.
        prefix: of the names of all objects.
        listed: the bytes of the list.
        most: bound of all files together, bytes.
        without: files whose names begin so are left out; empty: none is.

    Raises:
        FormatError: the list makes no sense, or the files have more bytes than the bound.
    """

    def __init__(
        self, store: "ObjectStore", where: str, prefix: str, listed: bytes, most: int, without: str = ""
    ) -> None:
        self._store = store
        self._where = where
        self._prefix = prefix
        files = _listed(where, listed)
        bound(where, sum(each.size for each in files.values()), most)
        self._files = {name: each for name, each in files.items() if not (without and name.startswith(without))}
        self._size = sum(each.size for each in self._files.values())
        self._come = 0

    def write(self, target: Path, report: Report | None = None) -> None:
        """Make the folder."""
        with plainfolder.made(target, self._size, self._where) as folder:
            for name in self._files:
                self._write(folder / name, report)

    def check(self, report: Report | None = None) -> None:
        """Read all files, and keep nothing."""
        for name in self._files:
            self._check_size(name, sum(map(len, self._pieces(name, report))))

    def _write(self, path: Path, report: Report | None) -> None:
        """Write a file from its pieces.

        Raises:
            FormatError: they are more or fewer bytes than the list says.
        """
        with plainfolder.new(path) as file:
            for piece in self._pieces(path.name, report):
                file.write(piece)
            self._check_size(path.name, file.tell())
            plainfolder.finish(file, self._files[path.name].written_ns)

    def _check_size(self, name: str, found: int) -> None:
        size = self._files[name].size
        if found != size:
            raise FormatError(self._where, f"{name!r} has {size} bytes in the list, and {found} in its pieces")

    def _pieces(self, name: str, report: Report | None) -> Iterator[bytes]:
        listed = self._files[name]
        for each in listed.pieces:
            piece = _got(self._store, each, self._prefix, min(listed.size, PIECE_BYTES))
            self._come += len(piece)
            if report is not None:
                report(self._come, self._size)
            yield piece


def _cut(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(PIECE_BYTES):
        yield piece


def _put(store: "ObjectStore", data: bytes, prefix: str) -> tuple[str, int]:
    """Write an object under its hash, if it is not there; return hash and size."""
    digits = sha256(data)
    name = object_name(digits, prefix)
    there = store.head(name)
    if there is None or there.size != len(data):
        store.put(name, data)
    return digits, len(data)


def _got(store: "ObjectStore", digits: str, prefix: str, most: int) -> bytes:
    """Read an object by its hash."""
    name = object_name(digits, prefix)
    data = store.get(name, most)
    if (found := sha256(data)) != digits:
        raise FormatError(f"{store.address}: {name}", f"its SHA-256 is {found}: it has been changed")
    return data


def _time_of(listed: Mapping[str, Any]) -> int | None:
    """Return the time of a file in a list, nanoseconds; None where the list has none; raise ValueError if it is none."""
    found = listed.get("mtime_ns")
    if found is not None and (not isinstance(found, int) or found < 0 or found >> 63):
        raise ValueError(found)
    return found


def _listed(where: str, data: bytes) -> dict[str, _Listed]:
    """Read a list: each file by its name."""
    try:
        document = foreignjson.loads(data)
        if (document["format"], document["version"]) != (_FORMAT, _VERSION):
            raise FormatError(where, f"is no list of a folder, of version {_VERSION}")
        files = {
            name: _Listed(int(each["size"]), list(each["pieces"]), _time_of(each))
            for name, each in document["files"].items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(where, "is no list of a folder") from error
    if len(files) > _MOST_FILES:
        raise FormatError(where, f"has more than {_MOST_FILES} files")
    for name, (size, pieces, _) in files.items():
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise FormatError(where, f"{name!r} is no name of a file in a folder")
        # Each piece but the last is full: so pieces cannot be more than the size asks for.
        if size < 0 or len(pieces) != -(-size // PIECE_BYTES):
            raise FormatError(where, f"{name!r} has {size} bytes and {len(pieces)} pieces of {PIECE_BYTES}")
        if not all(isinstance(each, str) and len(each) == 64 and _DIGITS.issuperset(each) for each in pieces):
            raise FormatError(where, f"{name!r} has a piece that no SHA-256 names")
    return files
