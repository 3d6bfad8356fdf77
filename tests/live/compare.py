# SPDX-License-Identifier: Apache-2.0
"""The comparison of a Snapshot with its tree: structure with the kernel's answer, births with the oracle's.

It collects all differences, so that one failing run shows all of them; each names its task and field.
"""

import os
import re
from collections.abc import Callable, Iterator

from agent.errors import RefusedError
from agent.model import (
    CKPT_PID_NULL,
    Namespace,
    OutsidePid,
    PidObject,
    PidRef,
    Snapshot,
    Tag,
    Task,
    TaskState,
    Terminal,
)
from tests.live import expectation, tasks
from tests.live.expectation import Expectation
from tests.live.tasks import Life
from tests.live.treeprog import Tree
from tests.support.roundtrip import assert_comes_back

Capture = Callable[[int, str], Snapshot]

_LIMIT = 25
_TICK_NS = 10_000_000
_CORE_DUMPED = 0x80


def assert_matches(snapshot: Snapshot, tree: Tree, root: int) -> None:
    """Raise AssertionError with every difference between `snapshot` and the tree below node `root` as it is now.

    The snapshot must also come back unchanged from all formats, and its image must have no error.
    """
    found = list(differences(snapshot, Expectation(tree, tree.view(), root, snapshot.mode), tree))
    if found:
        shown = "\n  ".join(found[:_LIMIT])
        more = f"\n  and {len(found) - _LIMIT} more" if len(found) > _LIMIT else ""
        raise AssertionError(f"the snapshot of node {root} differs from the tree:\n  {shown}{more}")
    assert_comes_back(snapshot)


def events_lost(capture: Capture) -> int:
    """Return the number of events that the watch has lost. Loss on a busy machine is no fault, but it costs births."""
    return capture(os.getpid(), "subtree").completeness.lost


def assert_refused(capture: Capture, tree: Tree, root: int) -> None:
    """Raise AssertionError unless a capture as a container is refused, naming every process that leaks and no other."""
    expected = Expectation(tree, tree.view(), root, "container")
    try:
        capture(tree.number(root), "container")
    except RefusedError as error:
        named = {int(number) for line in error.leaks for number in re.findall(r"\d+", line)[:1]}
    else:
        raise AssertionError(f"the capture of node {root} was not refused, though nodes {expected.leaks} leak")
    for node in expected.leaks:
        if tree.number(node) not in named:
            raise AssertionError(f"node {node} (pid {tree.number(node)}) leaks, and the refusal names only {named}")
    if extra := named - {tree.number(node) for node in expected.leaks | expected.strangers}:
        raise AssertionError(f"the refusal names {extra}, which do not leak")


def differences(snapshot: Snapshot, expected: Expectation, tree: Tree | None = None) -> Iterator[str]:
    """Yield a line for each difference; with `tree`, whose tasks are asked for them, also of the owners of files."""
    last = snapshot.first_tag + len(snapshot.pids) - 1
    if any(tag > last for task in snapshot.tasks for tag in task[:5]):
        yield f"tasks: a tag is beyond the last pid, {last}"
        return
    actual = [snapshot.number(task.pid) for task in snapshot.tasks]
    wanted = [expected.number(task.pid) for task in expected.tasks]
    for number in sorted(set(wanted) - set(actual)):
        yield f"{expected.name_of(number)}: not in the snapshot"
    for number in sorted(set(actual) - set(wanted)):
        yield f"task {number}: in the snapshot, but no task of the tree"
    if set(actual) != set(wanted):
        return
    if actual != wanted:
        yield f"TREE order: {actual}, expected {wanted}"
    if len(set(actual)) != len(actual):
        yield f"tasks: a number occurs twice in {actual}"
        return
    namespaces = _Partition(snapshot, expected)
    yield from namespaces.differences()
    yield from _pids(snapshot, expected, namespaces)
    births = _Births(snapshot, expected, namespaces)
    by_number = {snapshot.number(task.pid): task for task in snapshot.tasks}
    for task in expected.tasks:
        name, shown = expected.name(task), by_number[expected.number(task.pid)]
        for field, is_, should in _fields(snapshot, expected, namespaces, shown, task):
            if is_ != should:
                yield f"{name}: {field} is {is_}, expected {should}"
        if tree is not None:
            yield from _owners(snapshot, tree, name, shown, task)
        for line in births.of(task, shown):
            yield f"{name}: birth: {line}"
    yield from births.order()


