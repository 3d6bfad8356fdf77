# SPDX-License-Identifier: Apache-2.0
"""One subscriber's side of the live events: what is wanted, and what waits to be fetched."""

from collections.abc import Iterable
from typing import Any, Final

import msgpack

from agent.access import Viewer
from agent.objects import Namespace, Task

KINDS: Final = ("birth", "exec", "death", "reap", "reparent", "setsid", "setpgid", "subreaper", "change")
"""What can be asked for; ``loss``, ``resync``, ``dropped``, ``hidden`` and ``end`` come unasked."""

BACKLOG_BYTES: Final = 1 << 20
"""What a subscriber may leave unread, beside what the socket holds."""

_pack = msgpack.Packer().pack


class Subscription:
    """What one subscriber wants, and what waits for it.

    Args:
        viewer: who it is: events of tasks that are not theirs are not told.
        namespace: as which pid namespace counts; tasks that have no number there are not told of.
        roots: only the trees below these tasks; none: all.
        kinds: of `KINDS`.
        position: number of the first event that can come: whatever is older was so when the subscription began.

    Attributes:
        told: events handed on.
        dropped: events that found no room, in all.
        sees_all: every task may be told of.
        ended: the roots are gone: nothing will come any more.
    """

    def __init__(
        self, viewer: Viewer, namespace: Namespace, roots: tuple[Task, ...], kinds: Iterable[str], position: int
    ) -> None:
        self.viewer = viewer
        self.namespace = namespace
        self.roots = roots
        self.kinds = frozenset(kinds)
        self.position = position
        self.told = 0
        self.dropped = 0
        self.ended = False
        self.sees_all = viewer.privileged and not namespace.level
        self._hidden = False
        self._events: list[bytes] = []
        self._bytes = 0
        self._missing = self._missing_ns = 0

    def sees(self, task: Task) -> bool:
        """Return True if a task may be told of: whose it is, and a number to call it by."""
        viewer = self.viewer
        return (viewer.privileged or viewer.sees_ids(task.ids)) and task.pid.number_in(self.namespace) > 0

    def hide(self, task: Task, order: int, time_ns: int) -> None:
        """Say, once, that something happens in the tree that may not be told of: its events are not all there is."""
        if self.roots and not self._hidden and not self.viewer.sees_ids(task.ids):
            self._hidden = True
            self.say({"event": "hidden", "order": order, "time_ns": time_ns})

    def has_room(self, unsent_bytes: int, time_ns: int) -> bool:
        """Whether an event may be queued; if not it is counted.

        Args:
            unsent_bytes: what has been taken already and the socket has not.
            time_ns: of the event.
        """
        if self._missing or self._bytes + unsent_bytes > BACKLOG_BYTES:
            self._missing += 1
            self._missing_ns = time_ns
            self.dropped += 1
            return False
        return True

    def put(self, event: bytes) -> None:
        """Queue an event, packed, for which there is room."""
        self._events.append(event)
        self._bytes += len(event)

    def say(self, event: dict[str, Any]) -> None:
        """Queue an event that comes unasked, whether or not there is room; what was left out before it is told before."""
        self._close_gap(event["order"])
        self.put(_pack(event))

    def _close_gap(self, order: int) -> None:
        if self._missing:
            dropped = {"event": "dropped", "order": order, "time_ns": self._missing_ns, "count": self._missing}
            self._missing = 0
            self.put(_pack(dropped))

    @property
    def waiting(self) -> bool:
        """Whether `take` has something."""
        return bool(self._events or self._missing)

    def take(self, next_order: int) -> bytes:
        """What waits, as one packed map of the protocol.

        Args:
            next_order: number of the next record: everything before it has been told, or counted as dropped.
        """
        self._close_gap(next_order)
        events = self._events
        self.told += len(events)
        packer = msgpack.Packer(autoreset=False)
        packer.pack_map_header(2)
        packer.pack("events")
        packer.pack_array_header(len(events))
        head: bytes = packer.bytes()
        self._events, self._bytes = [], 0
        return b"".join((head, *events, _pack("next"), _pack(next_order)))
