# SPDX-License-Identifier: Apache-2.0
"""The subjects to which answers come: one for each question, which nobody can guess."""

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

Hear = Callable[["Msg"], None]


class Answers:
    """The answers of one connection.

    The names that the library makes can be guessed by whoever has seen one: every relay that is asked has. Users of NATS
    who may have another one answer could then send that answer where a third one's is awaited.

    Args:
        client: the connection.
    """

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._inbox = f"{client.new_inbox()}{secrets.token_hex(8)}"
        self._heard: dict[str, Hear] = {}
        self._listens = False

    async def ask(self, subject: str, data: bytes, hear: Hear) -> str:
        """Publish a question.

        Args:
            subject: of the question.
            data: its bytes.
            hear: takes each answer, until `forget`.

        Returns:
            The subject of the answer.

        Raises:
            errors of `lasting.failures`: it is not sent.
        """
        if not self._listens:
            self._listens = True
            try:
                await self._client.subscribe(f"{self._inbox}.*", cb=self._hear)
            except BaseException:
                self._listens = False
                raise
        reply = f"{self._inbox}.{secrets.token_hex(16)}"
        self._heard[reply] = hear
        try:
            await self._client.publish(subject, data, reply)
        except BaseException:
            self.forget(reply)
            raise
        return reply

    def forget(self, reply: str) -> None:
        """Take no further answer to a question."""
        self._heard.pop(reply, None)

    async def _hear(self, message: "Msg") -> None:
        hear = self._heard.get(message.subject)
        if hear is not None:
            hear(message)
