# SPDX-License-Identifier: Apache-2.0
"""The table with missing or late records, or with answers before records: questions, answers, sweeps."""

import pytest

from agent.capture.sweepdiff import SweepDiff
from agent.selection.select import select
from agent.table import wire
from agent.table.objects import CLONE_NEWPID, EXITED
from agent.table.wire import Kind
from tests.support.kernelobjects import Thread
from tests.support.watched import Watched, watched


def test_the_table_starts_from_a_sweep_in_any_order() -> None:
    """Children and threads may come before their parents and leaders; births are assumed."""
    pair = Watched(pid_max=10)
    kernel = pair.kernel
    with pair.losing():
        gone = [kernel.fork(kernel.init) for _ in range(5)]
        parent = kernel.fork(kernel.init)
        thread = kernel.thread(parent)
        container = kernel.fork(thread, CLONE_NEWPID)
        for each in gone:
            kernel.exit(each)
            kernel.wait(kernel.init, each)
        kernel.fork(container)
        kernel.thread(kernel.fork(kernel.fork(container, CLONE_NEWPID)))
        kernel.setsid(kernel.fork(container))
    pair.sweep()

    assert min(t.tid for t in kernel.threads if t is not kernel.init) < parent.tid  # numbers came round again
    assert pair.table.counts.assumed == len(kernel.threads)
    assert all(task.order == -1 for task in pair.table.tasks())
    pair.agree()


def test_births_name_the_session_that_lives_though_nobody_seemed_to_be_in_it_any_more() -> None:
    """Its only known member has left it, before the others were entered."""
    pair = Watched()
    kernel = pair.kernel
    with pair.losing():
        shell = kernel.fork(kernel.init)
        kernel.setsid(shell)
    helper = kernel.fork(shell)
    kernel.setsid(helper)
    child = kernel.fork(helper)
    kernel.exit(helper)
    kernel.wait(shell, helper)
    pair.sweep()
    creator = pair.task(child).creator

    assert creator is not None
    assert creator.birth_sid is pair.task(shell).pid
    assert creator.birth_pgid is pair.task(shell).pid
    pair.agree()


def test_a_birth_that_comes_after_an_answer_completes_the_assumed_one() -> None:
    """An address was asked about between copy_process() and its tracepoint."""
    pair = watched()
    kernel = pair.kernel
    with pair.losing():
        child = kernel.fork(kernel.init)
    kernel.answer(child.address, 0)
    task = pair.task(child)

    assert task.order == -1

    kernel.announce(Kind.FORK, child, 17, kernel.init)

    assert pair.task(child) is task
    assert task.order == kernel.writer.seq - 1
    assert task.creator is pair.task(kernel.init)
    pair.agree()


# ---- questions -----------------------------------------------------------------------------------------------------


def test_a_parent_that_is_not_known_is_asked_about_by_address_and_linked_when_it_answers() -> None:
    """The record of its birth was lost; that of its child's was not."""
    pair = watched()
    with pair.losing():
        parent = pair.kernel.fork(pair.kernel.init)
    child = pair.kernel.fork(parent)

    assert pair.task(child).parent is None
    assert list(pair.table.unknown) == [parent.address]

    pair.ask()

    assert pair.task(child).parent is pair.task(parent)
    pair.agree()


def test_a_parent_not_known_at_the_time_of_the_answer_is_found_within_the_same_sweep() -> None:
    """A thread whose birth was lost has adopted the child; the table assumed init."""
    pair = watched()
    father = pair.kernel.fork(pair.kernel.init)
    child = pair.kernel.fork(father)
    with pair.losing():
        thread = pair.kernel.thread(father)
    pair.kernel.exit(father)

    assert pair.task(child).parent is pair.task(pair.kernel.init)

    pair.sweep()

    assert pair.task(child).parent is pair.task(thread)
    pair.agree()


def test_a_creator_that_is_not_known_is_asked_about_and_the_birth_completed() -> None:
    """The task that has its number in the table is another one."""
    pair = watched(pid_max=2)
    dead = pair.kernel.fork(pair.kernel.init)
    with pair.losing():
        pair.kernel.exit(dead)
        pair.kernel.wait(pair.kernel.init, dead)
        creator = pair.kernel.fork(pair.kernel.init)
    pair.kernel.pid_max = 9
    child = pair.kernel.fork(creator)

    assert dead.tid == creator.tid
    assert pair.task(child).creator is None

    pair.ask()

    assert pair.task(child).creator is pair.task(creator)
    assert pair.task(child).order >= 0
    pair.agree()


