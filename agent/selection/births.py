# SPDX-License-Identifier: Apache-2.0
"""Birth edges of a snapshot's tasks, and the ancestors that the edges run through."""

from collections.abc import Iterable
from itertools import repeat
from typing import Any, Final

from agent.model import Ancestor, AncestorEvent, Birth, Creator, PidRef, Tag
from agent.selection.tags import Refs
from agent.table import history
from agent.table.objects import CLONE_NEWPID, CLONE_PARENT, CLONE_THREAD, CLONE_VFORK, Pid, TaskStruct

_new: Final = tuple.__new__
_FLAG_NAMES = (
    (CLONE_NEWPID, "CLONE_NEWPID"),
    (CLONE_PARENT, "CLONE_PARENT"),
    (CLONE_THREAD, "CLONE_THREAD"),
    (CLONE_VFORK, "CLONE_VFORK"),
)
_FLAGS: dict[int, tuple[str, ...]] = {}  # by value: 16 at most, for the table keeps four bits of a birth's flags


def flag_names(flags: int) -> tuple[str, ...]:
    """Return the names of the clone flags that shape a tree."""
    names = _FLAGS.get(flags)
    if names is None:
        names = _FLAGS[flags] = tuple(text for bit, text in _FLAG_NAMES if flags & bit)
    return names