class _Partition:
    """The one-to-one map from the tree's namespaces to the snapshot's, found through the tasks and pids."""

    def __init__(self, snapshot: Snapshot, expected: Expectation) -> None:
        self._snapshot, self._expected = snapshot, expected
        self.ids: dict[tasks.Namespace, int] = {}
        self._clashes: list[str] = []
        by_number = {pid.numbers[0]: pid for pid in snapshot.pids if pid.numbers}
        for pid in expected.pids:
            shown = by_number.get(expected.seen(pid)[0])
            for namespace, id_ in zip(expected.levels(pid), shown.namespaces if shown else (), strict=False):
                if self.ids.setdefault(namespace, id_) != id_:
                    self._clashes.append(
                        f"{expected.pid_name(pid)}: namespaces: one is both {self.ids[namespace]} and {id_}"
                    )

    def differences(self) -> Iterator[str]:
        yield from self._clashes
        shown: dict[int, Namespace] = {each.id: each for each in self._snapshot.namespaces}
        if len(set(self.ids.values())) != len(self.ids):
            yield f"namespaces: two are one: {list(self.ids.values())}"
        if shown.keys() != set(self.ids.values()):
            yield f"namespaces: {sorted(shown)}, expected those of the pids, {sorted(self.ids.values())}"
            return
        top = self._expected.namespace
        for namespace, id_ in self.ids.items():
            above = None if namespace is top or namespace.parent is None else self.ids[namespace.parent]
            should = Namespace(id_, namespace.inum or 0, namespace.level - top.level, above)
            if shown[id_] != should:
                yield f"namespace {id_}: {shown[id_]}, expected {should}"
        if self.ids[top] != 0:
            yield f"namespaces: the root's is {self.ids[top]}, expected 0"
        if [each.id for each in self._snapshot.namespaces] != list(range(len(shown))):
            yield f"namespaces: not numbered in order: {self._snapshot.namespaces}"
        for each in self._snapshot.namespaces:
            if each.parent is not None and each.parent >= each.id:
                yield f"namespace {each.id}: comes before its parent {each.parent}"

    def of(self, pid: tasks.Pid) -> tuple[int, ...]:
        """Return the namespace ids of a pid object; -1 for a namespace that is not in the snapshot."""
        return tuple(self.ids.get(namespace, -1) for namespace in self._expected.levels(pid))


def _pids(snapshot: Snapshot, expected: Expectation, namespaces: _Partition) -> Iterator[str]:
    wanted = [PidObject(expected.seen(pid), namespaces.of(pid)) for pid in expected.pids]
    for index in range(max(len(wanted), len(snapshot.pids))):
        tag = snapshot.first_tag + index
        if index >= len(wanted):
            yield f"tag {tag}: {snapshot.pids[index]}, expected no more pids"
        elif index >= len(snapshot.pids):
            yield f"tag {tag}: missing, expected {expected.pid_name(expected.pids[index])}"
        elif snapshot.pids[index] != wanted[index]:
            owner = expected.pid_name(expected.pids[index])
            yield f"tag {tag} ({owner}): {snapshot.pids[index]}, expected {wanted[index]}"


def _fields(
    snapshot: Snapshot, expected: Expectation, namespaces: _Partition, shown: Task, task: expectation.Row
) -> Iterator[tuple[str, object, object]]:
    shift = snapshot.first_tag - 1
    for field in ("pid", "ppid", "tgid", "pgid", "sid"):
        tag: int = getattr(task, field)
        yield field, getattr(shown, field), tag + shift if tag > 0 else tag
    yield "depth", shown.depth, len(expected.seen(task.task.pid)) - 1
    state, exit_code = task.state, task.exit_code
    if task.task.life is Life.LINGERING and shown.state is TaskState.ZOMBIE:
        # An init that lingers within its exit is neither alive nor a zombie yet.
        state, exit_code = TaskState.ZOMBIE, task.task.exit_code
    yield "state", shown.state, state
    yield "exit_code", None if shown.exit_code is None else shown.exit_code & ~_CORE_DUMPED, exit_code
    yield "subreaper", shown.subreaper, task.task.process.subreaper
    if task.view.inum is not None:
        yield "namespace inode", _inum(snapshot, shown), task.view.inum
    child = task.child_namespace
    yield "child_namespace", shown.child_namespace, None if child is None else namespaces.ids.get(child, -1)
    view = task.view
    yield "exit_signal", shown.exit_signal, view.exit_signal
    yield "comm", shown.comm, view.comm
    yield "uid", shown.uid, view.uid
    yield "gid", shown.gid, view.gid
    yield "terminal", shown.tty, _terminal(snapshot, expected, namespaces, task)
    yield "start_ns", None if shown.start_ns is None else shown.start_ns // _TICK_NS, view.start_ticks