def test_a_thread_whose_leader_is_not_known_is_entered_after_it() -> None:
    """The leader is asked about first, then the thread; every pid object has a user."""
    pair = watched()
    with pair.losing():
        leader = pair.kernel.fork(pair.kernel.init)
    thread = pair.kernel.thread(leader)

    assert pair.table.task(thread.tid) is None
    assert list(pair.table.unknown) == [leader.address]

    pair.ask()

    assert pair.task(thread).leader is pair.task(leader)
    pair.agree()


def test_children_of_a_parent_that_is_gone_when_asked_about_are_asked_about_themselves() -> None:
    """The next task at its address gets none of the children that waited for the old one."""
    pair = watched()
    with pair.losing():
        parent = pair.kernel.fork(pair.kernel.init)
    child = pair.kernel.fork(parent)
    with pair.losing():
        pair.kernel.exit(parent)
        pair.kernel.wait(pair.kernel.init, parent)
        pair.kernel.free()
    pair.ask()
    newcomer = pair.kernel.fork(pair.kernel.init)

    assert newcomer.address == parent.address
    assert pair.task(child).parent is pair.task(pair.kernel.init)
    assert pair.task(child).creator is not pair.task(newcomer)
    pair.agree()


def test_an_address_used_again_before_the_question_is_put_is_not_taken_for_the_creator() -> None:
    """A creator is older than its child."""
    pair = watched()
    with pair.losing():
        creator = pair.kernel.fork(pair.kernel.init)
    child = pair.kernel.fork(creator)
    with pair.losing():
        pair.kernel.exit(creator)
        pair.kernel.wait(pair.kernel.init, creator)
        pair.kernel.free()
    newcomer = pair.kernel.fork(pair.kernel.init)

    assert newcomer.address == creator.address
    assert pair.task(child).creator is None


def test_a_record_of_a_task_past_its_release_enters_nobody() -> None:
    """setpgid() of a child that is being reaped: the child has no pids any more, and its number is another task's."""
    pair = watched()
    child = pair.kernel.fork(pair.kernel.init)
    task = pair.task(child)
    nobody = (0, child.pid.state)
    record = pair.kernel.writer.task(Kind.GROUP, roles=(nobody,) * 4, tid=child.tid, task=0x9999, start_ns=1)
    pair.feed(record)

    assert pair.task(child) is task
    pair.agree()


def test_one_number_and_one_identity_but_another_start_is_another_task() -> None:
    """Without pid->ino the identity is number and address, and both may occur again."""
    pair = watched(pid_max=2)
    first = pair.kernel.fork(pair.kernel.init)
    task = pair.task(first)
    with pair.losing():
        pair.kernel.exit(first)
        pair.kernel.wait(pair.kernel.init, first)
        pair.kernel._identity -= 1
    second = pair.kernel.fork(pair.kernel.init)

    assert second.pid.identity == first.pid.identity
    assert task.start_ns != second.start_ns
    assert pair.task(second).start_ns == second.start_ns
    assert pair.task(second).creator is pair.task(pair.kernel.init)
    assert not pair.task(second).flags & EXITED


# ---- answers and surprises -----------------------------------------------------------------------------------------


# ---- late records --------------------------------------------------------------------------------------------------


def test_a_late_record_of_an_older_state_is_healed_by_the_sweep_it_calls_for() -> None:
    """Its number was given up too early; it restores an old group."""
    pair = watched()
    child = pair.kernel.fork(pair.kernel.init)
    with pair.losing() as late:
        pair.kernel.setpgid(child, child.group, child.pid)
    pair.kernel.setpgid(child, child.group, pair.kernel.init.pid)
    pair.sweep()
    pair.feed(late[0])

    assert pair.stream.suspect

    pair.sweep()
    pair.agree()


@pytest.mark.parametrize("signal", [0, 10, 64, 255])
def test_an_exit_signal_that_no_record_told_of_is_found_by_a_sweep(signal: int) -> None:
    """clone() takes any signal that fits a byte; a thread has none."""
    pair = watched()
    child = pair.kernel.fork(pair.kernel.init, exit_signal=signal)
    pair.kernel.thread(child)
    pair.agree()
    pair.task(child).exit_signal = 17
    pair.sweep()

    assert pair.table.take_questions() == []
    pair.agree()
    assert SweepDiff(pair.table).differing(pair.kernel.rows()) == []


