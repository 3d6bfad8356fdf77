# SPDX-License-Identifier: Apache-2.0
"""Connections to NATS that last: one that breaks is made again, for ever, and subscriptions stay through that."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final

from agent.errors import HostError
from agent.fleet import natsserver

if TYPE_CHECKING:
    from nats.aio.client import Client

_CONNECT_S: Final = 2
_PAUSE_S: Final = 0.25
_ATTEMPT_S: Final = 10.0
_PING_S: Final = 5
_UNANSWERED: Final = 2
"""Pings without an answer, after which a connection counts as broken: a server that hangs sends nothing."""

Note = Callable[[Exception], Awaitable[None]]
Told = Callable[[], Awaitable[None]]


async def connected(
    url: str,
    name: str,
    note: Note,
    *,
    environment: Mapping[str, str] = os.environ,
    closed: Told | None = None,
    again: Told | None = None,
    attempt_s: float = _ATTEMPT_S,
    inbox: str = "_INBOX",
) -> "Client":
    """Connect. A server that is away is tried again, until the time is over.

    Args:
        url: from `natsserver.server_of`.
        name: of the connection, in what the server tells its administrator.
        note: is told of errors.
        environment: has the credentials, as agent.fleet.natsserver takes them.
        closed: is told when the server has ended the connection for good: it refuses this user.
        again: is told when a connection was made again.
        attempt_s: for the first connection.
        inbox: beginning of the subjects to which this client has itself answered.

    Raises:
        HostError: the library is not installed.
        CkptreeError: credentials cannot be read.
        errors of `failures`: the server is away, or refuses this user.
    """
    try:
        from nats.aio.client import Client
    except ImportError as error:
        raise HostError(natsserver.missing(error)) from None
    options = natsserver.credentials(environment)
    if (context := natsserver.tls(url, environment)) is not None:
        options["tls"] = context
    client = Client()
    connecting = client.connect(
        url.split(","),
        error_cb=note,
        closed_cb=closed,
        reconnected_cb=again,
        name=name,
        inbox_prefix=inbox,
        connect_timeout=_CONNECT_S,
        max_reconnect_attempts=-1,
        reconnect_time_wait=_PAUSE_S,  # type: ignore[arg-type]  # it goes to asyncio.sleep() alone
        ping_interval=_PING_S,
        max_outstanding_pings=_UNANSWERED,
        **options,
    )
    try:
        # The library may wait for ever for the end of an attempt whose TLS has failed.
        await asyncio.wait_for(connecting, attempt_s)
    except BaseException:
        await natsserver.close(client)
        raise
    return client


def failures() -> tuple[type[Exception], ...]:
    """Return the errors with which a call of a connection fails. A TimeoutError is an OSError."""
    import nats.errors

    return OSError, nats.errors.Error
