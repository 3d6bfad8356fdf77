# SPDX-License-Identifier: Apache-2.0
"""A bounded queue between a reader that must not wait and a receiver that may be slow.

A thread sends what is in the queue. What has no room is left out and counted, and so is what the receiver did not take;
behind each gap an item tells the receiver of it.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from agent.record import NamedTuple

T = TypeVar("T")


class Bounds(NamedTuple):
    """Bounds of an outbox.

    Attributes:
        queued: items that wait at most.
        batch: items that are sent at once at most.
        delay_s: the time for which fewer items wait for others.
    """

    queued: int = 2048
    batch: int = 512
    delay_s: float = 1.0


class Outbox(Generic[T]):
    """Items on their way to a receiver.

    Args:
        send: sends items, and returns True if they were taken; it may take its time, and is called in a thread.
        gap: makes the item that tells of so many items that the receiver did not get.
        bounds: of the queue.

    Attributes:
        sent: count of items that were taken, those of gaps among them.
        lost: count of items that were not.
    """

    def __init__(self, send: Callable[[list[T]], bool], gap: Callable[[int], T], bounds: Bounds) -> None:
        self._send = send
        self._gap = gap
        self._bounds = bounds
        self._queue: deque[T] = deque()
        self._untold = 0
        self._changed = threading.Condition()
        self._closing = False
        self._sending = 0
        self.sent = self.lost = 0
        self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
        self._thread.start()

    def put(self, item: T) -> None:
        """Queue an item, or count it as lost. This never waits for the receiver."""
        with self._changed:
            room = self._bounds.queued - len(self._queue)
            if room < 1 + bool(self._untold):
                self._miss(1)
                return
            self._tell()
            self._queue.append(item)
            if len(self._queue) == 1 or len(self._queue) >= self._bounds.batch:
                self._changed.notify()

    def close(self, within_s: float) -> None:
        """Send what waits. What the receiver has not taken in time is lost; the thread ends with this process."""
        with self._changed:
            if self._untold and len(self._queue) < self._bounds.queued:
                self._tell()
            self._closing = True
            self._changed.notify()
        self._thread.join(within_s)
        with self._changed:
            if self._thread.is_alive():
                self.lost += len(self._queue) + self._sending
                self._queue.clear()

    def _tell(self) -> None:
        if self._untold:
            self._queue.append(self._gap(self._untold))
            self._untold = 0

    def _miss(self, count: int) -> None:
        self.lost += count
        self._untold += count

    def _work(self) -> None:
        while batch := self._next():
            try:
                taken = self._send(batch)
            except Exception:  # noqa: BLE001 - whatever a receiver's library raises, the items were not taken
                taken = False
            with self._changed:
                self._sending = 0
                if taken:
                    self.sent += len(batch)
                else:
                    self._miss(len(batch))

    def _next(self) -> list[T]:
        """Wait for items; return none at the end."""
        with self._changed:
            while not self._queue and not self._closing:
                self._changed.wait()
            deadline = time.monotonic() + self._bounds.delay_s
            while len(self._queue) < self._bounds.batch and not self._closing:
                if (left := deadline - time.monotonic()) <= 0:
                    break
                self._changed.wait(left)
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), self._bounds.batch))]
            self._sending = len(batch)
            return batch
