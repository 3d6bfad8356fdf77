# SPDX-License-Identifier: Apache-2.0
"""Events -> a trace of Perfetto: a track for each process and thread, what ran on it, and who was born of whom.

    trace   = {packet}                    message Trace of Perfetto, written packet by packet
    process = a track with the number and the name of the process, one for each life of the number
    thread  = a track below it; on it a slice for each program from its start or exec to the next or to the death, and
              one from the death to the reap, while the task is a zombie
    birth   = an instant on the creator's track, and a flow from there to the child's first slice
    life    = task_newtask and sched_process_free, as ftrace has them: they give Perfetto the lives of a number, which it
              gives out again, and each process's parent
    others  = instants: sessions, groups, new parents, subreapers
    gaps    = a track "recording": losses, gaps, steps of the clock, suspends

Times are CLOCK_BOOTTIME; a clock snapshot gives the CLOCK_REALTIME beside it. A slice that is not ended goes on behind the
last event. Perfetto never changes the numbers of its fields (protos/perfetto/trace, under the Apache license); those in
the tables are of its version 52.
"""

from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from typing import Any, Final, TypeAlias

from agent.protocol.replies import Event, EventTask
from agent.recorder.axis import Axis
from exporters.content.fields import escape
from exporters.content.identity import word
from exporters.content.messagenotation import classes
from exporters.content.wording import ended, plain

MESSAGES: Final = {
    "Trace": "packet*1:TracePacket",
    "TracePacket": (
        "ftrace_events?1:Bundle clock_snapshot?6:ClockSnapshot timestamp?8:uint64 trusted_packet_sequence_id?10 "
        "track_event?11:TrackEvent track_descriptor?60:TrackDescriptor"
    ),
    "Bundle": "cpu?1 event*2:Scheduled",
    "Scheduled": "timestamp?1:uint64 pid?2 task_newtask?235:NewTask sched_process_free?240:Freed",
    "NewTask": "pid?1:int32 comm?2:bytes clone_flags?3:uint64",
    "Freed": "comm?1:bytes pid?2:int32",
    "ClockSnapshot": "clocks*1:Clock primary_trace_clock?2",
    "Clock": "clock_id?1 timestamp?2:uint64",
    "TrackDescriptor": (
        "uuid?1:uint64 name?2:bytes process?3:ProcessDescriptor thread?4:ThreadDescriptor parent_uuid?5:uint64"
    ),
    "ProcessDescriptor": "pid?1:int32 process_name?6:bytes",
    "ThreadDescriptor": "pid?1:int32 tid?2:int64 thread_name?5:bytes",
    "TrackEvent": (
        "debug_annotations*4:DebugAnnotation type?9 track_uuid?11:uint64 categories*22:bytes name?23:bytes "
        "flow_ids*47:fixed64 terminating_flow_ids*48:fixed64"
    ),
    "DebugAnnotation": "bool_value?2:bool int_value?4:int64 string_value?6:bytes name?10:bytes",
}
"""The fields of each message, in the notation of exporters.content.messagenotation."""

_BEGIN, _END, _INSTANT = 1, 2, 3  # TrackEvent.Type
_REALTIME, _BOOTTIME = 1, 6  # BuiltinClock
_SEQUENCE: Final = 1
_CLONE_THREAD: Final = 0x0001_0000
_RECORDING: Final = 1  # the uuid of its track
_INSTANTS: Final = ("setsid", "setpgid", "subreaper", "reparent", "change")
_LONGEST: Final = 4096  # characters of a command line
_SHOWN: Final = ("creator", "parent", "pgid", "sid", "exit_signal", "on", "old_tid", "assumed", "entered")


@cache
def messages() -> Mapping[str, Any]:
    """Return the classes of `MESSAGES`, by name.

    Raises:
        HostError: no protobuf library is installed.
    """
    return classes(MESSAGES, "ckptree.perfetto", "traces of Perfetto", "perfetto")


