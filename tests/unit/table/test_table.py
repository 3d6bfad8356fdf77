# SPDX-License-Identifier: Apache-2.0
"""The table on records of a simulated kernel: the effect of each, in order and in the orders that really occur."""

from typing import Any

import pytest

from agent.table import answers, history, wire
from agent.table.objects import CLONE_NEWPID, CLONE_PARENT, EXITED, MOVING_NOWHERE, TaskStruct
from tests.support.kernelobjects import Thread
from tests.support.watched import Watched, watched

TOLD = (
    *("task", "start_ns", "parent", "tgid", "pgid", "sid", "flags", "exit_signal", "uid", "gid"),
    *("by", "child_inum", "comm"),
)
"""The fields of an answer that a table keeps."""


def test_a_child_has_its_creators_group_and_session_and_its_birth_is_known() -> None:
    """The record is RECORD_FORK."""
    pair = watched()
    child = pair.kernel.fork(pair.kernel.init)
    task, init = pair.task(child), pair.task(pair.kernel.init)

    assert (task.creator, task.parent, task.pgid, task.sid) == (init, init, init.pid, init.pid)
    assert (task.birth_pgid, task.birth_sid, task.order) == (init.pid, init.pid, pair.kernel.writer.seq - 1)
    pair.agree()


def test_a_thread_belongs_to_its_leader_and_is_released_at_its_exit() -> None:
    """No process waits for a thread."""
    pair = watched()
    leader = pair.kernel.fork(pair.kernel.init)
    thread = pair.kernel.thread(leader)
    task = pair.task(thread)

    assert task.leader is pair.task(leader)

    pair.kernel.exit(thread)

    assert pair.table.task(thread.tid) is None
    pair.agree()


def test_exec_by_a_thread_goes_on_under_the_leaders_number() -> None:
    """The records are exit(leader), exec(leader, old tid), and much later free(tid); the process never counts
    as dead.
    """
    pair = watched()
    leader = pair.kernel.fork(pair.kernel.init)
    thread = pair.kernel.thread(leader)
    task, number, tid = pair.task(leader), leader.tid, thread.tid
    pair.kernel.exec(thread)

    assert thread.tid == number
    assert pair.task(thread) is task
    assert not task.flags & EXITED
    assert task.address == thread.address
    assert pair.table.task(tid) is None

    pair.kernel.free()
    pair.agree()


def test_a_record_that_tells_of_a_dead_pending_namespace_tells_which_and_its_end_is_seen() -> None:
    """A pending namespace's flag and identity come together, and go together."""
    pair = watched()
    mover = pair.kernel.fork(pair.kernel.init)
    space = pair.kernel.unshare(mover)
    pair.kernel.exit(pair.kernel.fork(mover))
    pair.kernel.exec(mover)
    task = pair.task(mover)

    assert task.child_namespace == (space.identity, space.inum)
    assert task.flags & MOVING_NOWHERE

    pair.kernel.setns(mover, mover.space)
    pair.sweep()

    assert task.child_namespace is None
    assert not task.flags & MOVING_NOWHERE


def test_exec_proves_its_task_alive_though_its_thread_was_not_known() -> None:
    """The thread's birth was lost; the leader's exit came."""
    pair = watched()
    leader = pair.kernel.fork(pair.kernel.init)
    with pair.losing():
        thread = pair.kernel.thread(leader)
    pair.kernel.exit(leader)
    pair.kernel.exec(thread)

    assert not pair.task(thread).flags & EXITED
    pair.agree()


def test_a_lost_exec_by_a_thread_is_found_by_a_sweep_and_kills_nobody() -> None:
    """The row shows another address; the question is about that one and not about the old one, which is gone."""
    pair = watched()
    leader = pair.kernel.fork(pair.kernel.init)
    thread = pair.kernel.thread(leader)
    child = pair.kernel.fork(thread)
    task = pair.task(leader)
    with pair.losing():
        pair.kernel.exec(thread)
    pair.sweep()

    assert pair.task(thread) is task
    assert pair.task(child).parent is task
    pair.agree()


