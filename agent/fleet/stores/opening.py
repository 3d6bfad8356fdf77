# SPDX-License-Identifier: Apache-2.0
"""The store of an address. The library of a store is imported here, when an address asks for it."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from agent.errors import HostError
from agent.fleet import natsserver

if TYPE_CHECKING:
    from agent.fleet.stores.address import Address
    from agent.fleet.stores.store import ObjectStore


_LIBRARIES: Final = {"nats": "nats", "s3": "obstore", "oci": "oras"}


def check(address: "Address", server: str | None = None) -> None:
    """Look whether a store can be opened, without asking it: before work whose result goes there.

    Args:
        address: of an object.
        server: as for `opened`.

    Raises:
        UsageError: no NATS server is named.
        HostError: the library of the store is not installed.
    """
    library = _LIBRARIES[address.scheme]
    if find_spec(library) is None:
        raise HostError(natsserver.missing(ModuleNotFoundError(name=library)))
    if address.scheme == "nats":
        natsserver.server_of(server)


def opened(address: "Address", server: str | None = None) -> "ObjectStore":
    """Open the store in which an address lies.

    Args:
        address: of an object, or of several in one store.
        server: address of the NATS server; None: that of the environment.

    Raises:
        UsageError: no NATS server is named.
        HostError: the library of the store is not installed.
        CkptreeError: the store cannot be reached.
    """
    try:
        if address.scheme == "nats":
            from agent.fleet.stores.natsstore import NatsStore

            return NatsStore(natsserver.server_of(server), address.place)
        if address.scheme == "s3":
            from agent.fleet.stores.s3store import S3Store

            return S3Store(address.place)
        from agent.fleet.stores.ocistore import OciStore

        return OciStore(address.place)
    except ImportError as error:
        raise HostError(natsserver.missing(error)) from None
