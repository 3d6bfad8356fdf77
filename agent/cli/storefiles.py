# SPDX-License-Identifier: Apache-2.0
"""A FILE of the command line that lies in a store: ``nats://BUCKET/NAME``, ``s3://BUCKET/KEY``, ``oci://REGISTRY/REPO:TAG``.

A child process reads or writes it, and ends. So the process that parses the bytes, which are not trusted, has no
connection, no thread of a library and no credentials that were read; and it fetches before it confines itself.
"""

from typing import Final, Self

from agent.fleet.stores import address

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


def _fetch(file: StoredFile, *, signed: bool) -> None:
    from agent.fleet.stores import errand

    beside = _signature_of(file)
    found = errand.fetch(file.address, file.server, {beside: MOST_SIGNATURE_BYTES} if signed else None)
    file.data, file.signature = found[file.address.name], found.get(beside)


def _signature_of(file: StoredFile) -> str:
    from agent.cli.signature import SUFFIX

    return file.address.beside(SUFFIX).name
