# SPDX-License-Identifier: Apache-2.0
"""The lives of a number: each task that has had it, from its birth to its reap, out of the records themselves.

Each record of a task has its whole state. So no table is replayed but those of the first and the last instant: the parts
in which the number does not occur are passed over, and of the others the records of the number are read. No record tells a
task of a new parent. A later record, or the last table, shows that it has one; the exit of the old one tells since when.
"""

import struct
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from agent.errors import NoSuchRootError, NotPermittedError
from agent.recorder import tape
from agent.recorder.facts import Instant
from agent.recorder.past import Enquirer
from agent.recorder.recording import Recording
from agent.recorder.tapesegment import TapeSegment
from agent.selection.births import flag_names
from agent.table import wire
from agent.table.objects import EXITED, SUBREAPER, Pid, TaskStruct
from agent.table.wire import Kind

Said = dict[str, Any]

_HEAD: Final = struct.Struct("<I")
_RING_HEAD: Final = 8
_DISCARD: Final = 1 << 30
_LENGTH: Final = _DISCARD - 1
_NUMBER: Final = struct.Struct("=I")
_RECORD: Final = wire.reader(wire.RECORD, "seq", "kind", "time_ns").unpack_from
_TASK: Final = wire.TASK.unpack_from
_STRINGS: Final = wire.reader(wire.RECORD_STRINGS, "argument", "start_ns", "tid", "kept", "size").unpack_from
_OF_TASKS: Final = Kind.STATE.value
_OF_GROUPS: Final = (Kind.SESSION, Kind.GROUP, Kind.SUBREAPER)
_ENDS: Final = (Kind.GONE, Kind.FREE, Kind.RELEASE)
_NAMES: Final = {
    Kind.FORK: "birth",
    Kind.EXEC: "exec",
    Kind.EXIT: "death",
    Kind.SESSION: "setsid",
    Kind.GROUP: "setpgid",
    Kind.SUBREAPER: "subreaper",
    Kind.STATE: "state",
}


class _Seen(NamedTuple):
    """A record, as it lies in a part of the ring.

    Attributes:
        order, kind: its own.
        boottime_ns, ahead_ns: its time, and by how much CLOCK_REALTIME was ahead of it.
        data, at: the part, and the record's place in it.
    """

    order: int
    kind: int
    boottime_ns: int
    ahead_ns: int
    data: memoryview
    at: int


