# SPDX-License-Identifier: Apache-2.0
"""The comparison itself: a snapshot that is wrong in one place is told so, by name."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from agent.model import AncestorEvent, Birth, Creator, OutsidePid, Snapshot, Tag, TaskState
from tests.live.compare import Capture, assert_matches, events_lost
from tests.live.treeprog import Tree

# 3 and 6 are rows 2 and 4: [1 2 3 5 6 7], 4 is gone and made 5; 6 is init of a namespace, 7 its child.
_SCRIPT = (
    "fork 0 1 newpid; setsid 1; fork 1 2; thread 2 3; fork 1 4; setsid 4; fork 4 5; exit 4; wait 1 4;"
    "fork 1 6 newpid; setsid 6; fork 6 7; exit 7 3; subreaper 2"
)
_Case = tuple[str, str, Callable[[Snapshot], Snapshot]]


def _task(row: int, **fields: Any) -> Callable[[Snapshot], Snapshot]:
    def change(snapshot: Snapshot) -> Snapshot:
        rows = list(snapshot.tasks)
        rows[row] = rows[row]._replace(**fields)
        return replace(snapshot, tasks=tuple(rows))

    return change


def _birth(row: int, **fields: Any) -> Callable[[Snapshot], Snapshot]:
    def change(snapshot: Snapshot) -> Snapshot:
        birth = snapshot.tasks[row].birth
        assert isinstance(birth, Birth)
        return _task(row, birth=birth._replace(**fields))(snapshot)

    return change


def _pid(index: int, **fields: Any) -> Callable[[Snapshot], Snapshot]:
    def change(snapshot: Snapshot) -> Snapshot:
        pids = list(snapshot.pids)
        pids[index] = pids[index]._replace(**fields)
        return replace(snapshot, pids=tuple(pids))

    return change


def _namespace(index: int, **fields: Any) -> Callable[[Snapshot], Snapshot]:
    def change(snapshot: Snapshot) -> Snapshot:
        spaces = list(snapshot.namespaces)
        spaces[index] = spaces[index]._replace(**fields)
        return replace(snapshot, namespaces=tuple(spaces))

    return change


def _ancestor(**fields: Any) -> Callable[[Snapshot], Snapshot]:
    def change(snapshot: Snapshot) -> Snapshot:
        return replace(snapshot, ancestors=(snapshot.ancestors[0]._replace(**fields), *snapshot.ancestors[1:]))

    return change


def _swapped(snapshot: Snapshot) -> Snapshot:
    first, *rest, last = snapshot.tasks
    return replace(snapshot, tasks=(first, last, *rest))


_CASES: tuple[_Case, ...] = (
    ("a task is missing", "node 7 .*not in the snapshot", lambda s: replace(s, tasks=s.tasks[:-1])),
    ("the order is another", "TREE order", _swapped),
    ("a pid too many", "expected no more pids", lambda s: replace(s, pids=(*s.pids, s.pids[0]))),
    ("a pid too few", "beyond the last pid, 4", lambda s: replace(s, pids=s.pids[:4])),
    ("another number of a nested pid", r"tag 6 .*node 6.*expected", _pid(5, numbers=(6, 2))),
    ("another namespace of a nested pid", "both|two are one|expected those", _pid(6, namespaces=(0, 0))),
    ("another inode", "namespace 1: ", _namespace(1, inum=1)),
    ("another namespace above", "namespace 1: ", _namespace(1, parent=None)),
    ("a process instead of its thread", "node 3 .*: ppid is 2", _task(2, ppid=2)),
    ("another group", "node 2 .*: pgid is 3", _task(1, pgid=3)),
    ("another session", "node 5 .*: sid is 1", _task(3, sid=1)),
    ("another leader", "node 3 .*: tgid is 3", _task(2, tgid=3)),
    ("another depth", "node 6 .*: depth is 0", _task(4, depth=0)),
    ("another state", "node 7 .*: state is running", _task(5, state=TaskState.RUNNING)),
    ("another exit code", "node 7 .*: exit_code is 3", _task(5, exit_code=3)),
    ("no subreaper", "node 2 .*: subreaper is False", _task(1, subreaper=False)),
    ("a namespace for its children", "node 2 .*: child_namespace is 1", _task(1, child_namespace=1)),
    ("a signal for a thread", "node 3 .*: exit_signal is 17", _task(2, exit_signal=17)),
    ("another name", "node 1 .*: comm is", _task(0, comm=b"init")),
    ("another start", "node 1 .*: start_ns is 0", _task(0, start_ns=0)),
    ("no birth", "node 3 .*: birth: missing", _task(2, birth=None)),
    ("a birth nobody saw", "node 3 .*: birth: not observed", _birth(2, observed=False)),
    ("a creator for the root", "node 1 .*: birth: creator is", _birth(0, creator=Creator(Tag(1), None))),
    ("another creator", "node 3 .*: birth: creator is tag 1", _birth(2, creator=Creator(Tag(1), None))),
    ("no creator", "node 5 .*: birth: creator is None", _birth(3, creator=None)),
    ("an ancestor for a living creator", "node 3 .*: creator is ancestor 0", _birth(2, creator=Creator(None, 0))),
    ("another session at birth", "node 5 .*: birth: sid is 1", _birth(3, sid=1)),
    ("another group at birth", "node 5 .*: pgid is Outside", _birth(3, pgid=OutsidePid((9,), (0,)))),
    ("no flags", "node 6 .*: birth: flags are", _birth(4, flags=())),
    ("another order", "born before it", _birth(1, order=1 << 60)),
    ("other numbers of an ancestor", "node 5 .*ancestor 0 .node 4.: is", _ancestor(numbers=(99,))),
    ("a deed never done", "ancestor 0 .*never happened", _ancestor(events=(AncestorEvent("subreaper", 1, 1),))),
)  # fmt: skip


@pytest.fixture(scope="module")
def taken(capture: Capture) -> Iterator[tuple[Snapshot, Tree]]:
    """A tree, and a snapshot that is right."""
    while True:
        before = events_lost(capture)
        with Tree() as tree:
            tree.run(_SCRIPT)
            snapshot = capture(tree.number(1), "container")
            if snapshot.completeness.lost == before:
                yield snapshot, tree
                return


def test_a_right_snapshot_matches(taken: tuple[Snapshot, Tree]) -> None:
    """The comparison finds no difference."""
    snapshot, tree = taken

    assert_matches(snapshot, tree, 1)


def test_the_same_with_other_tags_matches(taken: tuple[Snapshot, Tree]) -> None:
    """An image may begin its tags at any number."""
    snapshot, tree = taken

    def up(tag: Any) -> Any:
        return tag + 6 if isinstance(tag, int) and tag > 0 else tag

    rows = []
    for task in snapshot.tasks:
        birth = task.birth
        assert birth is not None
        creator = birth.creator._replace(tag=up(birth.creator.tag)) if birth.creator else None
        birth = birth._replace(sid=up(birth.sid), pgid=up(birth.pgid), creator=creator)
        ids = {field: up(getattr(task, field)) for field in ("pid", "ppid", "tgid", "pgid", "sid")}
        rows.append(task._replace(birth=birth, **ids))
    ancestors = [
        each._replace(
            birth=each.birth._replace(
                sid=up(each.birth.sid),
                pgid=up(each.birth.pgid),
                creator=each.birth.creator._replace(tag=up(each.birth.creator.tag)) if each.birth.creator else None,
            ),
            events=tuple(event._replace(value=up(event.value)) for event in each.events),
        )
        for each in snapshot.ancestors
    ]

    assert_matches(replace(snapshot, tasks=tuple(rows), ancestors=tuple(ancestors), first_tag=7), tree, 1)


@pytest.mark.parametrize(("message", "change"), [case[1:] for case in _CASES], ids=[case[0] for case in _CASES])
def test_a_wrong_snapshot_is_told_where(
    taken: tuple[Snapshot, Tree], message: str, change: Callable[[Snapshot], Snapshot]
) -> None:
    """Task and field are in the message."""
    snapshot, tree = taken

    with pytest.raises(AssertionError, match=message):
        assert_matches(change(snapshot), tree, 1)
