# SPDX-License-Identifier: Apache-2.0
"""The restarts that a relay passes on: parts that come piece by piece, and connections to the restart service.

A requester sends the parts, says start, hears that the tree stands, and says keep once all hosts of the set are so far.
A tree that nobody says keep for by the deadline is taken down: the connection closes.
"""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from agent.daemon import audit
from agent.daemon.journal import Journal
from agent.errors import BusyError, UsageError
from agent.fleet import messages
from agent.fleet.messages import Message
from agent.fleet.parcels import MOST_PARCELS, Parcels
from agent.fleet.restartlink import RestartLink

_LONGEST_NS: Final = 600_000_000_000


class _Begun:
    """A restart that was passed on."""

    ready: asyncio.Task[Message]

    def __init__(self, until_ns: int) -> None:
        self.until_ns = until_ns
        self.link: RestartLink | None = None
        self.kept: asyncio.Future[Message] | None = None


class RelayedRestarts:
    """The restarts of a relay.

    Args:
        path: the socket of the restart service.
        log: for audit lines.
    """

    def __init__(self, path: Path, log: Journal) -> None:
        self._path = path
        self._log = log
        self._parcels = Parcels()
        self._begun: dict[tuple[str, str], _Begun] = {}
        self._threads = ThreadPoolExecutor(MOST_PARCELS, "restart")

    async def answer(self, requester: str, request: Message, _received_ns: int) -> Message:
        """Answer a request.

        Args:
            requester: a token of the subject, which the server of NATS lets only that user publish to.
            request: its message.

        Raises:
            CkptreeError: the restart is refused, or has failed.
        """
        of = requester, messages.checked_id(request.get("id"))
        left_ns = request.get("left_ns")
        if not isinstance(left_ns, int) or not 0 < left_ns <= _LONGEST_NS:
            raise UsageError(f"left_ns: expected a number up to {_LONGEST_NS}")
        until_ns = time.monotonic_ns() + left_ns
        what = request.get("what")
        if what == "part":
            return {"size": self._part(of, request, until_ns)}
        if what == "start":
            return {"ready": await self._started(of, request, until_ns)}
        if what == "keep":
            return await self._kept(of)
        if what == "drop":
            self._drop(of)
            return {}
        raise UsageError("what: expected part, start, keep or drop")

    def _part(self, of: tuple[str, str], request: Message, until_ns: int) -> int:
        kind, offset, data = (request.get(key) for key in ("part", "offset", "data"))
        if not isinstance(kind, str) or not isinstance(offset, int) or not isinstance(data, bytes) or offset < 0:
            raise UsageError("expected a part, an offset and data")
        return self._parcels.add(of, kind, offset, data, until_ns, time.monotonic_ns())

    async def _started(self, of: tuple[str, str], request: Message, until_ns: int) -> Message:
        begun = self._begun.get(of)
        if begun is None:
            if len(self._begun) >= MOST_PARCELS:
                raise BusyError(f"this relay has {MOST_PARCELS} restarts that are not kept yet: ask later")
            parts = self._parcels.taken(of).parts
            passed = {key: request.get(key) for key in ("host", "run", "pids", "pidns", "left_ns")}
            passed |= {key: request.get(key, False) for key in ("contents", "plan")}
            passed |= {"requester": of[0], "id": of[1], **{kind: bytes(part) for kind, part in parts.items()}}
            begun = self._begun[of] = _Begun(until_ns)
            begun.ready = asyncio.create_task(self._pass_on(begun, passed))
        try:
            return await asyncio.shield(begun.ready)
        except BaseException:
            if begun.ready.done():
                self._drop(of)
            raise

    async def _pass_on(self, begun: _Begun, request: Message) -> Message:
        about = {key: str(request[key]) for key in ("requester", "id", "host", "run")}
        self._log.notice(audit.line("restart", **about, result="passed on"))

        def ask() -> Message:
            begun.link = RestartLink(self._path, begun.until_ns / 1e9)
            return begun.link.ask(request)

        answer = await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        found: Message = answer["ready"]
        if not request["plan"]:
            self._log.notice(audit.line("restart", **about, result="stands", root=int(found.get("root", 0))))
        return found

    async def _kept(self, of: tuple[str, str]) -> Message:
        begun = self._begun.get(of)
        if begun is None or begun.link is None:
            raise UsageError("there is no such restart, or it was taken down when its time was over")
        if begun.kept is None:
            begun.kept = asyncio.get_running_loop().run_in_executor(self._threads, begun.link.ask, {"keep": True})
        await asyncio.shield(begun.kept)
        return {}

    def _drop(self, of: tuple[str, str]) -> None:
        begun = self._begun.pop(of, None)
        if begun is not None and begun.link is not None:
            begun.link.close()

    def forget(self, now_ns: int) -> None:
        """Forget what is over its time: a tree that was not kept by then is taken down."""
        self._parcels.forget(now_ns)
        for of in [of for of, begun in self._begun.items() if now_ns >= begun.until_ns]:
            self._drop(of)
