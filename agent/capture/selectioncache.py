# SPDX-License-Identifier: Apache-2.0
"""A cache of the last walks of trees, the last selection of each, and the last comparison with a sweep.

Theory
------
A result about some tasks holds while none of them is touched (`agent.table.changes`). Where some are touched, a new walk
sorts only what they have below them, and a new selection makes only their rows anew (`agent.selection.rows`). Where it
is equal, the old selection is kept, with all results derived from it.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

from agent.capture.recent import Recent
from agent.capture.sweepdiff import Question, SweepDiff
from agent.model import Mode
from agent.selection import select
from agent.table.objects import EXITED, PidNamespace, TaskStruct
from agent.table.processtable import ProcessTable

if TYPE_CHECKING:
    from agent.selection.walk import Walk


class _Walked(NamedTuple):
    """The tasks below a root, and those of them that have exited."""

    members: list[TaskStruct]
    exited: list[TaskStruct]
    inside: frozenset[TaskStruct]


class _Selected:
    """A selection, the request for it, and the tasks that it depends on.

    Attributes:
        key: the request.
        inside: the members of the tree.
        space: of a container, whose members matter even where they are not in the tree.
        touched: the tasks that have been touched since, of those that it depends on.
        holds: True while no task that it depends on has been touched.
    """

    __slots__ = ("chosen", "holds", "inside", "key", "space", "touched")

    def __init__(
        self,
        key: tuple[Mode, bool],
        inside: frozenset[TaskStruct],
        space: PidNamespace | None,
        chosen: select.Selection,
    ) -> None:
        self.key, self.inside, self.space, self.chosen = key, inside, space, chosen
        self.touched: set[TaskStruct] = set()
        self.holds = True

    def note(self, touched: set[TaskStruct]) -> None:
        """Note tasks that were touched."""
        inside = self.inside & touched
        self.touched |= inside
        if self.holds and (inside or not touched.isdisjoint(self.chosen.outsiders) or self._is_beside(touched)):
            self.holds = False

    def _is_beside(self, touched: set[TaskStruct]) -> bool:
        """Return True if one of the touched tasks is in the container."""
        space = self.space
        return space is not None and any(
            task.pid.level >= space.level and task.pid.namespace.ancestor(space.level) is space for task in touched
        )


class _Tree:
    """The results about the tree below one root.

    Attributes:
        walk: walks it; None: it has not been walked yet.
        walked: the last walk; None: there is none that holds.
        selected: the last selection; None: there was none.
        tasks: the number of its tasks at the last walk.
    """

    __slots__ = ("selected", "tasks", "walk", "walked")

    def __init__(self) -> None:
        self.walk: Walk | None = None
        self.walked: _Walked | None = None
        self.selected: _Selected | None = None
        self.tasks = 0


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

    def retain(self, roots: Collection[TaskStruct]) -> None:
        """Forget the results about the trees of all other roots, and the last comparison."""
        self._trees.retain(roots)
        self._sweeps.forget()

    @property
    def is_used(self) -> bool:
        """True where results about any tree are kept, so that another snapshot of it may come soon."""
        return bool(self._trees.values())

    def note(self) -> None:
        """Forget the results that depend on tasks touched since the last call."""
        touched = self._changes.gather()
        if not touched:
            return
        for tree in self._trees.values():
            if tree.walk is not None:
                tree.walk.forget(touched)
            if tree.walked is not None and not tree.walked.inside.isdisjoint(touched):
                tree.walked = None
            if tree.selected is not None:
                tree.selected.note(touched)
        self._sweeps.note(touched)
        touched.clear()

    def size(self, root: TaskStruct) -> int:
        """Return the number of tasks that the tree below a task had when it was walked last, which may be now."""
        return self._trees.of(root).tasks or len(self.members(root))

    def members(self, root: TaskStruct) -> list[TaskStruct]:
        """Return the tree below a task."""
        return self._walked(root)[1].members

    def exited(self, root: TaskStruct) -> list[TaskStruct]:
        """Return the tasks of a tree that have exited."""
        return self._walked(root)[1].exited

    def _walked(self, root: TaskStruct) -> tuple[_Tree, _Walked]:
        self.note()
        tree = self._trees.of(root)
        walked = tree.walked
        if walked is None:
            if tree.walk is None:
                tree.walk = select.walk(root)
            members = tree.walk.members()
            exited = [task for task in members if task.flags & EXITED]
            walked = tree.walked = _Walked(members, exited, frozenset(members))
            tree.tasks = len(members)
            self._trees.of(root, len(members))
        return tree, walked

    def select(self, root: TaskStruct, mode: Mode, *, without_entered: bool) -> select.Selection:
        """Select as `agent.selection.select.select` does; it raises the same errors."""
        key = (mode, without_entered)
        tree, walked = self._walked(root)
        last = tree.selected if tree.selected is not None and tree.selected.key == key else None
        if last is not None and last.holds:
            return last.chosen
        chosen = select.select(
            root,
            mode,
            without_entered=without_entered,
            reached=walked.members,
            earlier=select.Earlier(last.chosen, last.touched) if last is not None else None,
        )
        space = root.pid.namespace if mode == "container" else None
        tree.selected = _Selected(key, walked.inside, space, chosen)
        return chosen

    def differing(self, rows: bytes, *, remember: bool) -> list[Question]:
        """Compare as `SweepDiff.differing` does."""
        self.note()
        return self._sweeps.differing(rows, remember=remember)
