# SPDX-License-Identifier: Apache-2.0
"""Live events for all subscribers: the changes of each task, in their order.

Theory
------
Events are made of differences. The facts last told of each task of a followed tree are kept (`eventfacts.Facts`). After
each record that the table has applied, the tasks that it touched (`agent.table.changes`) are compared with those facts,
and the differences are told. So a change is told whatever its cause: a record that announces it, a record of another
change that also repaired it, an answer, a sweep, a number that another task has taken. The state at the beginning and
all events since always give the present state.

A record's *own* event is the one that it announces: a birth, an exec, a death, a session, a group, a subreaper. Other
changes by the record are *assumed*, since their moment is not known, and told before it. The consequences of an exit or
an exec (a new parent, a release) are told after it. The founder of a group is told before its members.

``order`` is the number of the record, the same as the ``order`` of births in a snapshot. A subscription begins at a
position: its snapshot has all changes with smaller numbers, and every event that follows has that number or a larger
one. A record that comes after its number was given up is told under the next number, for it changes the present state.

Losses are told where they happened. ``loss``: records found no room in the ring; a sweep repairs the table, the
differences are told, and ``resync`` ends the uncertainty. Both come at records, behind parts of the ring, and where a
sweep begins or ends: moments that a recording has, too, so that its events have the same numbers. ``dropped``: this
subscriber has not read its events in time: its backlog is bounded, and later events are counted. ``hidden``: the tree has
a task of another user, whose events this subscriber may not get. ``end``: the roots are gone.

Without a subscription, records go straight to the table, and no code of this module runs for them.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from agent.events import eventpack
from agent.events.announced import OF_GROUP, Record
from agent.events.audience import Audience
from agent.events.eventfacts import ASSUMED, ENTERED, UNMARKED, Clock, Facts, Marks
from agent.events.followed import Followed
from agent.events.subscriber import ARGUMENTS, Subscriber
from agent.table import rules, wire
from agent.table.objects import EXITED, TaskStruct
from agent.table.pidspace import Data
from agent.table.processtable import ProcessTable
from agent.table.stream import Handler, Stream
from agent.table.wire import Kind

_STATE: Final = Kind.STATE.value
_STRINGS: Final = wire.reader(wire.RECORD_STRINGS, "argument", "start_ns", "tid", "kept", "size").unpack_from


def _age(task: TaskStruct) -> tuple[int, int]:
    """Return a key by which older tasks come first: a set of tasks has another order in every process."""
    return task.start_ns, task.pid.numbers[0]


class Feed:
    """The source of events: it compares the table after each record, while there are subscribers.

    Args:
        stream: the stream that feeds the table.
        table: the table.
        clock: gives the time of an event, CLOCK_REALTIME, ns.
        ahead: gives the difference CLOCK_REALTIME minus CLOCK_BOOTTIME, ns.

    Attributes:
        subscribers: each with a function that gives the client's unsent bytes.
    """

    def __init__(self, stream: Stream, table: ProcessTable, clock: Clock, ahead: Clock) -> None:
        self._stream = stream
        self._table = table
        self._clock = clock
        self._handlers = stream.handlers()
        self._changes = table.changes
        self._lost = 0
        self._unsynced = False
        self._sweeping = self._mending = False
        self._audience = Audience(ahead)
        self._told = self._audience.told
        self.subscribers: dict[Subscriber, Callable[[], int]] = {}

    # ---- subscribers ---------------------------------------------------------------------------------------------

    def add(self, subscriber: Subscriber, unsent: Callable[[], int]) -> None:
        """Add a subscriber."""
        if not self.subscribers:
            self._lost = self._stream.lost
            self._unsynced = self._stream.suspect or self._mending
            for kind, handler in self._handlers.items():
                if kind is not Kind.STRINGS:
                    self._stream.handle(kind, self._listener(kind.value, handler))
        self.subscribers[subscriber] = unsent
        self._audience.add(subscriber, unsent, self._table.tasks)
        self._hear_strings()

    def remove(self, subscriber: Subscriber) -> None:
        """Remove a subscriber."""
        if self.subscribers.pop(subscriber, None) is None:
            return
        self._audience.remove(subscriber)
        if not self.subscribers:
            for kind, handler in self._handlers.items():
                self._stream.handle(kind, handler)
        self._hear_strings()

    @property
    def told(self) -> Mapping[TaskStruct, Facts]:
        """The facts last told of each task that is followed."""
        return self._told

    def know(self, task: TaskStruct) -> None:
        """Count a task as told as it is now, where no event shall tell how it came."""
        if task not in self._told:
            self._told[task] = Facts(task)

    @property
    def tells_arguments(self) -> bool:
        """True where a subscriber has asked for the arguments of execs."""
        return any(ARGUMENTS in each.kinds for each in self.subscribers)

    def _hear_strings(self) -> None:
        """Listen to records of strings as long as a subscriber asks for arguments: no other event tells strings."""
        handler = self._handlers[Kind.STRINGS]
        self._stream.handle(Kind.STRINGS, self._strings_listener(handler) if self.tells_arguments else handler)

    def settle(self) -> None:
        """Tell losses, the end of uncertainty and the end of roots, behind a part of the ring."""
        self._settle(suspect=self._stream.suspect)

    def sweep_begins(self, *, suspect: bool) -> None:
        """Tell a loss behind which no record has come, and that the table does not count as repaired until the end.

        Args:
            suspect: `Stream.suspect` before the sweep.
        """
        self._settle(suspect=suspect)
        self._sweeping, self._mending = True, suspect or self._mending

    def sweep_ends(self) -> None:
        """Tell the end of uncertainty, unless records were lost during the sweep."""
        self._sweeping = self._mending = False
        self._settle(suspect=self._stream.suspect)

    def _settle(self, *, suspect: bool) -> None:
        if not self.subscribers or (self._sweeping and not suspect):
            return
        if not self._unsynced:
            self._tell_loss(self._stream.next, suspect=suspect)
        elif not suspect:
            self._tell_loss(self._stream.next, suspect=suspect)
            self._unsynced = False
            self._tell_all({"event": "resync", "order": self._stream.next})
        self.end_roots()

    def end_roots(self) -> None:
        """Tell the end of roots that are gone."""
        for tree in self._audience.trees.values():
            if tree.is_over:
                self._tell_end(tree)

    def _tell_end(self, tree: Followed) -> None:
        """Tell the subscribers of a tree, once, that all its roots are gone."""
        for hearers in tree.hearers.values():
            for subscriber in hearers.members:
                if not subscriber.ended:
                    subscriber.ended = True
                    subscriber.say({"event": "end", "order": self._stream.next, "time_ns": self._clock()})

    def _tell_all(self, event: dict[str, Any]) -> None:
        event["time_ns"] = self._clock()
        for subscriber in self.subscribers:
            subscriber.say(event)

    def _tell_loss(self, order: int, *, suspect: bool) -> None:
        """Tell a loss: numbers below this one are missing, or a record comes after its number was given up.

        Until the resync nothing is certain. So losses meanwhile are added up and told once, before the resync.
        """
        lost, self._lost = max(0, self._stream.lost - self._lost), self._stream.lost
        if lost or (suspect and not self._unsynced):
            self._unsynced = True
            self._tell_all({"event": "loss", "order": order, "count": lost})

    # ---- records ---------------------------------------------------------------------------------------------------

    def _listener(self, kind: int, apply: Handler) -> Handler:
        """Return a handler that applies a record and tells the differences. It runs for every record of the host."""
        stream, changes, audience = self._stream, self._changes, self._audience
        clock, touched, concerns_nobody = self._clock, changes.tasks, self._told.keys().isdisjoint
        about_a_task = kind <= _STATE
        record = Record(self._table, kind)

        def heard(data: Data, at: int) -> None:
            if not self._unsynced and (stream.suspect or stream.lost != self._lost):
                self._tell_loss(stream.next - (not stream.is_late), suspect=stream.suspect)
            if touched:
                changes.set_aside()
            if about_a_task:
                record.begin(data, at)
            apply(data, at)
            if touched:
                # A task that enters a tree touches one that is in it.
                if audience.follows_all or not concerns_nobody(touched):
                    if about_a_task:
                        record.end(data, at)
                    audience.order = stream.next - (not stream.is_late)
                    audience.now_ns = clock()
                    self._tell_record(record, touched)
                changes.set_aside()
            record.forget()

        return heard

    def _strings_listener(self, apply: Handler) -> Handler:
        """Return a handler that applies a record of strings and tells arguments."""
        stream, table, audience = self._stream, self._table, self._audience

        def heard(data: Data, at: int) -> None:
            apply(data, at)
            which, start_ns, tid, kept, size = _STRINGS(data, at)
            task = table.task(tid)
            if task is None or task.start_ns != start_ns:
                return
            leader = task.leader
            if not which and kept and leader in self._told:
                audience.order = stream.next - (not stream.is_late)
                audience.now_ns = self._clock()
                text = bytes(data[at + wire.STRINGS.size : at + wire.STRINGS.size + kept])
                self._audience.tell(ARGUMENTS, leader, leader, eventpack.arguments(text, size), UNMARKED)

        return heard

    def _tell_record(self, record: Record, touched: Iterable[TaskStruct]) -> None:
        """Tell the changes by a record: repairs, its own event, the consequences of that."""
        told, subject, own = self._told, record.subject, record.own
        repaired: list[TaskStruct] = []
        followed: list[TaskStruct] = []
        gone: list[TaskStruct] = []
        for task in touched:
            facts = told.get(task)
            if task.pid.task is not task:
                if facts is not None:
                    gone.append(task)
            elif facts is None:
                if not (task is subject and own == "birth") and self._audience.may_enter(task):
                    (followed if record.follows(task, None) else repaired).append(task)
            elif not facts.holds(task):
                if task is subject and own == ("death" if task.flags & EXITED else "exec") and facts.stands(task):
                    facts.take(task)
                else:
                    (followed if record.follows(task, facts) else repaired).append(task)
        if gone:
            if len(gone) > 1:
                self._sort_gone(gone)
            self._bury(record, gone)
        if repaired:
            self._repair(record, repaired)
        if subject is not None and own is not None:
            self._tell_own(record, subject, own)
        if followed or gone:
            marks = UNMARKED if record.is_exact else ASSUMED
            if len(followed) > 1:
                followed.sort(key=_age)
            for task in followed:
                if task in told:
                    self._differ(task, marks, None)
                else:
                    self._appear(record, task)
            self._audience.reap(gone, marks)

    def _sort_gone(self, gone: list[TaskStruct]) -> None:
        """Sort tasks that are gone: threads first, their leaders last."""
        told = self._told
        gone.sort(key=lambda task: (told[task].leader is task, *_age(task)))

    def _repair(self, record: Record, repaired: list[TaskStruct]) -> None:
        """Tell the changes that a record does not announce. The founder of a group comes before its members.

        A new subject comes first, for others may have waited for it; a known one last, for its own event is next.
        """
        told, subject = self._told, record.subject
        if len(repaired) > 1:
            self._sort_repaired(record, repaired)
        for task in repaired:
            if task not in told:
                self._appear(record, task)
            else:
                self._differ(task, ASSUMED, record.coming(task, told.get(subject) if subject is not None else None))

    def _sort_repaired(self, record: Record, repaired: list[TaskStruct]) -> None:
        """Sort tasks as `_repair` tells them."""
        subject, is_new = record.subject, record.is_new
        subjects = (subject, subject.leader) if subject is not None else ()
        repaired.sort(key=lambda task: ((task in subjects) is not is_new, task.pgid is not task.pid, *_age(task)))

    # ---- one task --------------------------------------------------------------------------------------------------

    def _bury(self, record: Record, gone: Iterable[TaskStruct]) -> None:
        """Tell deaths that no record told, and the reaps of tasks whose numbers other tasks have now."""
        numbers = self._table.pids.numbers
        replaced: list[TaskStruct] = []
        for task in gone:
            pid, facts = task.pid, self._told[task]
            if not (facts.exited or task is record.caller or (task is record.subject and record.own == "death")):
                facts.exited = EXITED
                dead = rules.find_alive_thread(facts.leader) is None
                self._audience.tell("death", task, facts.leader, eventpack.DEATH[dead], ASSUMED)
            if pid.task is not None or numbers.get(pid.numbers[0], pid) is not pid:
                replaced.append(task)
        if replaced:
            replaced.sort(key=lambda task: task.pid.task is None)
            self._audience.reap(replaced, ASSUMED)

    def _differ(self, task: TaskStruct, marks: Marks, own: str | None) -> None:
        """Tell the differences of a task from the facts last told, except those that the record's own event tells."""
        old, new = self._told[task], Facts(task)
        new.name = old.name
        if new.parent is None:
            new.parent = old.parent  # not known yet: the kernel is being asked
        if own == "status" and old.exited:
            new.exit_code = old.exit_code
        self._told[task] = new
        said = own in ("death", "exec", "birth")
        moved = new.parent is not old.parent
        if moved:
            self._audience.move(task, marks)
            if task not in self._told:
                return
        if new.sid is not old.sid and own != "setsid":
            self._audience.tell("setsid", task, new.leader, eventpack.ids, marks)
        elif new.pgid is not old.pgid and own not in ("setsid", "setpgid"):
            self._audience.tell("setpgid", task, new.leader, eventpack.ids, marks)
        if new.subreaper != old.subreaper and own != "subreaper":
            self._audience.tell("subreaper", task, new.leader, eventpack.subreaper, marks)
        if new.exited and not old.exited and own != "death":
            dead = rules.find_alive_thread(task) is None
            self._audience.tell("death", task, new.leader, eventpack.DEATH[dead], marks)
        elif old.exited and not new.exited and own != "exec":
            self._audience.tell("exec", task, new.leader, eventpack.execution(None), marks)
            if new.stopped:
                self._audience.tell("change", task, new.leader, eventpack.condition, marks)
        elif (
            new.stopped != old.stopped
            or (new.exited and old.exited and new.exit_code != old.exit_code and own != "death")
            or (new.exit_signal != old.exit_signal and not (moved or own in ("exec", "birth")))
            or ((new.ids != old.ids or new.comm != old.comm) and not said)
        ):
            self._audience.tell("change", task, new.leader, eventpack.condition, marks)

    def _tell_own(self, record: Record, subject: TaskStruct, own: str) -> None:
        """Tell the event that a record announces."""
        facts = self._told.get(subject)
        if facts is None:
            if own == "birth":
                self._audience.born(subject, is_new=record.is_new)
            return
        leader = facts.leader
        born_ns = 0
        if own == "death":
            said: eventpack.Details = eventpack.DEATH[record.argument != 0]
        elif own == "exec":
            said = eventpack.execution(record.caller_pid)
        elif own == "birth":
            said = eventpack.presence
            born_ns = self._audience.birth_ns(subject)
        else:
            said = eventpack.subreaper if own == "subreaper" else eventpack.ids
        self._audience.tell(own, subject, leader, said, UNMARKED, born_ns)
        if leader is not subject and leader.pid.task is leader and own not in OF_GROUP:
            self._differ(leader, UNMARKED, None)

    def _appear(self, record: Record, task: TaskStruct) -> None:
        """Tell a task that is new to the followed trees: its birth was not told, or it comes from outside."""
        leader = task.leader
        if leader is not task:
            if leader in self._told:
                self._told[task] = Facts(task)
                self._audience.tell("birth", task, leader, eventpack.presence, ASSUMED)
            return
        trees = [tree for tree in self._audience.trees.values() if tree.takes(task)]
        if not trees:
            return
        if record.is_new and task is record.subject:
            self._audience.introduce(task, trees, ASSUMED)
            return
        marks = ENTERED if record.is_exact else ASSUMED | ENTERED
        self._audience.introduce(task, trees, marks)
        self._audience.tell("reparent", task, task, eventpack.parent, marks, trees=trees)
