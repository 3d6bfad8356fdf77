# SPDX-License-Identifier: Apache-2.0
"""Folders of files in a store, for instance a dump of CRIU: pieces of files under their hashes, and a list of them.

The files are cut into pieces of 32 MiB, each an object named by its SHA-256: two dumps share the pieces that are the
same, and one that broke off goes on where it was. The list has names, sizes and pieces of all files. It is written last,
as an object named by its own SHA-256. So who knows that hash, from a set or a signature, knows every byte.

A dump has plain files alone. A folder within it, a link (that of an incremental dump to its parent) or a device is refused.
"""

import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from agent.errors import CkptreeError, FormatError
from agent.fleet.stores.store import bound, sha256

if TYPE_CHECKING:
    from agent.fleet.stores.store import ObjectStore

PIECE_BYTES: Final = 32 << 20
MOST_BYTES: Final = 256 << 30
"""Bound of all files of a folder that is read, where the caller names no other."""

_FORMAT, _VERSION = "ckptree-folder", 1
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


def put_folder(store: "ObjectStore", folder: Path, prefix: str = "") -> str:
    """Write the files of a folder into a store.

    Args:
        store: where to.
        folder: it has files alone.
        prefix: of the names of all objects.

    Returns:
        The hash of the list, hexadecimal: by it `get_folder` finds the folder.

    Raises:
        CkptreeError: the folder cannot be read, or has something else than files.
        StoreError: the store does not take it. What it has taken names no folder, and another attempt finds it.
    """
    return _put(store, _put_files(store, folder, prefix), prefix)[0]


def put_named(store: "ObjectStore", name: str, folder: Path) -> None:
    """Write the files of a folder into a store, and give the list a name: it replaces what has the name.

    Args:
        store: where to.
        name: of the list; the pieces lie beside it.
        folder: it has files alone.

    Raises:
        CkptreeError: as for `put_folder`.
    """
    store.put(name, _put_files(store, folder, _prefix(name)))


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
        CkptreeError: the folder cannot be written; a piece is missing; the store does not answer.
    """
    where = f"{store.address}: {object_name(digits, prefix)}"
    _get_files(store, where, _got(store, digits, prefix, _MOST_LIST), target, prefix, most)


def get_named(store: "ObjectStore", name: str, target: Path, most: int = MOST_BYTES) -> None:
    """Read a folder whose list has a name.

    Args:
        store: where from.
        name: of the list.
        target: the folder to make; only an empty one may be there.
        most: bound of all files together, bytes.

    Raises:
        CkptreeError: as for `get_folder`.
    """
    where = f"{store.address}: {name}"
    _get_files(store, where, store.get(name, _MOST_LIST), target, _prefix(name), most)


def _prefix(name: str) -> str:
    """Return what stands before the names of objects that lie beside one."""
    folder, slash, _ = name.rpartition("/")
    return folder + slash


def _put_files(store: "ObjectStore", folder: Path, prefix: str) -> bytes:
    """Write all pieces; return the list."""
    files: dict[str, Any] = {}
    try:
        for name in sorted(os.listdir(folder)):
            with _opened(folder / name) as file:
                pieces = [_put(store, piece, prefix) for piece in _cut(file)]
            files[name] = {"size": sum(size for _, size in pieces), "pieces": [digits for digits, _ in pieces]}
    except OSError as error:
        raise CkptreeError(f"cannot read {error.filename or folder}: {error.strerror or error}") from error
    document = {"format": _FORMAT, "version": _VERSION, "files": files}
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _get_files(store: "ObjectStore", where: str, listed: bytes, target: Path, prefix: str, most: int) -> None:
    """Make the folder of a list."""
    files = _listed(where, listed)
    bound(where, sum(size for size, _ in files.values()), most)
    temporary = target.with_name(f".{target.name[:50]}.{os.urandom(8).hex()}")
    try:
        temporary.mkdir(mode=0o700)
        try:
            for name, (size, digits) in files.items():
                pieces = (_got(store, each, prefix, min(size, PIECE_BYTES)) for each in digits)
                _write(temporary / name, size, pieces, where)
            temporary.rename(target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    except OSError as error:
        raise CkptreeError(f"cannot write {target}: {error.strerror or error}") from error


def _opened(path: Path) -> BinaryIO:
    """Open a file of a folder.

    Raises:
        CkptreeError: it is something else.
    """
    if path.is_symlink():
        raise CkptreeError(f"cannot store {path}: a link leads out of its folder (the parent of an incremental dump?)")
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise CkptreeError(f"cannot store {path}: it is no file, and the folder must have files alone")
    return os.fdopen(fd, "rb")


def _write(path: Path, size: int, pieces: Iterable[bytes], where: str) -> None:
    """Write a file of a folder from its pieces.

    Raises:
        FormatError: they are more or fewer bytes than the list says.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        for piece in pieces:
            file.write(piece)
        if file.tell() != size:
            raise FormatError(where, f"{path.name!r} has {size} bytes in the list, and {file.tell()} in its pieces")
        file.flush()
        os.fsync(fd)


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


def _listed(where: str, data: bytes) -> dict[str, tuple[int, list[str]]]:
    """Read a list: size and pieces of each file by its name."""
    try:
        document = json.loads(data)
        if (document["format"], document["version"]) != (_FORMAT, _VERSION):
            raise FormatError(where, f"is no list of a folder, of version {_VERSION}")
        files = {name: (int(each["size"]), list(each["pieces"])) for name, each in document["files"].items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(where, "is no list of a folder") from error
    if len(files) > _MOST_FILES:
        raise FormatError(where, f"has more than {_MOST_FILES} files")
    for name, (size, pieces) in files.items():
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise FormatError(where, f"{name!r} is no name of a file in a folder")
        # Each piece but the last is full: so pieces cannot be more than the size asks for.
        if size < 0 or len(pieces) != -(-size // PIECE_BYTES):
            raise FormatError(where, f"{name!r} has {size} bytes and {len(pieces)} pieces of {PIECE_BYTES}")
        if not all(isinstance(each, str) and len(each) == 64 and _DIGITS.issuperset(each) for each in pieces):
            raise FormatError(where, f"{name!r} has a piece that no SHA-256 names")
    return files
