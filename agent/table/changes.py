# SPDX-License-Identifier: Apache-2.0
"""The tasks that records have touched since the last look, so that a second look at the table need not visit all tasks.

Theory
------
A task is touched when one of its facts may have changed: a field of its own, or one of its leader's that holds for the
whole group (parent, group, session). A change of the list of children touches the parent, and a change of the list of
threads touches the leader. A change of a parent's address touches the children, for their records name the parent by
it. So a result about some tasks still holds if none of them is touched; a task that joins a tree touches one that is in
it.

Touching too many tasks costs time. Touching too few would make a snapshot wrong, so tests/unit/table/test_changes.py
compares with a full look. This module has the rules that touch more than one task; the callers touch the others.
"""

from collections.abc import Iterable

from agent.table import rules
from agent.table.objects import TaskStruct


class Changes:
    """The set of touched tasks.

    Attributes:
        tasks: the tasks touched since the last look, living or gone. The module that looks empties the set.
        add: touches one task.
    """

    def __init__(self) -> None:
        self.tasks: set[TaskStruct] = set()
        self.add = self.tasks.add
        self._aside: set[TaskStruct] = set()

    def set_aside(self) -> None:
        """Begin anew, for a reader that looks after each record; other readers get all touched tasks by `gather`."""
        self._aside |= self.tasks
        self.tasks.clear()

    def gather(self) -> set[TaskStruct]:
        """Return all tasks touched since this set was emptied last, also those that were set aside."""
        if self._aside:
            self.tasks |= self._aside
            self._aside.clear()
        return self.tasks

    def group(self, leader: TaskStruct) -> None:
        """Touch all tasks of a group."""
        self.add(leader)
        if leader.threads:
            self.tasks.update(leader.threads)

    def address(self, task: TaskStruct) -> None:
        """Touch the children of a task, whose address changes."""
        for child in task.children():
            self.group(child)

    def adopt(self, parent: TaskStruct, leader: TaskStruct) -> None:
        """Call rules.link_child() and touch the tasks it changes."""
        rules.link_child(leader, parent)
        self.add(parent)
        self.group(leader)

    def exit(self, task: TaskStruct) -> TaskStruct | None:
        """Call rules.exit_task() of a task with children, and touch the tasks it changes."""
        children = tuple(task.children())
        reaper = rules.exit_task(task)
        self.add(task)
        self._moved(children)
        return reaper

    def release(self, task: TaskStruct) -> None:
        """Call rules.release_task() and touch the tasks it changes."""
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

    def de_thread(self, thread: TaskStruct) -> None:
        """Call rules.de_thread() and touch the tasks it changes."""
        group = tuple(thread.group())
        left = [child for each in group for child in each.children()]
        rules.de_thread(thread)
        self.tasks.update(group)
        self._moved(left)

    def _moved(self, children: Iterable[TaskStruct]) -> None:
        """Touch children that may have another parent now, and that parent; the former one is touched already."""
        for child in children:
            self.group(child)
            if child.parent is not None:
                self.add(child.parent)
