# SPDX-License-Identifier: Apache-2.0
"""The audience of live events: the followed trees, their subscribers, and the facts last told of each task."""

from collections.abc import Callable, Iterable, Sequence

from agent.events import eventpack
from agent.events.eventfacts import ASSUMED, ENTERED, UNMARKED, Clock, Facts, Marks
from agent.events.eventpack import Details
from agent.events.followed import Followed, below
from agent.events.hearers import Hearers
from agent.events.subscriber import Subscriber
from agent.table.objects import PidNamespace, TaskStruct


class Audience:
    """Followed trees and their subscribers.

    Args:
        ahead: returns the difference CLOCK_REALTIME minus CLOCK_BOOTTIME, ns.

    Attributes:
        trees: by their roots.
        told: the facts last told of each task of a followed tree.
        follows_all: True where a subscriber has no roots: all tasks are followed.
        order, now_ns: the order and the CLOCK_REALTIME, ns, of the events that are being told.
    """

    def __init__(self, ahead: Clock) -> None:
        self.trees: dict[tuple[TaskStruct, ...], Followed] = {}
        self.told: dict[TaskStruct, Facts] = {}
        self.follows_all = False
        self.order = 0
        self.now_ns = 0
        self._ahead = ahead

    # ---- subscribers -----------------------------------------------------------------------------------------------

    def add(self, subscriber: Subscriber, unsent: Callable[[], int], everybody: Callable[[], list[TaskStruct]]) -> None:
        """Add a subscriber.

        Args:
            subscriber: the subscriber, with its roots.
            unsent: returns the number of the client's unsent bytes.
            everybody: returns all tasks, for a subscriber without roots.
        """
        tree = self.trees.get(subscriber.roots)
        if tree is None:
            tree = self.trees[subscriber.roots] = Followed(subscriber.roots)
            members = [task for leader in tree.leaders for task in leader.group()] if tree.roots else everybody()
            for task in members:
                if task not in self.told:
                    self.told[task] = Facts(task)
        self.follows_all = () in self.trees
        hearers = tree.hearers.get(subscriber.likeness)
        if hearers is None:
            hearers = tree.hearers[subscriber.likeness] = Hearers(subscriber)
        hearers.add(subscriber, unsent)

    def remove(self, subscriber: Subscriber) -> None:
        """Remove a subscriber."""
        tree = self.trees[subscriber.roots]
        hearers = tree.hearers[subscriber.likeness]
        hearers.remove(subscriber)
        if not hearers.members:
            del tree.hearers[subscriber.likeness]
        if not tree.hearers:
            del self.trees[subscriber.roots]
            leaders = tree.leaders if tree.roots else {facts.leader for facts in self.told.values()}
            self.forget([leader for leader in leaders if not self.is_followed(leader)])
        if not self.trees:
            self.told.clear()
        self.follows_all = () in self.trees

    def is_followed(self, leader: TaskStruct) -> bool:
        """Return True if a process is in a followed tree."""
        return any(tree.has(leader) for tree in self.trees.values())

    def may_enter(self, task: TaskStruct) -> bool:
        """Return True if a task that is not told of may be in a followed tree now."""
        told, leader = self.told, task.leader
        parent = leader.parent
        return leader in told or (parent is not None and parent.leader in told) or self.follows_all

    def forget(self, leaders: Iterable[TaskStruct]) -> None:
        """Forget the facts of processes that are in no followed tree any more."""
        for leader in leaders:
            for task in leader.group():
                self.told.pop(task, None)

    # ---- tasks -----------------------------------------------------------------------------------------------------

    def born(self, task: TaskStruct, *, is_new: bool) -> None:
        """Tell the birth of a task that is new to the audience."""
        leader = task.leader
        if task.pid.task is not task:
            return
        if leader is not task:
            if leader in self.told:  # else it has the number of a task of a tree whose reap was not seen
                self.told[task] = Facts(task)
                self.tell("birth", task, leader, eventpack.birth, UNMARKED, self.birth_ns(task))
        elif is_new and task.first_child is None:
            self._begin(task)
        else:
            self.introduce(
                task, [tree for tree in self.trees.values() if tree.takes(task)], UNMARKED, self.birth_ns(task)
            )

    def birth_ns(self, task: TaskStruct) -> int:
        """Return the CLOCK_REALTIME of a birth, ns."""
        return self._ahead() + task.start_ns

    def _begin(self, leader: TaskStruct) -> None:
        """Tell the birth of a process in the trees that its parent is in."""
        above = leader.parent.leader if leader.parent is not None else None
        trees = [tree for tree in self.trees.values() if not tree.roots or above in tree.leaders]
        if trees:
            self.told[leader] = Facts(leader)
            for tree in trees:
                tree.add(leader)
            self.tell("birth", leader, leader, eventpack.birth, UNMARKED, self.birth_ns(leader), trees)

    def move(self, leader: TaskStruct, marks: Marks) -> None:
        """Tell a new parent, by which a subtree may enter a followed tree or leave it."""
        staying, entered, left = [], [], []
        for tree in self.trees.values():
            if not tree.has(leader):
                if tree.takes(leader):
                    entered.append(tree)
            else:
                staying.append(tree)
                if not tree.takes(leader):
                    left.append(tree)
        self.introduce(leader, entered, marks | ENTERED)
        self.tell("reparent", leader, leader, eventpack.parent, marks, trees=staying)
        self.tell("reparent", leader, leader, eventpack.parent, marks | ENTERED, trees=entered)
        if left:
            gone = list(below(leader))
            for tree in left:
                for each in gone:
                    tree.discard(each)
            self.forget([each for each in gone if not self.is_followed(each)])

    def introduce(self, top: TaskStruct, trees: Sequence[Followed], marks: Marks, born_ns: int = 0) -> None:
        """Tell a process and all processes below it, parents first, to the subscribers of trees that they enter.

        Args:
            top: the process.
            trees: the trees that it enters.
            marks: of these events; none: the process has just been born.
            born_ns: CLOCK_REALTIME of its birth, ns; 0 if it is not known.
        """
        told = self.told
        for leader in below(top) if trees else ():
            own = leader is top and not marks
            for task in leader.group():
                fresh = task not in told
                if fresh:
                    told[task] = Facts(task)
                hearing = [tree for tree in trees if (leader not in tree.leaders if tree.roots else fresh)]
                if own:
                    self.tell("birth", task, leader, eventpack.birth, UNMARKED, born_ns, hearing)
                else:
                    self.tell("birth", task, leader, eventpack.presence, marks or ASSUMED, trees=hearing)
            for tree in trees:
                tree.add(leader)

    def reap(self, gone: Iterable[TaskStruct], marks: Marks) -> None:
        """Tell that tasks are released for good, and forget their facts."""
        for task in gone:
            facts = self.told.get(task)
            if facts is not None:
                self.tell("reap", task, facts.leader, eventpack.nothing, marks)
                del self.told[task]
                if facts.leader is task:
                    for tree in self.trees.values():
                        tree.leaders.discard(task)

    # ---- subscribers -------------------------------------------------------------------------------------------------

    def tell(
        self,
        kind: str,
        task: TaskStruct,
        leader: TaskStruct,
        say: Details,
        marks: Marks,
        time_ns: int = 0,
        trees: Iterable[Followed] | None = None,
    ) -> None:
        """Queue an event for the subscribers that want it, packed once for all of a namespace.

        Args:
            kind, task: of the event.
            leader: of the task, as last told.
            say: returns the fields of the kind.
            marks: ``assumed``, ``entered``, or none.
            time_ns: CLOCK_REALTIME, ns; 0: now.
            trees: the trees whose subscribers get the event; None: those that the process is in.
        """
        packed: bytes | None = None
        packed_in: PidNamespace | None = None
        time_ns = time_ns or self.now_ns
        order = self.order
        for tree in self.trees.values() if trees is None else trees:
            if trees is None and tree.roots and leader not in tree.leaders:
                continue
            for hearers in tree.hearers.values():
                if not (hearers.sees_all or hearers.sees(task)):
                    hearers.hide(task, order, time_ns)
                elif kind not in hearers.kinds:
                    continue
                elif hearers.full:
                    hearers.miss(time_ns)
                else:
                    namespace = hearers.namespace
                    if packed is None or packed_in is not namespace:
                        facts = self.told.get(task)
                        packed = eventpack.event(kind, order, time_ns, task, leader, namespace, say, marks, facts)
                        packed_in = namespace
                    hearers.put(packed, time_ns)
