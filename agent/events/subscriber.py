# SPDX-License-Identifier: Apache-2.0
"""A subscription to live events: the wanted events, and those that wait to be fetched."""

from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING, Any, Final

import msgpack

from agent.access import Viewer
from agent.table.objects import PidNamespace, TaskStruct

if TYPE_CHECKING:
    from agent.events.hearers import Hearers

KINDS: Final = ("birth", "exec", "death", "reap", "reparent", "setsid", "setpgid", "subreaper", "change")
"""Kinds that a client can ask for; ``loss``, ``resync``, ``dropped``, ``hidden`` and ``end`` come unasked."""

ARGUMENTS: Final = "arguments"
"""Kind of the event that follows an exec and has its arguments: only for a subscriber that asks for these."""

BACKLOG_BYTES: Final = 1 << 20
"""Bytes that a subscriber may leave unread, beside those in the socket's buffer."""

_packer: Final = msgpack.Packer()
_pack: Final = _packer.pack
_HEAD: Final[bytes] = b"\x82" + _pack("events")  # a map of two entries
_NEXT: Final[bytes] = _pack("next")


class Batch:
    """Packed events that several subscribers may have in common.

    Args:
        count: of the events.
        data: the events, one behind the other.
    """

    __slots__ = ("count", "data")

    def __init__(self, count: int, data: bytes) -> None:
        self.count, self.data = count, data


class EventMessage:
    """The packed map of a message of events, in pieces: many subscribers may be sent the same.

    Args:
        batches: the events.
        next_order: number of the next record: all events before it have been told, or counted as dropped.

    Attributes:
        pieces: the map is their sum.
        framed: the pieces behind those that a protocol needs before them; whoever sends it first fills the list.
        size: of the map, bytes.
        count: of the events.
        next: number of the next record.
    """

    __slots__ = ("count", "framed", "next", "pieces", "size")

    def __init__(self, batches: list[Batch], next_order: int) -> None:
        self.count = sum([batch.count for batch in batches])
        self.next = next_order
        head: bytes = _HEAD + _packer.pack_array_header(self.count)
        self.pieces = [head, *[batch.data for batch in batches], _NEXT + _pack(next_order)]
        self.framed: list[bytes] = []
        self.size = sum([len(piece) for piece in self.pieces])


class Subscriber:
    """The events that a subscriber wants, and those that wait for it.

    Args:
        viewer: the subscriber's credentials: events of tasks that it may not see are not told.
        namespace: its pid namespace; events of tasks without a number there are not told.
        roots: only the trees below these tasks; none: all.
        kinds: of `KINDS`, and `ARGUMENTS`.
        position: number of the first event that can come; older changes are part of the state at the beginning.
        backlog_bytes: how many it may leave unread.

    Attributes:
        told: count of events passed on.
        dropped: count of events that found no room.
        sees_all: True where every task may be told.
        ended: True where the roots are gone: no event will come any more.
        likeness: equal for subscribers of the same roots that are told the same events.
        hearers: those that it is told events with; None before it is added, and after it is removed.
    """

    def __init__(
        self,
        viewer: Viewer,
        namespace: PidNamespace,
        roots: tuple[TaskStruct, ...],
        kinds: Iterable[str],
        position: int,
        backlog_bytes: int = BACKLOG_BYTES,
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
        rights = () if viewer.privileged else (viewer.uid, viewer.gid, frozenset(viewer.groups))
        self.likeness: Hashable = (namespace, self.kinds, rights)
        self.hearers: Hearers | None = None
        self._backlog_bytes = backlog_bytes
        self._hidden = False
        self._batches: list[Batch] = []
        self._bytes = 0
        self._missing = self._missing_ns = 0

    def sees(self, task: TaskStruct) -> bool:
        """Return True if a task may be told: the subscriber may see it, and it has a number in the subscriber's
        namespace.
        """
        viewer = self.viewer
        return (viewer.privileged or viewer.sees_ids(task.ids)) and task.pid.number_in(self.namespace) > 0

    def hide(self, order: int, time_ns: int) -> None:
        """Tell, once, that the tree has a task which may not be told: the events are then not complete."""
        if not self._hidden:
            self._hidden = True
            self.say({"event": "hidden", "order": order, "time_ns": time_ns})

    # ---- queued events -----------------------------------------------------------------------------------------------

    @property
    def is_behind(self) -> bool:
        """True where events were dropped, and `take` has not told it yet: no event has room until then."""
        return self._missing > 0

    def room(self, unsent_bytes: int) -> int:
        """Return the bytes that may be queued before the next event; less than 0: it has no room.

        Args:
            unsent_bytes: bytes that `take` has given and the socket has not taken.
        """
        return -1 if self._missing else self._backlog_bytes - self._bytes - unsent_bytes

    def receive(self, batch: Batch, events: list[bytes], unsent_bytes: int, time_ns: int) -> None:
        """Queue a batch, as far as there is room; count the rest as dropped.

        Args:
            batch: the events, joined.
            events: the same, one by one.
            unsent_bytes: as for `room`.
            time_ns: of the last one.
        """
        room = self.room(unsent_bytes)
        if len(batch.data) <= room:
            self._queue(batch)
            return
        fitting = 0
        while fitting < batch.count and room >= 0:
            room -= len(events[fitting])
            fitting += 1
        if fitting:
            self._queue(Batch(fitting, b"".join(events[:fitting])))
        if fitting < batch.count:
            self.miss(batch.count - fitting, time_ns)

    def miss(self, count: int, time_ns: int) -> None:
        """Count events as dropped, the last of them of this time."""
        self._missing += count
        self._missing_ns = time_ns
        self.dropped += count

    def put(self, event: bytes) -> None:
        """Queue a packed event for this subscriber alone, with or without room."""
        self._share()
        self._queue(Batch(1, event))

    def say(self, event: dict[str, Any]) -> None:
        """Queue an event that comes unasked, with or without room; a count of dropped events is queued before it."""
        self._share()
        self._close_gap(event["order"])
        self._queue(Batch(1, _pack(event)))

    def _share(self) -> None:
        """Get the events before this moment."""
        if self.hearers is not None:
            self.hearers.share()

    def _queue(self, batch: Batch) -> None:
        self._batches.append(batch)
        self._bytes += len(batch.data)

    def _close_gap(self, order: int) -> None:
        if self._missing:
            dropped = {"event": "dropped", "order": order, "time_ns": self._missing_ns, "count": self._missing}
            self._missing = 0
            self._queue(Batch(1, _pack(dropped)))
            if self.hearers is not None:
                self.hearers.full = False

    @property
    def waiting(self) -> bool:
        """True where `take` has events."""
        return bool(self._batches or self._missing or (self.hearers is not None and self.hearers.collecting))

    @property
    def queued(self) -> bool:
        """True where `take` has events that it would have without those that still collect for others, too."""
        return bool(self._batches or self._missing)

    def take(self, next_order: int) -> list[bytes]:
        """Return the waiting events as `message` does, as the pieces of the map alone."""
        return self.message(next_order).pieces

    def message(self, next_order: int) -> EventMessage:
        """Return the waiting events as one message of the protocol.

        Args:
            next_order: number of the next record: all events before it have been told, or counted as dropped.
        """
        self._share()
        self._close_gap(next_order)
        batches, self._batches, self._bytes = self._batches, [], 0
        made = EventMessage(batches, next_order) if self.hearers is None else self.hearers.message(batches, next_order)
        self.told += made.count
        return made
