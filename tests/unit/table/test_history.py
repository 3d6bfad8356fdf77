# SPDX-License-Identifier: Apache-2.0
"""Births: their records, the memory of dead tasks, and its bounds."""

import gc
from collections.abc import Iterator

import pytest

from agent.table import history
from agent.table.objects import CLONE_NEWPID, Pid, PidNamespace, TaskStruct
from tests.support.kernelobjects import Thread
from tests.support.watched import Watched, watched


def a_task(number: int, creator: TaskStruct | None = None, sid: Pid | None = None) -> TaskStruct:
    """Return a released task, unless a test gives it its pid object back."""
    task = TaskStruct(Pid(number, (number,), PidNamespace(0, 1, None)), number, number, 0)
    task.creator = creator
    task.order = number
    task.birth_sid = sid
    return task


def deeds(task: TaskStruct) -> list[str]:
    """Return the deeds of a task, in order."""
    return [what for what, _, _ in task.deeds or ()]


# ---- deeds ---------------------------------------------------------------------------------------------------------


def test_of_each_kind_of_deed_the_last_one_counts() -> None:
    """The deeds are in order of time."""
    task = a_task(1)
    history.remember(task, "setpgid", 0, task.pid)
    history.remember(task, "setsid", 1, task.pid)
    history.remember(task, "setpgid", 2, task.pid)

    assert task.deeds == (("setsid", 1, task.pid), ("setpgid", 2, task.pid))


def test_deeds_are_the_groups_whichever_thread_did_them() -> None:
    """A leader has the deeds setsid() and prctl() of its threads."""
    pair = watched()
    leader = pair.kernel.fork(pair.kernel.init)
    thread = pair.kernel.thread(leader)
    pair.kernel.setsid(thread)
    pair.kernel.subreaper(thread)
    pair.kernel.setpgid(thread, leader.group, leader.pid)

    assert deeds(pair.task(leader)) == ["setsid", "subreaper", "setpgid"]
    assert pair.task(thread).deeds is None


def test_the_exit_of_one_that_created_somebody_is_a_deed() -> None:
    """The exits of other tasks do not matter."""
    pair = watched()
    parent = pair.kernel.fork(pair.kernel.init)
    child = pair.kernel.fork(parent)
    parent_task, child_task = pair.task(parent), pair.task(child)
    pair.kernel.exit(child)
    pair.kernel.exit(parent)

    assert deeds(parent_task) == ["exit"]
    assert deeds(child_task) == []


# ---- contraction ---------------------------------------------------------------------------------------------------


def test_a_dead_ancestor_between_two_of_one_session_is_cut_out() -> None:
    """Its creator could have had the child itself."""
    session = Pid(9, (9,), PidNamespace(0, 1, None))
    session.users = 1
    above = a_task(1, sid=session)
    between = a_task(2, above, session)
    child = a_task(3, between, session)
    history.contract(child, 100)

    assert child.creator is above


@pytest.mark.parametrize("reason", ["number in use", "not observed", "another session", "alone"])
def test_a_dead_ancestor_that_matters_is_kept(reason: str) -> None:
    """It is a ghost, an assumed birth, the founder of a session in use, or the last one."""
    session, other = (Pid(n, (n,), PidNamespace(0, 1, None)) for n in (8, 9))
    session.users = other.users = 1
    above = a_task(1, sid=session)
    between = a_task(2, None if reason == "alone" else above, session)
    child = a_task(3, between, session)
    if reason == "number in use":
        between.pid.users = 1
    elif reason == "not observed":
        between.order = -1
    elif reason == "another session":
        history.remember(between, "setsid", 5, other)
        child.birth_sid = other
    history.contract(child, 100)

    assert child.creator is between


def test_a_session_that_nobody_uses_any_more_keeps_no_ancestor() -> None:
    """The deed of its founding goes with it; otherwise it would seem to precede the child's birth."""
    session, dead = (Pid(n, (n,), PidNamespace(0, 1, None)) for n in (8, 9))
    session.users = 1
    above = a_task(1, sid=session)
    history.remember(above, "setsid", 4, dead)
    between = a_task(2, above, dead)
    child = a_task(3, between, session)
    history.contract(child, 100)

    assert child.creator is above
    assert above.deeds is None


