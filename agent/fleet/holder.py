# SPDX-License-Identifier: Apache-2.0
"""The process that holds the table of another host, as its stand-by has it: a child without network and credentials.

The records of another host are read there alone. The child answers one question at a time:

    {"do": "refresh"}                             take what has come: {"ok": true, ...what is held}
    {"do": "image", "root": text, "mode": text}   {"ok": true, "data": bytes, ...what is held, ...what is said of the tree}

An error is answered as agent.protocol.codec has it.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

from agent.errors import CkptreeError
from agent.fleet.messages import Message
from agent.protocol import codec
from agent.record import NamedTuple

_MOST_BYTES: Final = 256 << 20
_ANSWER_S: Final = 120.0
"""Longest time of an answer, seconds: a whole segment is replayed at the beginning."""


class Held(NamedTuple):
    """The state that is held.

    Attributes:
        order: number of the first record that it does not have.
        time_ns: CLOCK_REALTIME of the last record that it has, ns, by the clock of the host.
        numbering: boot and ring of the numbers.
        segment: name of the file in which it stands.
        gap: a sentence where the recording goes on behind a gap; else empty.
        lacks_from: offset in that file from which on its bytes are damaged, or some are missing; negative: none.
    """

    order: int
    time_ns: int
    numbering: str
    segment: str
    gap: str
    lacks_from: int = -1


class TableHolder:
    """The parent's end.

    Args:
        command: starts the child.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._decoder = codec.Decoder(_MOST_BYTES)
        self._turn = asyncio.Lock()

    async def refresh(self) -> Held | None:
        """Have the child take what has come; return what it holds; None: no keyframe has come yet.

        Raises:
            CkptreeError: the child fails.
        """
        answer = await self._ask({"do": "refresh"})
        return held_of(answer) if answer.get("order") is not None else None

    async def image(self, root: str, mode: str) -> Message:
        """Return the answer with the image of a tree as it is held.

        Raises:
            CkptreeError: there is no such tree, or the child fails.
        """
        return await self._ask({"do": "image", "root": root, "mode": mode})

    async def _ask(self, message: Message) -> Message:
        async with self._turn:
            try:
                answer = await asyncio.wait_for(self._asked(message), _ANSWER_S)
            except (OSError, asyncio.IncompleteReadError, codec.ProtocolError) as error:
                await self._end()
                raise CkptreeError(f"the process that holds the table has ended, or hangs: {error!r}") from error
            except BaseException:
                await self._end()  # its answer would be taken for that of the next question
                raise
        codec.raise_failure(answer)
        return answer

    async def _asked(self, message: Message) -> Message:
        pipe = asyncio.subprocess.PIPE
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(*self._command, stdin=pipe, stdout=pipe)
            self._decoder = codec.Decoder(_MOST_BYTES)
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise BrokenPipeError
        stdin.write(codec.encode(message))
        await stdin.drain()
        while (answer := self._decoder.pop()) is None:
            data = await stdout.read(1 << 20)
            if not data:
                raise BrokenPipeError
            self._decoder.push(data)
        return answer

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def close(self) -> None:
        """End the child."""
        await self._end()


def held_of(answer: Message) -> Held:
    """Return what an answer says of what is held."""
    return Held(
        int(answer["order"]),
        int(answer["time_ns"]),
        str(answer["numbering"]),
        str(answer["segment"]),
        str(answer["gap"]),
        int(answer["lacks_from"]),
    )
