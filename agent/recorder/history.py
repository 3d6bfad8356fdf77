# SPDX-License-Identifier: Apache-2.0
"""The lives of a number: each task that has had it, from its birth to its reap, out of the records themselves.

Each record of a task has its whole state. So no table is replayed but those of the first and the last instant, and those
behind gaps: the parts in which the number does not occur are passed over, and of the others the records of the number are
read. No record tells a task of a new parent. A later record, or a table, shows that it has one; the exit of the old one
tells since when.

A life is that of one task: what a daemon tells of it and what the next one does, on another numbering of the same boot, is
one life, with a ``gap`` in it where records are missing.
"""

from typing import Any, Final

from agent.errors import NoSuchRootError, NoSuchTimeError, NotPermittedError
from agent.recorder import spanends
from agent.recorder.facts import Gap, Instant
from agent.recorder.firsttask import first_state
from agent.recorder.instant import written
from agent.recorder.lifestates import (
    ahead_of,
    assumed,
    called,
    kept_names,
    last_told,
    role_number,
    state_of_record,
    state_of_task,
    times_of,
)
from agent.recorder.numberrecords import SeenRecord, records
from agent.recorder.past import Enquirer
from agent.recorder.recording import DAMAGED, Recording
from agent.recorder.replay import NO_RECORDS
from agent.recorder.segment import Block
from agent.recorder.tape import TornError
from agent.recorder.tapesegment import Hole, TapeSegment
from agent.selection.births import flag_names
from agent.table import wire
from agent.table.objects import SUBREAPER, TaskStruct
from agent.table.wire import Kind

Said = dict[str, Any]

_TASK: Final = wire.TASK.unpack_from
_STRINGS: Final = wire.reader(wire.RECORD_STRINGS, "argument", "start_ns", "tid", "kept", "size").unpack_from
_OF_TASKS: Final = Kind.STATE.value
_OF_GROUPS: Final = (Kind.SESSION, Kind.GROUP, Kind.SUBREAPER)
_ENDS: Final = (Kind.GONE, Kind.FREE, Kind.RELEASE)
_DAMAGED_BLOCK: Final = "a block is damaged"
_NAMES: Final = {
    Kind.FORK: "birth",
    Kind.EXEC: "exec",
    Kind.EXIT: "death",
    Kind.SESSION: "setsid",
    Kind.GROUP: "setpgid",
    Kind.SUBREAPER: "subreaper",
    Kind.STATE: "state",
}