def _terminal(
    snapshot: Snapshot, expected: Expectation, namespaces: _Partition, task: expectation.Row
) -> Terminal | None:
    """Return the terminal of a process as /proc shows it; /proc does not show one that has hung up."""
    if task.view.tid != task.view.tgid or task.view.terminal is None:
        return None
    pid = expected.held(task.view.foreground)
    assert pid is not None, "a foreground group that nobody is in"
    tag = expected.tag(pid)
    if tag is None:
        pgrp: PidRef = OutsidePid(expected.seen(pid), namespaces.of(pid))
    else:
        pgrp = Tag(tag + snapshot.first_tag - 1 if tag > 0 else tag)
    return Terminal(b"pts/%d" % task.view.terminal[1], pgrp, CKPT_PID_NULL)


def _owners(snapshot: Snapshot, tree: Tree, name: str, shown: Task, task: expectation.Row) -> Iterator[str]:
    """Yield differences of the owners of files; the process itself asks fcntl() for them, in its own namespace."""
    if not task.task.is_leader or not tree.can_act(task.task):
        return
    should = tree.owners(task.task.node)
    is_ = {owner.fd: (owner.type, _seen(snapshot, owner.pid, shown)) for owner in shown.fown or ()}
    if is_ != should:
        yield f"{name}: owners of files are {is_}, expected {should}"


def _seen(snapshot: Snapshot, ref: PidRef, by: Task) -> int:
    """Return the number of a pid object in the namespace of a task; 0 if it has none there."""
    pid, own = snapshot.pid(ref) if isinstance(ref, int) else ref, snapshot.pid(by.pid)
    assert own is not None
    level = len(own.numbers) - 1
    if pid is None or len(pid.numbers) <= level or pid.namespaces[: level + 1] != own.namespaces:
        return 0
    return pid.numbers[level]


def _inum(snapshot: Snapshot, task: Task) -> int | None:
    pid = snapshot.pid(task.pid)
    by_id = {each.id: each.inum for each in snapshot.namespaces}
    return by_id.get(pid.namespaces[-1]) if pid and pid.namespaces else None


