# SPDX-License-Identifier: Apache-2.0
"""Tags of pid objects and ids of namespaces, by which a snapshot refers to them.

An id without a number in the root's namespace has tag 0. Else, where the root inherited its session from outside, that
session has CKPT_PID_ROOT, as session and as group. Every other pid object is collected and tagged in the order in which
the walk meets it.
"""

from collections.abc import Collection, Iterable
from typing import Any

from agent.model import CKPT_PID_ROOT, OUTSIDE, Namespace, OutsidePid, PidRef, Tag
from agent.table.objects import Pid, PidNamespace, TaskStruct

Ids = tuple[Tag, ...]
"""The tags of a task's own pid object, parent, thread group, process group and session.

Its length is left open, so that it stays one object where the module is compiled.
"""


class Tags:
    """The collected pid objects, in the order in which the walk meets them, and their tags."""

    def __init__(self, root: TaskStruct, first_tag: int) -> None:
        self.namespace = root.pid.namespace
        self.level = self.namespace.level
        self.pids: list[Pid] = []
        self._tags: dict[Pid | None, Tag] = {}
        self._first = first_tag
        self.outside: dict[Pid, Tag] = {}
        leader = root.leader
        # The root inherited its session, if it does not lead one.
        inherited = leader.sid if leader.sid is not leader.pid else None
        if inherited is not None and inherited.number_in(self.namespace):
            self._tags[inherited] = CKPT_PID_ROOT
            self.outside[inherited] = CKPT_PID_ROOT

    def __call__(self, pid: Pid | None) -> Tag:
        """Return the tag of a pid object, which is collected if it is new."""
        tag = self._tags.get(pid)
        if tag is None:
            if pid is None:
                return OUTSIDE
            if pid.number_in(self.namespace):
                tag = Tag(self._first + len(self.pids))
                self.pids.append(pid)
            else:
                tag = self.outside[pid] = OUTSIDE
            self._tags[pid] = tag
        return tag

    def ids(self, tasks: Iterable[TaskStruct], inside: dict[TaskStruct, Tag]) -> list[Ids]:
        """Collect the pid objects that tasks use, and return the ids of each task.

        Every snapshot goes through this one loop, so it asks for nothing that the task before has as well.

        Args:
            tasks: in tree order. Each has a number in the root's namespace.
            inside: takes the tasks with their tags. A parent that is not there before its child has tag 0.
        """
        tags, pids, first = self._tags, self.pids, self._first
        found: list[Ids] = []
        last_parent: TaskStruct | None = None
        last_pgid: Pid | None = None
        last_sid: Pid | None = None
        # As objects: where the module is compiled, each use of a tag would make another one.
        ppid: Any = OUTSIDE
        pgid: Any = OUTSIDE
        sid: Any = OUTSIDE
        for task in tasks:
            pid = task.pid
            own: Any = tags.get(pid)
            if own is None:
                own = first + len(pids)
                tags[pid] = own
                pids.append(pid)
            inside[task] = own
            leader = task.leader
            tgid: Any = own if leader is task else self(leader.pid)
            if leader.pgid is not last_pgid:
                last_pgid = leader.pgid
                pgid = self(last_pgid)
            if leader.sid is not last_sid:
                last_sid = leader.sid
                sid = self(last_sid)
            if leader.parent is not last_parent:
                last_parent = leader.parent
                ppid = inside.get(last_parent, OUTSIDE) if last_parent is not None else OUTSIDE
            found.append((own, ppid, tgid, pgid, sid))
        return found

    def known(self, pid: Pid | None) -> Tag | None:
        """Return the tag of a pid object that has one, or a special value; None where it has neither."""
        return self._tags.get(pid)


class Namespaces:
    """The namespaces of the collected pid objects, numbered from 0, the root's own, parents before children.

    Attributes:
        rows: by id.
        chains: the ids of each namespace and of those above it, from the root's own inward.
    """

    def __init__(self, root: PidNamespace, pids: Collection[Pid]) -> None:
        self._root = root
        self._ids: dict[PidNamespace, int] = {root: 0}
        self.chains: dict[PidNamespace, tuple[int, ...]] = {root: (0,)}
        self.rows = [Namespace(0, root.inum, 0, None)]
        self._by_identity = {root.identity: 0}
        deeper = {pid.namespace for pid in pids if pid.namespace is not root}
        for namespace in sorted(deeper, key=lambda one: (one.level, one.identity)):
            self._add(namespace)

    def _add(self, namespace: PidNamespace) -> tuple[int, ...]:
        chain = self.chains.get(namespace)
        if chain is None:
            above = self._add(namespace.parent or self._root)
            number = len(self.rows)
            self.rows.append(Namespace(number, namespace.inum, namespace.level - self._root.level, above[-1]))
            chain = self.chains[namespace] = (*above, number)
            self._by_identity[namespace.identity] = number
        return chain

    def of(self, pid: Pid) -> tuple[int, ...]:
        """Return the ids of a pid object's namespaces from the root's inward; -1 for one without a pid object of the
        snapshot.
        """
        chain = self.chains.get(pid.namespace)
        return chain if chain is not None else (0, *(-1,) * (pid.level - self._root.level))

    def child_id(self, pending: tuple[int, int] | None) -> int | None:
        """Return the id of the namespace of a task's next child: -1 for one that holds no task of the tree."""
        if pending is None:
            return None
        # Identity 0: on a kernel without ns_id, a namespace that has had no task yet. No task moves to the initial one.
        return self._by_identity.get(pending[0], -1) if pending[0] else -1


class Refs:
    """References to pid objects that the snapshot does not collect (see agent.model).

    Args:
        tags, namespaces: of the collected pid objects, all of them.
    """

    def __init__(self, tags: Tags, namespaces: Namespaces) -> None:
        self.tags = tags
        self.namespaces = namespaces

    def __call__(self, pid: Pid) -> PidRef:
        """Return the tag or special value of a pid object, else its numbers from the root's namespace inward."""
        known = self.tags.known(pid)
        if known is not None:
            return known
        if not pid.number_in(self.tags.namespace):
            return OUTSIDE
        return OutsidePid(pid.numbers[self.tags.level :], self.namespaces.of(pid))

    def is_same(self, other: "Refs") -> bool:
        """Return True if every reference, to any pid object, is that of another one."""
        mine, theirs = self.tags, other.tags
        return (
            mine.pids == theirs.pids
            and mine.outside == theirs.outside
            and self.namespaces.chains == other.namespaces.chains
        )

    def above(self, namespace: PidNamespace | None = None) -> list[tuple[int, ...]]:
        """Return, for each collected pid object, its numbers in the namespaces above the root's.

        Args:
            namespace: the outermost one that counts; None: the outermost of all. Where it is not above the root's, no
                pid object has such numbers.
        """
        root, begin = self.tags.namespace, 0
        if namespace is not None:
            begin = namespace.level if root.ancestor(namespace.level) is namespace else root.level
        return [pid.numbers[begin : root.level] for pid in self.tags.pids]
