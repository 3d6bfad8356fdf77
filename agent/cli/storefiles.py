# SPDX-License-Identifier: Apache-2.0
"""A FILE of the command line that lies in a store: ``nats://BUCKET/NAME``, ``s3://BUCKET/KEY``, ``oci://REGISTRY/REPO:TAG``.

A child process reads or writes it, and ends. So the process that parses the bytes, which are not trusted, has no
connection, no thread of a library and no credentials that were read; and it fetches before it confines itself.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from agent.cli.ending import at_end
from agent.cli.message import say
from agent.errors import SIGNALLED, CkptreeError, UsageError
from agent.fleet.stores import address
from exporters.criu import PREFIX

if TYPE_CHECKING:
    from agent.fleet.stores.keptfolder import KeptFolder

_PAGES: Final = "pages-"
"""The beginning of the names of files with memory: nearly all bytes of a dump."""
MOST_SIGNATURE_BYTES: Final = 64 << 10
"""Bound of a signature that is fetched."""


class StoredFile(str):  # noqa: SLOT000 - it has attributes
    """The address of a FILE in a store, and what was fetched of it.

    Attributes:
        address: of the file.
        server: of NATS, as the option names it.
        data: its bytes; None: not fetched yet.
        signature: the bytes of the signature beside it; None: there is none, or it was not asked for.
    """

    address: address.Address
    server: str | None
    data: bytes | None
    signature: bytes | None

    def __new__(cls, text: str, server: str | None) -> Self:
        """Parse an address; raise UsageError where it is none."""
        made = super().__new__(cls, text)
        made.address = address.parse(text)
        made.server = server
        made.data = made.signature = None
        return made


class StoredFolder(str):  # noqa: SLOT000 - it has attributes
    """A folder of CRIU's images in a store, ``criu:ADDRESS``, and what was fetched of it.

    Attributes:
        address: of the list of its files.
        server: of NATS, as the option names it.
        kept: the folder on this host; None: not fetched yet.
    """

    address: address.Address
    server: str | None
    kept: "KeptFolder | None"

    def __new__(cls, text: str, server: str | None) -> Self:
        """Parse an address; raise UsageError where it is none."""
        made = super().__new__(cls, text)
        made.address = address.parse(text.removeprefix(PREFIX))
        made.server = server
        made.kept = None
        return made

    def close(self) -> None:
        """Remove what was fetched."""
        kept, self.kept = self.kept, None
        if kept is not None:
            kept.close()


def named(file: str, server: str | None) -> str:
    """Return a FILE as its verb uses it: a `StoredFile` or `StoredFolder` for an address, others as they are.

    Args:
        file: of the command line.
        server: the option ``--nats``.

    Raises:
        UsageError: the address is wrong.
    """
    if is_folder(file):
        return StoredFolder(file, server)
    return StoredFile(file, server) if address.is_address(file) else file


def fetch(*files: str | None, signed: bool = False, pages: bool = True) -> None:
    """Fetch those of some FILEs that lie in stores, and are not fetched yet.

    A folder is kept on this host until the verb ends, however it ends.

    Args:
        files: from `named`; None: one that is not given.
        signed: True: with their signatures.
        pages: of a folder, fetch the memory of its programs, too.

    Raises:
        CkptreeError: a file cannot be fetched.
        FormatError: it is not what was stored, or too large.
    """
    for file in files:
        if isinstance(file, StoredFile) and file.data is None:
            _fetch(file, signed=signed)
        elif isinstance(file, StoredFolder) and file.kept is None:
            _fetch_folder(file, pages=pages)


def content(file: StoredFile) -> bytes:
    """Return the bytes of a FILE, which is fetched if it is not yet.

    Raises:
        CkptreeError: it cannot be fetched, or is the list of a folder.
        FormatError: it is not what was stored, or too large.
    """
    from agent.fleet.stores import folders

    fetch(file)
    data = file.data or b""
    if folders.is_list(data):
        raise CkptreeError(f"cannot read {file}: it is a folder of CRIU images: name it as {PREFIX}{file}")
    return data


def folder_of(file: str) -> Path:
    """Return the folder on this host that a FILE of the form ``criu:DIR`` or ``criu:ADDRESS`` means.

    Raises:
        CkptreeError: a folder in a store cannot be fetched.
        FormatError: it is not what was stored, or too large.
    """
    if not isinstance(file, StoredFolder):
        return Path(file.removeprefix(PREFIX))
    fetch(file)
    return file.kept.path if file.kept is not None else Path()


def write(file: StoredFile, data: bytes, signature: bytes | None) -> None:
    """Write a FILE into its store, in place of one that is there, and its signature beside it.

    Raises:
        CkptreeError: it cannot be written.
    """
    from agent.fleet.stores import errand

    objects = {file.address.name: data}
    if signature is not None:
        objects[_signature_of(file)] = signature
    errand.store(file.address, file.server, objects)


def copies_folder(source: str, target: str) -> bool:
    """Return True where a folder of CRIU's images is to be copied: ``criu:DIR`` or ``criu:ADDRESS`` to another.

    Raises:
        UsageError: the target is one in a store, and the source is no folder on this host.
    """
    if is_folder(target) and (is_folder(source) or not source.startswith(PREFIX)):
        raise UsageError(f"{target} is a folder in a store: copy a folder on this host to it, as criu:DIR")
    return source.startswith(PREFIX) and target.startswith(PREFIX)


def copy_folder(source: str, target: str, server: str | None) -> None:
    """Copy a folder of CRIU's images into a store, from one, or on this host, whole or not at all.

    Raises:
        UsageError: an address is wrong.
        CkptreeError: the folder cannot be copied.
    """
    from agent.fleet.stores import errand

    source, target = source.removeprefix(PREFIX), target.removeprefix(PREFIX)
    if not source or not target:
        raise UsageError(f"an empty name: name a folder, as in {PREFIX}DIR")
    if address.is_address(source):
        errand.fetch_folder(address.parse(source), server, Path(target))
    elif address.is_address(target):
        errand.store_folder(address.parse(target), server, Path(source))
    else:
        address.check_file(target)
        _copy_here(Path(source), Path(target))


def is_folder(file: str) -> bool:
    """Return True for a folder of CRIU's images in a store."""
    return file.startswith(PREFIX) and address.is_address(file.removeprefix(PREFIX))


def _copy_here(source: Path, target: Path) -> None:
    """Copy a folder on this host; a signal that asks for the end removes what is half written."""
    from agent.cli.signals import Interrupted, raising
    from agent.fleet.stores import plainfolder

    try:
        with raising():
            plainfolder.copy(source.absolute(), target.absolute())
    except Interrupted as interrupted:
        raise SystemExit(SIGNALLED + interrupted.number) from interrupted


def _fetch(file: StoredFile, *, signed: bool) -> None:
    from agent.fleet.stores import errand

    beside = _signature_of(file)
    found = errand.fetch(file.address, file.server, {beside: MOST_SIGNATURE_BYTES} if signed else None)
    file.data, file.signature = found[file.address.name], found.get(beside)


def _fetch_folder(file: StoredFolder, *, pages: bool) -> None:
    from agent.fleet.stores import keptfolder

    for left in keptfolder.remove_left():
        say(f"removed {left}, which a process that was killed had left")
    at_end(file.close)
    file.kept = keptfolder.KeptFolder(file.address, file.server, "" if pages else _PAGES)


def _signature_of(file: StoredFile) -> str:
    from agent.cli.signature import SUFFIX

    return file.address.beside(SUFFIX).name
