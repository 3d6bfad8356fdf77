# SPDX-License-Identifier: Apache-2.0
"""The expected contents of a snapshot: rows, pid objects and tags, by the rules of the image.

Tags here count from 1. An id without a number in the root's namespace has the tag 0. The session that the root has
inherited has the tag CKPT_PID_ROOT, as a session or as a group. Every other id is collected, per task in the order pid,
tgid, pgrp, session. TREE order: a leader, its descendants, then its next thread and that one's; siblings and threads by
number.
"""

from collections.abc import Iterator
from typing import NamedTuple

from agent.model import CKPT_PID_ROOT, Mode, TaskState
from tests.live import tasks
from tests.live.kernelview import KernelView, TaskView
from tests.live.tasks import Birth, Life, Pid
from tests.live.treeprog import Tree

_CORE_DUMPED = 0x80


class Row(NamedTuple):
    """A task that the snapshot must have; ids are tags. `view` is the kernel's state of it, `task` the oracle's."""

    task: tasks.Task
    view: TaskView
    pid: int
    ppid: int
    tgid: int
    pgid: int
    sid: int
    state: TaskState
    exit_code: int | None
    child_namespace: tasks.Namespace | None


class Creators(NamedTuple):
    """The names that a snapshot may give the creator of a birth: one of `tags`; an ancestor if it is `gone`; None."""

    node: int | None
    tags: frozenset[int]
    gone: bool
    outside: bool


