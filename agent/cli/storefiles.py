# SPDX-License-Identifier: Apache-2.0
"""A FILE of the command line that lies in a store: ``nats://BUCKET/NAME``, ``s3://BUCKET/KEY``, ``oci://REGISTRY/REPO:TAG``.

A child process reads or writes it, and ends. So the process that parses the bytes, which are not trusted, has no
connection, no thread of a library and no credentials that were read; and it fetches before it confines itself.
"""

import contextlib
import signal
from typing import TYPE_CHECKING, Final, Self

from agent.cli.terminal import say
from agent.errors import CkptreeError, FormatError, HostError, UsageError
from agent.fleet.stores import address, opening

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.fleet.stores.store import ObjectStore

MOST_SIGNATURE_BYTES: Final = 64 << 10
"""Bound of a signature that is fetched."""

_ERRORS: Final = {str(each.exit_code).encode(): each for each in (CkptreeError, UsageError, HostError)}


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
    from agent.cli.signature import SUFFIX

    def put(store: "ObjectStore") -> dict[str, bytes]:
        store.put(file.address.name, data)
        if signature is not None:
            store.put(file.address.beside(SUFFIX).name, signature)
        return {}

    _in_child(file, put)


def _fetch(file: StoredFile, *, signed: bool) -> None:
    from agent.cli.signature import SUFFIX
    from agent.fleet.stores.store import MissingError

    def get(store: "ObjectStore") -> dict[str, bytes]:
        found = {"image": store.get(file.address.name)}
        if signed:
            with contextlib.suppress(MissingError):
                found["signature"] = store.get(file.address.beside(SUFFIX).name, MOST_SIGNATURE_BYTES)
        return found

    found = _in_child(file, get)
    file.data, file.signature = found["image"], found.get("signature")


def _in_child(file: StoredFile, use: "Callable[[ObjectStore], dict[str, bytes]]") -> dict[str, bytes]:
    """Use the store of a FILE in a child process; return what `use` does, or raise its error."""
    from agent.cli import apart

    def work() -> dict[str, bytes]:
        for number in (signal.SIGINT, signal.SIGTERM):  # the child has nothing to tidy up
            signal.signal(number, signal.SIG_DFL)
        try:
            with opening.opened(file.address, file.server) as store:
                return use(store)
        except FormatError as error:
            return {"path": error.path.encode(), "message": error.message.encode()}
        except CkptreeError as error:
            return {"code": str(error.exit_code).encode(), "message": str(error).encode()}

    try:
        found = apart.made(work, say, confined=False)
    except apart.EndedError as ended:
        raise CkptreeError(f"{file}: the process that reaches its store has ended with {ended.code}") from None
    if not isinstance(found, dict):
        raise CkptreeError(f"{file}: the process that reaches its store has answered something else")
    message = found.get("message", b"").decode(errors="replace")
    if "path" in found:
        raise FormatError(found["path"].decode(errors="replace"), message)
    if "code" in found:
        raise _ERRORS.get(found["code"], CkptreeError)(message)
    return found
