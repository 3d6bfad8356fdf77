# SPDX-License-Identifier: Apache-2.0
"""The set of touched tasks: it has every task with a changed fact, by a comparison of all facts after each record."""

import random
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from agent.capture.sweepdiff import SweepDiff
from agent.table.objects import TaskStruct
from agent.table.processtable import ProcessTable
from agent.table.wire import Kind
from tests.support.attributes import attributes
from tests.support.examples import unexplained
from tests.support.programs import PROGRAMS, Step, finish, make
from tests.support.records import nonsense
from tests.support.watched import Watched, watched

Facts = dict[TaskStruct, tuple[Any, ...]]


def facts_of(table: ProcessTable) -> Facts:
    """Return all facts of all tasks here, and of the gone ones that their births run through."""
    found: Facts = {}
    for start in table.tasks():
        task: TaskStruct | None = start
        while task is not None and task not in found:
            found[task] = _facts(table, task)
            task = task.creator
    return found


def _facts(table: ProcessTable, task: TaskStruct) -> tuple[Any, ...]:
    leader = task.leader
    parent = leader.parent
    own = {
        name: getattr(task, name)
        for name in sorted(attributes(TaskStruct))
        if name not in ("next", "previous", "threads")
    }
    return (
        *own.items(),
        (task.pid.task is task, frozenset(task.children()), frozenset(task.threads or ()), table.noted.get(task)),
        (parent, parent.address if parent is not None else None, leader.pgid, leader.sid),
    )


class Observed:
    """A comparison of all facts after each record."""

    def __init__(self, pair: Watched) -> None:
        self.pair = pair
        self.touched = pair.table.changes.tasks
        self._facts = facts_of(pair.table)
        pair.kernel.emit = self.feed

    def feed(self, record: bytes) -> None:
        """Feed one record to the stream."""
        self.touched.clear()
        self.pair.feed(record)
        self.look()

    def look(self) -> None:
        """Assert that every changed task is touched. (Links between siblings are their parent's list and do not
        count.)
        """
        now = facts_of(self.pair.table)
        for task in now.keys() | self._facts.keys():
            before, after = self._facts.get(task), now.get(task)
            if before is None:
                assert task in self.touched or task.pid.task is not task
            elif after is not None and before != after:
                differing = [(one, other) for one, other in zip(before, after, strict=True) if one != other]
                assert task in self.touched, f"{task}: {differing}"
            elif after is None and task.pid.task is not task:
                assert task in self.touched or before == _facts(self.pair.table, task)
        self._facts = now


@given(PROGRAMS, st.booleans(), st.booleans())
@unexplained
def test_a_record_touches_everybody_whom_it_changes(program: list[Step], tells_release: bool, lingers: bool) -> None:  # noqa: FBT001
    """The program's records come in order, with the answers to questions."""
    pair = watched(pid_max=60, tells_release=tells_release, lingers=lingers)
    Observed(pair)
    for step in program:
        make(pair.kernel, step)
        if not any(thread.exiting and not (thread.exited or thread.lingering) for thread in pair.kernel.threads):
            pair.ask()
    finish(pair.kernel)
    pair.ask()


@given(PROGRAMS, st.integers(0, 2**32))
@unexplained
def test_so_it_does_where_others_were_lost_or_come_late(program: list[Step], seed: int) -> None:
    """Repairs touch the repaired tasks too."""
    chance = random.Random(seed)
    pair = watched(pid_max=60, lingers=True)
    observed = Observed(pair)
    held: list[bytes] = []

    def deliver(record: bytes) -> None:
        if chance.random() < 0.2:
            return
        held.append(record)
        if chance.random() < 0.7:
            chance.shuffle(held)
            while held:
                observed.feed(held.pop())

    pair.kernel.emit = deliver
    for step in program:
        make(pair.kernel, step)
        observed.touched.clear()
        pair.stream.give_up_below(pair.kernel.writer.seq)
        observed.look()
        if chance.random() < 0.2:
            pair.kernel.emit = observed.feed
            pair.put(pair.table.take_questions())
            pair.put(SweepDiff(pair.table).differing(pair.kernel.rows()))
            pair.kernel.emit = deliver


@given(st.lists(st.tuples(st.sampled_from(Kind), st.integers(0, 2**32)), max_size=30))
@example([(Kind.FORK, 6097), (Kind.STRINGS, 2219)])  # of a program without other records
@unexplained
def test_so_does_nonsense(noise: list[tuple[Kind, int]]) -> None:
    """Task, number and identity are from a few, so that they meet."""
    pair = watched()
    observed = Observed(pair)
    writer = pair.kernel.writer
    for kind, seed in noise:
        observed.feed(nonsense(writer, kind, seed))
        pair.put(pair.table.take_questions())


def test_a_late_record_may_give_the_pid_object_of_somebody_gone_to_another_task() -> None:
    """It is no fact of the task that is gone."""
    pair = watched()
    kernel = pair.kernel
    parent = kernel.fork(kernel.init)
    kernel.setsid(parent)
    kernel.fork(parent)
    late: list[bytes] = []
    kernel.emit = late.append
    kernel.answer(parent.address, parent.start_ns)
    kernel.emit = pair.feed
    pair.stream.give_up_below(kernel.writer.seq)
    kernel.exit(parent)
    kernel.wait(kernel.init, parent)
    observed = Observed(pair)
    observed.feed(late[0])

    assert pair.table.task(parent.tid) in observed.touched


def test_whoever_is_cut_out_of_a_chain_of_births_touches_who_was_born_of_it() -> None:
    """A daemon starts its successor and exits, again and again."""
    pair = watched()
    kernel = pair.kernel
    Observed(pair)
    current = kernel.fork(kernel.init)
    cut = 0
    for _ in range(6):
        successor = kernel.fork(current)
        kernel.exit(current)
        kernel.wait(kernel.init, current)
        before = pair.task(successor).creator
        kernel.fork(successor)
        cut += pair.task(successor).creator is not before
        current = successor

    assert cut


def test_another_address_of_a_parent_touches_its_children() -> None:
    """A thread became the leader by an exec whose record was lost; an answer has the new address."""
    pair = watched()
    kernel = pair.kernel
    parent = kernel.fork(kernel.init)
    child = kernel.fork(parent)
    thread = kernel.thread(parent)
    with pair.losing():
        kernel.exec(thread)
    Observed(pair)
    kernel.answer(thread.address, thread.start_ns)

    assert pair.task(child) in pair.table.changes.tasks
