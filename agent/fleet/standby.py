# SPDX-License-Identifier: Apache-2.0
"""The stand-by of another host: it keeps that host's recording, holds the table ready, and says how far it is.

Pieces come from the host's stream (agent.fleet.tapereader), from behind the position that the folder itself tells
(agent.recorder.foldercopy). A piece is read once it would survive a power cut. The bytes go to the folder as they come. A
child reads the records in them (agent.fleet.holder). Each word of the host's relay says that there may be pieces.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.daemon import audit
from agent.daemon.journal import Journal
from agent.errors import CkptreeError, HostError
from agent.fleet import lag, lasting, messages, standbyfacts, standbylink, tapemessages
from agent.fleet.holder import TableHolder
from agent.fleet.hostpresence import HostPresence
from agent.fleet.lag import Lag
from agent.fleet.messages import Message
from agent.fleet.relaysettings import RelaySettings
from agent.fleet.standbyfacts import StandbyFacts
from agent.fleet.staying import StayingConnection
from agent.fleet.tapereader import Rereadings, StoredPiece, TapeReader
from agent.protocol import codec
from agent.record import NamedTuple
from agent.recorder.foldercopy import FolderCopy

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.micro.request import Request

_ANSWER_S: Final = 5.0
_RETRY_S: Final = 1.0
_MOST_RETRY_S: Final = 30.0
_CHECK_S: Final = 5.0
"""The stream is looked into after so long without a word of the host, too."""
_SAY_S: Final = 60.0


class FollowedTree(NamedTuple):
    """The host, tree and folder of a stand-by.

    Attributes:
        host: the other host.
        root: its tree there, as a recording names roots.
        place: the folder of the copy.
        max_bytes, max_age_s: bounds of the copy.
    """

    host: str
    root: str
    place: Path
    max_bytes: int
    max_age_s: int


class StandBy:
    """A stand-by.

    Args:
        settings: of the relay: server, credentials, and the name of this host.
        followed: what it follows.
        holding: the command of the child that holds the table.
        log: for messages to the administrator.

    Raises:
        HostError: the folder cannot be written, or another process has it.
    """

    def __init__(self, settings: RelaySettings, followed: FollowedTree, holding: Sequence[str], log: Journal) -> None:
        self._settings, self._followed, self._log = settings, followed, log
        self._copy = FolderCopy(followed.place, followed.max_bytes, followed.max_age_s)
        self._holder = TableHolder(holding)
        self._lag = Lag()
        self._ends = audit.Refusals()
        self._ended = asyncio.Event()
        self._rung = asyncio.Event()
        self._client: Client | None = None
        self._task: asyncio.Task[None] | None = None
        self._said = ""
        self._told_s = 0.0
        self._left_out = 0
        self._mended: tuple[bytes, int] | None = (
            None  # segment and offset of the last hole for which the stream was asked
        )
        self._rereadings = Rereadings()
        self._lacks_from = -1  # offset in the newest segment at which its reader finds it damaged
        self._unread = True
        self._presence = HostPresence(followed.host)
        standbyfacts.write(followed.place, StandbyFacts(followed.host, followed.root))

    def end(self) -> None:
        """Have `run` return."""
        self._ended.set()

    async def run(self) -> None:
        """Follow until `end` is called.

        Raises:
            HostError: the library is not installed, or the socket cannot be made.
            CkptreeError: credentials cannot be read.
        """
        followed, settings = self._followed, self._settings
        said = f"stand-by of {followed.host} ({followed.root}) on {settings.host}, in {followed.place}"
        name = f"{tapemessages.STANDBY} {settings.host} of {followed.host}"
        try:
            await self._refresh()
            async with self._socket():
                await StayingConnection(settings, "standby", name, said, self._log, self._ended).run(
                    self._listen, self._tend, self._leave
                )
        finally:
            await self._stop()
            self._presence.close()
            await self._holder.close()
            self._copy.close()

    # ---- what is said ----------------------------------------------------------------------------------------------

    def told(self) -> dict[str, Any]:
        """Return the state as others are told it."""
        followed = self._followed
        return {
            "host": self._settings.host,
            "of": followed.host,
            "root": followed.root,
            **self._lag.told(time.monotonic()),
            "bytes": self._copy.kept_bytes,
            "segments": self._copy.segments,
            "gaps": self._copy.gaps,
            "left_out": self._left_out,
            "error": self._said,
        }

    def _say(self, why: str) -> None:
        if why != self._said:
            self._said = why
            self._log.warning(f"{self._followed.host} is not followed: {why}")

    async def _listen(self, client: "Client") -> None:
        import nats.micro
        from nats.micro.service import EndpointConfig, ServiceConfig

        followed = self._followed
        service = await nats.micro.add_service(
            client,
            ServiceConfig(
                name=tapemessages.STANDBY,
                version=version("ckptree"),
                description="ckptree's stand-by of a host",
                metadata={"host": self._settings.host, "of": followed.host},
                stats_handler=lambda _: self.told(),
            ),
        )

        async def answer(request: "Request") -> None:
            question = request._msg  # noqa: SLF001 - the library has no other way to the subject of the answer
            if messages.is_asked(question.reply, question.headers):
                with contextlib.suppress(*lasting.failures()):
                    await request.respond(messages.pack({"ok": True, **self.told()}))

        subject = messages.subject(tapemessages.HELD, followed.host)
        await service.add_endpoint(EndpointConfig(name=tapemessages.HELD, subject=subject, handler=answer))
        await client.subscribe(tapemessages.subject_of(tapemessages.PULSE, followed.host), cb=self._hear)

    async def _hear(self, message: "Msg") -> None:
        if message.reply or message.headers:  # the server has sent it for somebody (agent.fleet.messages)
            return
        self._rung.set()
        if not message.data:
            return
        with contextlib.suppress(CkptreeError):
            pulse = tapemessages.unpack_pulse(message.data)
            self._lag.hear(pulse, time.monotonic())
            # The host says it as often as it likes.
            if pulse.ends and self._ends.admit(0, time.monotonic()) is not None:
                self._log.notice(f"the relay of {self._followed.host} ends in order")

    async def _stop(self) -> None:
        """Follow no more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _leave(self, _client: "Client") -> None:
        await self._stop()
        self._log.info(f"stand-by of {self._followed.host}: {lag.in_words(self.told())}")

    async def _tend(self, client: "Client") -> None:
        if client is not self._client or self._task is None or self._task.done():
            await self._stop()
            self._client = client
            self._task = asyncio.create_task(self._follow(client))
        now_s = time.monotonic()
        self._presence.tend(client, self._lag.behind(now_s).silent_s)
        if now_s - self._told_s >= _SAY_S:
            self._told_s = now_s
            self._log.info(f"stand-by of {self._followed.host}: {lag.in_words(self.told())}")

    # ---- the stream ------------------------------------------------------------------------------------------------

    async def _follow(self, client: "Client") -> None:
        failures: tuple[type[Exception], ...] = (CkptreeError, *lasting.failures())
        rest_s = _RETRY_S
        while not client.is_closed:
            try:
                await self._consume(client)
            except failures as error:
                self._say(str(error).removeprefix("nats: ") or type(error).__name__)
            await asyncio.sleep(rest_s)
            rest_s = min(2 * rest_s, _MOST_RETRY_S) if self._said else _RETRY_S

    async def _consume(self, client: "Client") -> None:
        """Take pieces until something fails, or the stream is another one.

        Raises:
            CkptreeError: there is no stream, or a piece cannot be kept.
            errors of the library.
        """
        reader = TapeReader(client, self._followed.host)
        origin, last = await reader.origin()
        at = self._copy.enter(origin, last)
        checked_s = time.monotonic()
        while True:
            self._rung.clear()
            taken = await reader.after(at)
            if taken:
                at = await self._keep(origin, taken)
            if self._may_mend():
                at = 0
                continue
            if not taken and not self._unread:
                self._heal()
            if time.monotonic() - checked_s >= _CHECK_S:
                if (await reader.origin())[0] != origin:
                    return
                if self._unread:
                    await self._refresh()
                checked_s = time.monotonic()
            if not taken:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._rung.wait(), _CHECK_S)

    async def _keep(self, origin: str, taken: list[StoredPiece]) -> int:
        """Keep pieces, and have them read; return the number of the last one that was looked at."""
        try:
            last = await asyncio.get_running_loop().run_in_executor(None, self._write, origin, taken)
        except OSError as error:
            raise HostError(f"{self._followed.place}: {error.strerror or error}") from error
        await self._refresh()
        return last

    def _hole(self) -> tuple[bytes, int] | None:
        """Return segment and offset of a hole in the newest segment; None: it has none, as far as is known."""
        found = [at for at in (self._copy.lacks_from, self._lacks_from) if at >= 0]
        return (self._copy.identity, min(found)) if found else None

    def _may_mend(self) -> bool:
        """Return True if the stream is to be asked again for what the newest segment lacks: once for each hole.

        Whoever makes the holes may be hostile: a hole waits for its time, and stays where a newer segment comes first.
        """
        hole, now_s = self._hole(), time.monotonic()
        if hole is None or hole == self._mended:
            self._mended = hole
            return False
        if not self._rereadings.is_due(now_s):
            return False
        self._rereadings.take(now_s)
        self._mended = hole
        self._copy.mend(hole[1])
        self._log.notice(f"{self._copy.newest} lacks bytes from {hole[1]} on: the stream is asked for them again")
        return True

    def _heal(self) -> None:
        if self._said:
            self._said = ""
            self._log.notice(f"{self._followed.host} is followed again")

    def _write(self, origin: str, taken: list[StoredPiece]) -> int:
        """Write pieces, up to the first one in front of which others are missing and can be asked for again now."""
        last = taken[-1].sequence
        may_mend = self._rereadings.is_due(time.monotonic())
        for message in taken:
            try:
                piece = tapemessages.unpack_piece(message.data)
            except CkptreeError:
                self._left_out += 1
                continue
            self._copy.add(piece, message.sequence)
            if may_mend and self._copy.lacks_from >= 0 and self._hole() != self._mended:
                last = message.sequence
                break
        self._copy.sync(origin, last)
        return last

    async def _refresh(self) -> None:
        """Have the child read what is kept. A child that has ended is started again once; later it is tried again."""
        self._unread = True
        for last in (False, True):
            try:
                held = await self._holder.refresh()
                break
            except CkptreeError as error:
                if last:
                    self._say(str(error))
                    return
        self._unread = False
        self._heal()
        self._lacks_from = held.lacks_from if held is not None and held.segment == self._copy.newest else -1
        self._lag.have(held, self._copy.identity)
        if held is not None and held.segment == self._copy.newest and not held.gap:
            self._copy.trim()  # the newest segment can be read without those before it

    # ---- take-over -------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _socket(self) -> AsyncIterator[None]:
        """Listen for `fleet takeover`, for the time of the block."""
        place = self._followed.place
        with standbylink.address(place) as where:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(where)  # of a process that was killed: the folder's lock is ours
            before = os.umask(0o177)
            try:
                server = await asyncio.start_unix_server(self._asked, where)
            except OSError as error:
                raise HostError(f"{place / standbylink.NAME}: {error.strerror or error}") from error
            finally:
                os.umask(before)
            try:
                yield
            finally:
                server.close()
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(where)

    async def _asked(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        decoder = codec.Decoder(standbylink.MOST_REQUEST, messages.MAX_PARTS)
        try:
            try:
                while (request := decoder.pop()) is None:
                    data = await asyncio.wait_for(reader.read(1 << 16), _ANSWER_S)
                    if not data:
                        return
                    decoder.push(data)
                answer = await self._answer(request)
            except CkptreeError as error:
                answer = messages.failure(error)
            writer.write(codec.encode(answer))
            await writer.drain()
        except OSError as error:  # it was too slow, or is gone
            self._log.info(f"a request was not answered: {error!r}")
        finally:
            writer.close()

    async def _answer(self, request: Message) -> Message:
        if request.get("do") != "takeover":
            return {"ok": True, **self.told()}
        root, mode = str(request.get("root") or self._followed.root), str(request.get("mode") or "auto")
        asking = asyncio.create_task(self._presence.word())
        try:
            image = await self._holder.image(root, mode)
            return {**image, "present": await asking, "root": root, "of": self._followed.host}
        finally:
            asking.cancel()
