# SPDX-License-Identifier: Apache-2.0
"""Each rule against the kernel's known behaviour, on a few objects made by hand."""

import pytest

from agent.table import departure, rules
from agent.table.objects import (
    AUTOREAP,
    EXITED,
    IO_WORKER,
    KERNEL,
    MOVING_NOWHERE,
    PTRACED,
    SUBREAPER,
    UNDER_SUBREAPER,
    Pid,
    PidNamespace,
)
from tests.support.handmadehost import Host


@pytest.fixture
def host() -> Host:
    """Return a new host."""
    return Host()


# ---- pid objects ---------------------------------------------------------------------------------------------------


def test_a_pid_object_has_a_number_in_each_namespace_above_its_own(host: Host) -> None:
    """It has none in namespaces beside them."""
    outer = host.container(host.init)
    inner = host.container(outer)
    beside = host.container(host.init)

    assert inner.pid.level == 2
    assert inner.pid.number_in(host.space) == inner.pid.numbers[0]
    assert inner.pid.number_in(outer.pid.namespace) == inner.pid.numbers[1] == 2
    assert inner.pid.number_in(inner.pid.namespace) == 1
    assert inner.pid.number_in(beside.pid.namespace) == 0
    assert host.init.pid.number_in(outer.pid.namespace) == 0


def test_the_numbers_of_every_level_are_freed_with_the_last_user(host: Host) -> None:
    """free_pid() calls idr_remove() for each level."""
    init = host.container(host.init)
    child = host.process(init)
    spaces = (host.space, init.pid.namespace)
    numbers = child.pid.numbers
    rules.exit_task(child)
    rules.release_task(child)

    assert [number in space.numbers for space, number in zip(spaces, numbers, strict=True)] == [False, False]


def test_the_deepest_of_33_levels_is_freed_at_all_of_them(host: Host) -> None:
    """Level 32 is the last one."""
    task = host.init
    for _ in range(32):
        task = host.container(task)
    rules.exit_task(task)
    rules.release_task(task)
    space: PidNamespace | None = task.pid.namespace

    assert len(task.pid.numbers) == 33
    while space is not None:
        assert task.pid not in space.numbers.values()
        space = space.parent


@pytest.mark.parametrize("role", ["pgid", "sid"])
def test_the_number_of_a_dead_leader_stays_taken_as_long_as_a_member_lives(host: Host, role: str) -> None:
    """A checkpoint has to restore this pid object without a task."""
    leader = host.process(host.init)
    {"pgid": rules.change_pgid, "sid": rules.change_sid}[role](leader, leader.pid)
    member = host.process(leader)
    rules.exit_task(leader)
    rules.release_task(leader)

    number = leader.pid.numbers[0]

    assert host.space.numbers.get(number) is leader.pid
    assert leader.pid.task is None

    rules.exit_task(member)

    assert host.space.numbers.get(number) is leader.pid  # a zombie is a member still

    rules.release_task(member)

    assert number not in host.space.numbers


def test_a_group_left_by_its_last_member_frees_its_number(host: Host) -> None:
    """The call is change_pid(), not only an exit."""
    leader = host.process(host.init)
    rules.change_pgid(leader, leader.pid)
    member = host.process(leader)
    rules.exit_task(leader)
    rules.release_task(leader)
    rules.change_pgid(member, member.pid)

    assert leader.pid.users == 0
    assert leader.pid.numbers[0] not in host.space.numbers


def test_a_number_that_somebody_else_has_by_now_is_not_taken_from_him(host: Host) -> None:
    """The record of the old owner's end came late."""
    old = host.process(host.init)
    new = Pid(999, old.pid.numbers, host.space)
    rules.hash_pid(new)
    rules.exit_task(old)
    rules.release_task(old)

    assert host.space.numbers[new.numbers[0]] is new


# ---- reparenting ---------------------------------------------------------------------------------------------------


def test_a_dead_threads_children_go_to_a_living_thread_of_its_group(host: Host) -> None:
    """The leader comes first, then the oldest thread; the exit signal stays the same."""
    leader = host.process(host.init)
    first, second = host.thread(leader), host.thread(leader)
    child = host.process(second)
    child.exit_signal = 10

    assert rules.exit_task(second) is leader
    assert child.parent is leader
    assert rules.exit_task(leader) is first
    assert child.parent is first
    assert child.exit_signal == 10