class NumberHistory:
    """The lives of a number within a span.

    Args:
        recording: the recording.
        span: the first and the last instant.
        number: in the initial pid namespace.
        enquirer: the one who asks: what a task did under ids that it may not see is left out.

    Attributes:
        gaps: events of the gaps in the span in which no life goes on, once `lives` has been called: one may be within.
    """

    def __init__(self, recording: Recording, span: tuple[Instant, Instant], number: int, enquirer: Enquirer) -> None:
        self._recording = recording
        self._since, self._until = span
        self._number = number
        self._enquirer = enquirer
        self._lives: dict[tuple[str, int], list[Said]] = {}
        self._damaged: list[Gap] = []
        self.gaps: list[Said] = []
        self._hidden = False

    def lives(self) -> list[list[Said]]:
        """Return the events of each life, oldest first.

        Raises:
            NoSuchRootError: no task had the number, and the span has no gap.
            NotPermittedError: none that the client may see.
            TornError: the recording has what no daemon writes.
        """
        try:
            return self._found()
        except NO_RECORDS as error:
            raise TornError(
                f"the recording has what no daemon writes about number {self._number}: {error!r}"
            ) from error

    def _found(self) -> list[list[Said]]:
        self._begin()
        seen_ones = records(self._recording, self._number, self._since, self._until, self._note_damage)
        found = [(run, seen.kept()) for run, seen in seen_ones if self._concerns(seen)]
        found.sort(key=lambda each: (each[0], each[1].order))  # neighbours may have come swapped
        gaps = [*self._damaged, *self._recording.seams]
        gaps = sorted(gaps, key=lambda gap: (gap.run, gap.first, gap.from_ns))[::-1]
        for run, seen in found:
            self._cross(gaps, run, seen.order)
            self._note(run, seen)
        self._cross_last(gaps)
        self._end()
        told = [self._told(life) for life in self._lives.values()]
        lives = [life for life in told if life]
        if not lives and self._hidden:
            raise NotPermittedError(f"not permitted: no task that has had number {self._number} was yours")
        if not lives and not self.gaps:
            times = " to ".join(written(each.time_ns) for each in (self._since, self._until))
            raise NoSuchRootError(f"no task has had number {self._number} from {times}")
        return sorted(lives, key=lambda life: (life[0]["run"], life[0]["order"]))

    # ---- the records -----------------------------------------------------------------------------------------------

    def _concerns(self, seen: SeenRecord) -> bool:
        """Return True if a record may be about the number: a record of a task that has it in some role, or its end."""
        kind = seen.kind
        if kind <= _OF_TASKS:
            return kind in _OF_GROUPS or wire.TaskRecord(*_TASK(seen.data, seen.at)).tid == self._number
        if kind in _ENDS:
            return int(wire.END.unpack_from(seen.data, seen.at)[-2]) == self._number
        if kind == Kind.WAITED:
            return int(wire.CALL.unpack_from(seen.data, seen.at)[-1]) == self._number
        return kind == Kind.STRINGS and int(_STRINGS(seen.data, seen.at)[2]) == self._number

    def _note(self, run: int, seen: SeenRecord) -> None:
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
            life = self._lives.get(self._key(run, start_ns))
            if tid == self._number and life and life[-1]["event"] != "reap":
                self._add(life, seen, {"event": "reap", "exit_code": code} | assumed(kind != Kind.RELEASE))
        elif kind == Kind.WAITED:
            self._note_wait(run, seen)
        elif kind == Kind.STRINGS:
            which, start_ns, tid, kept, size = _STRINGS(seen.data, seen.at)
            life = self._lives.get(self._key(run, start_ns))
            if tid == self._number and life and not which and self._enquirer.viewer.uid == 0:
                text = bytes(seen.data[seen.at + wire.STRINGS.size : seen.at + wire.STRINGS.size + kept])
                for event in reversed(life):
                    if event["event"] == "exec":
                        event["arguments"] = text.removesuffix(b"\0").split(b"\0")
                        event["arguments_cut"] = size > kept
                        break

    def _note_group(self, run: int, seen: SeenRecord, task: wire.TaskRecord) -> None:
        """Take a call that another thread of the number's process has made for the process."""
        numbers = [wire.pid_state(seen.data, seen.at, role) for role in range(4)]
        if role_number(task, numbers, 1) != self._number:
            return
        lives = self._unended(run)
        if lives:
            event: Said = {"event": _NAMES[Kind(seen.kind)], "by": task.tid, "parent": task.parent_tid}
            event |= {"pgid": role_number(task, numbers, 2), "sid": role_number(task, numbers, 3)}
            if seen.kind == Kind.SUBREAPER:
                event |= {"on": bool(task.flags & SUBREAPER)}
            self._add(lives[-1], seen, event)

    def _note_wait(self, run: int, seen: SeenRecord) -> None:
        """Take a wait by the parent, which releases a process that has died."""
        *_, waiter, value = wire.CALL.unpack_from(seen.data, seen.at)
        for life in self._unended(run):
            if value == self._number and last_told(life)["event"] == "death":
                parent = next((each["parent"] for each in reversed(life) if "parent" in each), None)
                if parent == waiter:
                    self._add(life, seen, {"event": "reap", "exit_code": last_told(life)["exit_code"]})

    def _note_task(self, run: int, seen: SeenRecord, task: wire.TaskRecord) -> None:
        key = self._key(run, task.start_ns)
        life = self._lives.get(key)
        state = state_of_record(task, [wire.pid_state(seen.data, seen.at, role) for role in range(4)])
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
        self._compare(life, run, seen.order, event)
        if event["event"] != "state":
            self._add(life, seen, event)

    def _add(self, life: list[Said], seen: SeenRecord, event: Said) -> None:
        boottime_ns = event["start_ns"] if event["event"] == "birth" else seen.boottime_ns
        kept = kept_names(life[-1]) if life else {}
        times = {"order": seen.order, "time_ns": boottime_ns + seen.ahead_ns, "boottime_ns": boottime_ns}
        life.append(kept | event | times)

    # ---- what no record tells ----------------------------------------------------------------------------------------

    def _compare(self, life: list[Said], run: int, order: int, event: Said) -> None:
        """Add the changes that a state shows and no record of the task told."""
        last = next((each for each in reversed(life) if "parent" in each), None)
        if last is None:
            return
        if event["parent"] != last["parent"]:
            self._move(life, last, run, order, event)
        for key, kind in (("sid", "setsid"), ("pgid", "setpgid")):
            if event[key] != last[key] and event["event"] not in ("setsid", "setpgid"):
                known = {**event, **called(last), **times_of(life[-1])}
                life.append({**known, "event": kind, "order": order, **assumed(is_so=True)})
                break

    def _move(self, life: list[Said], last: Said, run: int, order: int, event: Said) -> None:
        """Add a new parent: since the exit of the old one, if that is recorded."""
        since = Instant(last["run"], last["order"], 0, 0, 0)
        until = Instant(run, order, 0, 0, 0)
        event = event | called(last)
        moved = {**event, "event": "reparent", "order": order, **assumed(is_so=True), **times_of(last)}
        for of, seen in records(self._recording, last["parent"], since, until, _ignore):
            if seen.kind == Kind.EXIT and wire.TaskRecord(*_TASK(seen.data, seen.at)).tid == last["parent"]:
                times = {"time_ns": seen.boottime_ns + seen.ahead_ns, "boottime_ns": seen.boottime_ns}
                moved = {**event, "event": "reparent", "run": of, "order": seen.order, **times}
        at = (moved["run"], moved["order"])
        place = next((n for n, each in enumerate(life) if (each["run"], each["order"]) > at), len(life))
        life.insert(place, moved)

    def _begin(self) -> None:
        """Take the task that has the number at the first instant."""
        gap = self._recording.first_gap if self._since.missing else None
        if gap is not None:
            self._mark([], gap, reboot=False)
        found = self._recording.table_at(self._since)
        if found.stream.next < self._since.order:
            self._mark_unknown(found.stream.next, self._since)
            return
        task = found.table.task(self._number)
        if task is not None:
            times = {"time_ns": self._since.time_ns, "boottime_ns": self._since.boottime_ns}
            said = {"event": "present", "order": self._since.order, **times, **state_of_task(task, self._since.run)}
            self._lives[self._key(self._since.run, task.start_ns)] = [said]

    def _end(self) -> None:
        """Compare the last lives with the last table."""
        lives = self._unended(self._until.run)
        if lives or self._recording.seams:
            try:
                found = self._recording.table_at(self._until)
            except NoSuchTimeError:
                self._mark_unknown(self._until.order, self._until)
                return
            if found.stream.next < self._until.order:
                self._mark_unknown(found.stream.next, self._until)
            else:
                self._settle(lives, found.table.task(self._number), self._until)

    # ---- gaps --------------------------------------------------------------------------------------------------------

    def _key(self, run: int, start_ns: int) -> tuple[str, int]:
        return self._recording.runs[run].boot_id, start_ns

    def _unended(self, run: int) -> list[list[Said]]:
        """Return the lives of a run's boot that have not ended."""
        boot_id = self._recording.runs[run].boot_id
        return [life for (of, _), life in self._lives.items() if of == boot_id and life[-1]["event"] != "reap"]

    def _mark_unknown(self, order: int, instant: Instant) -> None:
        """Mark that the table of an instant is not known, for what is in front of it is damaged or missing.

        Args:
            order: of the first record that is missing.
            instant: the instant.
        """
        lives = self._unended(instant.run)
        known = [life[-1] for life in lives] + self.gaps[-1:]
        if not any(each["event"] == "gap" and (each["run"], each["order"]) >= (instant.run, order) for each in known):
            gap = Gap(instant.run, order, instant.run, instant.order, instant.time_ns, instant.time_ns, DAMAGED)
            self._mark(lives, gap, reboot=False)

    def _note_damage(self, of: TapeSegment, block: Block | Hole) -> None:
        from_ns, until_ns = [ns + block.ahead_ns for ns in (block.first_ns, block.last_ns)]
        self._damaged.append(Gap(of.run, block.first, of.run, block.next, from_ns, until_ns, _DAMAGED_BLOCK))

    def _cross(self, gaps: list[Gap], run: int, order: int) -> None:
        """Cross the gaps in front of a record: mark them in the lives that go on, and compare with the table behind.

        Args:
            gaps: the last one first; those that are crossed are taken off.
            run, order: of the record.
        """
        while gaps and (gaps[-1].run, gaps[-1].first) <= (run, order):
            self._cross_one(gaps.pop())

    def _cross_last(self, gaps: list[Gap]) -> None:
        """Cross the gaps in front of the end of the span, and the one in which it ends."""
        recording, until = self._recording, self._until
        while gaps and (gaps[-1].run, gaps[-1].first) <= until[:2] and spanends.is_begun(recording, gaps[-1], until):
            gap = gaps.pop()
            self._cross_one(gap)
            if gap.why != _DAMAGED_BLOCK and not spanends.is_behind(recording, until, gap):
                break

    def _cross_one(self, gap: Gap) -> None:
        """Cross a gap, if it is not in front of the span."""
        recording = self._recording
        if spanends.is_behind(recording, self._since, gap):
            return
        lives = self._unended(gap.run)
        boots = [each.boot_id for each in recording.runs[gap.run : gap.next_run + 1]]
        same_boot = boots[0] == boots[-1]  # nothing is known of a run behind the last one
        self._mark(lives, gap, reboot=not same_boot)
        if gap.why != _DAMAGED_BLOCK and spanends.is_behind(recording, self._until, gap):
            self._meet(lives, gap, same_boot=same_boot)

    def _mark(self, lives: list[list[Said]], gap: Gap, *, reboot: bool) -> None:
        """Mark a gap in the lives that go on; where none does, it stands apart: a life may be in it."""
        said: Said = {"event": "gap", "why": gap.why, "until_ns": gap.until_ns, "reboot": reboot}
        said |= {"run": gap.run, "order": gap.first, "time_ns": gap.from_ns}
        for life in lives:
            life.append(kept_names(life[-1]) | said | {"boottime_ns": gap.from_ns - ahead_of(life[-1])})
        if not lives:
            self.gaps.append(said | {"boottime_ns": gap.from_ns - self._recording.ahead_ns(gap.run, gap.first)})

    def _meet(self, lives: list[list[Said]], gap: Gap, *, same_boot: bool) -> None:
        """Compare lives with the table behind a gap; where that cannot be read, a later record or table shows more."""
        behind, task = Instant(gap.next_run, gap.next, gap.until_ns, gap.until_ns, 0), None
        if same_boot:
            parents = [event["parent"] for life in lives for event in reversed(life) if "parent" in event][:1]
            try:
                found = first_state(self._recording, gap, self._number, parents)
            except NoSuchTimeError:
                return
            if found is None:
                return
            task = found.task
            behind = behind._replace(boottime_ns=gap.until_ns - found.ahead_ns)
        self._settle(lives, task, behind)

    def _settle(self, lives: list[list[Said]], task: TaskStruct | None, instant: Instant) -> None:
        """Compare lives that have not ended with the task that has the number at an instant, or with none."""
        run = instant.run
        times = {"time_ns": instant.time_ns, "boottime_ns": instant.boottime_ns}
        known = self._lives.get(self._key(run, task.start_ns)) if task is not None else None
        for life in lives:
            if life is known and task is not None:
                self._compare(life, run, instant.order, {"event": "state", **state_of_task(task, run), **times})
            else:
                reap = {"event": "reap", "order": instant.order, **times, **assumed(is_so=True)}
                life.append(kept_names(life[-1]) | {"run": run} | reap)
        if task is not None and known is None:
            said = {"event": "present", "order": instant.order, **times, **state_of_task(task, run)}
            self._lives[self._key(run, task.start_ns)] = [said]

    def _told(self, life: list[Said]) -> list[Said]:
        """Return the events of a life that may be told, without what belongs to this module."""
        sees = self._enquirer.sees
        shown = [event for event in life if sees is None or sees((event["uid"], event["gid"]))]
        self._hidden |= len(shown) < len(life)
        return [{"tid": self._number, **event} for event in shown]


def _ignore(_of: TapeSegment, _block: Block | Hole) -> None:
    """Take no note of a damaged block: the exit of a parent stays unknown, and the change is assumed."""
