# SPDX-License-Identifier: Apache-2.0
"""Live events that a relay passes on to those who follow its host, with bounds.

A relay answers and asks nothing, so a follower asks again and again: each request acknowledges the events that have come,
and waits a while for others. An answer that is lost is given once more. What a follower does not fetch in time is left
out, and counted in an event ``dropped``, as the daemon does. One who has not asked for a while is forgotten.
"""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import Final

from agent.daemon import audit
from agent.daemon.journal import Journal
from agent.errors import BusyError, CkptreeError, NoSuchRootError, UsageError
from agent.fleet import messages
from agent.fleet.hostwork import LiveEvents
from agent.fleet.messages import Message
from agent.protocol.replies import Event, said_of

MOST_FOLLOWERS: Final = 16
MOST_BYTES: Final = 4 << 20
"""Bytes of events that wait for one follower."""
_MOST_ANSWER: Final = 512 << 10
_MOST_EVENT: Final = 64 << 10
"""Bytes of an event. The largest has the name of a program, and some numbers."""
_MOST_KINDS: Final = 32
_LONGEST_WAIT_NS: Final = 10_000_000_000
_KEPT_NS: Final = 30_000_000_000
_LOOK_S: Final = 0.5


Follow = Callable[[str | None, Sequence[str] | None], AbstractContextManager[LiveEvents]]
"""Subscribes to the events of kinds below a ROOT; without one, of all tasks; without kinds, to all."""