def test_children_follow_the_rules_to_their_new_parent() -> None:
    """The new parents are a thread, a subreaper and the init of the namespace, one after the other."""
    pair = watched()
    reaper = pair.kernel.fork(pair.kernel.init)
    pair.kernel.subreaper(reaper)
    father = pair.kernel.fork(reaper)
    thread = pair.kernel.thread(father)
    child = pair.kernel.fork(father)
    parents = []
    for exiting in (father, thread, reaper):
        pair.kernel.exit(exiting)
        parents.append(pair.task(child).parent)
        pair.agree()

    assert parents[0] is not None
    assert [parent.start_ns for parent in parents if parent] == [t.start_ns for t in (thread, reaper, pair.kernel.init)]


def test_a_child_born_for_a_parent_that_is_about_to_exit_moves_on_with_the_others() -> None:
    """CLONE_PARENT runs between the parent's exit record and exit_notify()."""
    pair = watched()
    parent = pair.kernel.fork(pair.kernel.init)
    child = pair.kernel.fork(parent)
    pair.kernel.begin_exit(parent)
    pair.kernel.fork(child, CLONE_PARENT)
    pair.kernel.exit_notify(parent)
    pair.ask()
    pair.agree()


def test_a_namespace_dies_with_its_init() -> None:
    """The namespace has members, one entered from outside, and a namespace inside it."""
    pair = watched()
    outside = pair.kernel.fork(pair.kernel.init)
    init = pair.kernel.fork(pair.kernel.init, CLONE_NEWPID)
    member = pair.kernel.fork(init)
    pair.kernel.thread(member)
    pair.kernel.fork(pair.kernel.fork(member, CLONE_NEWPID))
    pair.kernel.setns(outside, init.space)
    entered = pair.kernel.fork(outside)

    assert entered.pid.seen_from(init.space) == 6
    pair.agree()

    pair.kernel.exit_group(init)
    pair.ask()
    pair.agree()


def test_between_an_inits_exit_and_its_end_its_children_are_still_its_own() -> None:
    """zap_pid_ns_processes() takes time; the tree does not fall apart meanwhile."""
    pair = watched()
    init = pair.kernel.fork(pair.kernel.init, CLONE_NEWPID)
    father = pair.kernel.fork(init)
    child = pair.kernel.fork(father)
    pair.kernel.begin_exit(init)
    pair.kernel.exit(father)

    assert pair.task(child).parent is pair.task(init)


def test_namespaces_with_the_same_inode_number_are_two() -> None:
    """The kernel uses it again at once; the identity tells them apart."""
    pair = watched()
    for _ in range(3):
        init = pair.kernel.fork(pair.kernel.init, CLONE_NEWPID)
        pair.kernel.fork(init)
        pair.agree()
        pair.kernel.exit_group(init)
        pair.ask()
        pair.kernel.wait(pair.kernel.init, init)
    inits = [pair.kernel.fork(pair.kernel.init, CLONE_NEWPID) for _ in range(2)]

    assert inits[0].space.inum == inits[1].space.inum
    assert pair.task(inits[0]).pid.namespace is not pair.task(inits[1]).pid.namespace
    assert len(pair.table.pids.living()) == 3


def test_the_number_of_a_dead_group_leader_is_taken_exactly_as_long_as_its_group_lives() -> None:
    """A later process does not get it; after the last member it is free."""
    pair = watched(pid_max=4)
    leader = pair.kernel.fork(pair.kernel.init)
    pair.kernel.setsid(leader)
    member = pair.kernel.fork(leader)
    pair.kernel.exit(leader)
    pair.kernel.wait(pair.kernel.init, leader)

    assert leader.tid in pair.table.pids.numbers
    assert pair.table.task(leader.tid) is None

    others = [pair.kernel.fork(pair.kernel.init)]
    pair.agree()
    pair.kernel.exit(member)
    pair.kernel.wait(pair.kernel.init, member)

    assert leader.tid not in pair.table.pids.numbers

    others.append(pair.kernel.fork(pair.kernel.init))
    pair.agree()


def test_a_free_that_comes_after_its_number_was_reused_ends_nobody() -> None:
    """The order is fork, exit, wait, fork with the same number, free of the first."""
    pair = watched(pid_max=2)
    first = pair.kernel.fork(pair.kernel.init)
    pair.kernel.exit(first)
    pair.kernel.wait(pair.kernel.init, first)
    second = pair.kernel.fork(pair.kernel.init)
    pair.kernel.free()

    assert first.tid == second.tid
    pair.agree()


