# SPDX-License-Identifier: Apache-2.0
"""Questions to many relays over NATS, and their answers.

This module is the shell of a requester, in which asyncio and the library of NATS run. agent.fleet.gathering decides on
each question, its repetitions and its end.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from agent import foreignjson
from agent.errors import CkptreeError
from agent.fleet import hostanswers, lag, lasting, messages, natsserver, tapemessages
from agent.fleet.answers import Answers
from agent.fleet.clocks import Offset
from agent.fleet.gathering import Ask, Gathered, Gathering, Wanted
from agent.fleet.messages import Message
from agent.record import NamedTuple

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

_QUIET_S: Final = 0.5
_MOST_AT_ONCE: Final = 64
_NOBODY: Final = "503"
"""The status with which the server says that nobody listens to a subject (NATS ADR-22)."""


class NobodyError(CkptreeError):
    """A host without a relay that is connected (exit code 1)."""


class SilentError(CkptreeError):
    """A relay that does not answer in time (exit code 1)."""


class Present(NamedTuple):
    """A relay that is connected.

    Attributes:
        host: its host's name.
        version: of its ckptree.
        instance: of the relay; another one each time it is started.
    """

    host: str
    version: str
    instance: str


class Replied(NamedTuple):
    """An answer, and the offset of the clock of the host that gave it."""

    answer: Message
    clock: Offset


def now_ns() -> int:
    """Return the time: CLOCK_MONOTONIC, moved by a constant so that it was CLOCK_REALTIME when the module was loaded."""
    return time.monotonic_ns() + _AHEAD_NS


_AHEAD_NS: Final = time.time_ns() - time.monotonic_ns()


class FleetClient:
    """A connection over which relays are asked. `opened` makes one.

    Args:
        client: the connection.
        deaf: is set when the server does not let this user hear answers.
    """

    def __init__(self, client: "Client", deaf: asyncio.Event | None = None) -> None:
        self._client = client
        self._answers = Answers(client)
        self._deaf = deaf or asyncio.Event()

    def _check_hearing(self) -> None:
        if self._deaf.is_set():
            raise natsserver.NatsError(natsserver.OTHER_INBOX)

    async def gather(self, wanted: Wanted) -> Gathered:
        """Gather a set; it takes no longer than its deadline."""
        gathering = Gathering(wanted, now_ns())
        answers: asyncio.Queue[tuple[Ask, Msg]] = asyncio.Queue()

        def hear(ask: Ask, message: "Msg") -> None:
            answers.put_nowait((ask, message))

        def take(ask: Ask, message: "Msg") -> None:
            if _take(gathering, ask, message):
                self._answers.forget(message.subject)

        asked: list[str] = []
        try:
            while not gathering.done:
                self._check_hearing()
                for ask in gathering.due(now_ns()):
                    with contextlib.suppress(*lasting.failures()):  # it is sent again until the deadline
                        where = messages.subject(ask.verb, ask.host, wanted.requester)
                        asked.append(await self._answers.ask(where, messages.pack(ask.message), partial(hear, ask)))
                left_s = (gathering.next_ns(now_ns()) - now_ns()) / 1e9
                with contextlib.suppress(asyncio.TimeoutError):
                    take(*await asyncio.wait_for(answers.get(), max(0.0, left_s)))
                    while not answers.empty():
                        take(*answers.get_nowait())
        finally:
            for reply in asked:
                self._answers.forget(reply)
        return gathering.result()

    async def let_go(self, key: str, hosts: Iterable[str]) -> None:
        """Tell relays that an id is done. A relay that does not hear it forgets the id after a while."""
        with contextlib.suppress(*lasting.failures()):
            for host in hosts:
                where = messages.subject(messages.DISARM, host)
                await self._answers.ask(where, messages.pack({"id": key}), _ignore)
            await self._client.flush(1)

    async def present(self, longest_s: float) -> list[Present]:
        """Find the relays that are connected.

        Args:
            longest_s: how long to wait for them. Where none has answered for half a second, all have.
        """
        found: dict[str, Present] = {}
        for said in await self._services(f"$SRV.PING.{messages.SERVICE}", longest_s):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                host = messages.checked_host(said["metadata"]["host"])
                instance, version = said["id"], said["version"]
                if isinstance(instance, str) and isinstance(version, str):
                    found[instance] = Present(host, version, instance)
        return sorted(found.values())

    async def standbys(self, longest_s: float) -> list[dict[str, Any]]:
        """Return what the stand-bys that are connected say of themselves (agent.fleet.standby); time as of `present`."""
        found = []
        for said in await self._services(f"$SRV.STATS.{tapemessages.STANDBY}", longest_s):
            with contextlib.suppress(CkptreeError, ValueError, KeyError, TypeError, IndexError, AttributeError):
                told = lag.checked(said["endpoints"][0]["data"])
                messages.checked_host(told["host"])
                messages.checked_host(told["of"])
                found.append(told)
        return sorted(found, key=lambda told: (told["of"], told["host"]))

    async def _services(self, subject: str, longest_s: float) -> list[dict[str, Any]]:
        """Ask services of NATS, and return the answers that are maps."""
        answers: asyncio.Queue[Msg] = asyncio.Queue()
        reply = await self._answers.ask(subject, b"", answers.put_nowait)
        found: list[dict[str, Any]] = []
        until_s = time.monotonic() + longest_s
        while (left_s := min(_QUIET_S if found else longest_s, until_s - time.monotonic())) > 0:
            try:
                message = await asyncio.wait_for(answers.get(), left_s)
            except TimeoutError:
                break
            if _status(message) == _NOBODY:
                break
            with contextlib.suppress(ValueError):
                said = foreignjson.loads(message.data)
                if isinstance(said, dict):
                    found.append(said)
        self._answers.forget(reply)
        self._check_hearing()
        return found

    async def ask(self, host: str, verb: str, message: Message, timeout_s: float, requester: str = "") -> Replied:
        """Ask a relay once.

        Raises:
            NobodyError: there is no such relay.
            CkptreeError: its error, or it does not answer in time.
        """
        sent_ns = now_ns()
        where = messages.subject(verb, host, requester)
        try:
            answer = await asyncio.wait_for(self._answer(host, where, messages.pack(message)), timeout_s)
        except lasting.failures() as error:
            self._check_hearing()
            words = f"{host}: its relay did not answer within {timeout_s:g} s"
            if isinstance(error, TimeoutError):
                raise SilentError(words) from None
            raise CkptreeError(f"{words}: {error}") from None
        if answer is None:
            to = f" to the requester {requester!r}" if requester else ""
            raise NobodyError(
                f"{host}: no relay of that name is connected, or its configuration does not permit {verb}{to}"
            )
        messages.raise_failure(answer)
        try:
            return Replied(answer, hostanswers.clock(answer, sent_ns, now_ns()))
        except (KeyError, TypeError, ValueError) as error:
            raise CkptreeError(
                f"{host}: its relay answered {verb} without {error}: it is of another version, or at fault"
            ) from None

    async def _answer(self, host: str, subject: str, data: bytes) -> Message | None:
        """Ask, and return the answer of a host; None: nobody listens to the subject.

        Raises:
            ProtocolError: it makes no sense.
            errors of `lasting.failures`: the question is not sent.
        """
        answers: asyncio.Queue[Msg] = asyncio.Queue()
        reply = await self._answers.ask(subject, data, answers.put_nowait)
        try:
            while True:
                message = await answers.get()
                if _status(message) == _NOBODY:
                    return None
                if not message.headers and (answer := messages.unpack_answer(message.data, host)) is not None:
                    return answer
        finally:
            self._answers.forget(reply)

    async def ask_all(
        self, verb: str, of: Mapping[str, Message], timeout_s: float
    ) -> dict[str, Replied | CkptreeError]:
        """Ask many relays the same, each with a message of its own; a host without an answer has its error."""
        room = asyncio.Semaphore(_MOST_AT_ONCE)

        async def one(host: str, message: Message) -> Replied | CkptreeError:
            async with room:
                try:
                    return await self.ask(host, verb, message, timeout_s)
                except CkptreeError as error:
                    return error

        answers = await asyncio.gather(*(one(host, message) for host, message in of.items()))
        return dict(zip(of, answers, strict=True))


def _take(gathering: Gathering, ask: Ask, message: "Msg") -> bool:
    """Take an answer; return False if it is none of the host that was asked."""
    if _status(message) == _NOBODY:
        gathering.absent(ask.number, now_ns())
        return True
    if message.headers:
        return False
    try:
        answer = messages.unpack_answer(message.data, ask.host)
        if answer is None:
            return False
        messages.raise_failure(answer)
    except CkptreeError as error:
        gathering.refused(ask.number, "; ".join((str(error), *getattr(error, "leaks", ()))))
    else:
        gathering.answered(ask.number, answer, now_ns())
    return True


def _ignore(_message: "Msg") -> None:
    """Take an answer that tells nothing."""


def _status(message: "Msg") -> str:
    return (message.headers or {}).get("Status", "")


@contextlib.asynccontextmanager
async def opened(url: str, timeout_s: float = natsserver.CONNECT_S) -> AsyncIterator[FleetClient]:
    """Connect to NATS for the time of the block.

    Args:
        url: from `natsserver.server_of`.
        timeout_s: for the first connection.

    Raises:
        NatsError: the server cannot be reached in that time, or lets this user not in.
        HostError: the library is not installed.
    """
    said: list[Exception] = []
    deaf = asyncio.Event()

    async def note(error: Exception) -> None:
        said.append(error)
        if natsserver.misses_inbox(error):
            deaf.set()

    inbox = natsserver.inbox_of()
    try:
        client = await lasting.connected(url, "ckptree fleet", note, attempt_s=timeout_s, inbox=inbox)
    except lasting.failures() as error:
        reason = said[-1] if said else error
        words = str(reason).removeprefix("nats: ") or f"no answer within {timeout_s:g} s"
        raise natsserver.NatsError(f"the NATS server {natsserver.shown(url)} cannot be reached: {words}") from error
    try:
        yield FleetClient(client, deaf)
    finally:
        await natsserver.close(client)
