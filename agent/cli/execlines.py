# SPDX-License-Identifier: Apache-2.0
"""The arguments of execs, joined to their events.

The daemon tells the arguments of an exec in an event of their own, ``arguments``, for the kernel's records are two, and
other records may stand between them. So an exec waits here for its arguments, and all events behind it wait with it:
the order stays. It does not wait for long: the arguments of a program that was started with none never come.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, Generic, TypeVar

from agent.events.subscriber import ARGUMENTS
from agent.protocol.client import Event, Subscription
from agent.record import replace

MOST_WAITING: Final = 256
"""Events that wait at most."""

LONGEST_NS: Final = 200_000_000
"""The time after which an exec does not wait for its arguments any more, ns."""

_ENDING: Final = ("exec", "death", "reap")


_Line = TypeVar("_Line")


class Joined(Generic[_Line]):
    """Lines of events, in which an exec has its arguments; or whatever else is made of events.

    Args:
        lines: gives the lines of an event; of None: those to add because nothing more has come for now.
        told: True where the daemon tells arguments; else no exec waits.
    """

    def __init__(self, lines: Callable[[Event | None], list[_Line]], *, told: bool) -> None:
        self._lines = lines
        self._told = told
        self._events: deque[Event] = deque()
        self._open: dict[tuple[int, int], int] = {}
        self._first = 0

    @property
    def is_waiting(self) -> bool:
        """True where an exec waits for its arguments."""
        return bool(self._events)

    def lines(self, event: Event | None) -> list[_Line]:
        """Return the lines to write after an event; None: nothing more has come for now."""
        if event is None:
            return [*self._release(len(self._events)), *self._lines(None)]
        key = (event.task.tid, event.task.start_ns) if event.task is not None else None
        if event.kind == ARGUMENTS:
            if key is not None and key in self._open:
                place = self._open.pop(key) - self._first
                self._events[place] = with_arguments(self._events[place], event.details)
        else:
            if key is not None and event.kind in _ENDING:
                self._open.pop(key, None)
            self._events.append(event)
            if event.kind == "exec" and key is not None and self._told and not event.details.get("assumed"):
                self._open[key] = self._first + len(self._events) - 1
            if self._open:
                self._open = {key: place for key, place in self._open.items() if not self._is_late(place, event)}
        if len(self._events) > MOST_WAITING:
            self._open.clear()
        return self._release(min(self._open.values()) - self._first if self._open else len(self._events))

    def _is_late(self, place: int, event: Event) -> bool:
        """Return True if an exec happened so long before an event that its arguments do not come any more."""
        begin = self._events[place - self._first].time_ns
        return begin is not None and event.time_ns is not None and event.time_ns - begin > LONGEST_NS

    def _release(self, count: int) -> list[_Line]:
        """Return the lines of the first waiting events."""
        found: list[_Line] = []
        for _ in range(count):
            found += self._lines(self._events.popleft())
        self._first += count
        if self._open:
            self._open = {key: place for key, place in self._open.items() if place >= self._first}
        return found


def arriving(events: Subscription, joined: Joined[_Line], idle_s: float) -> Iterator[list[_Line]]:
    """Yield what events release, as they come, up to the event `end`; nothing where none has come for a while.

    Args:
        events: of a daemon.
        joined: takes them.
        idle_s: the longest pause between two items, seconds.
    """
    while True:
        event = events.next_within(LONGEST_NS / 1e9 if joined.is_waiting else idle_s)
        yield joined.lines(event)
        if event is not None and event.kind == "end":
            return


def with_arguments(event: Event, told: Any) -> Event:
    """Return an exec with the arguments that an event ``arguments`` tells: bytes, and if the last ones are missing."""
    text: bytes = told["arguments"]
    words = text.removesuffix(b"\0").split(b"\0")
    return replace(event, details={**event.details, "arguments": words, "arguments_cut": told["size"] > len(text)})
