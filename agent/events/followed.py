# SPDX-License-Identifier: Apache-2.0
"""The processes below the roots of a subscription, kept up to date.

A process is in the tree iff its parent is. So the members are listed once, and from then on a birth, or a new parent,
costs one look at the parent, however deep the tree is and however many subscriptions it has: no walk goes up to the
root.
"""

from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING

from agent.table.objects import TaskStruct

if TYPE_CHECKING:
    from agent.events.hearers import Hearers


def below(top: TaskStruct) -> Iterator[TaskStruct]:
    """Yield the leaders of a process and of its descendants, parents first, older children before younger ones."""
    waiting = [top]
    while waiting:
        leader = waiting.pop()
        yield leader
        for thread in leader.group():
            if thread.first_child is not None:
                waiting.extend(thread.children())


class Followed:
    """The processes that subscribers with the same roots follow.

    Args:
        roots: leaders of the topmost processes; none: every process is followed.

    Attributes:
        leaders: of the processes that are followed; empty where every process is.
        hearers: its subscribers, by `Subscriber.likeness`.
    """

    __slots__ = ("hearers", "leaders", "roots")

    def __init__(self, roots: tuple[TaskStruct, ...]) -> None:
        self.roots = roots
        self.leaders: set[TaskStruct] = {leader for root in roots if root.pid.task is root for leader in below(root)}
        self.hearers: dict[Hashable, Hearers] = {}

    def has(self, leader: TaskStruct) -> bool:
        """Return True if a process is in it."""
        return not self.roots or leader in self.leaders

    @property
    def is_over(self) -> bool:
        """True where it has roots, and all of them are gone."""
        for root in self.roots:
            if root.pid.task is root:
                return False
        return bool(self.roots)

    def takes(self, leader: TaskStruct) -> bool:
        """Return True if a process belongs in it, by the parent that it has now."""
        if not self.roots or leader in self.roots:
            return True
        parent = leader.parent
        return parent is not None and parent.leader in self.leaders

    def add(self, leader: TaskStruct) -> None:
        """Add a process."""
        if self.roots:
            self.leaders.add(leader)

    def discard(self, leader: TaskStruct) -> None:
        """Remove a process."""
        self.leaders.discard(leader)
