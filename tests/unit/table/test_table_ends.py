# SPDX-License-Identifier: Apache-2.0
"""The end of a task in the table: exit, the wait for it, and its release."""

from agent.table.objects import AUTOREAP, CLONE_NEWPID, EXITED
from tests.support.watched import watched


def test_a_dead_leader_stays_while_threads_live_and_is_a_zombie_after() -> None:
    """The order is exit(L, 0), then exit(last, 1): the status of the group is the last one's."""
    pair = watched()
    leader = pair.kernel.fork(pair.kernel.init)
    thread = pair.kernel.thread(leader)
    pair.kernel.exit(leader)
    task = pair.task(leader)

    assert task.flags & EXITED
    assert list(task.group())[1:] == [pair.task(thread)]

    pair.kernel.exit(thread, 7 << 8)

    assert task.threads is None
    assert task.exit_code == 7 << 8
    pair.agree()


def test_a_zombie_stays_until_its_parent_has_waited() -> None:
    """RECORD_WAITED may come from any thread of the parent's group."""
    pair = watched()
    parent = pair.kernel.fork(pair.kernel.init)
    waiter = pair.kernel.thread(parent)
    child = pair.kernel.fork(parent)
    pair.kernel.exit(child, 9)

    assert pair.task(child).exit_code == 9

    pair.kernel.wait(waiter, child)

    assert pair.table.task(child.tid) is None
    pair.agree()


def test_a_reap_that_no_record_tells_of_is_known_by_the_free() -> None:
    """The call is waitid() without a siginfo_t, for any child; after several of them all zombies would be in doubt."""
    pair = watched()
    reaped, other = pair.kernel.fork(pair.kernel.init), pair.kernel.fork(pair.kernel.init)
    pair.kernel.exit(reaped)
    pair.kernel.exit(other)
    pair.kernel.wait(pair.kernel.init, reaped, nameless=True)

    assert not pair.table.doubts
    assert pair.table.task(reaped.tid) is None
    assert pair.table.task(other.tid) is not None


def test_a_wait_inside_a_namespace_counts_as_the_caller_does() -> None:
    """The number is the caller's and not the host's."""
    pair = watched()
    init = pair.kernel.fork(pair.kernel.init, CLONE_NEWPID)
    child = pair.kernel.fork(init)
    pair.kernel.exit(child)

    assert child.pid.numbers == (3, 2)

    pair.kernel.wait(init, child)
    pair.agree()


def test_a_parent_that_ignores_sigchld_has_its_children_reaped_at_once() -> None:
    """The exit record of the last thread tells it."""
    pair = watched()
    pair.kernel.init.group.ignores = True
    leader = pair.kernel.fork(pair.kernel.init)
    thread = pair.kernel.thread(leader)
    pair.kernel.exit(leader)

    assert not pair.task(leader).flags & AUTOREAP

    pair.kernel.exit(thread)

    pair.ask()
    assert pair.table.task(leader.tid) is None
    pair.agree()


def test_a_parent_that_ignores_sigchld_and_goes_first_leaves_the_zombie_to_the_next_one() -> None:
    """The parent is known at exit_notify(), after the exit record."""
    pair = watched()
    parent = pair.kernel.fork(pair.kernel.init)
    parent.group.ignores = True
    child = pair.kernel.fork(parent)
    pair.kernel.begin_exit(child)
    pair.kernel.exit(parent)
    pair.kernel.exit_notify(child)
    pair.ask()

    assert pair.task(child).parent is pair.task(pair.kernel.init)
    pair.agree()


def test_a_zombie_inherited_by_a_parent_that_ignores_sigchld_is_found_out_by_asking() -> None:
    """No event tells that reap."""
    pair = watched()
    pair.kernel.init.group.ignores = True
    father = pair.kernel.fork(pair.kernel.init)
    father.group.ignores = False
    child = pair.kernel.fork(father)
    pair.kernel.exit(child)
    pair.kernel.exit(father)
    pair.ask()
    pair.agree()


def test_a_traced_dead_thread_stays_for_its_tracer() -> None:
    """It is traced since its birth, which only the exit record shows; the tracer's wait reaps it."""
    pair = watched()
    leader = pair.kernel.fork(pair.kernel.init)
    thread = pair.kernel.thread(leader)
    thread.traced = True
    pair.kernel.exit(thread)
    pair.agree()
    pair.kernel.wait(pair.kernel.init, thread)
    pair.ask()
    pair.agree()


def test_a_zombie_whose_last_dead_thread_a_tracer_lets_go_is_reaped_where_nobody_waits() -> None:
    """release_task() of the thread notifies the leader's parent, which ignores SIGCHLD."""
    pair = watched()
    pair.kernel.init.group.ignores = True
    tracer = pair.kernel.fork(pair.kernel.init)
    leader = pair.kernel.fork(pair.kernel.init)
    thread = pair.kernel.thread(leader)
    thread.traced = True
    pair.kernel.exit_group(leader)
    pair.kernel.wait(tracer, thread)
    pair.ask()
    pair.agree()


def test_a_zombie_left_alone_by_its_traced_thread_is_asked_about() -> None:
    """The parent's SIGCHLD action at that moment counts, not the one at the exit."""
    pair = watched()
    tracer = pair.kernel.fork(pair.kernel.init)
    leader = pair.kernel.fork(pair.kernel.init)
    thread = pair.kernel.thread(leader)
    thread.traced = True
    pair.kernel.exit_group(leader)
    pair.kernel.init.group.ignores = True
    pair.kernel.wait(tracer, thread)
    pair.ask()
    pair.agree()
