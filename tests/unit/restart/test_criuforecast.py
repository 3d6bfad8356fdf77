# SPDX-License-Identifier: Apache-2.0
"""The forecast of what CRIU does with a tree, one tree for each rule. tests/live/test_criuforecast.py asks CRIU."""

from typing import Any

import pytest
from hypothesis import given

from agent.model import CKPT_PID_ROOT, OUTSIDE, Completeness, PidObject, Snapshot, Tag, Task, TaskState, WaitStatus
from agent.restart.planning.criuforecast import forecast
from agent.restart.planning.criumodel import Forecast
from tests.support.builders import snapshots
from tests.support.examples import patient

Row = tuple[int, int, int, int]


def tree(*rows: Row, **facts: dict[int, Any]) -> Snapshot:
    """Return a tree of processes: pid, parent, group and session; a session -1 is inherited.

    Args:
        rows: the processes, parents first.
        facts: for each field of a task its values, by pid.
    """
    special = {0: OUTSIDE, -1: CKPT_PID_ROOT}
    numbers = list(dict.fromkeys(number for row in rows for number in (row[0], row[2], row[3]) if number > 0))
    tags = {number: Tag(index) for index, number in enumerate(numbers, 1)} | special
    tasks = []
    for pid, *others in rows:
        ppid, pgid, sid = (tags[number] for number in others)
        known = {field: values[pid] for field, values in facts.items() if pid in values}
        own = Task(tags[pid], ppid, tags[pid], pgid, sid, 0, state=TaskState.RUNNING)
        tasks.append(own._replace(**known))
    mode = "container" if rows[0][0] == 1 else "subtree"
    pids = tuple(PidObject((number,), ()) for number in numbers)
    return Snapshot(mode, 0, pids, tuple(tasks), completeness=Completeness("no"))  # type: ignore[arg-type]


def told(snapshot: Snapshot) -> list[tuple[str, str, int]]:
    """Return outcome, rule and pid of each finding."""
    return [(each.outcome, each.rule, each.pid) for each in forecast(snapshot)]


ROOT = (1, 0, 1, 1)
JOB = (100, 0, 100, 100)  # the root of a subtree


@pytest.mark.parametrize(
    "rows",
    [
        [ROOT, (2, 1, 1, 1), (3, 2, 1, 1)],
        [ROOT, (2, 1, 2, 2), (3, 2, 3, 2), (4, 2, 3, 2)],
        [ROOT, (3, 1, 2, 2)],  # an orphan of a session whose leader is gone
        [ROOT, (2, 1, 2, 2), (4, 1, 2, 2)],  # an orphan of one whose leader lives
        [ROOT, (2, 1, 2, 2), (3, 2, 1, 1)],  # forked before setsid()
        [ROOT, (2, 1, 2, 2), (3, 2, 3, 3), (4, 3, 1, 1)],  # twice
        [ROOT, (3, 1, 2, 1), (4, 1, 2, 1)],  # a group whose owner is gone
        [JOB, (101, 100, 101, 100)],
        [(100, 0, 100, -1), (101, 100, 100, -1), (102, 100, 102, 102)],  # a job of a shell
    ],
)
def test_a_tree_that_criu_restores_is_foretold(rows: list[Row]) -> None:
    """Nothing is said of it."""
    assert forecast(tree(*rows)) == []


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # The leader of session 3 is gone, and its orphan belongs to a subreaper within the tree.
        ([ROOT, (2, 1, 2, 2), (4, 2, 3, 3)], [("refused", "no-session-leader", 4)]),
        # CLONE_PARENT: the leader of session 3 is a sibling.
        ([ROOT, (2, 1, 2, 2), (3, 2, 3, 3), (4, 2, 3, 3)], [("refused", "no-session-leader", 4)]),
        (
            [ROOT, (2, 1, 2, 2), (3, 2, 3, 3), (4, 3, 1, 1), (5, 3, 2, 2)],
            [("refused", "two-birth-sessions", 3)],
        ),
        ([ROOT, (2, 1, 1, 1), (3, 1, 2, 1)], [("hangs", "owner-left-group", 3)]),
        ([JOB, (102, 100, 101, 101)], [("wrong", "orphan-outside", 102)]),
        ([JOB, (101, 100, 101, 101), (103, 100, 101, 101)], [("wrong", "orphan-outside", 103)]),
        (
            [(100, 0, 99, -1), (101, 100, 99, -1), (102, 100, 102, -1)],
            [("wrong", "inherited-group", 100), ("wrong", "inherited-group", 101)],
        ),
        (
            [(1, 0, 0, 0), (2, 1, 0, 0)],
            [("refused", "session-from-outside", 1), ("refused", "session-from-outside", 2)],
        ),
    ],
)
def test_a_tree_that_criu_does_not_restore_is_foretold(rows: list[Row], expected: list[Any]) -> None:
    """The task, the rule and the outcome are named."""
    assert told(tree(*rows)) == expected


