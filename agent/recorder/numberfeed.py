# SPDX-License-Identifier: Apache-2.0
"""The events of one number over a replay: those that the feed of all events tells of the tasks that have it.

What a thread of its process gives the process is the number's, too: a session, a group, a subreaper's flag. So is a
loss, for what was lost may have been about any number.

Theory
------
The feed (agent.events.feed) stands between the stream and the table, as it does for a watch. Below it, of the tasks that a
record has touched, those are left that have the number, or are of its process. So nothing is derived here: what another
task's exit, exec or wait does to the number is what the table says, and a record that touches no such task costs little.
"""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgpack

from agent.access import Viewer
from agent.events import eventpack
from agent.events.announced import OF_GROUP
from agent.events.eventfacts import ASSUMED
from agent.events.feed import Feed
from agent.events.subscriber import KINDS, Subscriber
from agent.recorder import bridge
from agent.recorder.replay import Replayer
from agent.recorder.settler import Settler
from agent.recorder.tape import TapeEntry
from agent.table import wire
from agent.table.objects import TaskStruct
from agent.table.pidspace import Data
from agent.table.wire import Kind

Said: TypeAlias = dict[str, Any]
"""An event as the protocol has it."""

_EVERYBODY: Final = Viewer(0, 0, 0, privileged=True)
_ANY_BYTES: Final = 1 << 60
_COMM_BYTES: Final = 16
_STRINGS: Final = wire.reader(wire.RECORD_STRINGS, "argument", "start_ns", "tid", "kept", "size").unpack_from


class NumberFeed:
    """The events of a number from the point on at which a replay stands.

    Args:
        replay: the replay. It is this feed's alone.
        number: in the initial pid namespace.

    Attributes:
        replay: the replay.
    """

    def __init__(self, replay: Replayer, number: int) -> None:
        self.replay = replay
        self._number = number
        self._events: list[Said] = []
        stream, table = replay.stream, replay.table
        self._numbers, self._touched = table.pids.numbers, table.changes.tasks
        for kind, handler in stream.handlers().items():
            stream.handle(kind, self._strings(handler) if kind is Kind.STRINGS else self._narrowed(handler))
        self._feed = Feed(stream, table, lambda: replay.time_ns, lambda: replay.ahead_ns)
        self._settler = Settler(self._feed, replay)
        # It is fetched from after each entry of the tape, so that it needs no bound.
        self._listener = Subscriber(_EVERYBODY, table.pids.initial, (), KINDS, replay.order, _ANY_BYTES)
        self._feed.add(self._listener, int)

    @property
    def task(self) -> TaskStruct | None:
        """The task that has the number now."""
        return self.replay.table.task(self._number)

    @property
    def side(self) -> bridge.Side:
        """The tasks that have the number, as last told."""
        told = {task: facts for task, facts in self._feed.told.items() if task.pid.numbers[0] == self._number}
        return bridge.Side(told, self._listener.namespace)

    def name(self, uid: int, gid: int, comm: bytes) -> None:
        """Call the task as its last event did.

        No feed stood by where the keyframe was made. So its table lacks names that only events take over.
        """
        if self.task is not None:
            self.replay.table.call(self.task, (uid, gid), comm.ljust(_COMM_BYTES, b"\0"))
            for task, facts in self.side.told.items():
                facts.take(task)

    def tell_present(self) -> None:
        """Tell the task that has the number now, as an assumed birth."""
        listener, replay = self._listener, self.replay
        for task in self.side.told:
            marks, when = {**ASSUMED, "present": True}, (replay.order, replay.time_ns)
            listener.put(
                eventpack.event("birth", *when, task, task.leader, listener.namespace, eventpack.presence, marks)
            )

    def cross(self, before: bridge.Side | None, *, same_boot: bool) -> None:
        """Tell the differences from the tasks that had the number before a gap, behind which the replay stands."""
        replay = self.replay
        side = bridge.Side({}, self._listener.namespace) if before is None else before
        there = {bridge.key(task): task for task in self.side.told} if same_boot else {}
        bridge.cross(side, self.side, there, self._listener, replay.order, replay.time_ns)

    def note(self, entry: TapeEntry) -> None:
        """Tell the losses that are due behind an entry."""
        self._settler.note(entry)

    def settle(self) -> None:
        """Tell the losses that are due where the tape ends."""
        self._settler.settle()

    def taken(self) -> list[Said]:
        """Return the events that have come since the last call, and losses, with the boot's clock beside their times."""
        self._collect()
        events, self._events = self._events, []
        return events

    def _collect(self) -> None:
        if not self._listener.waiting:
            return
        for each in msgpack.unpackb(b"".join(self._listener.take(self.replay.order)))["events"]:
            is_loss = each["event"] == "loss" and each["count"]  # 0: a sweep took too long, and no record is missing
            is_of_group = each.get("pid") == self._number and each["event"] in OF_GROUP
            if is_loss or is_of_group or each.get("tid") == self._number:
                each["boottime_ns"] = each["time_ns"] - self.replay.ahead_ns
                self._events.append(each)

    # ---- records ---------------------------------------------------------------------------------------------------

    def _narrowed(self, apply: Callable[[Data, int], None]) -> Callable[[Data, int], None]:
        """Return a handler that leaves the tasks of the number's process among those that a record has touched."""
        touched, numbers, number = self._touched, self._numbers, self._number

        def applied(data: Data, at: int) -> None:
            apply(data, at)
            if not touched:
                return
            pid = numbers.get(number)
            task = pid.task if pid is not None else None
            leader = task.leader if task is not None else None
            left = [each for each in touched if each.leader is leader or each.pid.numbers[0] == number]
            if len(left) < len(touched):
                touched.clear()
                touched.update(left)
            if leader is not None and left and leader not in self._feed.told:
                for each in leader.group():
                    if each is not task:
                        self._feed.know(each)

        return applied

    def _strings(self, apply: Callable[[Data, int], None]) -> Callable[[Data, int], None]:
        """Return a handler that gives the arguments to the exec that they are of."""

        def applied(data: Data, at: int) -> None:
            apply(data, at)
            self._touched.clear()
            which, start_ns, tid, kept, size = _STRINGS(data, at)
            if tid != self._number or which or not kept:
                return
            begin = at + wire.STRINGS.size
            text, task = bytes(data[begin : begin + kept]), self.task
            if task is not None and task.start_ns == start_ns:
                order, now_ns = self.replay.order - 1, self.replay.time_ns
                said = {"event": "arguments", "order": order, "time_ns": now_ns, "start_ns": start_ns}
                self._collect()
                self._events.append({**said, "tid": tid, "arguments": text, "size": size})

        return applied