def test_orphans_go_to_the_init_of_their_namespace_and_send_it_sigchld(host: Host) -> None:
    """reparent_leader() resets exit_signal."""
    father = host.process(host.init)
    child = host.process(father)
    child.exit_signal = 10

    assert rules.exit_task(father) is host.init
    assert child.parent is host.init
    assert child.exit_signal == 17


def test_orphans_go_to_the_nearest_living_subreaper(host: Host) -> None:
    """A farther one, or a nearer dead one, does not adopt them."""
    far = host.process(host.init, SUBREAPER)
    near = host.process(far, SUBREAPER | UNDER_SUBREAPER)
    dead = host.process(near, SUBREAPER | UNDER_SUBREAPER)
    father = host.process(dead, UNDER_SUBREAPER)
    child = host.process(father, UNDER_SUBREAPER)
    dead.flags |= EXITED

    assert rules.exit_task(father) is near
    assert child.parent is near


def test_a_subreaper_whose_leader_is_dead_adopts_by_a_living_thread(host: Host) -> None:
    """The source is find_alive_thread(reaper)."""
    reaper = host.process(host.init, SUBREAPER)
    thread = host.thread(reaper)
    father = host.process(reaper, UNDER_SUBREAPER)
    host.process(father, UNDER_SUBREAPER)
    rules.exit_task(reaper)

    assert father.parent is thread
    assert rules.exit_task(father) is thread


def test_a_subreaper_does_not_adopt_who_is_not_marked_as_below_one(host: Host) -> None:
    """has_child_subreaper of the dead parent's group decides."""
    reaper = host.process(host.init, SUBREAPER)
    father = host.process(reaper)
    host.process(father)

    assert rules.exit_task(father) is host.init


def test_a_subreaper_outside_does_not_adopt_out_of_a_namespace(host: Host) -> None:
    """The search ends where the level changes, and the namespace's init adopts."""
    reaper = host.process(host.init, SUBREAPER)
    init = host.container(reaper, UNDER_SUBREAPER)
    father = host.process(init, UNDER_SUBREAPER)
    host.process(father, UNDER_SUBREAPER)

    assert rules.exit_task(father) is init


def test_orphans_of_one_that_came_from_outside_go_to_the_init_inside(host: Host) -> None:
    """After setns() and fork the parent is outside, but child_reaper is that of the task's own namespace."""
    init = host.container(host.init)
    entered = host.process(host.init, 0, init.pid.namespace)
    child = host.process(entered)

    assert rules.exit_task(entered) is init
    assert child.parent is init


def test_a_living_thread_takes_over_from_the_dead_leader_of_a_namespace(host: Host) -> None:
    """The source is find_child_reaper()."""
    init = host.container(host.init)
    thread = host.thread(init)
    father = host.process(init)
    host.process(father)
    rules.exit_task(init)

    assert init.pid.namespace.reaper is thread
    assert rules.exit_task(father) is thread


def test_a_namespace_whose_init_dies_keeps_its_children_below_it_to_the_end(host: Host) -> None:
    """zap_pid_ns_processes() kills them, adopts their children and reaps them all."""
    init = host.container(host.init)
    father = host.process(init)
    child = host.process(father)
    rules.exit_task(init)

    assert father.parent is init
    assert rules.exit_task(father) is init
    assert child.parent is init


# ---- exit and release ----------------------------------------------------------------------------------------------


def test_a_leader_that_exits_first_is_no_zombie_until_the_last_thread_is_gone(host: Host) -> None:
    """It is a dead leader first, and a zombie later."""
    leader = host.process(host.init)
    thread = host.thread(leader)
    rules.exit_task(leader)

    assert not rules.is_zombie(leader)

    rules.exit_task(thread)
    rules.release_task(thread)

    assert rules.is_zombie(leader)
    assert leader.threads is None


def test_a_thread_dies_unwaited_unless_it_is_traced(host: Host) -> None:
    """A leader is waited for."""
    leader = host.process(host.init)
    plain, traced = host.thread(leader), host.thread(leader)
    traced.flags |= PTRACED

    assert [departure.dies_unwaited(task) for task in (leader, plain, traced)] == [False, True, False]


def test_a_zombie_vanishes_without_a_wait_where_nobody_waits_or_its_namespace_dies(host: Host) -> None:
    """Any other zombie stays until its parent has waited."""
    init = host.container(host.process(None))
    unwaited, inner = host.process(init, AUTOREAP), host.process(init)

    assert not departure.may_vanish(unwaited)

    rules.exit_task(unwaited)
    rules.exit_task(inner)

    assert departure.may_vanish(unwaited)
    assert not departure.may_vanish(inner)

    rules.exit_task(init)

    assert departure.may_vanish(inner)


