# SPDX-License-Identifier: Apache-2.0
"""Answers before, after and without the events that explain them, and answers in the middle of an exit."""

import pytest

from agent.table.objects import EXITED
from agent.table.wire import Kind
from tests.support.watched import watched


def test_an_answer_before_its_event_is_a_surprise_that_the_event_settles() -> None:
    """setsid() had taken effect and not returned."""
    pair = watched()
    child = pair.kernel.fork(pair.kernel.init)
    pair.kernel.setsid(child, quiet=True)
    pair.kernel.answer(child.address, child.start_ns)

    assert pair.table.surprises == {pair.task(child): "session"}
    assert pair.task(child).sid is pair.task(child).pid

    pair.kernel.announce(Kind.SESSION, child)

    assert pair.table.settle() == 0
    pair.agree()


def test_an_answer_after_its_event_is_no_surprise() -> None:
    """This is the usual case."""
    pair = watched()
    child = pair.kernel.fork(pair.kernel.init)
    pair.kernel.setsid(child)
    pair.kernel.exit(child)
    pair.kernel.answer(child.address, child.start_ns)

    assert pair.table.surprises == {}


def test_an_answer_between_an_exit_and_its_end_brings_nobody_back_to_life() -> None:
    """exit_state is not set yet, and the children still name the dead parent."""
    pair = watched()
    father = pair.kernel.fork(pair.kernel.init)
    child = pair.kernel.fork(father)
    pair.kernel.begin_exit(father)
    for task in (father, child):
        pair.kernel.answer(task.address, task.start_ns)

    assert pair.task(father).flags & EXITED
    assert pair.task(child).parent is pair.task(pair.kernel.init)
    assert pair.table.surprises == {}

    pair.kernel.exit_notify(father)
    pair.agree()


@pytest.mark.parametrize("who", ["thread", "unwaited process"])
def test_an_answer_in_the_middle_of_an_exit_does_not_bring_back_who_was_released(who: str) -> None:
    """The question was on its way; the exit is complete in the table, and not yet in the kernel."""
    pair = watched()
    dying = pair.kernel.fork(pair.kernel.init)
    if who == "thread":
        dying = pair.kernel.thread(dying)
    else:
        pair.kernel.init.group.ignores = True
    question = pair.table.question(pair.task(dying))
    pair.kernel.begin_exit(dying)
    pair.put([question])
    pair.kernel.exit_notify(dying)
    pair.ask()
    pair.agree()


def test_a_group_record_in_the_middle_of_an_exit_does_not_bring_back_who_was_released() -> None:
    """setpgid() finds a child that will be reaped without a wait."""
    pair = watched()
    pair.kernel.init.group.ignores = True
    child = pair.kernel.fork(pair.kernel.init)
    pair.kernel.begin_exit(child)
    pair.kernel.setpgid(pair.kernel.init, child.group, child.pid)
    pair.kernel.exit_notify(child)
    pair.ask()
    pair.agree()


@pytest.mark.parametrize("what", ["exit", "gone", "group", "session"])
def test_an_answer_that_no_event_explains_is_an_anomaly_and_heals(what: str) -> None:
    """The event was lost."""
    pair = watched()
    child = pair.kernel.fork(pair.kernel.init)
    question = pair.table.question(pair.task(child))
    with pair.losing():
        if what == "session":
            pair.kernel.setsid(child)
        elif what == "group":
            pair.kernel.setpgid(child, child.group, child.pid)
        else:
            pair.kernel.exit(child, 9)
        if what == "gone":
            pair.kernel.wait(pair.kernel.init, child)
    pair.put([question])

    assert list(pair.table.surprises.values()) == [what]
    assert pair.table.settle() == 1
    assert pair.table.counts.anomalies == 1
    pair.agree()


def test_gone_is_believed_of_the_very_task_that_was_asked_about() -> None:
    """The address has another owner by the time of the answer, or the task has another thread's start."""
    pair = watched()
    child = pair.kernel.fork(pair.kernel.init)
    pair.table.question(pair.task(child))
    pair.feed(pair.kernel.writer.end(Kind.GONE, child.address, child.start_ns + 1))
    pair.feed(pair.kernel.writer.end(Kind.GONE, child.address + 64, child.start_ns))
    pair.agree()
