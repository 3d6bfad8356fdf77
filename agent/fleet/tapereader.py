# SPDX-License-Identifier: Apache-2.0
"""The reader of a host's stream, for a stand-by. It asks for messages by their numbers.

A consumer would have the server publish what is stored to a subject of the user's choice, whatever the user may publish,
so the permissions of docs/fleet.md allow none. An answer to a question for a message is JSON.
"""

import asyncio
from typing import TYPE_CHECKING, Final

from agent.errors import HostError
from agent.fleet import tapemessages
from agent.record import NamedTuple

if TYPE_CHECKING:
    from nats.aio.client import Client

_ANSWER_S: Final = 5.0
_MOST_AT_ONCE: Final = 16
"""Questions on their way at most: their answers have 6 MB."""
_NO_MESSAGE: Final = 10037  # err_code of JetStream
_REST_S: Final = 60.0
_MOST_REST_S: Final = 3600.0


class StoredPiece(NamedTuple):
    """A message of the stream.

    Attributes:
        sequence: its number.
        data: its bytes; none of a message that the host has not published.
    """

    sequence: int
    data: bytes


class TapeReader:
    """A reader of one stream.

    Args:
        client: the connection.
        host: the one whose recording it is.
    """

    def __init__(self, client: "Client", host: str) -> None:
        self._streams = client.jetstream(timeout=_ANSWER_S)
        self._stream = tapemessages.stream_of(host)
        self._subject = tapemessages.subject_of(tapemessages.TAPE, host)
        self._width = 1

    async def origin(self) -> tuple[str, int]:
        """Return a text by which the stream is known, and the number of its last message.

        Raises:
            HostError: there is no stream, or the server refuses.
            errors of `lasting.failures`: there is no answer.
        """
        from nats.js import errors

        try:
            found = await self._streams.stream_info(self._stream)
        except errors.NotFoundError as error:
            raise HostError(
                f"there is no stream {self._stream}: the host's relay makes it, if it allows follow and the server of NATS "
                "lets it; else an administrator does (docs/fleet.md, Permissions of NATS)"
            ) from error
        except errors.APIError as error:
            raise HostError(f"the stream {self._stream}: {error.description or error}") from error
        return f"{self._stream} {found.created}", found.state.last_seq

    async def after(self, sequence: int) -> list[StoredPiece]:
        """Return messages that follow one, in order and without a gap but for what the stream has dropped.

        Args:
            sequence: number of the message.

        Returns:
            Some messages; none: there is no further one yet.

        Raises:
            errors of `lasting.failures`: there is no answer, or the server refuses.
        """
        wanted = range(sequence + 1, sequence + 1 + self._width)
        found: list[StoredPiece] = []
        if len(wanted) > 1:
            for each in await asyncio.gather(*(self._got(number) for number in wanted)):
                if each is None:  # one that follows may have come only since this one was asked for
                    break
                found.append(each)
        if not found and (following := await self._got(wanted[0], following=True)) is not None:
            found.append(following)
        self._width = min(2 * self._width, _MOST_AT_ONCE) if len(found) == self._width else 1
        return found

    async def _got(self, number: int, *, following: bool = False) -> StoredPiece | None:
        """Return a message, or the first one of the host from a number on; None: there is none."""
        from nats.js import errors

        subject = self._subject if following else None
        try:
            message = await self._streams.get_msg(self._stream, number, subject=subject, next=following)
        except errors.NotFoundError as error:
            if error.err_code != _NO_MESSAGE:
                raise
            return None
        if message.subject != self._subject or message.seq is None:
            return None
        own = tapemessages.is_published(message.headers)
        return StoredPiece(message.seq, message.data or b"" if own else b"")


class Rereadings:
    """The times at which a stream may be read from its beginning again. It takes the time as an argument, in seconds.

    The first one is due at once. Between two is a minute, then twice as long each time, up to an hour. Where none was
    needed for an hour behind the time at which it was due, it is a minute again.
    """

    def __init__(self) -> None:
        self._rest_s = _REST_S
        self._due_s: float | None = None

    def is_due(self, now_s: float) -> bool:
        """Return True if the stream may be read again."""
        return self._due_s is None or now_s >= self._due_s

    def take(self, now_s: float) -> None:
        """Count a reading that begins."""
        calm = self._due_s is None or now_s - self._due_s >= _MOST_REST_S
        self._rest_s = _REST_S if calm else min(2 * self._rest_s, _MOST_REST_S)
        self._due_s = now_s + self._rest_s
