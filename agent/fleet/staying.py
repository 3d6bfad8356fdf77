# SPDX-License-Identifier: Apache-2.0
"""A service's connection to NATS, which is made again for ever, also where the server has ended it for good."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from agent.daemon import audit
from agent.daemon.journal import Journal
from agent.fleet import lasting, messages, natsserver
from agent.fleet.relaysettings import RelaySettings

if TYPE_CHECKING:
    from nats.aio.client import Client

_TEND_S: Final = 1.0
_RETRY_S: Final = 0.5
_STUCK_S: Final = 30.0
"""Without a connection for so long, the library's attempts are given up for new ones: one may wait for ever."""

Serving = Callable[["Client"], Awaitable[None]]


class StayingConnection:
    """A connection that stays.

    Args:
        settings: have the server and the credentials.
        kind: of the service: ``relay`` or ``standby``. Answers come to ``_INBOX.KIND.HOST``, with = in the place of dots.
        name: of the connection, for the server's administrator.
        said: what the log says of the service once it listens.
        log: for messages to the administrator.
        ended: is set to have `run` return.
    """

    def __init__(
        self, settings: RelaySettings, kind: str, name: str, said: str, log: Journal, ended: asyncio.Event
    ) -> None:
        self._settings, self._name, self._said, self._log, self._ended = settings, name, said, log, ended
        self._refusals = audit.Refusals()
        # A host's name without dots: one host's permission must not have the inboxes of others in it.
        self._inbox = f"{messages.INBOX}.{kind}.{settings.host.replace('.', '=')}"

    async def run(self, listen: Serving, tend: Serving, leave: Serving) -> None:
        """Stay connected until the end.

        Args:
            listen: subscribes, each time a connection is made anew.
            tend: does what is due, once a second.
            leave: ends what uses the connection, before that is closed at the end.

        Raises:
            HostError: the library is not installed.
            CkptreeError: credentials cannot be read.
        """
        while not self._ended.is_set():
            closed = asyncio.Event()
            connecting = asyncio.create_task(self._connected(closed, listen))
            ending = asyncio.create_task(self._ended.wait())
            await asyncio.wait({connecting, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not connecting.done():
                connecting.cancel()
                await asyncio.gather(connecting, return_exceptions=True)
                return
            client = await connecting
            gone = asyncio.create_task(closed.wait())
            connected_s = time.monotonic()
            while not self._ended.is_set() and not closed.is_set():
                await tend(client)
                await asyncio.wait({gone, ending}, return_when=asyncio.FIRST_COMPLETED, timeout=_TEND_S)
                if client.is_connected:
                    connected_s = time.monotonic()
                elif time.monotonic() - connected_s > _STUCK_S:
                    break
                self._log.tend()
            gone.cancel()
            ending.cancel()
            refused = closed.is_set()  # before this side closes the connection
            if self._ended.is_set():
                self._log.info(f"{self._name} ends, as it is told to")
                await leave(client)
            await natsserver.close(client)
            if refused and not self._ended.is_set():
                # The server has refused what this process is or does: an administrator may mend that meanwhile.
                await asyncio.sleep(_RETRY_S)

    async def _connected(self, closed: asyncio.Event, listen: Serving) -> "Client":
        """Connect, however long that takes, and listen."""
        where = natsserver.server_of(self._settings.nats or None)

        async def note(error: Exception) -> None:
            words = str(error).removeprefix("nats: ") or type(error).__name__
            more = ": it is tried again until it answers" if isinstance(error, OSError) else ""
            if natsserver.is_unpublished(error):  # to subjects of the choice of whoever may ask: they could fill a log
                unwritten = self._refusals.admit(0, time.monotonic())
                if unwritten is None:
                    return
                more = f" (and {unwritten} more like it before)" if unwritten else ""
            self._log.warning(f"the NATS server {natsserver.shown(where)}: {words}{more}")

        async def left() -> None:
            closed.set()

        async def again() -> None:
            self._log.notice(f"connected again to {natsserver.shown(where)}")

        environment = self._settings.credentials or os.environ
        while True:
            try:
                client = await lasting.connected(
                    where, self._name, note, environment=environment, closed=left, again=again, inbox=self._inbox
                )
                await listen(client)
                await client.flush()
            except lasting.failures() as error:
                await note(error)
                await asyncio.sleep(_RETRY_S)
                closed.clear()
                continue
            self._log.notice(f"{self._said}; listening on {natsserver.shown(where)}")
            return client
