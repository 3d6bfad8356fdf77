# SPDX-License-Identifier: Apache-2.0
"""The rows of a selection: made from the live objects, or taken over from an earlier selection of the tree.

Theory
------
A row depends on its task, on some facts of the leader of its group, on the tags of the pid objects that it uses, and on
the births' references. A change of the first two touches the task or its leader (agent.table.changes). Tags and
references are found anew for each selection, which is cheap, and compared. So a row whose task was not touched is
still right, but for the tags and references that differ; and where none differs, the row is the very same object, by
which others know that what they derived from it holds.
"""

from collections.abc import Collection, Sequence
from itertools import repeat
from typing import Any, Final

from agent.model import Birth, PidObject, Task, TaskState
from agent.selection.births import Births
from agent.selection.tags import Ids, Namespaces, Refs
from agent.table import rules
from agent.table.objects import EXITED, MOVING_NOWHERE, STOPPED, SUBREAPER, TaskStruct

_OF_ROW: Final = EXITED | STOPPED | MOVING_NOWHERE  # the flags that a row shows
_new: Final = tuple.__new__
_NO_FLAGS: Final = -1  # no task's: the next row has nothing in common with the one before
_FEW: Final = 8  # rows that are made one by one in less time than by columns
_IDS, _BIRTH = 5, Task._fields.index("birth")  # a row begins with the ids, and ends with the birth


