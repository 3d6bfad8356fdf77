# SPDX-License-Identifier: Apache-2.0
"""The walk over a tree of tasks, in tree order: a leader, its descendants, then its next thread and that one's.

Siblings and threads stand by their numbers in the root's namespace. Numbers never change, and a change of a list of
children or of threads touches the task that has it (agent.table.changes). So the sorted list of a task holds until that
task is touched, and a further walk sorts only what was touched.
"""

from collections.abc import Collection

from agent.table.objects import TaskStruct


class Walk:
    """The walk below one root.

    Args:
        root: the task to begin at.
    """

    def __init__(self, root: TaskStruct) -> None:
        self._root = root
        self._level = root.pid.level
        self._below: dict[TaskStruct, list[TaskStruct]] = {}  # of the tasks that have any: last first, threads before

    def forget(self, touched: Collection[TaskStruct]) -> None:
        """Forget the lists of touched tasks."""
        for task in self._below.keys() & touched:
            del self._below[task]

    def members(self) -> list[TaskStruct]:
        """Return the root and its descendants. A caller must have told of all tasks touched since the last call."""
        below = self._below
        found: list[TaskStruct] = []
        stack = [self._root]  # still to visit; threads stand below a leader's descendants
        take, put = stack.pop, found.append
        while stack:
            task = take()
            put(task)
            if task.first_child is None and task.threads is None:  # nearly all: only a leader has threads
                continue
            inner = below.get(task)
            if inner is None:
                inner = below[task] = self._sorted(task)
            stack += inner
        return found

    def _sorted(self, task: TaskStruct) -> list[TaskStruct]:
        level = self._level

        def number(one: TaskStruct) -> int:
            numbers = one.pid.numbers
            return numbers[level] if level < len(numbers) else 0

        threads = sorted(task.threads, key=number, reverse=True) if task.threads else []
        return threads + sorted(task.children(), key=number, reverse=True)
