# SPDX-License-Identifier: Apache-2.0
"""Live events, for all subscribers: what happened to which task, in the order in which it happened.

Theory
------
Events are made of differences. What was told last of each task of a followed tree is kept (`eventfacts.Facts`); after each
record that the table has applied, the tasks that it touched (`agent.changes`) are compared with that, and what differs is
told. So a change is told whatever brought it: the record that announces it, or one that repaired it in passing, an answer,
a sweep, a number that somebody else has now. State at the beginning and all events make the state of now, always.

A record's *own* event is what it announces: a birth, an exec, a death, a session, a group, a subreaper. The rest of what it
changes is *assumed*, since its moment is not known, and told before; but for what follows from an exit or an exec by rule
(a new parent, a release), which is told after it. Who founded a group is told before who joins it.

``order`` is the number of the record, the same as the ``order`` of births in a snapshot. A subscription begins at a
position: everything numbered below is in the snapshot that came with it, and every event that follows has that number or a
later one. A record that comes after its number was given up is told under the next number, for it changes what is now.

Losses are told where they happened: ``loss``, of the daemon's (records that found no room in the ring; a sweep mends the
table, what it finds is told, and ``resync`` says that all is right again), and ``dropped``, of this subscriber's (it has
not read what was sent: its backlog is bounded, and what comes meanwhile is counted). ``hidden``: there is somebody else's
task in the tree, of which this subscriber may not hear. ``end``: the roots are gone.

While nobody has subscribed, records go straight to the table; nothing here runs.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from agent import announced, eventfacts, rules
from agent.announced import EXACT, OF_GROUP, Record
from agent.eventfacts import (
    ASSUMED,
    ENTERED,
    Clock,
    Details,
    Facts,
    Marks,
    facts_of,
    is_told_by,
    values_of,
)
from agent.eventpack import EventPacker
from agent.followed import Followed, below
from agent.objects import Namespace, Task
from agent.pidspace import Data
from agent.stream import Handler, Stream
from agent.subscription import Subscription
from agent.table import ProcessTable
from agent.wire import Kind

_STATE: Final = Kind.STATE.value


class Feed:
    """Makes events of what the table takes over, while somebody wants them.

    Args:
        stream: whose handlers are the table's.
        table: the table.
        clock: gives the time of whatever is told, CLOCK_REALTIME in ns.
        ahead: gives how far that is ahead of CLOCK_BOOTTIME, in ns.

    Attributes:
        subscriptions: each with a function that gives its unsent bytes.
    """

    def __init__(self, stream: Stream, table: ProcessTable, clock: Clock, ahead: Clock) -> None:
        self._stream = stream
        self._table = table
        self._clock = clock
        self._ahead = ahead
        self._changes = table.changes
        self._lost = 0
        self._unsynced = False
        self._trees: dict[tuple[Task, ...], Followed] = {}
        self._told: dict[Task, Facts] = {}
        self._packer = EventPacker()
        self._order = self._now_ns = 0
        self.subscriptions: dict[Subscription, Callable[[], int]] = {}

    # ---- who listens -----------------------------------------------------------------------------------------------

    def add(self, subscription: Subscription, unsent: Callable[[], int]) -> None:
        """Begin to tell."""
        if not self.subscriptions:
            self._lost = self._stream.lost
            self._unsynced = self._stream.suspect
            for kind, handler in self._table.handlers.items():
                if kind is not Kind.STRINGS:  # of which nothing is told
                    self._stream.handle(kind, self._listener(kind.value, handler))
        self.subscriptions[subscription] = unsent
        tree = self._trees.get(subscription.roots)
        if tree is None:
            tree = self._trees[subscription.roots] = Followed(subscription.roots)
            members = (
                [task for leader in tree.leaders for task in leader.group()] if tree.roots else self._table.tasks()
            )
            for task in members:
                if task not in self._told:
                    self._told[task] = facts_of(task)
        tree.subscriptions[subscription] = unsent

    def remove(self, subscription: Subscription) -> None:
        """Tell no longer."""
        if self.subscriptions.pop(subscription, None) is None:
            return
        tree = self._trees[subscription.roots]
        del tree.subscriptions[subscription]
        if not self.subscriptions:
            self._trees.clear()
            self._told.clear()
            self._packer.forget_all()
            for kind, handler in self._table.handlers.items():
                self._stream.handle(kind, handler)
        elif not tree.subscriptions:
            del self._trees[subscription.roots]
            leaders = tree.leaders if tree.roots else {facts.leader for facts in self._told.values()}
            self._forget([leader for leader in leaders if not self._is_followed(leader)])

    def settle(self) -> None:
        """Between two batches: what is not of a record. The caller has swept if that was due."""
        if not self.subscriptions:
            return
        self._tell_loss(self._stream.next)
        if self._unsynced and not self._stream.suspect:
            self._unsynced = False
            self._tell_all({"event": "resync", "order": self._stream.next})
        for subscription in self.subscriptions:
            gone = [root.pid.task is not root for root in subscription.roots]
            if gone and all(gone) and not subscription.ended:
                subscription.ended = True
                subscription.say({"event": "end", "order": self._stream.next, "time_ns": self._clock()})

    def _tell_all(self, event: dict[str, Any]) -> None:
        event["time_ns"] = self._clock()
        for subscription in self.subscriptions:
            subscription.say(event)

    def _tell_loss(self, order: int) -> None:
        """Numbers below this one are missing; or one that was given up comes too late, and undoes what came after it."""
        lost, self._lost = self._stream.lost - self._lost, self._stream.lost
        if lost > 0 or (self._stream.suspect and not self._unsynced):
            self._unsynced = True
            self._tell_all({"event": "loss", "order": order, "count": max(0, lost)})

    # ---- records ---------------------------------------------------------------------------------------------------

    def _listener(self, kind: int, apply: Handler) -> Handler:
        """Make what applies the records of a kind, and tells what differs by each. It runs for every record of the host."""
        stream, table, changes, trees = self._stream, self._table, self._changes, self._trees
        touched, concerns_nobody = changes.tasks, self._told.keys().isdisjoint
        about_a_task = kind <= _STATE
        bare = Record(kind)

        def heard(data: Data, at: int) -> None:
            if stream.lost != self._lost or stream.suspect is not self._unsynced:
                self._tell_loss(stream.next - (not stream.is_late))
            if touched:
                changes.set_aside()
            before = announced.begun(table, kind, data, at) if about_a_task else None
            apply(data, at)
            if not touched:
                return
            # Whoever enters a tree touches somebody who is in it.
            if not concerns_nobody(touched) or () in trees:
                record = bare if before is None else announced.done(table, kind, before, data, at)
                self._order = stream.next - (not stream.is_late)
                self._now_ns = self._clock()
                self._tell_record(record, touched)
            changes.set_aside()

        return heard

    def _may_enter(self, task: Task) -> bool:
        """Return True if a task that was not told of may be in a followed tree now."""
        told, leader = self._told, task.leader
        parent = leader.parent
        return leader in told or (parent is not None and parent.leader in told) or () in self._trees

    def _is_followed(self, leader: Task) -> bool:
        return any(tree.has(leader) for tree in self._trees.values())

    def _tell_record(self, record: Record, touched: Iterable[Task]) -> None:
        """Tell what a record has changed: repairs, its own event, what follows from that."""
        told, subject, own = self._told, record.subject, record.own
        repaired: list[Task] = []
        followed: list[Task] = []
        gone: list[Task] = []
        for task in touched:
            facts = told.get(task)
            if task.pid.task is not task:
                if facts is not None:
                    gone.append(task)
            elif facts is None:
                if not (task is subject and own == "birth") and self._may_enter(task):
                    (followed if record.follows(task, None) else repaired).append(task)
            elif facts != (values := values_of(task)):
                if task is subject and is_told_by(own, facts, values):
                    told[task] = Facts._make(values)
                else:
                    (followed if record.follows(task, facts) else repaired).append(task)
        if gone:
            if len(gone) > 1:
                gone.sort(key=lambda task: told[task].leader is task)  # while a leader is in a tree its threads are
            self._bury(record, gone)
        if repaired:
            self._repair(record, repaired)
        if subject is not None and own is not None:
            self._tell_own(record, subject, own)
        if followed or gone:
            marks = {} if record.kind in EXACT else ASSUMED
            for task in followed:
                if task in told:
                    self._differ(task, marks, None)
                else:
                    self._appear(record, task)
            self._reap(gone, marks)

    def _repair(self, record: Record, repaired: list[Task]) -> None:
        """Tell what a record does not announce. Who has founded a group comes before who joins it.

        Somebody new comes first, for others may have waited for it; else the subject last, for its own event is next.
        """
        told, subject = self._told, record.subject
        if len(repaired) > 1:
            subjects = (subject, subject.leader) if subject is not None else ()
            repaired.sort(key=lambda task: ((task in subjects) is not record.is_new, task.pgid is not task.pid))
        for task in repaired:
            if task not in told:
                self._appear(record, task)
            else:
                self._differ(task, ASSUMED, record.coming(task, told.get(subject) if subject is not None else None))

    # ---- one task --------------------------------------------------------------------------------------------------

    def _bury(self, record: Record, gone: Iterable[Task]) -> None:
        """Tell deaths that no record told, and the reap of whoever had a number that is somebody else's now."""
        numbers = self._table.pids.numbers
        replaced: list[Task] = []
        for task in gone:
            pid, facts = task.pid, self._told[task]
            if not (facts.exited or task is record.caller or (task is record.subject and record.own == "death")):
                self._told[task] = facts._replace(exited=1)
                dead = rules.find_alive_thread(facts.leader) is None
                self._tell("death", task, facts.leader, eventfacts.DEATH[dead], ASSUMED)
            if pid.task is not None or numbers.get(pid.numbers[0], pid) is not pid:
                replaced.append(task)
        if replaced:
            replaced.sort(key=lambda task: task.pid.task is None)
            self._reap(replaced, ASSUMED)

    def _reap(self, gone: Iterable[Task], marks: Marks) -> None:
        for task in gone:
            facts = self._told.get(task)
            if facts is not None:
                self._tell("reap", task, facts.leader, eventfacts.nothing, marks)
                del self._told[task]
                self._packer.forget(task)
                if facts.leader is task:
                    for tree in self._trees.values():
                        tree.leaders.discard(task)

    def _differ(self, task: Task, marks: Marks, own: str | None) -> None:
        """Tell what is other than it was told last, but for what the record's own event is going to say."""
        old, new = self._told[task], facts_of(task)
        if new.parent is None:
            new = new._replace(parent=old.parent)  # not known: it is being asked about, and has not gone anywhere
        if own == "status" and old.exited:
            new = new._replace(exit_code=old.exit_code)
        if new == old:
            return
        self._told[task] = new
        said = own in ("death", "exec", "birth")
        moved = new.parent is not old.parent
        if moved:
            self._move(task, marks)
            if task not in self._told:
                return
        if new.sid is not old.sid and own != "setsid":
            self._tell("setsid", task, new.leader, eventfacts.ids, marks)
        elif new.pgid is not old.pgid and own not in ("setsid", "setpgid"):
            self._tell("setpgid", task, new.leader, eventfacts.ids, marks)
        if new.subreaper != old.subreaper and own != "subreaper":
            self._tell("subreaper", task, new.leader, eventfacts.subreaper, marks)
        if new.exited and not old.exited and own != "death":
            dead = rules.find_alive_thread(task) is None
            self._tell("death", task, new.leader, eventfacts.DEATH[dead], marks)
        elif old.exited and not new.exited and own != "exec":
            self._tell("exec", task, new.leader, eventfacts.execution(None), marks)
            if new.stopped:
                self._tell("change", task, new.leader, eventfacts.condition, marks)
        elif (
            new.stopped != old.stopped
            or (new.exited and old.exited and new.exit_code != old.exit_code and own != "death")
            or (new.exit_signal != old.exit_signal and not (moved or own in ("exec", "birth")))
            or ((new.ids != old.ids or new.comm != old.comm) and not said)
        ):
            self._tell("change", task, new.leader, eventfacts.condition, marks)

    def _tell_own(self, record: Record, subject: Task, own: str) -> None:
        """Tell the event that a record announces."""
        told, facts = self._told, self._told.get(subject)
        if facts is None:
            if own == "birth" and subject.pid.task is subject and subject.leader is subject:
                if record.is_new and subject.first_child is None:
                    self._begin(subject)
                    return
                trees = [tree for tree in self._trees.values() if tree.takes(subject)]
                self._introduce(subject, trees, {}, self._ahead() + subject.start_ns)
            elif own == "birth" and subject.pid.task is subject:
                told[subject] = facts_of(subject)
                self._tell(own, subject, subject.leader, eventfacts.birth, {}, self._ahead() + subject.start_ns)
            return
        leader = facts.leader
        born_ns = 0
        if own == "death":
            said: Details = eventfacts.DEATH[record.argument != 0]
        elif own == "exec":
            said = eventfacts.execution(record.caller_pid)
        elif own == "birth":
            said = eventfacts.presence
            born_ns = self._ahead() + subject.start_ns
        else:
            said = eventfacts.subreaper if own == "subreaper" else eventfacts.ids
        self._tell(own, subject, leader, said, {}, born_ns)
        if leader is not subject and leader.pid.task is leader and own not in OF_GROUP:
            self._differ(leader, {}, None)

    def _begin(self, leader: Task) -> None:
        """Tell of the birth of a process that is in the trees that its parent is in."""
        above = leader.parent.leader if leader.parent is not None else None
        trees = [tree for tree in self._trees.values() if not tree.roots or above in tree.leaders]
        if trees:
            self._told[leader] = facts_of(leader)
            for tree in trees:
                tree.add(leader)
            self._tell("birth", leader, leader, eventfacts.birth, {}, self._ahead() + leader.start_ns, trees)

    # ---- trees -----------------------------------------------------------------------------------------------------

    def _move(self, leader: Task, marks: Marks) -> None:
        """Tell of another parent: a subtree may enter a followed tree that way, or leave it."""
        staying, entered, left = [], [], []
        for tree in self._trees.values():
            if not tree.has(leader):
                if tree.takes(leader):
                    entered.append(tree)
            else:
                staying.append(tree)
                if not tree.takes(leader):
                    left.append(tree)
        self._introduce(leader, entered, marks | ENTERED)
        self._tell("reparent", leader, leader, eventfacts.parent, marks, trees=staying)
        self._tell("reparent", leader, leader, eventfacts.parent, marks | ENTERED, trees=entered)
        if left:
            gone = list(below(leader))
            for tree in left:
                for each in gone:
                    tree.discard(each)
            self._forget([each for each in gone if not self._is_followed(each)])

    def _appear(self, record: Record, task: Task) -> None:
        """Somebody who was in no followed tree is in one: nobody had told of its birth, or it comes from outside."""
        leader = task.leader
        if leader is not task:
            if leader in self._told:
                self._told[task] = facts_of(task)
                self._tell("birth", task, leader, eventfacts.presence, ASSUMED)
            return
        trees = [tree for tree in self._trees.values() if tree.takes(task)]
        if not trees:
            return
        if record.is_new and task is record.subject:
            self._introduce(task, trees, ASSUMED)
            return
        marks = ENTERED if record.kind in EXACT else ASSUMED | ENTERED
        self._introduce(task, trees, marks)
        self._tell("reparent", task, task, eventfacts.parent, marks, trees=trees)

    def _introduce(self, top: Task, trees: Sequence[Followed], marks: Marks, born_ns: int = 0) -> None:
        """Tell of a process and of all below it, parents first, whoever has not heard of them.

        Args:
            top: the process.
            trees: that it is in from now on.
            marks: of these events; none: it has been born this moment.
            born_ns: when it was, by CLOCK_REALTIME, where that is known.
        """
        told = self._told
        for leader in below(top) if trees else ():
            own = leader is top and not marks
            for task in leader.group():
                fresh = task not in told
                if fresh:
                    told[task] = facts_of(task)
                hearing = [tree for tree in trees if (leader not in tree.leaders if tree.roots else fresh)]
                if own:
                    self._tell("birth", task, leader, eventfacts.birth, {}, born_ns, hearing)
                else:
                    self._tell("birth", task, leader, eventfacts.presence, marks or ASSUMED, trees=hearing)
            for tree in trees:
                tree.add(leader)

    def _forget(self, leaders: Iterable[Task]) -> None:
        """Nobody follows these processes any more."""
        for leader in leaders:
            for task in leader.group():
                self._told.pop(task, None)

    # ---- subscribers -----------------------------------------------------------------------------------------------

    def _tell(
        self,
        kind: str,
        task: Task,
        leader: Task,
        say: Details,
        marks: Marks,
        time_ns: int = 0,
        trees: Iterable[Followed] | None = None,
    ) -> None:
        """Tell those who want it; it is packed once for each namespace that somebody counts in.

        Args:
            kind, task: what, about whom.
            leader: of the task, as it was told last.
            say: gives what is particular to the kind.
            marks: ``assumed``, ``entered``, or none.
            time_ns: of CLOCK_REALTIME; 0: now.
            trees: whose subscribers are to hear it; None: of those that the process is in.
        """
        packed: dict[Namespace, bytes] = {}
        time_ns = time_ns or self._now_ns
        order = self._order
        for tree in self._trees.values() if trees is None else trees:
            if trees is None and tree.roots and leader not in tree.leaders:
                continue
            for subscription, unsent in tree.subscriptions.items():
                if not (subscription.sees_all or subscription.sees(task)):
                    subscription.hide(task, order, time_ns)
                elif kind in subscription.kinds and subscription.has_room(unsent(), time_ns):
                    namespace = subscription.namespace
                    if namespace in packed:
                        event = packed[namespace]
                    else:
                        event = self._packer.event(kind, order, time_ns, task, leader, namespace, say, marks)
                        packed[namespace] = event
                    subscription.put(event)
