# SPDX-License-Identifier: Apache-2.0
"""The relay of a host: it carries requests from NATS to the host's daemon, and answers back.

It is a process of its own, so that the daemon needs no network. The module is the shell in which asyncio and the library
of NATS run: the work is agent.fleet.hostwork's, in threads, and the memory of it agent.fleet.cuts's. Whatever a
message holds, it is answered or dropped, and the relay lives on. A connection that breaks is made again, for ever.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final

from agent.daemon import audit
from agent.daemon.journal import Journal
from agent.errors import BusyError, CkptreeError, NoSuchRootError, NotPermittedError, UsageError
from agent.fleet import lasting, messages, relayeddumps
from agent.fleet.cuts import Cuts, Entry
from agent.fleet.hostwork import Clock, Cut, Wish, Work
from agent.fleet.manifest import hash_of
from agent.fleet.messages import Message
from agent.fleet.relayedevents import RelayedEvents
from agent.fleet.relayedrestarts import RelayedRestarts
from agent.fleet.relaysettings import RelaySettings, permitted_dump
from agent.fleet.staying import StayingConnection
from agent.fleet.tapepublisher import Asking, TapePublisher

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.micro.request import Request

_THREADS: Final = 4
_MOST_AT_ONCE: Final = 128
"""Requests of a verb that are being answered. More are refused, so that a flood takes bounded memory. Each verb has its
own bound: whoever may ask for one thing alone keeps nobody from another."""
_MOST_DUMPS: Final = 8
"""Dumps that are waited for, each by a thread."""
_EARLY_S: Final = 0.01
"""A cut takes a thread so long before its instant: it connects to the daemon first."""
_LONGEST_NS: Final = 3600_000_000_000
_LONGEST_LEAD_NS: Final = 60_000_000_000
"""A cut waits for its instant so long at most."""
_MOST_ROOT: Final = 8192
"""Characters of a ROOT: a path of a cgroup has 4096 bytes at most."""
_TASKS_S: Final = 1.0

_MODES: Final = ("auto", "container", "subtree")
Answerer = Callable[[Message, int], Awaitable[Message]]


class HostRelay:
    """A relay.

    Args:
        settings: its configuration.
        work: does what is asked for.
        log: for messages to the administrator.
        clock: returns CLOCK_REALTIME in nanoseconds.
        threads: for the work.
        recording: asks for the daemon's recording, which is published where `follow` is allowed.
    """

    def __init__(
        self,
        settings: RelaySettings,
        work: Work,
        log: Journal,
        clock: Clock = time.time_ns,
        threads: ThreadPoolExecutor | None = None,
        recording: Asking | None = None,
    ) -> None:
        self._settings = settings
        self._work = work
        self._log = log
        self._clock = clock
        self._threads = threads or ThreadPoolExecutor(_THREADS, "work")
        self._cuts: Cuts[asyncio.Task[Message]] = Cuts()
        self._dumping = ThreadPoolExecutor(_MOST_DUMPS, "dump")
        self._dumps = 0
        self._busy: dict[str, set[asyncio.Task[None]]] = {}
        self._refusals = audit.Refusals()
        self._host = work.host()
        self._tasks: tuple[float, int | None] | None = None
        self._ended = asyncio.Event()
        self._publisher = (
            TapePublisher(settings.host, recording, settings.stream, log)
            if recording is not None and "follow" in settings.allow
            else None
        )
        self._restarts = (
            RelayedRestarts(settings.restart_socket, log) if "restart" in settings.allow and settings.rules else None
        )
        self._events = RelayedEvents(work.follow, log)

    @property
    def _answerers(self) -> dict[str, Answerer]:
        return {
            messages.HELLO: self._hello,
            messages.ARM: self._arm,
            messages.CUT: self._cut,
            messages.IMAGE: self._image,
            messages.DISARM: self._disarm,
            messages.TAKEN: self._taken,
            messages.EVENTS: self._follow,
        }

    def end(self) -> None:
        """Have `run` return."""
        self._ended.set()

    async def run(self) -> None:
        """Serve until `end` is called.

        Raises:
            HostError: the library is not installed.
            CkptreeError: credentials cannot be read.
        """
        allowed = ", ".join(sorted(self._settings.allow)) or "nothing but to be seen"
        name = f"{messages.SERVICE} {self._settings.host}"
        said = f"relay of {self._settings.host}, allowed: {allowed}"
        connection = StayingConnection(self._settings, "relay", name, said, self._log, self._ended)
        try:
            await connection.run(self._listen, self._tend, self._leave)
        finally:
            self._events.close()

    async def _tend(self, client: "Client") -> None:
        now_ns = time.monotonic_ns()
        self._cuts.forget(now_ns)
        self._events.forget(now_ns)
        if self._restarts is not None:
            self._restarts.forget(now_ns)
        if self._publisher is not None:
            self._publisher.tend(client)

    async def _leave(self, client: "Client") -> None:
        if self._publisher is not None:
            await self._publisher.leave(client)

    async def _listen(self, client: "Client") -> None:
        import nats.micro
        from nats.micro.service import EndpointConfig, ServiceConfig

        service = await nats.micro.add_service(
            client,
            ServiceConfig(
                name=messages.SERVICE,
                version=self._host.version,
                description="ckptree's relay of a host",
                metadata={"host": self._settings.host},
            ),
        )
        for verb, answerer in self._answerers.items():
            subject = messages.subject(verb, self._settings.host)
            handler = self._handler(verb, answerer)
            await service.add_endpoint(EndpointConfig(name=verb, subject=subject, handler=handler))
        for requester in sorted({rule.requester for rule in self._settings.dumps}):
            subject = messages.subject(messages.DUMP, self._settings.host, requester)
            handler = self._handler(messages.DUMP, partial(self._cut, requester=requester))
            await service.add_endpoint(EndpointConfig(name=messages.DUMP, subject=subject, handler=handler))
        if self._restarts is None:
            return
        for requester in sorted({rule.requester for rule in self._settings.rules}):
            subject = messages.subject(messages.RESTART, self._settings.host, requester)
            handler = self._handler(messages.RESTART, partial(self._restarts.answer, requester))
            await service.add_endpoint(EndpointConfig(name=messages.RESTART, subject=subject, handler=handler))

    def _handler(self, verb: str, answerer: Answerer) -> "Callable[[Request], Awaitable[None]]":
        answering = self._busy.setdefault(verb, set())

        async def handle(request: "Request") -> None:
            received_ns = self._clock()
            question = request._msg  # noqa: SLF001 - the library has no other way to the subject of the answer
            if not messages.is_asked(question.reply, question.headers):
                unasked = f"no requester has sent it: it is to be answered to {question.reply[:60] or 'nobody'!r}"
                self._note_refusal(verb, messages.ProtocolError(unasked))
                return
            if len(answering) >= _MOST_AT_ONCE:
                busy = BusyError(f"this relay answers {_MOST_AT_ONCE} requests for {verb} already: ask later")
                await self._respond(request, messages.failure(busy))
                return
            task = asyncio.create_task(self._answer(verb, answerer, request, received_ns))
            answering.add(task)
            task.add_done_callback(answering.discard)

        return handle

    async def _answer(self, verb: str, answerer: Answerer, request: "Request", received_ns: int) -> None:
        try:
            answer = {
                "ok": True,
                **await answerer(messages.unpack(request.data), received_ns),
                "received_ns": received_ns,
            }
        except CkptreeError as error:
            self._note_refusal(verb, error)
            answer = messages.failure(error)
        except Exception as error:  # noqa: BLE001 - a fault in the answer to one request must not end the relay
            self._log.error(f"{verb}: {type(error).__name__}: {error}")
            answer = messages.failure(CkptreeError("the relay failed: its log says more"))
        answer["answered_ns"] = self._clock()
        await self._respond(request, answer)

    def _note_refusal(self, verb: str, error: CkptreeError) -> None:
        """Write that a request was refused. Many could fill a log: beyond some in a minute they are counted."""
        unwritten = self._refusals.admit(0, time.monotonic())
        if unwritten is not None:
            more = {"unwritten": unwritten} if unwritten else {}
            self._log.warning(audit.line(verb, result="refused", reason=str(error), **more))

    async def _respond(self, request: "Request", answer: Message) -> None:
        try:
            await request.respond(messages.pack({**answer, "host": self._settings.host}))
        except lasting.failures() as error:
            self._log.warning(f"an answer was not sent: {str(error) or type(error).__name__}")

    def _permit(self, right: str) -> None:
        if right not in self._settings.allow:
            raise NotPermittedError(
                f"the relay of {self._settings.host} does not allow {right}: `allow` in its configuration is what it allows"
            )

    async def _hello(self, _request: Message, _received_ns: int) -> Message:
        now_s = time.monotonic()
        if self._tasks is None or now_s - self._tasks[0] >= _TASKS_S:  # the daemon is asked once a second at most
            found = await asyncio.get_running_loop().run_in_executor(self._threads, self._work.tasks)
            self._tasks = now_s, found
        return {
            "version": self._host.version,
            "kernel": self._host.kernel,
            "boot_id": self._host.boot_id,
            "tasks": self._tasks[1],
            "allow": sorted(self._settings.allow),
        }

    async def _arm(self, request: Message, _received_ns: int) -> Message:
        self._permit("snapshot")
        key, asked, left_ns = _asked(request)
        if asked.requester:
            permitted_dump(self._settings.dumps, asked.requester, asked.root, end=asked.end)
        check = partial(self._work.check, asked.root, left_ns / 1e9, past=asked.past)
        await asyncio.get_running_loop().run_in_executor(self._threads, check)
        is_new = self._cuts.found(key) is None
        self._cuts.entered(key, asked, left_ns, time.monotonic_ns())
        if is_new:
            self._log.info(audit.line("arm", id=key, root=asked.root, mode=asked.mode, result="ok"))
        return {"ready": True}

    async def _cut(self, request: Message, received_ns: int, requester: str = "") -> Message:
        """Answer a request for a snapshot; with the requester in its subject, for contents, too."""
        self._permit("snapshot")
        key, asked, left_ns = _asked(request)
        if asked.requester != requester:
            raise NotPermittedError(f"requester: the subject of the request names {requester or 'none'}")
        at_ns = request.get("at_ns")
        if not isinstance(at_ns, int) or at_ns - received_ns > left_ns or (asked.past and at_ns < 0):
            raise UsageError("at_ns: expected a time before the deadline, by this host's clock")
        if at_ns - received_ns > _LONGEST_LEAD_NS:
            raise UsageError(
                f"at_ns: expected a time within {_LONGEST_LEAD_NS // 10**9} s from now, by this host's clock"
            )
        entry = self._cuts.entered(key, asked, left_ns, time.monotonic_ns())
        if entry.work is None:
            entry.work = asyncio.create_task(self._take(key, asked, at_ns, left_ns, entry))
        answer = await asyncio.shield(entry.work)
        return {**answer, "data": entry.data if len(entry.data) <= messages.MOST_INLINE else b""}

    async def _take(
        self, key: str, asked: Wish, at_ns: int, left_ns: int, entry: Entry[asyncio.Task[Message]]
    ) -> Message:
        """Take the snapshot of an id; return the answer to its cut, without the image."""
        root, mode = asked.root, asked.mode
        try:
            if asked.requester:  # the service takes a while to start, and waits for the instant itself
                if self._dumps >= _MOST_DUMPS:
                    raise BusyError(f"this relay waits for {_MOST_DUMPS} dumps already: ask later")
                cut = partial(relayeddumps.cut, self._settings.restart_socket, key, asked, at_ns, left_ns / 1e9)
            else:
                await asyncio.sleep(max(0.0, (at_ns - self._clock()) / 1e9 - _EARLY_S))
                cut = partial(self._work.cut, asked, at_ns, left_ns / 1e9)
            threads = (
                self._dumping if asked.requester else self._threads
            )  # a dump takes long, and holds up nothing else
            self._dumps += bool(asked.requester)
            try:
                taken: Cut = await asyncio.get_running_loop().run_in_executor(threads, cut)
            finally:
                self._dumps -= bool(asked.requester)
            self._cuts.keep(entry, taken.data)
        except CkptreeError:
            entry.work = None  # the same request may be tried again
            raise
        image = hash_of(taken.data)
        self._log.info(audit.line("cut", id=key, root=root, mode=mode, tasks=taken.tasks, image=image, result="ok"))
        return {
            "image": image,
            "bytes": len(taken.data),
            "before_ns": taken.before_ns,
            "after_ns": taken.after_ns,
            "tasks": taken.tasks,
            "complete": taken.complete,
            "reasons": list(taken.reasons),
            "boot_id": self._host.boot_id,
            "kernel": self._host.kernel,
            "version": self._host.version,
            **({"contents": taken.contents} if taken.contents is not None else {}),
        }

    async def _image(self, request: Message, _received_ns: int) -> Message:
        self._permit("snapshot")
        key, offset = messages.checked_id(request.get("id")), request.get("offset")
        entry = self._cuts.found(key)
        if entry is None or not entry.data:
            raise NoSuchRootError(f"this relay has no image of {key}: it was started again since, or the time is over")
        if not isinstance(offset, int) or not 0 <= offset < len(entry.data):
            raise UsageError(f"offset: expected a number below {len(entry.data)}")
        return {"offset": offset, "data": entry.data[offset : offset + messages.PIECE]}

    async def _disarm(self, request: Message, _received_ns: int) -> Message:
        self._permit("snapshot")
        self._cuts.drop(messages.checked_id(request.get("id")))
        return {}

    async def _follow(self, request: Message, received_ns: int) -> Message:
        self._permit("events")
        return await self._events.answer(request, received_ns)

    async def _taken(self, request: Message, _received_ns: int) -> Message:
        if not self._settings.allow & {"snapshot", "restart"}:
            self._permit("restart")
        numbers = request.get("numbers")
        if (
            not isinstance(numbers, list)
            or len(numbers) > messages.MOST_NUMBERS
            or not all(type(each) is int for each in numbers)
        ):
            raise UsageError(f"numbers: expected a list of at most {messages.MOST_NUMBERS}")
        found = await asyncio.get_running_loop().run_in_executor(self._threads, self._work.taken, numbers)
        return {"numbers": list(found), "holders": list(found.values())}


def _asked(request: Message) -> tuple[str, Wish, int]:
    """Return the id of a request for a snapshot, its object, and the time that is left, nanoseconds."""
    root, left_ns = request.get("root"), request.get("left_ns")
    mode, with_argv, past = request.get("mode", "auto"), request.get("with_argv", False), request.get("past", False)
    if not isinstance(root, str) or len(root) > _MOST_ROOT:
        raise UsageError(f"root: expected a text of at most {_MOST_ROOT} characters")
    if mode not in _MODES or not isinstance(with_argv, bool) or not isinstance(past, bool):
        raise UsageError("expected a mode, with_argv and past")
    if not isinstance(left_ns, int) or not 0 < left_ns <= _LONGEST_NS:
        raise UsageError(f"left_ns: expected a number up to {_LONGEST_NS}")
    requester, end = request.get("requester", ""), request.get("end", False)
    if not isinstance(requester, str) or not isinstance(end, bool) or (requester and (past or with_argv)):
        raise UsageError("expected a requester and end; contents have no past, and no arguments of their own")
    wish = Wish(root, mode, with_argv, past, requester, end)
    return messages.checked_id(request.get("id")), wish, left_ns
