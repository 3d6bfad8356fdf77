# SPDX-License-Identifier: Apache-2.0
"""Random programs on a simulated kernel: the table agrees with the kernel, for any loss or disorder of records."""

import random

from hypothesis import example, given
from hypothesis import strategies as st

from agent.table import history
from agent.table.wire import Kind
from tests.support.examples import unexplained
from tests.support.programs import PROGRAMS, Step, finish, make
from tests.support.records import nonsense
from tests.support.watched import Watched, check_links, watched


def births_agree(pair: Watched) -> None:
    """Assert that each known creator is right; a creator that is gone may be replaced by its own creator."""
    for thread in pair.kernel.threads:
        task = pair.table.task(thread.tid)
        if task is None or task.order < 0 or task.creator is None:
            continue
        if not history.is_gone(task.creator):
            assert task.creator.pid.identity == thread.creator


# An init waits within its exit for a zombie of its namespace, and then goes unseen: its parent ignores SIGCHLD by now.
UNSEEN: list[Step] = [
    *[("unshare", 0, 0), ("fork", 0, 0), ("fork", 0, 0), ("fork", 0, 0), ("fork", 1, 0), ("fork", 136, 1)],
    *[("fork", 4, 136), ("new_thread", 2, 306), ("leave", 1, 0), ("wait", 0, 0), ("ignore", 0, 0), ("wait", 0, 1)],
]


@given(PROGRAMS, st.booleans(), st.booleans())
@example(UNSEEN, False, True)
@unexplained
def test_the_table_shows_what_the_kernel_has(program: list[Step], tells_release: bool, lingers: bool) -> None:  # noqa: FBT001
    """After any call the questions are answered, and those of a snapshot; without loss no others are necessary."""
    pair = watched(pid_max=60, tells_release=tells_release, lingers=lingers)
    for step in program:
        make(pair.kernel, step)
        if not any(thread.exiting and not (thread.exited or thread.lingering) for thread in pair.kernel.threads):
            pair.ask_as_a_snapshot_does()
            pair.agree()
            births_agree(pair)
    finish(pair.kernel)
    pair.ask_as_a_snapshot_does()
    pair.agree()
    pair.sweep()
    pair.agree_on_pending()


# The last thread of an init, which is not its leader, waits within its exit, and has a child.
LAST_THREAD: list[Step] = [
    *[("unshare", 0, 0), *[("fork", 0, 0)] * 7, ("new_thread", 1, 0), ("leave", 1, 0), ("leave", 1, 0)],
    *[("fork", 0, 0), ("fork", 0, 0), ("fork", 1, 3), ("leave", 1, 0), ("leave", 1, 0), ("leave", 5, 0)],
    *[("new_thread", 6, 0), ("leave", 6, 0), ("trace", 0, 1), ("leave", 4, 0)],
]


@given(PROGRAMS, st.booleans())
@example(LAST_THREAD, True)
@unexplained
def test_a_table_that_starts_late_learns_everything_from_one_sweep(program: list[Step], lingers: bool) -> None:  # noqa: FBT001
    """It has only rows and answers."""
    unseen: list[bytes] = []
    pair = Watched(via=unseen.append, pid_max=60, lingers=lingers)
    for step in program:
        make(pair.kernel, step)
    finish(pair.kernel)
    pair.kernel.emit = pair.feed
    pair.stream.give_up_below(len(unseen))
    pair.sweep()
    pair.agree()
    pair.agree_on_pending()


@given(PROGRAMS, st.data())
@unexplained
def test_no_loss_or_disorder_of_records_raises_and_one_sweep_heals_it(program: list[Step], data: st.DataObject) -> None:
    """Records are lost, swapped, late and repeated; some arrive after they were given up."""
    chance = random.Random(data.draw(st.integers(0, 2**32), label="seed"))
    held: list[bytes] = []
    pair = watched(pid_max=60, lingers=data.draw(st.booleans(), label="lingers"))

    def deliver(record: bytes) -> None:
        fate = chance.random()
        if fate < 0.1:
            return
        held.append(record)
        if fate < 0.2:
            held.append(record)
        if fate > 0.5:
            chance.shuffle(held)
            while len(held) > (3 if fate < 0.8 else 0):
                pair.feed(held.pop())

    pair.kernel.emit = deliver
    for step in program:
        make(pair.kernel, step)
        if chance.random() < 0.1:
            pair.stream.give_up_below(pair.kernel.writer.seq)
        if chance.random() < 0.1:
            pair.put(pair.table.take_questions())
    finish(pair.kernel)
    while held:
        pair.feed(held.pop())
    pair.kernel.emit = pair.feed
    pair.stream.give_up_below(pair.kernel.writer.seq)
    pair.sweep()
    pair.agree()
    pair.agree_on_pending()


@given(st.lists(st.tuples(st.sampled_from(Kind), st.integers(0, 2**32)), max_size=30))
@example([(Kind.EXEC, 581)])  # a thread under its own leader's number
@example([(Kind.FORK, 10543), (Kind.FORK, 18149), (Kind.FORK, 10543)])  # a child of its own thread
@example([(Kind.FORK, 49), (Kind.FORK, 1631)])  # in a group of another that has its number
@unexplained
def test_no_well_formed_record_raises(noise: list[tuple[Kind, int]]) -> None:
    """Task, number and identity are from a few, so that they meet; records are well-formed nonsense."""
    pair = watched()
    writer = pair.kernel.writer
    for kind, seed in noise:
        pair.feed(nonsense(writer, kind, seed))
        check_links(pair.table)
        pair.put(pair.table.take_questions())