Packet: TypeAlias = dict[str, Any]
"""The fields of a TracePacket."""


class _Track:
    """The track of a task.

    Attributes:
        uuid: of the track.
        running: the number of slices that have begun on it and not ended.
        first: the flow that its first slice ends; 0: none.
    """

    __slots__ = ("first", "running", "uuid")

    def __init__(self, uuid: int) -> None:
        self.uuid = uuid
        self.running = 0
        self.first = 0


class Tracks:
    """A trace that is written event by event.

    Args:
        ahead_ns: CLOCK_REALTIME minus CLOCK_BOOTTIME at the first event, ns. Events of a later boot are placed by it.
    """

    def __init__(self, ahead_ns: int) -> None:
        self._ahead_ns = ahead_ns
        self._axis = Axis(ahead_ns)
        self._trace = messages()["Trace"]
        self._uuids = _RECORDING
        self._flows = 0
        self._living: dict[tuple[int, int], _Track] = {}
        self._processes: dict[tuple[int, int], int] = {}
        self._numbers: dict[int, tuple[int, int]] = {}

    def head(self, boottime_ns: int) -> bytes:
        """Return the beginning of the trace.

        Args:
            boottime_ns: CLOCK_BOOTTIME from which on there are events.
        """
        snapshot = {
            "clocks": [
                {"clock_id": _BOOTTIME, "timestamp": boottime_ns},
                {"clock_id": _REALTIME, "timestamp": max(0, boottime_ns + self._ahead_ns)},
            ],
            "primary_trace_clock": _BOOTTIME,
        }
        first = _packet(timestamp=boottime_ns, clock_snapshot=snapshot)
        return self._written([first, _packet(track_descriptor={"uuid": _RECORDING, "name": b"recording"})])

    def event(self, event: Event) -> bytes:
        """Return the packets of an event; events come in their order."""
        return self._written([*self._packets(event)])

    def _written(self, packets: list[Packet]) -> bytes:
        return bytes(self._trace(packet=packets).SerializeToString())

    def _packets(self, event: Event) -> Iterator[Packet]:
        at_ns = self._axis.at(event)
        task = event.task
        if task is None:
            name = event.kind.encode()
            yield self._told(_INSTANT, _RECORDING, at_ns, name, event)
            return
        key = (task.tid, task.start_ns)
        track = self._living.get(key)
        if track is None:
            yield from self._begun(task, event, at_ns)
            track = self._living[key]
            if event.kind == "birth":
                return
        if event.kind == "exec":
            yield from self._end(track, at_ns)
            yield self._begin(track, task, event, at_ns)
        elif event.kind == "death":
            yield from self._end(track, at_ns)
            track.running += 1
            yield self._told(_BEGIN, track.uuid, at_ns, b"zombie", event)
        elif event.kind == "reap":
            yield from self._end(track, at_ns)
            yield self._scheduled(at_ns, task.tid, sched_process_free={"comm": _text(task.comm), "pid": task.tid})
            self._forget(task, key)
        elif event.kind in _INSTANTS:
            yield self._told(_INSTANT, track.uuid, at_ns, event.kind.encode(), event)

    def _begun(self, task: EventTask, event: Event, at_ns: int) -> Iterator[Packet]:
        """Yield the track of a task, and its first slice."""
        key = (task.tid, task.start_ns)
        track = self._living[key] = _Track(self._uuid())
        leader = self._numbers.get(task.pid, key) if task.tid != task.pid else key
        self._numbers[task.tid] = key
        name = _text(task.comm)
        creator_tid = event.details.get("creator") or 0
        creator = self._living.get(self._numbers.get(creator_tid, (0, 0)))
        if event.kind == "birth" and not event.details.get("assumed"):
            flags = _CLONE_THREAD if task.tid != task.pid else 0
            born = {"pid": task.tid, "comm": name, "clone_flags": flags}
            # A nanosecond before: among events of one time Perfetto takes those of tracks first.
            yield self._scheduled(at_ns - 1, creator_tid, task_newtask=born)
        process = self._processes.get(leader)
        if process is None:
            process = self._processes[leader] = self._uuid()
            described = {"pid": task.pid, "process_name": name}
            yield _packet(timestamp=at_ns, track_descriptor={"uuid": process, "process": described})
        thread = {"pid": task.pid, "tid": task.tid, "thread_name": name}
        described = {"uuid": track.uuid, "parent_uuid": process, "thread": thread}
        yield _packet(timestamp=at_ns, track_descriptor=described)
        if creator is not None and not event.details.get("assumed"):
            self._flows += 1
            track.first = self._flows
            said = f"{'birth' if task.tid == task.pid else 'thread'} {task.tid}".encode()
            yield self._told(_INSTANT, creator.uuid, at_ns, said, None, flow_ids=[track.first])
        yield self._begin(track, task, event, at_ns)

    def _begin(self, track: _Track, task: EventTask, event: Event, at_ns: int) -> Packet:
        """Return the packet with which a program begins on a track."""
        track.running += 1
        flows = {"terminating_flow_ids": [track.first]} if track.first else {}
        track.first = 0
        return self._told(_BEGIN, track.uuid, at_ns, _text(task.comm), event, **flows)

    def _end(self, track: _Track, at_ns: int) -> Iterator[Packet]:
        while track.running:
            track.running -= 1
            yield self._told(_END, track.uuid, at_ns, b"", None)

    def _forget(self, task: EventTask, key: tuple[int, int]) -> None:
        del self._living[key]
        self._processes.pop(key, None)
        if self._numbers.get(task.tid) == key:
            del self._numbers[task.tid]

    def _told(self, kind: int, uuid: int, at_ns: int, name: bytes, event: Event | None, **flows: list[int]) -> Packet:
        told: dict[str, Any] = {"type": kind, "track_uuid": uuid, **flows}
        if name:
            told["name"] = name
        if event is not None:
            told |= {"categories": [event.kind.encode()], "debug_annotations": _annotations(event)}
        return _packet(timestamp=at_ns, track_event=told)

    def _scheduled(self, at_ns: int, tid: int, **told: dict[str, Any]) -> Packet:
        return _packet(ftrace_events={"cpu": 0, "event": [{"timestamp": at_ns, "pid": tid, **told}]})

    def _uuid(self) -> int:
        self._uuids += 1
        return self._uuids


