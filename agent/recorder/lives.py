# SPDX-License-Identifier: Apache-2.0
"""Events of a span -> the lives in it: each task from its birth to its end, with each change of its facts. Pure.

    stop   = an instant between two records at which the tree differs from the stop before; the first is the beginning
    life   = a task: its facts at the stop of its birth, and changes, each at a stop
    change = (stop, fact, value)

A tree at a stop is the lives that are there, each with the facts that its changes up to the stop make: what
agent.protocol.livetree makes of the same events. Facts of a process (parent, group, session, subreaper) are those of
its leader's life. Numbers are those of whoever asked. Kernel workers are left out, as from every snapshot.
"""

from typing import Final

from agent.errors import UsageError
from agent.protocol.replies import Event, EventTask
from agent.recorder.axis import Axis, boottime
from agent.recorder.life import ASSUMED, NONE, UNKNOWN, Fact, TaskLife, Texts, Trouble
from exporters.content.fields import escape
from exporters.content.wording import plain
from exporters.drawing import pageframe

MOST_LIVES: Final = 100_000
"""Lives of a span at most."""
MOST_CHANGES: Final = 1_000_000
"""Changes of facts in a span at most."""
MOST_TEXT: Final = 64_000_000
"""Characters of names and arguments of a span at most."""


class SpanLives:
    """The lives of a span, of whose events each is taken in its order.

    Args:
        root: number of the root whose tree the events are of; None: they are of all tasks. 0: of the first process.

    Attributes:
        lives: in the order of their births.
        times_ns, numbers: of each stop: its place on the axis, never before that of the stop before, and the number of the
            first record that is not in it.
        runs: the first stop of each run of numbers: behind a gap they may begin anew.
        clocks: stop, and CLOCK_REALTIME minus the axis from there on, ns.
        boots: stop, and the axis minus CLOCK_BOOTTIME from there on, ns.
        troubles: by time.
        texts: names and arguments.
        changes: the number of all changes.
        workers: count of kernel workers that were left out.
        ended: True where the root is gone.
    """

    def __init__(self, root: int | None = None) -> None:
        self.lives: list[TaskLife] = []
        self.times_ns: list[int] = []
        self.numbers: list[int] = []
        self.runs: list[int] = []
        self.clocks: list[tuple[int, int]] = []
        self.boots: list[tuple[int, int]] = []
        self.troubles: list[Trouble] = []
        self.texts = Texts()
        self.changes = 0
        self.workers = 0
        self.ended = False
        self._root = root
        self._axis: Axis | None = None
        self._now_ns = 0
        self._living: dict[int, int] = {}
        self._children: dict[int, set[int]] = {}
        self._threads: dict[int, set[int]] = {}
        self._fresh: list[int] = []
        self._bridging = False
        self._gap: Trouble | None = None
        self._loss: Trouble | None = None

    def take(self, event: Event) -> bool:
        """Take an event; of an unknown kind, or about a task that no event has introduced, it changes nothing.

        Returns:
            False where there is no room for it: the span ends at the last stop.

        Raises:
            UsageError: there is no room for the tasks of the beginning.
        """
        # Behind its record is where an event has happened, but those that no record tells.
        behind = event.task is not None and not self._bridging and not event.details.get("present")
        number = event.order + behind
        begins = not self.numbers or number > self.numbers[-1] or self._gap is not None
        if len(self.lives) >= MOST_LIVES or self.changes >= MOST_CHANGES or self.texts.size >= MOST_TEXT:
            if begins:
                return False
            if len(self.numbers) == 1:
                raise UsageError(f"there are more than {MOST_LIVES} tasks at the beginning: name a ROOT")
        stop = self._stop(event, number, begins=begins)
        about = event.task
        if about is None:
            self._note(event)
        elif event.kind == "birth":
            self._born(event, about, stop)
        else:
            index = self._living.get(about.tid, NONE)
            if index != NONE and self.lives[index].start_ns == about.start_ns:
                self._change(event, about, index, stop)
        return True

    def finish(self) -> None:
        """Take note that no event is to come."""
        self._settle()

    # ---- stops -------------------------------------------------------------------------------------------------------

    def _stop(self, event: Event, number: int, *, begins: bool) -> int:
        """Return the stop at which an event has happened."""
        time_ns = event.time_ns or 0
        if self._axis is None:
            self._axis = Axis(time_ns - boottime(event))
        placed_ns = self._axis.at(event)
        self._now_ns = max(placed_ns, self._now_ns)
        if begins:
            self._settle()
            if self._gap is not None or not self.runs:
                self.runs.append(len(self.numbers))
            self.times_ns.append(self._now_ns)
            self.numbers.append(number)
            if self._gap is not None:
                self._gap.until_ns, self._gap = self.times_ns[-1], None
        stop = len(self.numbers) - 1
        ahead_ns, shift_ns = time_ns - placed_ns, placed_ns - boottime(event)
        if not self.clocks or self.clocks[-1][1] != ahead_ns:
            self.clocks.append((stop, ahead_ns))
        if not self.boots or self.boots[-1][1] != shift_ns:
            self.boots.append((stop, shift_ns))
        return stop

    def _settle(self) -> None:
        """Find parents and creators of the lives that the last stop has begun: an elder may be told behind its child."""
        for index in self._fresh:
            life = self.lives[index]
            life.parent = self._elder(life, life.first[Fact.PARENT])
            life.creator = self._elder(life, life.creator_number)
        self._fresh.clear()

    def _elder(self, life: TaskLife, number: int | None) -> int:
        """Return the life that has a number and was born before another one."""
        index = self._living.get(number or 0, NONE)
        if index != NONE and self.lives[index].start_ns > life.start_ns:
            return NONE
        return index

    def _note(self, event: Event) -> None:
        at_ns = self._now_ns
        if event.kind == "end":
            self.ended = True
        elif event.kind == "resync":
            self._bridging = False
            if self._loss is not None:
                self._loss.until_ns = at_ns
                self._loss = None
        elif event.kind == "loss" and self._loss is not None:
            self._loss.details["count"] += event.details["count"]
        elif event.kind in ("gap", "loss", "clock", "suspend"):
            begin_ns = at_ns - event.details.get("asleep_ns", 0)
            until_ns = at_ns if event.kind in ("clock", "suspend") else None
            details = {**event.details, "time_ns": event.time_ns}
            self.troubles.append(Trouble(event.kind, begin_ns, until_ns, details))
            if event.kind == "loss":
                self._loss = self.troubles[-1]
            elif event.kind == "gap":
                self._bridging = True
                self._gap = self.troubles[-1]
                if self._loss is not None:
                    self._loss.until_ns = at_ns
                    self._loss = None

    # ---- tasks -------------------------------------------------------------------------------------------------------

    def _born(self, event: Event, about: EventTask, stop: int) -> None:
        said = event.details
        if said.get("kernel"):
            self.workers += 1
            return
        known = self._living.get(about.tid, NONE)
        if known != NONE and self.lives[known].start_ns == about.start_ns:
            self._again(event, about, known, stop)
            return
        if known != NONE:
            self._end(known, stop)
        leader = self._living.get(about.pid, NONE) if about.tid != about.pid else NONE
        code = said.get("exit_code")
        first: list[int | None] = [
            said["parent"],
            said["pgid"],
            said["sid"],
            self._name(about),
            self._inherited(said["creator"] or 0, about.start_ns),
            NONE if code is None else code,
            int(bool(said.get("stopped"))),
            said["exit_signal"],
            about.uid,
            about.gid,
            int(bool(said.get("subreaper"))),
        ]
        life = TaskLife(
            about.numbers,
            about.start_ns,
            leader,
            said["creator"] or 0,
            stop,
            bool(said.get("assumed")),
            bool(said.get("entered")),
            bool(said.get("present")),
            ", ".join(map(plain, said["flags"])),
            first,
            first.copy(),
        )
        index = len(self.lives)
        self.lives.append(life)
        self._living[about.tid] = index
        self._fresh.append(index)
        self._threads.setdefault(self._process(index), set()).add(index)
        if leader == NONE:
            self._children.setdefault(said["parent"], set()).add(index)
            if self._root == 0:
                self._root = about.tid

    def _again(self, event: Event, about: EventTask, index: int, stop: int) -> None:
        """Take a birth that is told a second time, with the state as it is by then."""
        said = event.details
        process = self._process(index)
        for of, fact, value in (
            (process, Fact.GROUP, said["pgid"]),
            (process, Fact.SESSION, said["sid"]),
            (process, Fact.SUBREAPER, int(bool(said.get("subreaper")))),
            (index, Fact.STOPPED, int(bool(said.get("stopped")))),
            (index, Fact.ENDED, NONE if said.get("exit_code") is None else said["exit_code"]),
        ):
            self._set(of, stop, fact, value, assumed=True)
        self._be(index, about, stop)

    def _inherited(self, creator: int, start_ns: int) -> int:
        """Return the arguments that a child has of its creator, until it runs a program of its own."""
        index = self._living.get(creator, NONE)
        if index == NONE or self.lives[index].start_ns > start_ns:
            return NONE
        value = self._value(self._process(index), Fact.ARGUMENTS)
        return NONE if value is None else value

    def _change(self, event: Event, about: EventTask, index: int, stop: int) -> None:
        said = event.details
        assumed = bool(said.get("assumed"))
        process = self._process(index)

        def put(of: int, fact: Fact, value: int | None) -> None:
            self._set(of, stop, fact, value, assumed=assumed)

        self._be(index, about, stop)
        match event.kind:
            case "exec":
                put(index, Fact.ENDED, NONE)
                put(index, Fact.EXIT_SIGNAL, said.get("exit_signal", self._value(index, Fact.EXIT_SIGNAL)))
                words = said.get("arguments")
                text = "" if words is None else pageframe.command_line(words) + ("…" if said["arguments_cut"] else "")
                place = NONE if words is None else self.texts.place(text)
                put(process, Fact.ARGUMENTS, place)
                self._add(process, stop, Fact.PROGRAM, place, assumed=assumed)
            case "death":
                put(index, Fact.ENDED, UNKNOWN if said["exit_code"] is None else said["exit_code"])
                put(index, Fact.STOPPED, 0)
            case "reap":
                self._end(index, stop)
            case "reparent":
                put(index, Fact.EXIT_SIGNAL, said.get("exit_signal", self._value(index, Fact.EXIT_SIGNAL)))
                self._move(process, said["parent"], stop, assumed=assumed)
            case "setsid" | "setpgid":
                put(process, Fact.GROUP, said["pgid"])
                put(process, Fact.SESSION, said["sid"])
            case "subreaper":
                put(process, Fact.SUBREAPER, int(said["on"]))
            case "change":
                put(index, Fact.STOPPED, int(said["stopped"]))
                put(index, Fact.ENDED, NONE if said["exit_code"] is None else said["exit_code"])
                put(index, Fact.EXIT_SIGNAL, said["exit_signal"])

    def _be(self, index: int, about: EventTask, stop: int) -> None:
        """Note the name and the ids that an event tells of its task."""
        self._set(index, stop, Fact.NAME, self._name(about), assumed=False)
        self._set(index, stop, Fact.UID, about.uid, assumed=False)
        self._set(index, stop, Fact.GID, about.gid, assumed=False)

    def _name(self, about: EventTask) -> int:
        return self.texts.place(plain(escape(about.comm)))

    def _process(self, index: int) -> int:
        """Return the life of the leader of a task's process."""
        leader = self.lives[index].leader
        return index if leader == NONE else leader

    def _value(self, index: int, fact: Fact) -> int | None:
        """Return the present value of a fact."""
        return self.lives[index].now[fact]

    def _set(self, index: int, stop: int, fact: Fact, value: int | None, *, assumed: bool) -> None:
        now = self.lives[index].now
        if now[fact] != value:
            now[fact] = value
            self._add(index, stop, fact, value, assumed=assumed)

    def _add(self, index: int, stop: int, fact: Fact, value: int | None, *, assumed: bool) -> None:
        self.lives[index].changes += (stop, fact + ASSUMED * assumed, value)
        self.changes += 1

    def _end(self, index: int, stop: int, *, left: bool = False) -> None:
        life = self.lives[index]
        life.gone, life.left = stop, left
        number = life.numbers[0]
        if self._living.get(number) == index:
            del self._living[number]
        process = self._process(index)
        threads = self._threads.get(process, set())
        threads.discard(index)
        if not threads:
            self._threads.pop(process, None)
            self._children.get(self._value(process, Fact.PARENT) or 0, set()).discard(process)

    def _move(self, index: int, parent: int, stop: int, *, assumed: bool) -> None:
        """Give a process another parent; where that is not in the tree, the process and all below it leave the tree."""
        self._children.get(self._value(index, Fact.PARENT) or 0, set()).discard(index)
        self._set(index, stop, Fact.PARENT, parent, assumed=assumed)
        self._children.setdefault(parent, set()).add(index)
        own = self.lives[index].numbers[0]
        if self._root is None or own == self._root or parent in self._living:
            return
        leaving = [index]
        while leaving:
            for each in tuple(self._threads.get(leaving.pop(), ())):
                leaving += self._children.get(self.lives[each].numbers[0], ())
                self._end(each, stop, left=True)