class HostFollower:
    """One who follows, and the events that wait for that one. A thread adds, the loop takes.

    Args:
        asked: ROOT and kinds.
    """

    def __init__(self, asked: tuple[str | None, tuple[str, ...] | None]) -> None:
        self.asked = asked
        self.until_ns = 0
        self.error: CkptreeError | None = None
        self.over = False  # no further event will come
        self.closed = False
        self.come = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Message, int]] = deque()
        self._first = 1
        self._bytes = 0
        self._dropped = 0

    def add(self, event: Event) -> None:
        """Add an event, or count it where there is no room."""
        said = said_of(event)
        size = len(messages.pack(said))
        with self._lock:
            room = event.kind == "end" or (self._bytes + size <= MOST_BYTES and size <= _MOST_EVENT)
            if room and self._dropped:
                gap = {"event": "dropped", "order": event.order, "count": self._dropped}
                self._waiting.append((gap, 0))
                self._dropped = 0
            if room:
                self._waiting.append((said, size))
                self._bytes += size
            else:
                self._dropped += 1
        self.tell()

    def end(self, error: CkptreeError | None) -> None:
        """Note that no further event will come."""
        self.error, self.over = error, True
        self.tell()

    def tell(self) -> None:
        """Wake the one who waits for events."""
        self.have_done(self.come.set)

    def have_done(self, work: Callable[[], object]) -> None:
        """Have the loop do some work, from another thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(work)

    def acknowledge(self, after: int) -> None:
        """Forget the events up to a number."""
        with self._lock:
            if not self._first <= after + 1 <= self._first + len(self._waiting):
                raise UsageError(f"after: this relay has no event {after} of this follower")
            while self._first <= after:
                self._bytes -= self._waiting.popleft()[1]
                self._first += 1

    def answer(self) -> Message:
        """Return the events that wait, as many as an answer holds.

        Raises:
            CkptreeError: all that came are told, and the daemon went away, or refuses.
        """
        found: list[Message] = []
        size = 0
        with self._lock:
            for said, bytes_ in self._waiting:
                if len(found) == messages.MOST_EVENTS or (found and size + bytes_ > _MOST_ANSWER):
                    break
                found.append(said)
                size += bytes_
            self.come.clear()
            more = len(found) < len(self._waiting)
        if not found and self.error is not None:
            raise self.error
        if self.over or more:
            self.come.set()
        return {"first": self._first, "events": found, "over": self.over and not more}


class RelayedEvents:
    """The followers of a relay.

    Args:
        follow: subscribes at the daemon.
        log: for audit lines.
    """

    def __init__(self, follow: Follow, log: Journal) -> None:
        self._follow = follow
        self._log = log
        self._followers: dict[str, HostFollower] = {}
        self._threads = ThreadPoolExecutor(MOST_FOLLOWERS, "events")

    async def answer(self, request: Message, _received_ns: int) -> Message:
        """Answer a request.

        Raises:
            CkptreeError: it is refused, or the daemon went away.
        """
        key = messages.checked_id(request.get("id"))
        if request.get("done") is True:
            self._drop(key)
            return {}
        after, wait_ns = request.get("after"), request.get("wait_ns")
        if not isinstance(after, int) or not isinstance(wait_ns, int) or not 0 <= wait_ns <= _LONGEST_WAIT_NS:
            raise UsageError(f"expected after, and wait_ns up to {_LONGEST_WAIT_NS}")
        follower = self._found(key, _asked(request), begins=request.get("begins") is True and after == 0)
        follower.until_ns = time.monotonic_ns() + wait_ns + _KEPT_NS
        follower.acknowledge(after)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(follower.come.wait(), wait_ns / 1e9)
        try:
            return follower.answer()
        except CkptreeError:
            self._drop(key)
            raise

    def _found(self, key: str, asked: tuple[str | None, tuple[str, ...] | None], *, begins: bool) -> HostFollower:
        """Return a follower; a new one where it begins."""
        follower = self._followers.get(key)
        if follower is None:
            if not begins:
                raise NoSuchRootError(
                    "this relay was started again since, or was not asked for a while: events are missed"
                )
            if len(self._followers) >= MOST_FOLLOWERS:
                raise BusyError(f"this relay has {MOST_FOLLOWERS} followers already: ask later")
            follower = self._followers[key] = HostFollower(asked)
            self._threads.submit(self._read, key, follower)
        elif follower.asked != asked:
            raise UsageError(f"the id {key} follows something else: take another id")
        return follower

    def _read(self, key: str, follower: HostFollower) -> None:
        """Read events for a follower until it is closed, or they end."""
        error: CkptreeError | None = None
        root = follower.asked[0] or ""
        try:
            with self._follow(*follower.asked) as events:
                follower.have_done(
                    partial(self._log.notice, audit.line("events", id=key, root=root, result="followed"))
                )
                while not follower.closed:
                    event = events.next_within(_LOOK_S)
                    if event is not None:
                        follower.add(event)
                        if event.kind == "end":
                            break
        except CkptreeError as found:
            error = found
        except Exception as found:  # noqa: BLE001 - the follower must not wait for ever for a fault of this program
            follower.have_done(partial(self._log.error, f"events: {type(found).__name__}: {found}"))
            error = CkptreeError("the relay failed: its log says more")
        follower.end(error)

    def _drop(self, key: str) -> None:
        follower = self._followers.pop(key, None)
        if follower is not None:
            follower.closed = True

    def forget(self, now_ns: int) -> None:
        """Forget the followers that have not asked for a while."""
        for key in [key for key, each in self._followers.items() if now_ns >= each.until_ns]:
            self._drop(key)

    def close(self) -> None:
        """Forget all followers: their threads end soon."""
        for key in list(self._followers):
            self._drop(key)
        self._threads.shutdown(wait=False, cancel_futures=True)


def _asked(request: Message) -> tuple[str | None, tuple[str, ...] | None]:
    """Return ROOT and kinds of a request."""
    root, kinds = request.get("root"), request.get("kinds")
    if root is not None and not isinstance(root, str):
        raise UsageError("root: expected a text, or none")
    if kinds is None:
        return root, None
    if not isinstance(kinds, list) or len(kinds) > _MOST_KINDS or not all(isinstance(each, str) for each in kinds):
        raise UsageError(f"kinds: expected a list of at most {_MOST_KINDS}, or none")
    return root, tuple(kinds)
