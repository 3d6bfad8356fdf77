# SPDX-License-Identifier: Apache-2.0
"""Subscribers that are told the same events: each event is packed, kept and joined once for all of them.

The events collect in a batch. At the latest when one of them fetches its events, the batch goes to all: each gets a
reference to the same bytes, if it has room. So a further subscriber costs a few steps for each batch, and none for each
event.
"""

from collections.abc import Callable
from typing import Final

from agent.events.subscriber import Batch, EventMessage, Subscriber
from agent.table.objects import TaskStruct

_BATCH_BYTES: Final = 1 << 16


class Hearers:
    """Subscribers of one tree with the same namespace, rights and kinds (`Subscriber.likeness`).

    Args:
        one: a subscriber that is like all that will be added.

    Attributes:
        namespace, kinds, sees_all: of each of them.
        sees: returns True if a task may be told to them.
        members: the subscribers, each with a function that gives the client's unsent bytes.
        full: True where none of them has room.
    """

    __slots__ = (
        "_bytes",
        "_events",
        "_follow_all",
        "_hidden",
        "_last",
        "_last_batches",
        "_sees_ids",
        "_time_ns",
        "_unheard",
        "full",
        "kinds",
        "members",
        "namespace",
        "sees",
        "sees_all",
    )

    def __init__(self, one: Subscriber) -> None:
        self.namespace = one.namespace
        self.kinds = one.kinds
        self.sees_all = one.sees_all
        self.sees = one.sees
        self._sees_ids = one.viewer.sees_ids
        self._follow_all = not one.roots
        self.members: dict[Subscriber, Callable[[], int]] = {}
        self.full = False
        self._hidden = False  # to all of them it was told that there is a hidden task
        self._last: EventMessage | None = None
        self._last_batches: list[Batch] = []
        self._events: list[bytes] = []
        self._bytes = self._unheard = self._time_ns = 0

    def add(self, subscriber: Subscriber, unsent: Callable[[], int]) -> None:
        """Add a subscriber: it gets the events from here on."""
        self.share()
        self.members[subscriber] = unsent
        subscriber.hearers = self
        self.full = self._hidden = False

    def remove(self, subscriber: Subscriber) -> None:
        """Remove a subscriber: what it has not fetched is given up."""
        del self.members[subscriber]
        subscriber.hearers = None
        self._judge()

    @property
    def collecting(self) -> bool:
        """True where `share` has something to pass on."""
        return bool(self._events or self._unheard)

    def put(self, event: bytes, time_ns: int) -> None:
        """Take a packed event for all of them; `full` is False."""
        self._events.append(event)
        self._bytes += len(event)
        self._time_ns = time_ns
        if self._bytes >= _BATCH_BYTES:
            self.share()

    def miss(self, time_ns: int) -> None:
        """Count an event for which none of them has room: `full` is True."""
        self._unheard += 1
        self._time_ns = time_ns

    def hide(self, task: TaskStruct, order: int, time_ns: int) -> None:
        """Tell each of them, once, that the tree has a task which may not be told: the events are then not complete."""
        if not self._hidden and not self._follow_all and not self._sees_ids(task.ids):
            self._hidden = True
            self.share()
            for subscriber in self.members:
                subscriber.hide(order, time_ns)

    def share(self) -> None:
        """Pass the collected events to each of them, as far as it has room; count the others as dropped."""
        if self._unheard:
            count, self._unheard = self._unheard, 0
            for subscriber in self.members:
                subscriber.miss(count, self._time_ns)
        if not self._events:
            return
        events, self._events, self._bytes = self._events, [], 0
        batch = Batch(len(events), b"".join(events))
        for subscriber, unsent in self.members.items():
            subscriber.receive(batch, events, unsent(), self._time_ns)
        self._judge()

    def message(self, batches: list[Batch], next_order: int) -> EventMessage:
        """Return a message of these batches, which is mostly the one that the last subscriber got.

        Args:
            batches: of a subscriber.
            next_order: number of the next record.
        """
        last, others = self._last, self._last_batches
        if last is not None and last.next == next_order and len(others) == len(batches):
            for mine, theirs in zip(batches, others, strict=True):
                if mine is not theirs:
                    break
            else:
                return last
        self._last_batches = batches
        made = self._last = EventMessage(batches, next_order)
        return made

    def _judge(self) -> None:
        self.full = all(subscriber.is_behind for subscriber in self.members)
