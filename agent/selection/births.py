# SPDX-License-Identifier: Apache-2.0
"""Birth edges of a snapshot's tasks, and the ancestors that the edges run through."""

from agent.model import Ancestor, AncestorEvent, Birth, Creator, PidRef, Tag
from agent.selection.tags import Namespaces, Refs, Tags
from agent.table import history
from agent.table.objects import CLONE_NEWPID, CLONE_PARENT, CLONE_THREAD, CLONE_VFORK, Pid, TaskStruct

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
        tags: of the collected pid objects.
        namespaces: of the collected pid objects.
        root: of the tree. Its creator is outside, so its birth has no creator.
        inside: the tasks of the snapshot, with their tags.

    Attributes:
        outsiders: creators that are no tasks of the snapshot: gone, or alive outside the tree.
    """

    def __init__(self, tags: Tags, namespaces: Namespaces, root: TaskStruct, inside: dict[TaskStruct, Tag]) -> None:
        self._tags = tags
        self._namespaces = namespaces
        self._inside = inside
        self._level = tags.level
        self._gone: list[TaskStruct] = []
        self.outsiders: list[TaskStruct] = []
        # Many tasks have the same creator, and were born into the same session and group.
        self._root = root
        self._creators: dict[TaskStruct | None, Creator | None] = {None: None}
        self._refs: dict[Pid | None, PidRef | None] = {None: None}
        self._named = Refs(tags, namespaces)

    def of(self, task: TaskStruct) -> Birth:
        """Return the birth of a task of the snapshot, or of an ancestor."""
        names = flag_names(task.clone_flags)
        order = task.order
        if order < 0 or task.creator is None:
            return Birth(None, False, None, None, names, None)
        creator, sid, pgid = task.creator, task.birth_sid, task.birth_pgid
        creators, refs = self._creators, self._refs
        return Birth(
            None if task is self._root else creators[creator] if creator in creators else self._creator(creator),
            True,
            refs[sid] if sid in refs else self._ref(sid),
            refs[pgid] if pgid in refs else self._ref(pgid),
            names,
            order,
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
            if history.is_gone(creator) and creator.pid.number_in(self._tags.namespace):
                named = Creator(None, len(self._gone))
                self._gone.append(creator)
        self._creators[creator] = named
        return named

    def _ref(self, pid: Pid | None) -> PidRef | None:
        if pid is None:
            return None
        ref = self._refs[pid] = self._named(pid)
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
