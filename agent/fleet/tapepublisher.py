# SPDX-License-Identifier: Apache-2.0
"""The publisher of a host's recording: what the daemon's writer has written goes into a stream of JetStream, in order.

It keeps nothing of its own. Where it stands is what the last message of the stream says, so that a relay that is started
again, or a server that comes back, goes on without a gap, as long as the recording still has what is missing.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.daemon.journal import Journal
from agent.errors import CkptreeError, HostError
from agent.fleet import lasting, tapemessages
from agent.fleet.hostwork import RecordingState
from agent.fleet.relaysettings import TapeBounds
from agent.fleet.tapemessages import Pulse
from agent.recorder.foldertail import CopyPlace, FolderTail

if TYPE_CHECKING:
    from nats.aio.client import Client

_LOOK_S: Final = 0.05
_PULSE_S: Final = 1.0
_ANSWER_S: Final = 5.0
_RETRY_S: Final = 1.0
_MOST_RETRY_S: Final = 30.0
_TWICE_S: Final = 120.0
"""Seconds in which the server drops a message that is sent twice."""
_UNREADABLE: Final = (
    ": `group_may_read = true` below [record] in the daemon's configuration lets its group read, "
    "of which this relay's user must be a member"
)
_NO_MESSAGE: Final = 10037  # err_code of JetStream


Asking = Callable[[], RecordingState | None]
"""Ask the daemon for its recording; None: it does not answer. Called in a thread."""


class TapePublisher:
    """The publisher of one host.

    Args:
        host: its name.
        ask: asks the daemon.
        bounds: of the stream, where it is made.
        log: for messages to the administrator.
    """

    def __init__(self, host: str, ask: Asking, bounds: TapeBounds, log: Journal) -> None:
        self._host = host
        self._ask = ask
        self._bounds = bounds
        self._log = log
        self._state: RecordingState | None = None
        self._said = ""
        self._client: Client | None = None
        self._pulse: Pulse | None = None
        self._task: asyncio.Task[None] | None = None

    def tend(self, client: "Client") -> None:
        """See to it that a task publishes over a connection; called now and then, in the event loop."""
        if client is not self._client or self._task is None or self._task.done():
            if self._task is not None:
                self._task.cancel()
            self._client = client
            self._task = asyncio.create_task(self._run(client))

    async def leave(self, client: "Client") -> None:
        """Publish no more, and tell stand-bys that this is an end in order."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._pulse is not None:
            with contextlib.suppress(*lasting.failures()):
                await self._tell(client, self._pulse._replace(at_ns=time.time_ns(), ends=True))

    async def _tell(self, client: "Client", pulse: Pulse) -> None:
        self._pulse = pulse
        await client.publish(tapemessages.subject_of(tapemessages.PULSE, self._host), tapemessages.pack_pulse(pulse))

    async def _run(self, client: "Client") -> None:
        failures: tuple[type[Exception], ...] = (CkptreeError, *lasting.failures())
        rest_s = _RETRY_S
        while not client.is_closed:
            looking = asyncio.create_task(self._look())
            try:
                await self._publish(client, looking)
            except failures as error:
                remedy = _UNREADABLE if isinstance(error.__cause__, PermissionError) else ""
                self._say((str(error).removeprefix("nats: ") or type(error).__name__) + remedy)
            finally:
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)
            rest_s = min(2 * rest_s, _MOST_RETRY_S) if self._said else _RETRY_S
            await asyncio.sleep(rest_s)

    def _say(self, why: str) -> None:
        if why != self._said:
            self._said = why
            self._log.warning(f"the recording is not published: {why}")

    async def _look(self) -> None:
        """Ask the daemon once a second. An error is the reason why nothing is published, as long as nothing is known."""
        while True:
            try:
                found = await asyncio.get_running_loop().run_in_executor(None, self._ask)
            except CkptreeError:
                if self._state is None:
                    raise
                found = None
            if found is not None or self._state is not None:
                self._state = found or (self._state and self._state._replace(next=None))
            await asyncio.sleep(_PULSE_S)

    async def _publish(self, client: "Client", looking: "asyncio.Task[None]") -> None:
        """Publish until something fails, or the daemon has another folder."""
        while self._state is None:
            if looking.done():
                looking.result()
            await asyncio.sleep(_LOOK_S)
        last = await self._last(client)
        tail = FolderTail(self._state.folder, last, self._bounds.most_bytes)
        try:
            await self._follow(client, tail, self._state.folder)
        finally:
            tail.close()

    async def _follow(self, client: "Client", tail: FolderTail, folder: Path) -> None:
        loop = asyncio.get_running_loop()
        streams = client.jetstream(timeout=_ANSWER_S)
        stream = tapemessages.stream_of(self._host)
        subject = tapemessages.subject_of(tapemessages.TAPE, self._host)
        pulsed_s = 0.0
        published: CopyPlace | None = None
        rings = False
        while self._state is not None and self._state.folder == folder:
            piece = await loop.run_in_executor(None, tail.next)
            if piece is not None:
                headers = {"Nats-Msg-Id": tapemessages.id_of(piece)}
                await streams.publish(subject, tapemessages.pack_piece(piece), stream=stream, headers=headers)
                published, rings = piece.end, True
                if self._said:
                    self._log.notice("the recording is published again")
                    self._said = ""
            if time.monotonic() - pulsed_s >= _PULSE_S and (end := published or tail.end()) is not None:
                pulsed_s = time.monotonic()
                await self._tell(client, Pulse(time.time_ns(), end, self._state.next))
            if piece is None:
                if rings:
                    rings = False
                    await client.publish(tapemessages.subject_of(tapemessages.PULSE, self._host), b"")
                await asyncio.sleep(_LOOK_S)

    async def _last(self, client: "Client") -> CopyPlace | None:
        """Return the end of what the stream has, and make the stream if there is none.

        Raises:
            CkptreeError: it can be neither found nor made.
        """
        from nats.js import errors

        streams = client.jetstream(timeout=_ANSWER_S)
        stream = tapemessages.stream_of(self._host)
        subject = tapemessages.subject_of(tapemessages.TAPE, self._host)
        try:
            message = await streams.get_last_msg(stream, subject)
        except errors.NotFoundError as error:
            if error.err_code != _NO_MESSAGE:
                await self._make(client)
            return None
        except errors.APIError as error:
            raise CkptreeError(f"the stream {stream}: {error.description or error}") from error
        if tapemessages.is_published(message.headers):
            with contextlib.suppress(CkptreeError):
                return tapemessages.unpack_piece(message.data or b"").end
        return None

    async def _make(self, client: "Client") -> None:
        import nats.errors
        from nats.js import errors
        from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

        stream = tapemessages.stream_of(self._host)
        subject = tapemessages.subject_of(tapemessages.TAPE, self._host)
        window_s = min(_TWICE_S, self._bounds.most_age_s or _TWICE_S)
        wanted = StreamConfig(
            name=stream,
            description=f"ckptree: the recording of {self._host}",
            subjects=[subject],
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            discard=DiscardPolicy.OLD,
            max_bytes=self._bounds.most_bytes,
            max_age=self._bounds.most_age_s,
            duplicate_window=window_s,
            deny_delete=True,  # another user's answer of JetStream, which is JSON, would pass for a request
            deny_purge=True,
        )
        try:
            await client.jetstream(timeout=_ANSWER_S).add_stream(wanted)
        except errors.APIError as error:
            raise HostError(f"the stream {stream} cannot be made: {error.description or error}") from error
        except nats.errors.TimeoutError as error:  # so the library has it where the server's permissions forbid it
            raise HostError(
                f"there is no stream {stream}, and the server of NATS does not let this relay make it: "
                f"`nats stream add {stream} --subjects {subject} --storage file --retention limits "
                f"--discard old --max-bytes {self._bounds.most_bytes} --max-age {self._bounds.most_age_s}s "
                f"--dupe-window {window_s:.0f}s --deny-purge --deny-delete --defaults` as an administrator makes it"
            ) from error
        self._log.notice(f"the stream {stream} was made")