def test_a_late_exit_of_a_leader_that_has_been_replaced_is_healed() -> None:
    """The thread's exec came first; the leader lives under the same address, start and number."""
    pair = watched()
    leader = pair.kernel.fork(pair.kernel.init)
    thread = pair.kernel.thread(leader)
    with pair.losing() as late:
        pair.kernel.exit(leader)
    pair.kernel.exec(thread)
    pair.feed(late[0])
    pair.sweep()
    pair.agree()


def test_a_late_birth_of_one_that_is_dead_is_healed() -> None:
    """The task has died, and its number belongs to another."""
    pair = watched(pid_max=2)
    with pair.losing() as late:
        first = pair.kernel.fork(pair.kernel.init)
    pair.kernel.exit(first)
    pair.kernel.wait(pair.kernel.init, first)
    pair.kernel.free()
    pair.kernel.fork(pair.kernel.init)
    pair.feed(late[0])
    pair.sweep()
    pair.agree()


def test_a_subreaper_that_no_event_told_of_leads_to_a_sweep() -> None:
    """An orphan may have gone to it, and the table has that orphan elsewhere."""
    pair = watched()
    reaper = pair.kernel.fork(pair.kernel.init)
    with pair.losing():
        pair.kernel.subreaper(reaper, on=True)
    middle = pair.kernel.fork(reaper)
    orphan = pair.kernel.fork(middle)
    pair.kernel.exit(middle)
    assert not pair.table.astray

    pair.put([pair.table.question(pair.task(reaper))])
    assert pair.table.astray

    pair.sweep()
    assert pair.task(orphan).parent is pair.task(reaper)
    pair.agree()


def test_a_subreaper_whose_event_came_is_no_reason_to_sweep() -> None:
    """The event marked the tasks below it."""
    pair = watched()
    reaper = pair.kernel.fork(pair.kernel.init)
    child = pair.kernel.fork(reaper)
    pair.kernel.subreaper(reaper, on=True)
    pair.put([pair.table.question(pair.task(thread)) for thread in (reaper, child)])

    assert not pair.table.astray


def test_a_task_that_lives_and_is_not_listed_is_noted_and_one_that_came_later_is_not() -> None:
    """The iterators of some kernels skip a process."""
    pair = watched()
    hidden = pair.kernel.fork(pair.kernel.init)
    gone = pair.kernel.fork(pair.kernel.init)
    mark = pair.stream.next
    rows = [row for row in wire.ROW.iter_unpack(pair.kernel.rows()) if row[6] not in (hidden.tid, gone.tid)]
    with pair.losing():
        pair.kernel.exit(gone)
        pair.kernel.wait(pair.kernel.init, gone)
    pair.kernel.fork(pair.kernel.init)
    pair.put(SweepDiff(pair.table).differing(b"".join(wire.ROW.pack(*row) for row in rows)))
    pair.table.strike_off(mark)

    assert pair.table.unlisted == {pair.task(hidden)}


def orphan_and_address(pair: Watched) -> tuple[Thread, Thread]:
    """Let a birth name a parent that the table lacks, and lose the parent's end; the next task gets its address.

    Returns:
        The child, whose parent is the init by now, and the init of a pid namespace.
    """
    kernel = pair.kernel
    container = kernel.fork(kernel.init, CLONE_NEWPID)
    with pair.losing():
        parent = kernel.fork(kernel.init)
    child = kernel.fork(parent)
    with pair.losing():
        kernel.exit(parent)
        kernel.wait(kernel.init, parent)
        kernel.free()
    return child, container


def test_no_task_gets_a_parent_in_a_namespace_that_it_is_not_in() -> None:
    """A task of a container has the address of the parent that is gone: a snapshot of the container must not have it."""
    pair = watched()
    child, container = orphan_and_address(pair)

    heir = pair.kernel.fork(container)

    assert pair.task(child).parent is None
    assert list(pair.task(heir).children()) == []
    assert [each.numbers for each in select(pair.task(container), "subtree").pids] == [(1,), (2,)]
    pair.ask()
    pair.agree()


def test_an_answer_gives_no_task_a_parent_in_a_namespace_that_it_is_not_in() -> None:
    """The table takes a task of a container for the one that has its number and address now."""
    pair = watched()
    kernel = pair.kernel
    container = kernel.fork(kernel.init, CLONE_NEWPID)
    old = kernel.fork(container)
    with pair.losing():
        kernel.exit(old)
        kernel.wait(container, old)
        kernel.free()
        parent = kernel.fork(kernel.init, wanted=(old.tid,))
    assert (parent.tid, parent.address) == (old.tid, old.address)

    child = kernel.fork(parent)

    assert pair.task(child).parent is None or pair.task(child).parent is pair.task(parent)
    pair.ask()
    pair.agree()