def test_releasing_twice_does_nothing(host: Host) -> None:
    """A late record repeats a known fact."""
    leader = host.process(host.init)
    member = host.process(leader)
    rules.change_pgid(member, leader.pid)
    rules.exit_task(leader)
    rules.release_task(leader)
    rules.release_task(leader)

    assert leader.pid.users == 1


def test_children_are_linked_both_ways_whichever_is_taken_out(host: Host) -> None:
    """The cases are the first, the middle and the last one; the newest is first."""
    children = [host.process(host.init) for _ in range(5)]
    for index in (4, 2, 0):
        rules.release_task(children[index])
    first = host.init.first_child

    assert list(host.init.children()) == [children[3], children[1]]
    assert first is children[3]
    assert first.previous is None
    assert children[1].previous is first
    assert children[1].next is None


# ---- subreaper flag ------------------------------------------------------------------------------------------------


def test_becoming_a_subreaper_marks_everybody_below_except_behind_a_namespaces_init(host: Host) -> None:
    """In propagate_has_child_subreaper() is_child_reaper() ends the walk, with a dead leader too."""
    reaper = host.process(host.init, SUBREAPER)
    thread = host.thread(reaper)
    child, other = host.process(reaper), host.process(thread)
    grandchild = host.process(child)
    init = host.container(child)
    inner_thread = host.thread(init)
    inside = host.process(inner_thread)
    rules.exit_task(init)
    rules.propagate_has_child_subreaper(reaper)

    marked = [task for task in (child, other, grandchild, init, inside) if task.flags & UNDER_SUBREAPER]

    assert marked == [child, other, grandchild]


# ---- exec ----------------------------------------------------------------------------------------------------------


def test_exec_by_a_thread_gives_it_the_leaders_number_place_and_start_and_frees_its_own(host: Host) -> None:
    """In de_thread() the group goes on under the leader's number."""
    leader = host.process(host.init)
    child_of_leader = host.process(leader)
    thread, other = host.thread(leader), host.thread(leader)
    child = host.process(thread)
    start, pid, own = leader.start_ns, leader.pid, thread.pid
    rules.exit_task(leader)
    rules.exit_task(other)
    result = rules.de_thread(thread)

    assert result is leader
    assert (leader.pid, leader.start_ns, leader.address) == (pid, start, thread.address)
    assert not leader.flags & EXITED
    assert leader.threads is None
    assert {child.parent, child_of_leader.parent} == {leader}
    assert leader.parent is host.init
    assert own.task is None
    assert own.numbers[0] not in host.space.numbers


def test_exec_by_a_thread_of_a_namespaces_init_makes_the_leader_its_reaper_again(host: Host) -> None:
    """The source is exec_thread, which takes child_reaper over."""
    init = host.container(host.init)
    thread = host.thread(init)
    rules.exit_task(init)
    rules.de_thread(thread)

    assert init.pid.namespace.reaper is init


def test_exec_by_a_thread_leaves_the_process_with_the_threads_pending_namespace(host: Host) -> None:
    """A task's nsproxy is its own, and the thread is the task that lives on."""
    leader, other = host.process(host.init), host.process(host.init)
    thread, mover = host.thread(leader), host.thread(other)
    leader.child_namespace = (7, 4026532999)
    mover.child_namespace = (8, 4026532998)
    mover.flags |= MOVING_NOWHERE
    for each in (leader, other):
        rules.exit_task(each)
    rules.de_thread(thread)
    rules.de_thread(mover)

    assert leader.child_namespace is None
    assert (other.child_namespace, other.flags & MOVING_NOWHERE) == ((8, 4026532998), MOVING_NOWHERE)


def test_exec_by_the_leader_changes_nothing(host: Host) -> None:
    """Its threads end by exits of their own."""
    leader = host.process(host.init)
    thread = host.thread(leader)

    assert rules.de_thread(leader) is leader
    assert list(leader.group()) == [leader, thread]


@pytest.mark.parametrize(("flags", "is_worker"), [(0, False), (KERNEL, True), (IO_WORKER, True), (EXITED, False)])
def test_kernel_threads_and_io_workers_are_kernel_workers(host: Host, *, flags: int, is_worker: bool) -> None:
    """A rebuild cannot make them."""
    assert rules.is_kernel_worker(host.process(host.init, flags)) == is_worker
