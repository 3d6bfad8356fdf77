# SPDX-License-Identifier: Apache-2.0
"""A FILE of the command line that lies in a store: ``nats://BUCKET/NAME``, ``s3://BUCKET/KEY``, ``oci://REGISTRY/REPO:TAG``.

A child process reads or writes it, and ends. So the process that parses the bytes, which are not trusted, has no
connection, no thread of a library and no credentials that were read; and it fetches before it confines itself.
"""

from pathlib import Path
from typing import Final, Self

from agent.errors import UsageError
from agent.fleet.stores import address
from exporters.criu import PREFIX

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


def named(file: str, server: str | None) -> str:
    """Return a FILE as its verb uses it: a `StoredFile` for an address, others as they are.

    Args:
        file: of the command line.
        server: the option ``--nats``.

    Raises:
        UsageError: the address is wrong.
    """
    if is_folder(file):
        raise UsageError(
            f"{file} is a folder in a store: `ckptree convert {file} {PREFIX}DIR` copies it to this host first"
        )
    return StoredFile(file, server) if address.is_address(file) else file


def fetch(*files: str | None, signed: bool = False) -> None:
    """Fetch those of some FILEs that lie in stores, and are not fetched yet.

    Args:
        files: from `named`; None: one that is not given.
        signed: True: with their signatures.

    Raises:
        CkptreeError: a file cannot be fetched.
        FormatError: it is not what was stored, or too large.
    """
    for file in files:
        if isinstance(file, StoredFile) and file.data is None:
            _fetch(file, signed=signed)


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
    """Return True where a folder of CRIU's images is to be copied into a store, or from one: ``criu:ADDRESS``.

    Raises:
        UsageError: one of the two is such an address, and the other is no folder on this host.
    """
    there = [file for file in (source, target) if is_folder(file)]
    if not there:
        return False
    here = target if is_folder(source) else source
    if len(there) == 2 or not here.startswith(PREFIX):
        raise UsageError(f"{there[0]} is a folder in a store: copy it to or from a folder on this host, as criu:DIR")
    return True


def copy_folder(source: str, target: str, server: str | None) -> None:
    """Copy a folder of CRIU's images into a store, or from one, whole or not at all.

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
    else:
        errand.store_folder(address.parse(target), server, Path(source))


def is_folder(file: str) -> bool:
    """Return True for a folder of CRIU's images in a store."""
    return file.startswith(PREFIX) and address.is_address(file.removeprefix(PREFIX))


def _fetch(file: StoredFile, *, signed: bool) -> None:
    from agent.fleet.stores import errand

    beside = _signature_of(file)
    found = errand.fetch(file.address, file.server, {beside: MOST_SIGNATURE_BYTES} if signed else None)
    file.data, file.signature = found[file.address.name], found.get(beside)


def _signature_of(file: StoredFile) -> str:
    from agent.cli.signature import SUFFIX

    return file.address.beside(SUFFIX).name