class NumberHistory:
    """The lives of a number within a span.

    Args:
        recording: the recording.
        span: the first and the last instant.
        number: in the initial pid namespace.
        enquirer: the one who asks: what a task did under ids that it may not see is left out.
    """

    def __init__(self, recording: Recording, span: tuple[Instant, Instant], number: int, enquirer: Enquirer) -> None:
        self._recording = recording
        self._since, self._until = span
        self._number = number
        self._enquirer = enquirer
        self._lives: dict[tuple[int, int], list[Said]] = {}
        self._hidden = False

    def lives(self) -> list[list[Said]]:
        """Return the events of each life, oldest first.

        Raises:
            NoSuchRootError: no task had the number.
            NotPermittedError: none that the client may see.
        """
        self._begin()
        found = [
            (run, _kept(seen))
            for run, seen in self._records(self._number, self._since, self._until)
            if self._concerns(seen)
        ]
        for run, seen in sorted(found, key=lambda each: (each[0], each[1].order)):  # neighbours may have come swapped
            self._note(run, seen)
        self._end()
        told = [self._told(life) for life in self._lives.values()]
        lives = [life for life in told if life]
        if not lives and self._hidden:
            raise NotPermittedError(f"not permitted: no task that has had number {self._number} was yours")
        if not lives:
            raise NoSuchRootError(f"no task has had number {self._number} in that time")
        return sorted(lives, key=lambda life: (life[0]["run"], life[0]["order"]))

    # ---- the records -----------------------------------------------------------------------------------------------

    def _records(self, number: int, since: Instant, until: Instant) -> Iterator[tuple[int, _Seen]]:
        """Yield the records of a number, and their runs, from one instant to another."""
        segments = self._recording.segments
        for index, each in enumerate(segments):
            following = segments[index + 1] if index + 1 < len(segments) else None
            is_before = following is not None and (following.run, following.facts.first) <= (since.run, since.order)
            if is_before or (each.run, each.facts.first) > (until.run, until.order):
                continue
            for seen in _of_segment(each, number):
                if (since.run, since.order) <= (each.run, seen.order) < (until.run, until.order):
                    yield each.run, seen

    def _concerns(self, seen: _Seen) -> bool:
        """Return True if a record may be about the number: a record of a task that has it in some role, or its end."""
        kind = seen.kind
        if kind <= _OF_TASKS:
            return kind in _OF_GROUPS or wire.TaskRecord(*_TASK(seen.data, seen.at)).tid == self._number
        if kind in _ENDS:
            return int(wire.END.unpack_from(seen.data, seen.at)[-2]) == self._number
        if kind == Kind.WAITED:
            return int(wire.CALL.unpack_from(seen.data, seen.at)[-1]) == self._number
        return kind == Kind.STRINGS and int(_STRINGS(seen.data, seen.at)[2]) == self._number

    def _note(self, run: int, seen: _Seen) -> None:
        """Take a record, if it is about the number."""
        kind = seen.kind
        if kind <= _OF_TASKS:
            task = wire.TaskRecord(*_TASK(seen.data, seen.at))
            if task.tid == self._number:
                self._note_task(run, seen, task)
            elif kind in _OF_GROUPS:
                self._note_group(run, seen, task)
        elif kind in _ENDS:
            end = wire.END.unpack_from(seen.data, seen.at)
            start_ns, tid, code = end[-3], end[-2], end[-1]
            life = self._lives.get((run, start_ns))
            if tid == self._number and life and life[-1]["event"] != "reap":
                self._add(life, seen, {"event": "reap", "exit_code": code} | _assumed(kind != Kind.RELEASE))
        elif kind == Kind.WAITED:
            self._note_wait(run, seen)
        elif kind == Kind.STRINGS:
            which, start_ns, tid, kept, size = _STRINGS(seen.data, seen.at)
            life = self._lives.get((run, start_ns))
            if tid == self._number and life and not which and self._enquirer.viewer.uid == 0:
                text = bytes(seen.data[seen.at + wire.STRINGS.size : seen.at + wire.STRINGS.size + kept])
                for event in reversed(life):
                    if event["event"] == "exec":
                        event["arguments"] = text.removesuffix(b"\0").split(b"\0")
                        event["arguments_cut"] = size > kept
                        break

    def _note_group(self, run: int, seen: _Seen, task: wire.TaskRecord) -> None:
        """Take a call that another thread of the number's process has made for the process."""
        numbers = [wire.pid_state(seen.data, seen.at, role) for role in range(4)]
        if _role(task, numbers, 1) != self._number:
            return
        lives = [life for (of, _), life in self._lives.items() if of == run and life[-1]["event"] != "reap"]
        if lives:
            event: Said = {"event": _NAMES[Kind(seen.kind)], "by": task.tid, "parent": task.parent_tid}
            event |= {"pgid": _role(task, numbers, 2), "sid": _role(task, numbers, 3)}
            if seen.kind == Kind.SUBREAPER:
                event |= {"on": bool(task.flags & SUBREAPER)}
            self._add(lives[-1], seen, event)

    def _note_wait(self, run: int, seen: _Seen) -> None:
        """Take a wait by the parent, which releases a process that has died."""
        *_, waiter, value = wire.CALL.unpack_from(seen.data, seen.at)
        for (of, _), life in self._lives.items():
            if of == run and value == self._number and life[-1]["event"] == "death":
                parent = next((each["parent"] for each in reversed(life) if "parent" in each), None)
                if parent == waiter:
                    self._add(life, seen, {"event": "reap", "exit_code": life[-1]["exit_code"]})

    def _note_task(self, run: int, seen: _Seen, task: wire.TaskRecord) -> None:
        key = (run, task.start_ns)
        life = self._lives.get(key)
        numbers = [wire.pid_state(seen.data, seen.at, role) for role in range(4)]
        state = {
            "start_ns": task.start_ns,
            "uid": task.uid,
            "gid": task.gid,
            "comm": task.comm.rstrip(b"\0"),
            "numbers": list(numbers[0].numbers) if numbers[0] is not None else [task.tid],
            "parent": task.parent_tid,
            "pid": _role(task, numbers, 1),
            "pgid": _role(task, numbers, 2),
            "sid": _role(task, numbers, 3),
        }
        if life is None:
            life = self._lives[key] = []
        if not life and seen.kind != Kind.FORK:  # it is older than the run: a daemon that began behind a gap found it
            self._add(life, seen, {"event": "present", "run": run, **state})
        event: Said = {"event": _NAMES[Kind(seen.kind)], "run": run, **state}
        if seen.kind == Kind.FORK:
            event |= {"creator": task.by_tid, "flags": list(flag_names(task.argument))}
        elif seen.kind == Kind.EXEC:
            event |= {"old_tid": task.argument if task.argument != task.tid else 0}
        elif seen.kind == Kind.EXIT:
            event |= {"exit_code": task.exit_code, "group_dead": bool(task.argument)}
        elif seen.kind == Kind.SUBREAPER:
            event |= {"on": bool(task.flags & SUBREAPER)}
        self._compare(life, seen.order, event)
        if event["event"] != "state":
            self._add(life, seen, event)

    def _add(self, life: list[Said], seen: _Seen, event: Said) -> None:
        boottime_ns = event["start_ns"] if event["event"] == "birth" else seen.boottime_ns
        last = life[-1] if life else {}
        kept = {key: last[key] for key in ("run", "start_ns", "uid", "gid", "comm", "numbers", "pid") if key in last}
        times = {"order": seen.order, "time_ns": boottime_ns + seen.ahead_ns, "boottime_ns": boottime_ns}
        life.append(kept | event | times)

    # ---- what no record tells ----------------------------------------------------------------------------------------

    def _compare(self, life: list[Said], order: int, event: Said) -> None:
        """Add the changes that a state shows and no record of the task told."""
        last = next((each for each in reversed(life) if "parent" in each), None)
        if last is None:
            return
        if event["parent"] != last["parent"]:
            self._move(life, last, order, event)
        for key, kind in (("sid", "setsid"), ("pgid", "setpgid")):
            if event[key] != last[key] and event["event"] not in ("setsid", "setpgid"):
                known = {**event, **_called(last), **_times(last)}
                life.append({**known, "event": kind, "order": order, **_assumed(is_so=True)})
                break

    def _move(self, life: list[Said], last: Said, order: int, event: Said) -> None:
        """Add a new parent: since the exit of the old one, if that is recorded."""
        run = event["run"]
        since = Instant(run, last["order"], 0, 0, 0)
        until = Instant(run, order, 0, 0, 0)
        event = event | _called(last)
        moved = {**event, "event": "reparent", "order": order, **_assumed(is_so=True), **_times(last)}
        for _, seen in self._records(last["parent"], since, until):
            if seen.kind == Kind.EXIT and wire.TaskRecord(*_TASK(seen.data, seen.at)).tid == last["parent"]:
                times = {"time_ns": seen.boottime_ns + seen.ahead_ns, "boottime_ns": seen.boottime_ns}
                moved = {**event, "event": "reparent", "order": seen.order, **times}
        place = next((n for n, each in enumerate(life) if each["order"] > moved["order"]), len(life))
        life.insert(place, moved)

    def _begin(self) -> None:
        """Take the task that has the number at the first instant."""
        found = self._recording.table_at(self._since)
        task = found.table.task(self._number)
        if task is not None:
            times = {"time_ns": self._since.time_ns, "boottime_ns": self._since.boottime_ns}
            said = {"event": "present", "order": self._since.order, **times, **_state(task, self._since.run)}
            self._lives[self._since.run, task.start_ns] = [said]

    def _end(self) -> None:
        """Compare the last life with the last table."""
        run = self._until.run
        unended = [
            (start_ns, life)
            for (of, start_ns), life in self._lives.items()
            if of == run and life[-1]["event"] != "reap"
        ]
        if not unended:
            return
        task = self._recording.table_at(self._until).table.task(self._number)
        times = {"time_ns": self._until.time_ns, "boottime_ns": self._until.boottime_ns}
        for start_ns, life in unended:
            if task is not None and task.start_ns == start_ns:
                self._compare(life, self._until.order, {"event": "state", **_state(task, run), **times})
            else:
                kept = {key: life[-1][key] for key in ("run", "start_ns", "uid", "gid", "comm", "numbers", "pid")}
                life.append({**kept, "event": "reap", "order": self._until.order, **times, **_assumed(is_so=True)})

    def _told(self, life: list[Said]) -> list[Said]:
        """Return the events of a life that may be told, without what belongs to this module."""
        sees = self._enquirer.sees
        shown = [event for event in life if sees is None or sees((event["uid"], event["gid"]))]
        self._hidden |= len(shown) < len(life)
        return [{"tid": self._number, **event} for event in shown]


