# SPDX-License-Identifier: Apache-2.0
"""Events as bytes. Names are packed once, and so is what all events of a task say of it; the rest is put behind that."""

import struct
from typing import Any, Final

import msgpack

from agent.eventfacts import Details, Marks, nothing
from agent.objects import Namespace, Pid, Task
from agent.subscription import KINDS

MOST_KEPT: Final = 1024
"""Tasks of which the common part is kept, for each namespace: one that lives for a moment has four events in it."""

_pack = msgpack.Packer().pack
_COMMON: Final = 10  # entries that every event has
_MOST: Final = 15  # entries of a map whose head is one byte
_Key = tuple[Pid, Pid, int, tuple[int, int], bytes]


def _head(kind: str, entries: int) -> bytes:
    packer = msgpack.Packer(autoreset=False)
    packer.pack_map_header(entries)
    packer.pack("event")
    packer.pack(kind)
    head: bytes = packer.bytes()
    return head


_HEADS: Final = {kind: [_head(kind, _COMMON + more) for more in range(_MOST + 1)] for kind in KINDS}
# An integer of four bytes, and of eight, as msgpack has them.
_ORDER_32, _ORDER_64, _TIME_64 = _pack("order") + b"\xce", _pack("order") + b"\xcf", _pack("time_ns") + b"\xcf"
_SHORT: Final = struct.Struct(f">{len(_ORDER_32)}sI{len(_TIME_64)}sQ").pack
_LONG: Final = struct.Struct(f">{len(_ORDER_64)}sQ{len(_TIME_64)}sQ").pack


class EventPacker:
    """Packs events."""

    def __init__(self) -> None:
        self._kept: dict[Namespace, dict[Task, tuple[_Key, bytes]]] = {}

    def event(
        self,
        kind: str,
        order: int,
        time_ns: int,
        task: Task,
        leader: Task,
        namespace: Namespace,
        say: Details,
        marks: Marks,
    ) -> bytes:
        """Pack one event.

        Args:
            kind, order, time_ns: of the event.
            task, leader: whom it is about; the leader as it was told last.
            namespace: as which numbers count.
            say: gives what is particular to the kind.
            marks: that it bears.
        """
        key = (task.pid, leader.pid, task.start_ns, task.ids, task.comm)
        kept = self._kept.get(namespace)
        entry = kept.get(task) if kept is not None else None
        if entry is None or entry[0] != key:
            entry = self._keep(task, leader, namespace, key)
        when = (
            _LONG(_ORDER_64, order, _TIME_64, time_ns) if order >> 32 else _SHORT(_ORDER_32, order, _TIME_64, time_ns)
        )
        if say is nothing and not marks:
            return b"".join((_HEADS[kind][0], when, entry[1]))
        said: dict[str, Any] = {}
        say(said, task, namespace)
        if marks:
            said.update(marks)
        return b"".join((_HEADS[kind][len(said)], when, entry[1], _pack(said)[1:]))

    def _keep(self, task: Task, leader: Task, namespace: Namespace, key: _Key) -> tuple[_Key, bytes]:
        pid = task.pid
        number = pid.number_in(namespace)
        uid, gid = task.ids
        common = {
            "pid": number if leader is task else leader.pid.number_in(namespace),
            "tid": number,
            "numbers": pid.numbers[namespace.level :],
            "start_ns": task.start_ns,
            "uid": uid,
            "gid": gid,
            "comm": task.comm.rstrip(b"\0"),
        }
        kept = self._kept.setdefault(namespace, {})
        if len(kept) >= MOST_KEPT:
            kept.clear()
        entry = kept[task] = (key, _pack(common)[1:])
        return entry

    def forget(self, task: Task) -> None:
        """Let go of what is kept of a task of which nothing more will be told."""
        for kept in self._kept.values():
            kept.pop(task, None)

    def forget_all(self) -> None:
        """Nobody listens."""
        self._kept.clear()
