# SPDX-License-Identifier: Apache-2.0
"""A subscription to live events: the wanted events, and those that wait to be fetched."""

from collections.abc import Iterable
from typing import Any, Final

import msgpack

from agent.access import Viewer
from agent.table.objects import PidNamespace, TaskStruct

KINDS: Final = ("birth", "exec", "death", "reap", "reparent", "setsid", "setpgid", "subreaper", "change")
"""Kinds that a client can ask for; ``loss``, ``resync``, ``dropped``, ``hidden`` and ``end`` come unasked."""

ARGUMENTS: Final = "arguments"
"""Kind of the event that follows an exec and has its arguments: only for a subscriber that asks for these."""

BACKLOG_BYTES: Final = 1 << 20
"""Bytes that a subscriber may leave unread, beside those in the socket's buffer."""

_pack = msgpack.Packer().pack


class Subscriber:
    """The events that a subscriber wants, and those that wait for it.

    Args:
        viewer: the subscriber's credentials: events of tasks that it may not see are not told.
        namespace: its pid namespace; events of tasks without a number there are not told.
        roots: only the trees below these tasks; none: all.
        kinds: of `KINDS`, and `ARGUMENTS`.
        position: number of the first event that can come; older changes are part of the state at the beginning.

    Attributes:
        told: count of events passed on.
        dropped: count of events that found no room.
        sees_all: True where every task may be told.
        ended: True where the roots are gone: no event will come any more.
    """

    def __init__(
        self,
        viewer: Viewer,
        namespace: PidNamespace,
        roots: tuple[TaskStruct, ...],
        kinds: Iterable[str],
        position: int,
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

    def sees(self, task: TaskStruct) -> bool:
        """Return True if a task may be told: the subscriber may see it, and it has a number in the subscriber's
        namespace.
        """
        viewer = self.viewer
        return (viewer.privileged or viewer.sees_ids(task.ids)) and task.pid.number_in(self.namespace) > 0

    def hide(self, task: TaskStruct, order: int, time_ns: int) -> None:
        """Tell, once, that the tree has a task which may not be told: the events are then not complete."""
        if self.roots and not self._hidden and not self.viewer.sees_ids(task.ids):
            self._hidden = True
            self.say({"event": "hidden", "order": order, "time_ns": time_ns})

    def has_room(self, unsent_bytes: int, time_ns: int) -> bool:
        """Return True if an event may be queued; if not, count it as dropped.

        Args:
            unsent_bytes: bytes that `take` has given and the socket has not taken.
            time_ns: of the event.
        """
        if self._missing or self._bytes + unsent_bytes > BACKLOG_BYTES:
            self._missing += 1
            self._missing_ns = time_ns
            self.dropped += 1
            return False
        return True

    def put(self, event: bytes) -> None:
        """Queue a packed event; the caller has checked that there is room."""
        self._events.append(event)
        self._bytes += len(event)

    def say(self, event: dict[str, Any]) -> None:
        """Queue an event that comes unasked, with or without room; a count of dropped events is queued before it."""
        self._close_gap(event["order"])
        self.put(_pack(event))

    def _close_gap(self, order: int) -> None:
        if self._missing:
            dropped = {"event": "dropped", "order": order, "time_ns": self._missing_ns, "count": self._missing}
            self._missing = 0
            self.put(_pack(dropped))

    @property
    def waiting(self) -> bool:
        """True where `take` has events."""
        return bool(self._events or self._missing)

    def take(self, next_order: int) -> bytes:
        """Return the waiting events as one packed map of the protocol.

        Args:
            next_order: number of the next record: all events before it have been told, or counted as dropped.
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
