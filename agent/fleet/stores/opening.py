# SPDX-License-Identifier: Apache-2.0
"""The store of an address. The library of a store is imported here, when an address asks for it."""

from typing import TYPE_CHECKING

from agent.errors import HostError, UsageError
from agent.fleet import natsserver

if TYPE_CHECKING:
    from agent.fleet.stores.address import Address
    from agent.fleet.stores.store import ObjectStore


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
        raise UsageError(f"{address}: only nats:// addresses can be opened yet")
    except ImportError as error:
        raise HostError(natsserver.missing(error)) from None