class Expectation:
    """The expected result of a capture of node `root`.

    Attributes:
        namespace: the root's.
        tasks: in TREE order.
        pids: in the order of their tags.
        leaks: nodes for which a capture in mode container must be refused: leaders only.
        strangers: nodes that such a refusal may name besides: descendants of a task that entered.
    """

    def __init__(self, tree: Tree, view: KernelView, root: int, mode: Mode) -> None:
        self._view = view
        self._root = tree.task(root)
        self._objects = {pid.numbers[0]: pid for pid in tree.oracle.held()}
        self._held = set(self._objects.values())
        self._by_number = {task.pid.numbers[0]: task for task in tree.oracle.unreleased()}
        self.namespace = self._root.pid.namespace
        self.pids: list[Pid] = []
        self._tags: dict[int, int] = {}
        root_view = view[self._root.pid.numbers[0]]
        self._inherited = root_view.sids[0] if root_view.sids[0] != root_view.tid else None
        order = list(self._walk(root_view.tid))
        for shown in order:
            for number in (shown.tid, shown.tgid, shown.pgids[0], shown.sids[0]):
                self._collect(self._objects[number])
        self.tasks = [self._row(shown) for shown in order]
        self.leaks = set(self._leaks()) if mode == "container" else set()
        self.strangers = set(self._strangers()) - self.leaks

    def seen(self, pid: Pid) -> tuple[int, ...]:
        """Return the numbers of a pid object from the root's namespace inward; none if it has no number there."""
        return pid.numbers[self.namespace.level :] if self.namespace in pid.namespaces else ()

    def levels(self, pid: Pid) -> tuple[tasks.Namespace, ...]:
        """Return the namespaces of the numbers that seen() returns."""
        return pid.namespaces[self.namespace.level :] if self.namespace in pid.namespaces else ()

    def tag(self, pid: Pid) -> int | None:
        """Return the tag or special value of a pid object; None if it has none."""
        if not self.seen(pid):
            return 0
        if self._inherited is not None and pid is self._objects.get(self._inherited):
            return CKPT_PID_ROOT
        return self._tags.get(id(pid))

    def held(self, number: int) -> Pid | None:
        """Return a pid object in use by its number in the initial namespace; None if there is none."""
        return self._objects.get(number)

    def number(self, tag: int) -> int:
        """Return the number of a tag in the root's namespace."""
        return self.seen(self.pids[tag - 1])[0]

    def name(self, row: Row) -> str:
        """Return a row as text for a message."""
        return f"node {row.task.node} (pid {row.view.tid}, {list(self.seen(row.task.pid))})"

    def name_of(self, number: int) -> str:
        """Return a row, by its number in the root's namespace, as text for a message."""
        return next(self.name(row) for row in self.tasks if self.number(row.pid) == number)

    def pid_name(self, pid: Pid) -> str:
        """Return a pid object as text for a message."""
        owner = self._by_number.get(pid.numbers[0])
        return f"pid object {list(self.seen(pid))} of {f'node {owner.node}' if owner else 'nobody any more'}"

    def creators(self, birth: Birth) -> Creators:
        """Return the names that a snapshot may give the creator of a task.

        A thread that has taken over its leader's number by exec also stands for that leader. Children that it made as a
        thread may have it as creator, or the number that it had then, which is gone.
        """
        creator, pid = birth.creator, birth.creator_pid
        if creator is None or pid is None:
            return Creators(None, frozenset(), gone=False, outside=True)
        heir = creator
        while heir.successor is not None:
            heir = heir.successor
        tag = self._tags.get(id(heir.pid)) if heir.life is not Life.GONE else None
        if tag is not None and any(row.task is heir for row in self.tasks):
            return Creators(creator.node, frozenset({tag}), gone=heir.pid is not pid, outside=False)
        gone = heir.life is Life.GONE
        return Creators(creator.node, frozenset(), gone=gone, outside=not gone or not self.seen(pid))

    def ancestors(self, birth: Birth) -> Iterator[tuple[tasks.Task, Pid]]:
        """Yield the dead tasks that may stand for the creator of a birth: the creator, and equivalent ones above it.

        A task may be left out if its number is not in use, and one of these holds: the session of the birth has no
        member; the next task upward is dead too, and was last in that session, or is a thread of the same process.
        """
        session, creator, pid = birth.sid, birth.creator, birth.creator_pid
        while creator and pid:
            yield creator, pid
            above, deeds = creator.as_known_by(pid)
            if pid in self._held or above.creator is None or above.creator_pid is None:
                return
            alike = creator.process is above.creator.process
            creator, pid = above.creator, above.creator_pid
            above, deeds = creator.as_known_by(pid)
            made = [deed.value for deed in deeds if deed.kind == "setsid" and deed.value in self._held]
            last = made[-1] if made else above.sid
            if session in self._held and last is not session and not alike:
                return

    def _walk(self, leader: int) -> Iterator[TaskView]:
        """Yield the tree in TREE order, without recursion, since random trees get deep."""
        children: dict[int, list[TaskView]] = {}
        threads: dict[int, list[TaskView]] = {}
        for task in sorted(self._view.values(), key=self._order, reverse=True):
            threads.setdefault(task.tgid, []).append(task)
            if task.tid == task.tgid:
                children.setdefault(task.parent, []).append(task)
        todo = [task for task in threads[leader] if task.tid != leader] + [self._view[leader]]
        while todo:
            task = todo.pop()
            yield task
            for child in children.get(task.tid, []):
                todo += [thread for thread in threads[child.tgid] if thread is not child]
                todo.append(child)

    def _order(self, task: TaskView) -> int:
        return task.numbers[self.namespace.level] if len(task.numbers) > self.namespace.level else 0

    def _collect(self, pid: Pid) -> None:
        if self.tag(pid) is None:
            self.pids.append(pid)
            self._tags[id(pid)] = len(self.pids)

    def _row(self, shown: TaskView) -> Row:
        task = self._by_number[shown.tid]
        root = shown.tgid == self._root.process.leader.pid.numbers[0]
        ids = [self.tag(self._objects[number]) for number in (shown.tid, shown.tgid, shown.pgids[0], shown.sids[0])]
        pid, tgid, pgid, sid = (0 if tag is None else tag for tag in ids)
        ppid = 0 if root else self.tag(self._objects[shown.parent])
        state, exit_code = self._state(task, shown)
        own = shown.inum == shown.child_inum and task.child_namespace is task.pid.namespace
        child = None if own or task.life is not Life.ALIVE else task.child_namespace
        return Row(task, shown, pid, ppid or 0, tgid, pgid, sid, state, exit_code, child)

    @staticmethod
    def _state(task: tasks.Task, shown: TaskView) -> tuple[TaskState, int | None]:
        if shown.state == "Z" and shown.threads == 1:
            return TaskState.ZOMBIE, shown.exit_code & ~_CORE_DUMPED
        if shown.state == "Z":
            # Of a stopped group /proc shows the stop and not its leader's status; of an ended one the group's status.
            over = task.process.alive() is None
            return TaskState.DEAD_LEADER, shown.exit_code & ~_CORE_DUMPED if over else task.exit_code
        return (TaskState.STOPPED if shown.state == "T" else TaskState.RUNNING), None

    def _leaks(self) -> Iterator[int]:
        """Yield members of the namespace that entered it, or whose session or group is from outside."""
        for task in self._members():
            entered = task.process is not self._root.process and not self._seen_parent(task)
            if entered or not self.seen(task.process.pgid) or not self.seen(task.process.sid):
                yield task.node

    def _strangers(self) -> Iterator[int]:
        """Yield members that do not descend from the root, as the descendants of a task that entered."""
        inside = {row.task.node for row in self.tasks}
        yield from (task.node for task in self._members() if task.node not in inside)

    def _members(self) -> list[tasks.Task]:
        members = [self._by_number[number] for number in sorted(self._view)]
        return [task for task in members if task.is_leader and self.namespace in task.pid.namespaces]

    def _seen_parent(self, task: tasks.Task) -> bool:
        return bool(self.seen(self._objects[self._view[task.pid.numbers[0]].parent]))