class _Births:
    """The comparison of births; an ancestor's own birth too, each ancestor once."""

    def __init__(self, snapshot: Snapshot, expected: Expectation, namespaces: _Partition) -> None:
        self._snapshot, self._expected, self._namespaces = snapshot, expected, namespaces
        self._shown: dict[int, tasks.Birth] = {}
        self._orders: list[tuple[int, int, str]] = []

    def of(self, row: expectation.Row, shown: Task) -> Iterator[str]:
        """Yield differences of a task's birth."""
        birth, should = shown.birth, row.task.birth
        if birth is None:
            yield "missing"
            return
        if not birth.observed:
            yield "not observed"
            return
        yield from self._state(birth.sid, birth.pgid, birth.flags, should)
        if birth.order is None:
            yield "order is None"
        else:
            self._orders.append((should.order, birth.order, self._expected.name(row)))
        if row is self._expected.tasks[0]:
            if birth.creator is not None:
                yield f"creator is {birth.creator}, expected None: it is the root"
            return
        creators = self._expected.creators(should)
        tags = {tag + self._snapshot.first_tag - 1 for tag in creators.tags}
        if birth.creator is None:
            if not creators.outside:
                yield f"creator is None, expected {creators}"
        elif birth.creator.tag is not None:
            if birth.creator.tag not in tags:
                yield f"creator is tag {birth.creator.tag}, expected {creators}"
        elif birth.creator.ancestor is not None:
            yield from self._ancestor(birth.creator.ancestor, should, creators)

    def order(self) -> Iterator[str]:
        """Yield a line for each birth that is out of order."""
        self._orders.sort()
        for (_, earlier, first), (_, later, second) in zip(self._orders, self._orders[1:], strict=False):
            if earlier >= later:
                yield f"{second}: birth: order is {later}, but {first} was born before it and has {earlier}"

    def _ancestor(self, index: int, child: tasks.Birth, creators: expectation.Creators) -> Iterator[str]:
        if not 0 <= index < len(self._snapshot.ancestors):
            yield f"creator is ancestor {index}, which there is not"
            return
        ancestor, creator = self._snapshot.ancestors[index], child.creator
        if creator is None or child.creator_pid is None or not creators.gone:
            yield f"creator is ancestor {index} {ancestor.numbers}, expected {creators}"
            return
        where = f"ancestor {index} (node {creator.node})"
        if ancestor.id != index:
            yield f"{where}: id is {ancestor.id}"
        is_ = (ancestor.numbers, ancestor.namespaces)
        stand_ins = list(self._expected.ancestors(child))
        wanted = [(self._expected.seen(pid), self._namespaces.of(pid)) for _, pid in stand_ins]
        if is_ not in wanted:
            yield f"{where}: is {is_}, expected {' or '.join(map(str, wanted))}"
            return
        creator, pid = stand_ins[wanted.index(is_)]
        where = f"ancestor {index} (node {creator.node})"
        if index in self._shown:
            return
        known, deeds = creator.as_known_by(pid)
        self._shown[index] = known
        birth = ancestor.birth
        if birth.observed:
            for line in self._state(birth.sid, birth.pgid, birth.flags, known):
                yield f"{where}: {line}"
            if birth.order is not None:
                self._orders.append((known.order, birth.order, where))
        yield from (f"{where}: {line}" for line in self._events(index, deeds))
        if birth.creator is not None and birth.creator.ancestor is not None:
            yield from self._upward(where, birth.creator.ancestor, known)

    def _upward(self, where: str, index: int, birth: tasks.Birth) -> Iterator[str]:
        """Yield differences of the next ancestor upward; ancestors that no birth depends on may be left out."""
        ancestor = self._snapshot.ancestors[index] if 0 <= index < len(self._snapshot.ancestors) else None
        while ancestor and birth.creator and birth.creator_pid:
            if self._expected.seen(birth.creator_pid) == ancestor.numbers:
                yield from self._ancestor(index, birth, self._expected.creators(birth))
                return
            birth = birth.creator.as_known_by(birth.creator_pid)[0]
        yield f"{where}: creator is ancestor {index}, which was no ancestor of it"

    def _events(self, index: int, deeds: list[tasks.Deed]) -> Iterator[str]:
        last = -1
        deeds = list(deeds)
        for event in self._snapshot.ancestors[index].events:
            if event.order <= last:
                yield f"event {event} is out of order"
            last = event.order
            match = next((deed for deed in deeds if deed.kind == event.event and self._did(deed, event.value)), None)
            if match is None:
                yield f"event {event} never happened after the one before it"
            else:
                del deeds[: deeds.index(match) + 1]

    def _did(self, deed: tasks.Deed, value: PidRef | int | None) -> bool:
        if isinstance(deed.value, tasks.Pid):
            return value in self._references(deed.value)
        return value == deed.value

    def _state(
        self, sid: PidRef | None, pgid: PidRef | None, flags: tuple[str, ...], should: tasks.Birth
    ) -> Iterator[str]:
        for field, actual, pid in (("sid", sid, should.sid), ("pgid", pgid, should.pgid)):
            if actual not in self._references(pid):
                yield f"{field} is {actual}, expected {' or '.join(map(str, self._references(pid)))}"
        if flags != should.flags:
            yield f"flags are {flags}, expected {should.flags}"

    def _references(self, pid: tasks.Pid) -> list[PidRef]:
        """Return the references by which a birth may name a pid object: its tag, or a special one, or its numbers."""
        tag = self._expected.tag(pid)
        if tag is None:
            return [OutsidePid(self._expected.seen(pid), self._namespaces.of(pid))]
        if tag == 0:
            return [Tag(0), OutsidePid((), ())]
        return [Tag(tag + self._snapshot.first_tag - 1 if tag > 0 else tag)]
