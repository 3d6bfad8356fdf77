# SPDX-License-Identifier: Apache-2.0
"""The presence of a host that is followed: if its relay answers, asked before somebody has to wait for that.

The server of NATS knows at once that a relay has ended, and only minutes later that a host has lost its power: until then
nobody answers. So the relay of a host that has been silent is asked every second. A take-over then asks once more, and
waits for no longer than an answer would take.
"""

import asyncio
import time
from typing import TYPE_CHECKING, Final

from agent.fleet import messages, standbylink

if TYPE_CHECKING:
    from nats.aio.client import Client

_ANSWER_S: Final = 0.25
_KNOWN_S: Final = 0.03
"""The relay of a host whose silence is known is waited for no longer."""
_PROBE_AFTER_S: Final = 2.0
_PROBE_S: Final = 1.0
_PROBED_S: Final = 3.0
"""So long a silence counts as known."""


class HostPresence:
    """The presence of one host.

    Args:
        host: its name.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._client: Client | None = None
        self._probing: asyncio.Task[None] | None = None
        self._silent_s = float("-inf")

    def tend(self, client: "Client", silent_s: float | None) -> None:
        """Ask the relay of a host that has been silent; called once a second, in the event loop.

        Args:
            client: the connection.
            silent_s: time since the last word of the host, seconds; None: there was none.
        """
        self._client = client
        if (silent_s is None or silent_s > _PROBE_AFTER_S) and (self._probing is None or self._probing.done()):
            self._probing = asyncio.create_task(self._probe())

    def close(self) -> None:
        """Ask no more."""
        if self._probing is not None:
            self._probing.cancel()

    async def _probe(self) -> None:
        if await self._asked(_PROBE_S) == standbylink.SILENT:
            self._silent_s = time.monotonic()
        else:
            self._silent_s = float("-inf")

    async def word(self) -> str:
        """Ask the relay for a sign of life; return a word of agent.fleet.standbylink."""
        known = time.monotonic() - self._silent_s < _PROBED_S
        return await self._asked(_KNOWN_S if known else _ANSWER_S)

    async def _asked(self, longest_s: float) -> str:
        import nats.errors

        client = self._client
        if client is None or not client.is_connected:
            return standbylink.UNKNOWN
        try:
            subject = messages.subject(messages.HELLO, self._host)
            answer = await client.request(subject, messages.pack({}), longest_s)
            if answer.headers or messages.unpack_answer(answer.data, self._host) is None:
                return standbylink.UNKNOWN
        except messages.ProtocolError:
            return standbylink.UNKNOWN
        except nats.errors.NoRespondersError:
            return standbylink.NOBODY
        except (nats.errors.TimeoutError, TimeoutError):
            return standbylink.SILENT if _is_connected(client) else standbylink.UNKNOWN
        except (OSError, nats.errors.Error):
            return standbylink.UNKNOWN
        return standbylink.ANSWERS


def _is_connected(client: "Client") -> bool:
    return bool(client.is_connected)