def _packet(**fields: Any) -> Packet:
    return {"trusted_packet_sequence_id": _SEQUENCE, **fields}


def _annotations(event: Event) -> list[dict[str, Any]]:
    found: dict[str, int | bool | bytes] = {"order": event.order}
    if event.task is not None:
        found |= {"uid": event.task.uid, "gid": event.task.gid}
        if len(event.task.numbers) > 1:
            found["numbers"] = "/".join(map(str, event.task.numbers)).encode()
    told = event.details
    found |= {key: told[key] for key in _SHOWN if told.get(key) is not None}
    if told.get("exit_code") is not None:
        found["end"] = ended(told["exit_code"]).encode()
    if told.get("flags"):
        found["flags"] = " ".join(told["flags"]).encode()
    if "arguments" in told:
        found["arguments"] = " ".join([word(each) for each in told["arguments"]])[:_LONGEST].encode()
    if event.task is None:
        found |= {key: value for key, value in told.items() if isinstance(value, (int, bytes)) and key not in found}
        found |= {key: plain(value).encode() for key, value in told.items() if isinstance(value, str)}
    return [{"name": key.encode(), **_value(value)} for key, value in found.items()]


def _value(value: int | bool | bytes) -> dict[str, Any]:  # noqa: FBT001 - it is the value of an annotation
    kind = "bool_value" if isinstance(value, bool) else "int_value" if isinstance(value, int) else "string_value"
    return {kind: value}


@lru_cache(maxsize=1 << 12)
def _text(raw: bytes) -> bytes:
    return plain(escape(raw)).encode()