def test_nothing_is_cut_out_above_a_living_creator() -> None:
    """Its births matter only to itself."""
    living = a_task(1)
    living.pid.task = living
    child = a_task(2, living)
    history.contract(child, 100)

    assert child.creator is living


# ---- memory --------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Rely on reference counts alone."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def count(kind: type) -> int:
    """Return the number of objects of a class."""
    return sum(type(thing) is kind for thing in gc.get_objects())


def end(pair: Watched, thread: Thread) -> None:
    """Let a process exit, be reaped, and be freed."""
    pair.kernel.exit_group(thread)
    if thread.group.parent is not None:
        pair.kernel.wait(thread.group.parent, thread)
    while pair.kernel.corpses:
        pair.kernel.free()
    pair.table.changes.tasks.clear()  # a reader has noted the changes


@pytest.mark.slow
def test_the_number_of_objects_is_flat_over_many_forks(no_collector: None) -> None:
    """No cycle keeps dead objects: processes, threads, execs, sessions, containers."""
    pair = watched()
    kernel, counts = pair.kernel, []
    for turn in range(2_000):
        child = kernel.fork(kernel.init, CLONE_NEWPID if turn % 3 == 0 else 0)
        kernel.setsid(child)
        other = kernel.fork(child)
        thread = kernel.thread(child)
        if turn % 2:
            kernel.exec(thread)
            child = thread
        kernel.exit(other)
        kernel.wait(child, other)
        end(pair, child)
        if turn in (199, 1999):
            counts.append([count(kind) for kind in (TaskStruct, Pid, PidNamespace)])

    assert counts[0] == counts[1]
    assert len(pair.table.tasks()) == 1


def test_an_ancestor_that_is_gone_is_kept_as_long_as_a_birth_runs_through_it(no_collector: None) -> None:
    """Father and child have exited; both stay until the grandchild exits, and no longer."""
    pair = watched()
    kernel = pair.kernel
    father = kernel.fork(kernel.init)
    child = kernel.fork(father)
    grandchild = kernel.fork(child)
    end(pair, father)
    end(pair, child)
    before = count(TaskStruct)
    creator = pair.task(grandchild).creator

    assert creator is not None
    assert creator.creator is not None
    assert [history.is_gone(each) for each in (creator, creator.creator)] == [True, True]

    del creator
    end(pair, grandchild)

    assert count(TaskStruct) == before - 3


@pytest.mark.slow
@pytest.mark.parametrize("new_session", [False, True])
def test_ten_thousand_generations_that_fork_and_exit_stay_few(no_collector: None, *, new_session: bool) -> None:
    """A daemon keeps starting its successor, with or without a session of its own."""
    pair = watched()
    kernel = pair.kernel
    before = count(TaskStruct)
    current = kernel.fork(kernel.init)
    for _ in range(10_000):
        if new_session:
            kernel.setsid(current)
        successor = kernel.fork(current)
        end(pair, current)
        current = successor

    chain = [pair.task(current)]
    while chain[-1].creator is not None:
        chain.append(chain[-1].creator)

    assert len(chain) <= 5
    assert count(TaskStruct) - before <= 5
    assert chain[-1] is pair.task(kernel.init)


def test_a_fork_looks_at_a_few_links_of_a_chain_however_long_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a chain of ten times the length a fork costs no more; a later fork looks at the remaining links."""
    looks: list[int] = []
    is_gone = history.is_gone

    def counted(task: TaskStruct) -> bool:
        looks[-1] += 1
        return is_gone(task)

    monkeypatch.setattr(history, "is_gone", counted)
    most = []
    for length in (40, 200):
        pair = watched()
        kernel = pair.kernel
        head, members = kernel.fork(kernel.init), []
        for _ in range(length):
            looks.append(0)
            following = kernel.fork(head)
            kernel.setsid(following)
            members.append(kernel.fork(following))  # uses the session: the link must stay
            kernel.exit(head)
            kernel.wait(kernel.init, head)
            head = following
        for member in members:
            kernel.exit(member)
            kernel.wait(kernel.init, member)
        for _ in range(length):
            looks.append(0)
            child = kernel.fork(head)
            kernel.exit(child)
            kernel.wait(head, child)
        most.append(max(looks))
        links, task = 0, pair.task(head)
        while task.creator is not None and is_gone(task.creator):
            links, task = links + 1, task.creator
        assert links < 3

    assert most[0] == most[1]