def test_a_number_that_is_reused_buries_the_owner_whose_reap_went_unseen() -> None:
    """The records of exit and wait were lost."""
    pair = watched(pid_max=2)
    first = pair.kernel.fork(pair.kernel.init)
    task = pair.task(first)
    with pair.losing():
        pair.kernel.exit(first)
        pair.kernel.wait(pair.kernel.init, first)
    second = pair.kernel.fork(pair.kernel.init)

    assert history.is_gone(task)
    assert pair.task(second) is not task
    pair.agree()


def test_setpgid_of_a_child_that_the_hook_could_not_find_is_asked_about() -> None:
    """RECORD_REGROUPED tells of a child forked by another thread, by the caller's number."""
    pair = watched()
    init = pair.kernel.fork(pair.kernel.init, CLONE_NEWPID)
    child = pair.kernel.fork(init)
    thread = pair.kernel.thread(init)
    pair.kernel.setpgid(thread, child.group, child.pid)

    assert list(pair.table.doubts) == [pair.task(child)]

    pair.ask()
    pair.agree()


@pytest.mark.parametrize("field", TOLD)
def test_an_answer_that_says_nothing_new_touches_nobody(field: str) -> None:
    """An answer with any change, in any field, touches its task."""
    pair = watched()
    process = pair.kernel.fork(pair.kernel.init)
    told: list[bytes] = []
    pair.kernel.emit = told.append
    pair.put([pair.table.question(pair.task(process))])
    state = wire.TaskRecord(*wire.TASK.unpack_from(told[0]))
    value = getattr(state, field)
    changed: dict[str, Any] = {field: b"another" if field == "comm" else value ^ 0x40}
    other = state._replace(**changed)

    assert answers.confirms(pair.table, pair.task(process), state)
    assert not answers.confirms(pair.table, pair.task(process), other)

    pair.table.changes.tasks.clear()
    pair.feed(told[0])

    assert not pair.table.changes.tasks
    pair.agree()


def test_a_zombie_is_news_once() -> None:
    """The second answer about it repeats the first."""
    pair = watched()
    process = pair.kernel.fork(pair.kernel.init)
    with pair.losing():
        pair.kernel.exit(process, 0x700)
    news = []
    for _ in range(2):
        pair.table.changes.tasks.clear()
        pair.put([pair.table.question(pair.task(process))])
        news.append(pair.task(process) in pair.table.changes.tasks)

    assert news == [True, False]
    pair.agree()


def strings_of(pair: Watched, thread: Thread, which: int, text: bytes) -> None:
    """Feed the exec hook's record about a thread."""
    pair.feed(pair.kernel.writer.strings(which, tid=thread.tid, start_ns=thread.start_ns, text=text, kept=True))


def kept(task: TaskStruct) -> list[bytes | None]:
    """Return the texts with which a task's process was started."""
    return [None if each is None else each[wire.AREA.size :] for each in task.strings or ()]


def test_a_program_has_the_strings_that_it_was_started_with_and_whoever_it_forks_too() -> None:
    """RECORD_STRINGS comes once of each kind; a thread has its leader's strings, and the next exec makes new ones."""
    pair = watched()
    child = pair.kernel.fork(pair.kernel.init)
    pair.kernel.exec(child)
    strings_of(pair, child, 0, b"sh\0-c\0")
    only = kept(pair.task(child))
    strings_of(pair, child, 1, b"A=1\0")
    forked = pair.kernel.fork(child)
    thread = pair.kernel.thread(forked)

    assert only == [b"sh\0-c\0", None]
    assert kept(pair.task(child)) == kept(pair.task(forked)) == [b"sh\0-c\0", b"A=1\0"]

    pair.kernel.exec(thread)
    assert kept(pair.task(thread)) == []

    strings_of(pair, thread, 0, b"ls\0")
    assert (kept(pair.task(thread)), kept(pair.task(child))) == ([b"ls\0", None], [b"sh\0-c\0", b"A=1\0"])
    pair.agree()


def test_strings_of_somebody_who_is_gone_are_not_the_next_ones() -> None:
    """The number may be another task's by now."""
    pair = watched()
    child = pair.kernel.fork(pair.kernel.init)
    pair.feed(pair.kernel.writer.strings(0, tid=child.tid, start_ns=child.start_ns + 1, text=b"sh\0"))
    pair.feed(pair.kernel.writer.strings(0, tid=9999, start_ns=1, text=b"sh\0"))

    assert pair.task(child).strings is None