def test_a_finding_names_the_task_and_the_object() -> None:
    """Numbers are those of the root's namespace; the tag is that of the image."""
    (found,) = forecast(tree(ROOT, (2, 1, 2, 2), (4, 2, 3, 3)))

    assert found._replace(text="") == Forecast(Tag(3), 4, "session", 3, "no-session-leader", "", "refused")
    assert "the parent 2 is in session 2" in found.text


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (3 << 8, []),
        (127 << 8, []),
        (128 << 8, [("wrong", "exit-status", 2)]),
        (255 << 8, [("wrong", "exit-status", 2)]),
        (9, []),
        (11 | 0x80, []),
        (34, []),
        (64, [("wrong", "exit-by-signal", 2)]),
        (28, [("wrong", "exit-by-signal", 2)]),
    ],
)
def test_the_status_of_a_zombie_is_what_criu_makes_of_it(code: int, expected: list[Any]) -> None:
    """CRIU keeps seven bits of an exit status, and sends no signal that does not end a task by default, nor the last."""
    snapshot = tree(ROOT, (2, 1, 1, 1), state={2: TaskState.ZOMBIE}, exit_code={2: WaitStatus(code)})

    assert told(snapshot) == expected


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"state": {2: TaskState.ZOMBIE}, "exit_code": {2: WaitStatus(28)}},
            "SIGWINCH has ended it; CRIU ends it by SIGABRT",
        ),
        ({"exit_signal": {1: 17, 2: 10}}, "its end sends its parent SIGUSR1; CRIU gives it SIGCHLD"),
        ({"exit_signal": {1: 17, 2: 33}}, "its end sends its parent signal 33; CRIU gives it SIGCHLD"),
        ({"exit_signal": {1: 17, 2: 0}}, "its end sends its parent no signal; CRIU gives it SIGCHLD"),
    ],
)
def test_signals_are_named(change: dict[str, Any], text: str) -> None:
    """Signals without a name have their number."""
    assert [each.text for each in forecast(tree(ROOT, (2, 1, 1, 1), **change))] == [text]


def test_a_zombie_below_a_helper_is_waited_for_by_the_root() -> None:
    """It comes to the root of a container alone, and there the root may miss that it came."""
    dead: dict[str, Any] = {"state": {3: TaskState.ZOMBIE, 103: TaskState.ZOMBIE}}
    both: dict[str, Any] = {"state": {2: TaskState.ZOMBIE, 3: TaskState.ZOMBIE}}

    assert told(tree(ROOT, (3, 1, 2, 2), **dead)) == []
    assert told(tree(ROOT, (2, 1, 2, 2), (3, 1, 2, 2), **dead)) == []
    assert told(tree(ROOT, (2, 1, 2, 2), (3, 1, 2, 2), **both)) == [("hangs", "zombie-below-zombie", 3)]
    assert told(tree(JOB, (103, 100, 102, 102), **dead)) == [("hangs", "zombie-outside", 103)]


def test_what_criu_does_not_dump_of_a_task_is_foretold() -> None:
    """Exit signals, the namespace of the next child, and which thread is the parent."""
    assert told(tree(ROOT, (2, 1, 1, 1), child_namespace={2: -1})) == [("wrong", "pending-namespace", 2)]
    assert told(tree(ROOT, (2, 1, 1, 1), exit_signal={1: 17, 2: 10})) == [("wrong", "exit-signal", 2)]
    threads = tree(ROOT, (2, 1, 1, 1), (3, 2, 1, 1), tgid={2: Tag(1)}, ppid={2: OUTSIDE}, exit_signal={2: -1})
    assert told(threads) == [("wrong", "parent-thread", 3)]


def test_a_dump_that_is_refused_is_told_alone() -> None:
    """It leaves no images to restore."""
    nested = tree(ROOT, (2, 1, 1, 1), depth={2: 1}, exit_signal={2: 10})
    dead = tree(ROOT, (2, 1, 1, 1), tgid={2: Tag(1)}, ppid={2: OUTSIDE}, state={1: TaskState.DEAD_LEADER})

    assert told(nested) == [("refused", "nested-namespace", 2)]
    assert told(dead) == [("refused", "zombie-with-threads", 1)]


def test_a_crowd_of_orphans_is_foretold_in_time() -> None:
    """Thousands of daemons, each in a session of its own whose leader is gone."""
    rows = [(pid, 1, pid + 10_000, pid + 10_000) for pid in range(2, 3000)]

    assert forecast(tree(ROOT, *rows)) == []


@patient
@given(snapshots())
def test_any_tree_has_a_forecast(snapshot: Snapshot) -> None:
    """Trees that no kernel can have, too: each finding is about a task, or the whole."""
    for each in forecast(snapshot):
        assert each.tag == OUTSIDE or snapshot.pid(each.tag) is not None
