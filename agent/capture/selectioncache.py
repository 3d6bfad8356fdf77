# SPDX-License-Identifier: Apache-2.0
"""A cache of the last walks of trees, the last selection of each, and the last comparison with a sweep.

Theory
------
A result about some tasks holds while none of them is touched (`agent.table.changes`). Where one is touched, a new
selection may still be equal: if its signature is (`agent.selection.select.signature`), the old selection is kept, with
all results derived from it.
"""

from dataclasses import dataclass
from typing import NamedTuple

from agent.capture.recent import Recent
from agent.capture.sweepdiff import Question, SweepDiff
from agent.model import Mode
from agent.selection import select
from agent.table.objects import EXITED, PidNamespace, TaskStruct
from agent.table.processtable import ProcessTable


class _Walk(NamedTuple):
    """The tasks below a root, and those of them that have exited."""

    members: list[TaskStruct]
    exited: list[TaskStruct]
    inside: frozenset[TaskStruct]


@dataclass(slots=True)
class _Selected:
    """A selection, the request for it, and the tasks that it depends on.

    Attributes:
        space: of a container, whose members matter even where they are not in the tree.
        holds: True while no task that it depends on has been touched.
    """

    key: tuple[Mode, bool]
    inside: frozenset[TaskStruct]
    space: PidNamespace | None
    signature: list[object]
    chosen: select.Selection
    holds: bool = True

    def depends_on(self, touched: set[TaskStruct]) -> bool:
        """Return True if the selection may depend on one of the touched tasks."""
        if not self.inside.isdisjoint(touched) or not touched.isdisjoint(self.chosen.outsiders):
            return True
        space = self.space
        return space is not None and any(
            task.pid.level >= space.level and task.pid.namespace.ancestor(space.level) is space for task in touched
        )


@dataclass(slots=True)
class _Tree:
    """The walk and the selection of the tree below one root; None: there is none that holds."""

    walk: _Walk | None = None
    selected: _Selected | None = None


class SelectionCache:
    """The last walks and selections of one table, and its last comparison.

    Args:
        table: the table; this object alone empties its set of changes.
    """

    def __init__(self, table: ProcessTable) -> None:
        self._changes = table.changes
        self._sweeps = SweepDiff(table)
        self._trees: Recent[TaskStruct, _Tree] = Recent(_Tree)

    def forget(self) -> None:
        """Forget all results."""
        self._trees.clear()
        self._sweeps.forget()

    def note(self) -> None:
        """Forget the results that depend on tasks touched since the last call."""
        touched = self._changes.gather()
        if not touched:
            return
        for tree in self._trees.values():
            if tree.walk is not None and not tree.walk.inside.isdisjoint(touched):
                tree.walk = None
            selected = tree.selected
            if selected is not None and selected.holds:
                selected.holds = not selected.depends_on(touched)
        self._sweeps.note(touched)
        touched.clear()

    def members(self, root: TaskStruct) -> list[TaskStruct]:
        """Return the tree below a task."""
        return self._walked(root)[1].members

    def exited(self, root: TaskStruct) -> list[TaskStruct]:
        """Return the tasks of a tree that have exited."""
        return self._walked(root)[1].exited

    def _walked(self, root: TaskStruct) -> tuple[_Tree, _Walk]:
        self.note()
        tree = self._trees.of(root)
        walk = tree.walk
        if walk is None:
            members = select.members(root)
            exited = [task for task in members if task.flags & EXITED]
            walk = tree.walk = _Walk(members, exited, frozenset(members))
            self._trees.of(root, len(members))
        return tree, walk

    def select(self, root: TaskStruct, mode: Mode, *, without_entered: bool) -> select.Selection:
        """Select as `agent.selection.select.select` does; it raises the same errors."""
        key = (mode, without_entered)
        tree, walk = self._walked(root)
        last = tree.selected
        if last is not None and last.key == key:
            if last.holds:
                return last.chosen
            signature = select.signature(root, mode, walk.members, last.chosen.outsiders)
            if signature == last.signature:
                last.holds, last.inside = True, walk.inside
                return last.chosen
        chosen = select.select(root, mode, without_entered=without_entered)
        signature = select.signature(root, mode, walk.members, chosen.outsiders)
        space = root.pid.namespace if mode == "container" else None
        tree.selected = _Selected(key, walk.inside, space, signature, chosen)
        return chosen

    def differing(self, rows: bytes, *, remember: bool) -> list[Question]:
        """Compare as `SweepDiff.differing` does."""
        self.note()
        return self._sweeps.differing(rows, remember=remember)