class Births:
    """Birth edges, and the ancestors that the edges run through.

    Args:
        named: gives the references to pid objects.
        root: of the tree. Its creator is outside, so its birth has no creator.
        inside: the tasks of the snapshot, with their tags.
        earlier: the births of an earlier snapshot of the tree; None: there was none.

    Attributes:
        outsiders: creators that are no tasks of the snapshot: gone, or alive outside the tree.
        creators, refs: the references to creators and to pid objects.
        other_creators: the creators of the earlier snapshot's births that have another tag here, or none.
        other_refs: the pid objects that the earlier births refer to and that have another tag here, or none.
    """

    def __init__(
        self, named: Refs, root: TaskStruct, inside: dict[TaskStruct, Tag], earlier: "Births | None" = None
    ) -> None:
        self._named = named
        self._namespaces = named.namespaces
        self._inside = inside
        self._level = named.tags.level
        self._gone: list[TaskStruct] = []
        self.outsiders: list[TaskStruct] = []
        # Many tasks have the same creator, and were born into the same session and group.
        self._root = root
        # Of the last birth: its facts, compared one by one, which is faster than as a tuple, and the values that follow.
        self._creator_before: TaskStruct | None = None
        self._sid_before: Pid | None = None
        self._pgid_before: Pid | None = None
        self._flags_before = 0
        self._begin: tuple[object, ...] = ()
        self._unobserved: dict[int, Birth] = {}  # by their flags, which are all that they have
        self.creators: dict[TaskStruct | None, Creator | None] = {None: None}
        self.refs: dict[Pid | None, PidRef | None] = {None: None}
        self.other_creators: set[TaskStruct | None] = set()
        self.other_refs: set[Pid | None] = set()
        if earlier is not None:
            self._take_over(earlier)

    def _take_over(self, earlier: "Births") -> None:
        """Take over the references to tags that are the same here. A numbered ancestor is never the same: its number
        is that of its turn.
        """
        for creator, named in earlier.creators.items():
            if (
                named is not None
                and named[0] is not None
                and creator is not None
                and self._inside.get(creator) == named[0]
            ):
                self.creators[creator] = named
            elif creator is not None:
                self.other_creators.add(creator)
        known = self._named.tags.known
        for pid, ref in earlier.refs.items():
            if pid is not None:
                tag = known(pid)
                if tag is not None and tag == ref:
                    self.refs[pid] = ref
                else:
                    self.other_refs.add(pid)

    def of(self, task: TaskStruct) -> Birth:
        """Return the birth of a task of the snapshot, or of an ancestor."""
        order, creator = task.order, task.creator
        if order < 0 or creator is None:
            return self._assumed(task.clone_flags)
        if not self._is_like_before(task, creator):
            self._begin_anew(task, creator)
        # past Birth's own constructor, which takes longer than all else here
        return _new(Birth, self._begin + (order,))  # noqa: RUF005 - faster

    def of_all(self, tasks: Iterable[TaskStruct]) -> list[Birth]:
        """Return the birth of each task, as `of` does, in half of the time: neighbours differ in the number alone."""
        found: list[Birth] = []
        orders: list[int] = []  # of a run of births that have all else in common
        for task in tasks:
            creator = task.creator
            if task.order < 0 or creator is None:
                self._finish(found, orders)
                orders = []
                found.append(self._assumed(task.clone_flags))
                continue
            if not self._is_like_before(task, creator):
                self._finish(found, orders)
                orders = []
                self._begin_anew(task, creator)
            orders.append(task.order)
        self._finish(found, orders)
        return found

    def _assumed(self, flags: int) -> Birth:
        """Return the birth of a task that was not observed."""
        birth = self._unobserved.get(flags)
        if birth is None:
            birth = self._unobserved[flags] = Birth(None, False, None, None, flag_names(flags), None)
        return birth

    def _finish(self, found: list[Birth], orders: list[int]) -> None:
        """Add the births of a run, which have all but their numbers in common."""
        if orders:
            columns: Any = map(repeat, self._begin, repeat(len(orders)))
            found += map(_new, repeat(Birth), zip(*columns, orders, strict=True))

    def _is_like_before(self, task: TaskStruct, creator: TaskStruct) -> bool:
        """Return True if the birth has all but its number in common with the one before, as most have."""
        return (
            creator is self._creator_before
            and task.birth_sid is self._sid_before
            and task.birth_pgid is self._pgid_before
            and task.clone_flags == self._flags_before
            and task is not self._root
        )

    def _begin_anew(self, task: TaskStruct, creator: TaskStruct) -> None:
        self._begin = self._beginning(task, creator)
        self._creator_before = creator if task is not self._root else None
        self._sid_before, self._pgid_before = task.birth_sid, task.birth_pgid
        self._flags_before = task.clone_flags

    def _beginning(self, task: TaskStruct, creator: TaskStruct) -> tuple[object, ...]:
        """Return the values of a birth that many births have in common: all but its number."""
        sid, pgid = task.birth_sid, task.birth_pgid
        creators, refs = self.creators, self.refs
        return (
            None if task is self._root else creators[creator] if creator in creators else self._creator(creator),
            True,
            refs[sid] if sid in refs else self._ref(sid),
            refs[pgid] if pgid in refs else self._ref(pgid),
            flag_names(task.clone_flags),
        )

    def _creator(self, creator: TaskStruct | None) -> Creator | None:
        if creator is None:
            return None
        tag = self._inside.get(creator)
        named: Creator | None = None
        if tag is not None:
            named = Creator(tag, None)
        else:
            self.outsiders.append(creator)
            if history.is_gone(creator) and creator.pid.number_in(self._named.tags.namespace):
                named = Creator(None, len(self._gone))
                self._gone.append(creator)
        self.creators[creator] = named
        return named

    def _ref(self, pid: Pid | None) -> PidRef | None:
        if pid is None:
            return None
        ref = self.refs[pid] = self._named(pid)
        return ref

    def ancestors(self) -> tuple[Ancestor, ...]:
        """Return the ancestors that the births so far refer to, and those that the ancestors' own births refer to."""
        rows = []
        for index, task in enumerate(self._gone):  # grows while it is walked
            events = tuple(
                AncestorEvent(what, order, self._ref(value) if isinstance(value, Pid) else value)
                for what, order, value in sorted(task.deeds or (), key=lambda deed: deed[1])
            )
            numbers = task.pid.numbers[self._level :]
            rows.append(Ancestor(index, numbers, self._namespaces.of(task.pid), self.of(task), events))
        return tuple(rows)