def _kept(seen: _Seen) -> _Seen:
    """Return a record with bytes of its own, so that it does not keep its block in memory."""
    end = seen.at + wire.record_bytes(seen.data, seen.at, seen.kind)
    return seen._replace(data=memoryview(bytes(seen.data[seen.at : end])), at=0)


def _of_segment(of: TapeSegment, number: int) -> Iterator[_Seen]:
    """Yield the records of a segment in which the bytes of a number occur."""
    needle = _NUMBER.pack(number)
    for block, before_ns in of.about(number):
        content = of.content(block)
        if content is None:
            continue
        ahead_ns, begin = before_ns, 0
        found = content.find(needle)
        for entry in tape.entries(content):
            if found < 0:
                break
            begin += tape.ENTRY.size
            end = begin + len(entry.payload)
            if entry.kind == tape.CLOCK:
                ahead_ns = entry.value - entry.ns
            elif entry.kind == tape.PART and 0 <= (found := content.find(needle, max(found, begin))) < end:
                yield from _of_part(entry.payload, needle, entry.ns, ahead_ns)
            begin += tape.padded(len(entry.payload))


def _of_part(part: memoryview, needle: bytes, part_ns: int, ahead_ns: int) -> Iterator[_Seen]:
    """Yield the records of a part in which some bytes occur."""
    data = bytes(part)
    at, end, found = 0, len(data), data.find(needle)
    while found >= 0 and at < end:
        (flags,) = _HEAD.unpack_from(data, at)
        behind = at + _RING_HEAD + tape.padded(flags & _LENGTH)
        if found < behind:
            if not flags & _DISCARD:
                seq, kind, time_ns = _RECORD(data, at + _RING_HEAD)
                yield _Seen(seq, kind, time_ns or part_ns, ahead_ns, part, at + _RING_HEAD)
            found = data.find(needle, behind)
        at = behind


