# SPDX-License-Identifier: Apache-2.0
"""Whom the records have touched since somebody looked, so that whoever looks again need not look at everybody.

Theory
------
A task is touched when one of its facts may have become another one: a field of its own, or what stands with its leader
and holds for the whole group (parent, group, session). A parent is touched with the list of its children, a leader with
that of its threads, and the children of a parent with its address, for that is how the kernel names it to them. So what
was found out about some tasks still holds if none of them is touched; who joins a tree touches one that is in it.

Touching too many costs time. Touching too few would be a wrong snapshot, so it is compared with all there is to know
(tests/test_changes.py). Here are the rules that touch more than the task they are about; the others are where they are
called.
"""

from collections.abc import Iterable

from agent import rules
from agent.objects import Task


class Changes:
    """The touched.

    Attributes:
        tasks: here or gone, since the last look. Emptying it is for whoever looks.
        add: one more.
    """

    def __init__(self) -> None:
        self.tasks: set[Task] = set()
        self.add = self.tasks.add
        self._aside: set[Task] = set()

    def set_aside(self) -> None:
        """Begin anew, for somebody who looks after each record; the others get all of them by `gather`."""
        self._aside |= self.tasks
        self.tasks.clear()

    def gather(self) -> set[Task]:
        """All that were touched since this set was emptied last, also those that were set aside."""
        if self._aside:
            self.tasks |= self._aside
            self._aside.clear()
        return self.tasks

    def group(self, leader: Task) -> None:
        """A fact of the whole group."""
        self.add(leader)
        if leader.threads:
            self.tasks.update(leader.threads)

    def address(self, task: Task) -> None:
        """How it is named to its children."""
        for child in task.children():
            self.group(child)

    def adopt(self, parent: Task, leader: Task) -> None:
        """rules.link_child()."""
        rules.link_child(leader, parent)
        self.add(parent)
        self.group(leader)

    def exit(self, task: Task) -> Task | None:
        """rules.exit_task(), of whoever has children."""
        children = tuple(task.children())
        reaper = rules.exit_task(task)
        self.add(task)
        self._moved(children)
        return reaper

    def release(self, task: Task) -> None:
        """rules.release_task()."""
        leader = task.leader
        self.add(leader)
        if leader is task and task.parent is not None:
            self.add(task.parent)
        if task.first_child is None and (leader is not task or task.threads is None):  # nearly always
            self.add(task)
            rules.release_task(task)
            return
        group = tuple(task.group()) if leader is task else (task,)
        left = [child for thread in group if thread.first_child is not None for child in thread.children()]
        rules.release_task(task)
        self.tasks.update(group)
        self._moved(left)

    def de_thread(self, thread: Task) -> None:
        """rules.de_thread()."""
        group = tuple(thread.group())
        left = [child for each in group for child in each.children()]
        rules.de_thread(thread)
        self.tasks.update(group)
        self._moved(left)

    def _moved(self, children: Iterable[Task]) -> None:
        """They may have another parent now; the one before is touched already."""
        for child in children:
            self.group(child)
            if child.parent is not None:
                self.add(child.parent)