class Rows:
    """The maker of rows.

    Args:
        births: of the selection.
        namespaces: of its pid objects.
        level: of the root's namespace.
    """

    def __init__(self, births: Births, namespaces: Namespaces, level: int) -> None:
        self._births = births
        self._namespaces = namespaces
        self._levels = level + 1  # of a pid object in the root's namespace
        # Of the last task: its facts, compared one by one, which is faster than as a tuple, and the values that follow.
        self._flags_before = _NO_FLAGS
        self._reaper_before = self._signal_before = 0
        self._comm_before = b""
        self._ids_before = (0, 0)
        self._middle: tuple[object, ...] = ()

    def made(self, tasks: Sequence[TaskStruct], ids: Sequence[Ids]) -> list[Task]:
        """Return the rows of tasks in tree order, made from the tasks and their ids."""
        births = self._births.of_all(tasks)
        levels = self._levels
        rows: list[Task] = []
        depths: list[int] = []  # of a run of rows that have the middle in common
        starts: list[int] = []
        for task in tasks:
            if not self._is_like_before(task):
                self._finish(rows, ids, depths, starts, births)
                depths, starts = [], []
                self._begin_anew(task)
            depths.append(len(task.pid.numbers) - levels)
            starts.append(task.start_ns)
        self._finish(rows, ids, depths, starts, births)
        return rows

    def _finish(
        self, rows: list[Task], ids: Sequence[Ids], depths: list[int], starts: list[int], births: list[Birth]
    ) -> None:
        """Add the rows of a run, which have the middle in common."""
        begin, end, middle = len(rows), len(rows) + len(starts), self._middle
        if len(starts) < _FEW:
            for place in range(begin, end):
                own = ids[place] + (depths[place - begin], starts[place - begin])
                rows.append(_new(Task, own + middle + (births[place],)))
        else:
            own_columns: Any = zip(*ids[begin:end], strict=True)
            columns: Any = map(repeat, middle, repeat(len(starts)))
            # By place, and past Task's own constructor: either would double the time of a first snapshot.
            values = zip(*own_columns, depths, starts, *columns, births[begin:end], strict=True)
            rows += map(_new, repeat(Task), values)

    def mended(
        self,
        tasks: Sequence[TaskStruct],
        ids: Sequence[Ids],
        earlier: dict[TaskStruct, Task],
        touched: Collection[TaskStruct],
    ) -> list[Task]:
        """Return the same rows, with those of an earlier selection where they hold.

        Args:
            tasks: in tree order.
            ids: of each.
            earlier: the rows of the earlier selection.
            touched: tasks that may have other facts than then.
        """
        birth = self._births.of
        other_creators, other_refs = self._births.other_creators, self._births.other_refs
        threads = [
            thread for task in touched if task.threads for thread in task.threads
        ]  # a leader has facts of theirs
        suspect = {*touched, *threads}
        rows: list[Task] = []
        put, find = rows.append, earlier.get
        for task, own in zip(tasks, ids, strict=True):
            row = find(task)
            if row is None:
                put(self._made(task, own, birth(task)))
            elif task in suspect or task.child_namespace is not None:  # its id may be another task's doing
                made = self._made(task, own, birth(task))
                put(row if made == row else made)
            elif task.creator in other_creators or task.birth_sid in other_refs or task.birth_pgid in other_refs:
                born = birth(task)
                put(row if born == row.birth and row[:_IDS] == own else _new(Task, (*own, *row[_IDS:_BIRTH], born)))
            elif row[:_IDS] == own:
                put(row)
            else:
                put(_new(Task, own + row[_IDS:]))
        return rows

    def _made(self, task: TaskStruct, own: Ids, birth: Birth) -> Task:
        if not self._is_like_before(task):
            self._begin_anew(task)
        return _new(
            Task,
            own + (len(task.pid.numbers) - self._levels, task.start_ns) + self._middle + (birth,),  # noqa: RUF005
        )

    def _is_like_before(self, task: TaskStruct) -> bool:
        """Return True if a row has the middle of the one before, as nearly all have; tasks of one name share it."""
        return (
            task.flags & _OF_ROW == self._flags_before
            and task.leader.flags & SUBREAPER == self._reaper_before
            and task.comm is self._comm_before
            and task.ids == self._ids_before
            and task.exit_signal == self._signal_before
            and task.child_namespace is None
        )

    def _begin_anew(self, task: TaskStruct) -> None:
        flags = task.flags & _OF_ROW
        self._middle = self._values(task)
        self._flags_before = flags if task.child_namespace is None and not flags & EXITED else _NO_FLAGS
        self._reaper_before, self._signal_before = task.leader.flags & SUBREAPER, task.exit_signal
        self._comm_before, self._ids_before = task.comm, task.ids

    def _values(self, task: TaskStruct) -> tuple[object, ...]:
        """Return the values of a row that many rows have in common."""
        flags, pending = task.flags, task.child_namespace
        return (
            _state(task) if flags & (EXITED | STOPPED) else TaskState.RUNNING,
            task.exit_code if flags & EXITED else None,
            task.exit_signal,
            task.comm.rstrip(b"\0"),
            *task.ids,
            bool(task.leader.flags & SUBREAPER),
            None if pending is None else self._namespaces.child_id(pending),
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            True if flags & MOVING_NOWHERE else None,
        )


def _state(task: TaskStruct) -> TaskState:
    flags = task.flags
    if flags & EXITED:
        return TaskState.ZOMBIE if rules.is_zombie(task) else TaskState.DEAD_LEADER
    return TaskState.STOPPED if flags & STOPPED else TaskState.RUNNING


def pid_objects(refs: Refs, earlier: Refs | None = None, objects: Sequence[PidObject] = ()) -> list[PidObject]:
    """Return the collected pid objects.

    Args:
        refs: of the selection.
        earlier: those of an earlier selection of the tree.
        objects: the pid objects that it collected.
    """
    tags, namespaces = refs.tags, refs.namespaces
    level, home, of = tags.level, tags.namespace, namespaces.of
    of_home = namespaces.chains[home]
    if earlier is None:
        return [
            _new(PidObject, (pid.numbers[level:], of_home if pid.namespace is home else of(pid))) for pid in tags.pids
        ]
    find = dict(zip(earlier.tags.pids, objects, strict=True)).get
    same = namespaces.chains == earlier.namespaces.chains
    found: list[PidObject] = []
    for pid in tags.pids:
        at_home = pid.namespace is home
        known = find(pid)
        if known is None or not (same or at_home):
            known = _new(PidObject, (pid.numbers[level:], of_home if at_home else of(pid)))
        found.append(known)
    return found