def _role(task: wire.TaskRecord, numbers: list[wire.PidState | None], role: int) -> int | None:
    """Return the number in a role, in the initial namespace: an object is told with its first role."""
    identities = (task.pid, task.tgid, task.pgid, task.sid)
    for each in range(role + 1):
        state = numbers[each]
        if identities[each] == identities[role] and state is not None:
            return state.numbers[0]
    return None


def _state(task: TaskStruct, run: int) -> Said:
    leader = task.leader
    return {
        "run": run,
        "start_ns": task.start_ns,
        "uid": task.ids[0],
        "gid": task.ids[1],
        "comm": task.comm.rstrip(b"\0"),
        "numbers": list(task.pid.numbers),
        "parent": leader.parent.pid.numbers[0] if leader.parent is not None else 0,
        "pid": leader.pid.numbers[0],
        "pgid": _first(leader.pgid),
        "sid": _first(leader.sid),
        **({"exit_code": task.exit_code} if task.flags & EXITED else {}),
    }


def _first(pid: Pid | None) -> int | None:
    return pid.numbers[0] if pid is not None else None


def _assumed(is_so: bool) -> Said:  # noqa: FBT001 - it is the value
    return {"assumed": True} if is_so else {}


def _called(of: Said) -> Said:
    return {"uid": of["uid"], "gid": of["gid"], "comm": of["comm"]}


def _times(of: Said) -> Said:
    return {"time_ns": of["time_ns"], "boottime_ns": of["boottime_ns"]}
