# SPDX-License-Identifier: Apache-2.0
"""Events as bytes, and their meaning for a reader of msgpack."""

from typing import Any

import msgpack
import pytest

from agent.events import eventpack
from agent.events.eventfacts import ASSUMED, ENTERED, Marks
from agent.events.eventpack import Details
from agent.model import WaitStatus
from agent.table.objects import CLONE_NEWPID, EXITED, KERNEL, STOPPED, SUBREAPER, PidNamespace, TaskStruct
from tests.support.watched import Watched, watched


@pytest.fixture
def pair() -> Watched:
    """Return a process, and another one two namespaces below it."""
    pair = watched()
    init = pair.kernel.fork(pair.kernel.init, CLONE_NEWPID)
    pair.kernel.setsid(init)
    pair.kernel.fork(init, CLONE_NEWPID)
    return pair


def _inner(pair: Watched) -> TaskStruct:
    (_, _, thread) = pair.kernel.threads
    return pair.task(thread)


def _read(
    task: TaskStruct, namespace: PidNamespace, say: Details, marks: Marks, kind: str = "birth", **when: int
) -> dict[str, Any]:
    when = {"order": 1, "time_ns": 2, **when}
    said: dict[str, Any] = msgpack.unpackb(
        eventpack.event(kind, when["order"], when["time_ns"], task, task.leader, namespace, say, marks)
    )
    return said


@pytest.mark.parametrize("level", [0, 1, 2])
def test_everybody_is_named_as_the_listener_counts(pair: Watched, level: int) -> None:
    """Numbers start with the listener's own namespace."""
    task = _inner(pair)
    task.ids, task.comm, task.start_ns = (0xFFFFFFFE, 1000), b"sixteen bytes ok", 1 << 60
    said = _read(task, task.pid.namespace.ancestor(level), eventpack.nothing, {}, "reap", order=1 << 40, time_ns=-5)

    assert said == {
        "event": "reap",
        "order": 1 << 40,
        "time_ns": -5,
        "pid": task.pid.numbers[level],
        "tid": task.pid.numbers[level],
        "numbers": list(task.pid.numbers[level:]),
        "start_ns": 1 << 60,
        "uid": 0xFFFFFFFE,
        "gid": 1000,
        "comm": b"sixteen bytes ok",
    }


def test_each_kind_says_what_is_particular_to_it(pair: Watched) -> None:
    """The rare facts of a task are all there: stopped, a kernel worker, a subreaper, another exit signal."""
    task, top = _inner(pair), pair.table.pids.initial
    above = task.parent
    assert above is not None
    task.flags |= STOPPED | KERNEL | SUBREAPER
    task.exit_signal, task.exit_code = -1, WaitStatus(0xFF00)
    above_number = above.pid.numbers[0]
    born = {
        "parent": above_number,
        "creator": above_number,
        "pgid": above_number,
        "sid": above_number,
        "flags": ["CLONE_NEWPID"],
        "exit_signal": -1,
        "stopped": True,
        "kernel": True,
    }
    expected: list[tuple[Details, dict[str, Any]]] = [
        (eventpack.birth, born),
        (eventpack.presence, {**born, "exit_code": None, "subreaper": True}),
        (eventpack.execution(above.pid), {"old_tid": above_number, "exit_signal": -1}),
        (eventpack.execution(None), {"old_tid": 0, "exit_signal": -1}),
        (eventpack.parent, {"parent": above_number, "exit_signal": -1}),
        (eventpack.ids, {"pgid": above_number, "sid": above_number}),
        (eventpack.subreaper, {"on": True}),
        (eventpack.condition, {"stopped": True, "exit_code": None, "exit_signal": -1}),
    ]
    for say, details in expected:
        for marks in ({}, ASSUMED, ASSUMED | ENTERED):
            said = _read(task, top, say, marks)
            assert dict(list(said.items())[10:]) == {**details, **marks}


@pytest.mark.parametrize("code", [0, 0xFF00])
@pytest.mark.parametrize("is_last", [False, True])
def test_a_death_has_a_wait_status_where_a_record_told_the_exit(pair: Watched, code: int, *, is_last: bool) -> None:
    """Else it is null: of a task that is gone, and whose exit was lost, nobody knows how it ended."""
    task, top = _inner(pair), pair.table.pids.initial
    task.exit_code = WaitStatus(code)
    for flags, told in ((0, None), (EXITED, code)):
        task.flags |= flags
        said = _read(task, top, eventpack.DEATH[is_last], ASSUMED)
        assert dict(list(said.items())[10:]) == {"exit_code": told, "group_dead": is_last, **ASSUMED}


def test_whoever_is_not_seen_has_the_number_0(pair: Watched) -> None:
    """Examples are a parent and a group outside the listener's namespace."""
    task = _inner(pair)
    said = _read(task, task.pid.namespace, eventpack.birth, {})

    assert [said[name] for name in ("tid", "parent", "creator", "pgid", "sid")] == [1, 0, 0, 0, 0]
    task.flags |= EXITED
    task.exit_code = WaitStatus(9)
    assert _read(task, task.pid.namespace, eventpack.presence, {})["exit_code"] == 9


def test_a_group_or_session_that_the_table_lacks_is_null(pair: Watched) -> None:
    """0 means another thing: the listener's namespace has no number for it."""
    task, top = _inner(pair), pair.table.pids.initial
    leader = task.leader
    group = leader.pgid
    assert group is not None
    leader.sid = None
    for say in (eventpack.birth, eventpack.presence, eventpack.ids):
        said = _read(task, top, say, ASSUMED)
        assert (said["pgid"], said["sid"], said["assumed"]) == (group.numbers[0], None, True)
    leader.pgid = None
    assert _read(task, top, eventpack.birth, {})["pgid"] is None
    assert _read(task, top, eventpack.birth, {})["flags"] == ["CLONE_NEWPID"]
