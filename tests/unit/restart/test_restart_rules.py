# SPDX-License-Identifier: Apache-2.0
"""The model of the kernel: its permissions and refusals, call by call, with the errno of the real kernel."""

from collections.abc import Callable

import pytest

from agent.model import WaitStatus
from agent.restart.planning.kernelmodel import CallRefusedError, Kernel
from agent.table import rules
from agent.table.objects import STOPPED, SUBREAPER, UNDER_SUBREAPER, TaskStruct


@pytest.fixture
def kernel() -> Kernel:
    """Return a kernel with only a guard."""
    return Kernel()


@pytest.fixture
def top(kernel: Kernel) -> TaskStruct:
    """Return the init of a namespace, leader of its session."""
    init = kernel.clone(kernel.guard, (1,), newpid=True)
    kernel.setsid(init)
    return init


def refused(call: Callable[[], object]) -> str:
    """Return the errno of a refused call."""
    with pytest.raises(CallRefusedError) as caught:
        call()
    return caught.value.errno


def dead(kernel: Kernel, task: TaskStruct, status: int = 0) -> TaskStruct:
    """Let the task exit, and return it."""
    kernel.exit(task, WaitStatus(status))
    return task


# ---- clone() -------------------------------------------------------------------------------------------------------


def test_a_child_has_the_number_that_is_asked_for(kernel: Kernel, top: TaskStruct) -> None:
    """This is the number in the innermost namespace; the kernel chooses those above."""
    child = kernel.clone(top, (7,))

    assert child.pid.numbers[1:] == (7,)
    assert (child.parent, child.sid, child.pgid) == (top, top.pid, top.pid)


def test_a_number_in_use_is_eexist(kernel: Kernel, top: TaskStruct) -> None:
    """It may belong to a task, a zombie, or a group whose leader has been reaped."""
    owner = kernel.clone(top, (7,))
    assert refused(lambda: kernel.clone(top, (7,))) == "EEXIST"
    kernel.setpgid(owner, owner, owner.pid)
    member = kernel.clone(owner, (8,))
    dead(kernel, owner)
    assert refused(lambda: kernel.clone(top, (7,))) == "EEXIST"
    kernel.wait(top, owner, reap=True)
    assert refused(lambda: kernel.clone(top, (7,))) == "EEXIST"
    dead(kernel, member)
    kernel.wait(top, member, reap=True)

    assert kernel.clone(top, (7,)).pid.numbers[1:] == (7,)


def test_more_numbers_than_levels_are_einval(kernel: Kernel, top: TaskStruct) -> None:
    """One number for each level is allowed."""
    assert refused(lambda: kernel.clone(top, (5, 6, 7))) == "EINVAL"
    assert kernel.clone(top, (6, 7)).pid.numbers == (6, 7)


def test_the_first_of_a_namespace_has_number_1(kernel: Kernel, top: TaskStruct) -> None:
    """Any other number is EINVAL; without a choice it is 1."""
    assert refused(lambda: kernel.clone(top, (9, 2), newpid=True)) == "EINVAL"
    assert kernel.clone(top, (), newpid=True).pid.numbers[-1] == 1


def test_the_init_of_a_namespace_has_no_siblings(kernel: Kernel, top: TaskStruct) -> None:
    """All of its threads get EINVAL; other processes may have siblings."""
    thread = kernel.clone(top, (2,), thread=True)
    child = kernel.clone(top, (3,))

    assert refused(lambda: kernel.clone(top, (4,), parent=True)) == "EINVAL"
    assert refused(lambda: kernel.clone(thread, (4,), parent=True)) == "EINVAL"
    assert kernel.clone(child, (4,), parent=True).parent is top


def test_the_dead_make_nobody(kernel: Kernel, top: TaskStruct) -> None:
    """The errno is ESRCH."""
    child = dead(kernel, kernel.clone(top, (3,)))

    assert refused(lambda: kernel.clone(child, (4,))) == "ESRCH"


def test_nobody_is_born_into_a_namespace_whose_init_has_gone(kernel: Kernel, top: TaskStruct) -> None:
    """The errno is ENOMEM."""
    inner = kernel.clone(top, (5, 1), newpid=True)
    kernel.setns(top, inner)
    dead(kernel, inner)

    assert refused(lambda: kernel.clone(top, ())) == "ENOMEM"


def test_who_is_to_have_children_elsewhere_makes_neither_threads_nor_namespaces(
    kernel: Kernel, top: TaskStruct
) -> None:
    """The errno is EINVAL, after unshare() and setns()."""
    kernel.unshare(top)

    assert refused(lambda: kernel.clone(top, (), thread=True)) == "EINVAL"
    assert refused(lambda: kernel.clone(top, (), newpid=True)) == "EINVAL"
    assert refused(lambda: kernel.unshare(top)) == "EINVAL"
    assert kernel.clone(top, ()).pid.numbers[-1] == 1


def test_only_a_namespace_below_ones_own_is_entered(kernel: Kernel, top: TaskStruct) -> None:
    """Otherwise the errno is EINVAL; the caller's own namespace is the way back."""
    inner = kernel.clone(top, (5, 1), newpid=True)
    kernel.setns(top, inner)
    assert kernel.clone(top, (6, 2)).pid.namespace is inner.pid.namespace
    kernel.setns(top, top)
    assert kernel.clone(top, (7,)).pid.namespace is top.pid.namespace
    assert refused(lambda: kernel.setns(inner, top)) == "EINVAL"


def test_a_thread_is_of_its_makers_group_and_sends_no_signal(kernel: Kernel, top: TaskStruct) -> None:
    """It has no session of its own."""
    thread = kernel.clone(top, (2,), thread=True)

    assert (thread.leader, thread.exit_signal, thread.sid) == (top, -1, None)


# ---- setsid() ------------------------------------------------------------------------------------------------------


def test_setsid_makes_a_leader_of_session_and_group(kernel: Kernel, top: TaskStruct) -> None:
    """Both have its own number."""
    child = kernel.clone(top, (2,))
    kernel.setsid(child)

    assert (child.sid, child.pgid) == (child.pid, child.pid)
    assert rules.leads_session(child)


def test_a_session_leader_may_not_setsid(kernel: Kernel, top: TaskStruct) -> None:
    """The errno is EPERM."""
    assert not rules.may_setsid(top)
    assert refused(lambda: kernel.setsid(top)) == "EPERM"


def test_whoever_gave_a_group_its_number_may_not_setsid(kernel: Kernel, top: TaskStruct) -> None:
    """The errno is EPERM as long as the group has a member, even after the founder has left it."""
    owner = kernel.clone(top, (2,))
    kernel.setpgid(owner, owner, owner.pid)
    assert refused(lambda: kernel.setsid(owner)) == "EPERM"
    kernel.clone(owner, (3,))
    kernel.setpgid(owner, owner, top.pid)

    assert refused(lambda: kernel.setsid(owner)) == "EPERM"


# ---- setpgid() -----------------------------------------------------------------------------------------------------


def test_a_process_founds_its_group_and_others_of_its_session_join(kernel: Kernel, top: TaskStruct) -> None:
    """A parent may do both for its child."""
    owner, other, third = (kernel.clone(top, (number,)) for number in (2, 3, 4))
    kernel.setpgid(owner, owner, owner.pid)
    kernel.setpgid(other, other, owner.pid)
    kernel.setpgid(top, third, owner.pid)

    assert [task.pgid for task in (owner, other, third)] == [owner.pid] * 3


def test_a_group_that_nobody_is_in_is_eperm(kernel: Kernel, top: TaskStruct) -> None:
    """The group of a process exists only after its founding."""
    one, other = kernel.clone(top, (2,)), kernel.clone(top, (3,))

    assert refused(lambda: kernel.setpgid(one, one, other.pid)) == "EPERM"


def test_a_group_of_another_session_is_eperm(kernel: Kernel, top: TaskStruct) -> None:
    """The same errno comes for a child in another session."""
    leader, other = kernel.clone(top, (2,)), kernel.clone(top, (3,))
    kernel.setsid(leader)

    assert refused(lambda: kernel.setpgid(other, other, leader.pid)) == "EPERM"
    assert refused(lambda: kernel.setpgid(top, kernel.clone(leader, (4,), parent=True), top.pid)) == "EPERM"


def test_session_leaders_and_strangers_are_not_moved(kernel: Kernel, top: TaskStruct) -> None:
    """The errno is EPERM."""
    child = kernel.clone(top, (2,))
    grandchild, sibling = kernel.clone(child, (3,)), kernel.clone(top, (4,))

    assert refused(lambda: kernel.setpgid(top, top, top.pid)) == "EPERM"
    assert refused(lambda: kernel.setpgid(top, grandchild, grandchild.pid)) == "EPERM"
    assert refused(lambda: kernel.setpgid(child, sibling, sibling.pid)) == "EPERM"


def test_a_number_that_the_caller_cannot_see_is_esrch(kernel: Kernel, top: TaskStruct) -> None:
    """The init of a namespace does not see its parent's group; its parent puts it there."""
    inner = kernel.clone(top, (2, 1), newpid=True)
    owner = kernel.clone(top, (3,))
    kernel.setpgid(owner, owner, owner.pid)

    assert refused(lambda: kernel.setpgid(inner, inner, owner.pid)) == "ESRCH"
    kernel.setpgid(top, inner, owner.pid)
    assert inner.pgid is owner.pid


def test_an_owner_that_leaves_may_come_back_while_the_group_has_members(kernel: Kernel, top: TaskStruct) -> None:
    """The group keeps its number."""
    owner = kernel.clone(top, (2,))
    kernel.setpgid(owner, owner, owner.pid)
    kernel.clone(owner, (3,))
    kernel.setpgid(owner, owner, top.pid)
    kernel.setpgid(owner, owner, owner.pid)

    assert owner.pgid is owner.pid


# ---- death ---------------------------------------------------------------------------------------------------------


def test_only_a_child_that_has_exited_is_waited_for(kernel: Kernel, top: TaskStruct) -> None:
    """ECHILD comes for any other process, EAGAIN while the child lives; a dead leader with living threads is no
    zombie.
    """
    child = kernel.clone(top, (2,))
    grandchild = kernel.clone(child, (3,))
    thread = kernel.clone(child, (4,), thread=True)

    assert refused(lambda: kernel.wait(top, grandchild, reap=True)) == "ECHILD"
    assert refused(lambda: kernel.wait(top, child, reap=True)) == "EAGAIN"
    dead(kernel, child)
    assert refused(lambda: kernel.wait(top, child, reap=False)) == "EAGAIN"
    dead(kernel, thread)
    kernel.wait(top, child, reap=False)
    assert rules.is_zombie(child)


def test_orphans_go_to_a_thread_then_to_the_subreaper_then_to_the_init(kernel: Kernel, top: TaskStruct) -> None:
    """The order is the one in the name."""
    reaper = kernel.clone(top, (2,))
    kernel.subreaper(reaper, on=True)
    middle = kernel.clone(reaper, (3,))
    thread = kernel.clone(middle, (4,), thread=True)
    child = kernel.clone(middle, (5,))
    parents = []
    for task in (middle, thread, reaper):
        dead(kernel, task)
        parents.append(child.parent)

    assert parents == [thread, reaper, top]


def test_a_subreaper_adopts_on_its_own_level_alone(kernel: Kernel, top: TaskStruct) -> None:
    """In an inner namespace its init adopts."""
    kernel.subreaper(top, on=True)
    inner = kernel.clone(top, (2, 1), newpid=True)
    middle = kernel.clone(inner, (3, 2))
    child = kernel.clone(middle, (4, 3))
    dead(kernel, middle)

    assert child.parent is inner


def test_the_mark_of_a_subreaper_stays_when_it_is_none_any_more(kernel: Kernel, top: TaskStruct) -> None:
    """The flag of the descendants stays, and a search for a subreaper finds none."""
    reaper = kernel.clone(top, (2,))
    child = kernel.clone(reaper, (3,))
    kernel.subreaper(reaper, on=True)
    kernel.subreaper(reaper, on=False)

    assert not reaper.flags & SUBREAPER
    assert child.flags & UNDER_SUBREAPER


def test_an_init_does_not_go_before_its_namespace(kernel: Kernel, top: TaskStruct) -> None:
    """It would end all other tasks, so no plan does so."""
    kernel.clone(top, (2,))

    assert refused(lambda: kernel.exit(top, WaitStatus(0))) == "EBUSY"


def test_a_zombie_of_another_parent_keeps_an_init_within_its_exit(kernel: Kernel, top: TaskStruct) -> None:
    """The wait for the init fails before the zombie is reaped, and succeeds after it."""
    inner = kernel.clone(top, (2, 1), newpid=True)
    kernel.setns(top, inner)
    member = dead(kernel, kernel.clone(top, (3, 2)))
    dead(kernel, inner)
    assert kernel.lingers(inner)
    assert refused(lambda: kernel.wait(top, inner, reap=False)) == "EAGAIN"
    kernel.linger(inner)
    kernel.wait(top, member, reap=True)

    assert refused(lambda: kernel.linger(inner)) == "ESRCH"
    kernel.wait(top, inner, reap=True)


def test_a_number_that_a_group_has_keeps_an_init_within_its_exit(kernel: Kernel, top: TaskStruct) -> None:
    """The member of that group may be in any namespace."""
    inner = kernel.clone(top, (2, 1), newpid=True)
    kernel.setns(top, inner)
    owner = kernel.clone(top, (3, 2))
    kernel.setpgid(top, owner, owner.pid)
    kernel.setpgid(top, top_child := kernel.clone(top, (4, 3)), owner.pid)
    for member in (owner, top_child):
        dead(kernel, member)
    kernel.wait(top, owner, reap=True)
    dead(kernel, inner)
    assert kernel.lingers(inner)
    kernel.wait(top, top_child, reap=True)

    assert not kernel.lingers(inner)


def test_an_init_that_waits_within_its_exit_keeps_another_one_there(kernel: Kernel, top: TaskStruct) -> None:
    """The other init is its parent, which cannot reap it before that."""
    outer = kernel.clone(top, (2, 1), newpid=True)
    inner = kernel.clone(outer, (3, 2, 1), newpid=True)
    kernel.setns(top, inner)
    member = dead(kernel, kernel.clone(top, (4, 3, 2)))
    assert refused(lambda: kernel.exit(outer, WaitStatus(0))) == "EBUSY"
    dead(kernel, inner)
    dead(kernel, outer)
    assert (kernel.lingers(outer), kernel.lingers(inner)) == (True, True)
    kernel.wait(top, member, reap=True)
    kernel.wait(outer, inner, reap=True)

    assert not kernel.lingers(outer)


def test_a_zombie_that_is_the_inits_own_child_does_not_stay(kernel: Kernel, top: TaskStruct) -> None:
    """The init reaps it, so no plan may count on either of them."""
    dead(kernel, kernel.clone(top, (2,)))

    assert refused(lambda: kernel.exit(top, WaitStatus(0))) == "EBUSY"


def test_a_refusal_names_no_number_that_the_model_has_made_up(kernel: Kernel, top: TaskStruct) -> None:
    """Such numbers belong to the namespaces above the tree."""
    inner = kernel.clone(top, (5, 1), newpid=True)
    with pytest.raises(CallRefusedError, match="ESRCH: 1 has no number where the caller lives"):
        kernel.setpgid(inner, inner, top.pid)


# ---- exit signals --------------------------------------------------------------------------------------------------


def test_a_sibling_has_the_exit_signal_of_its_maker(kernel: Kernel, top: TaskStruct) -> None:
    """It is that of its maker's group leader, whatever signal the call asks for."""
    maker = kernel.clone(top, (2,), exit_signal=10)
    thread = kernel.clone(maker, (3,), thread=True)

    assert kernel.clone(thread, (4,), parent=True, exit_signal=12).exit_signal == 10
    assert kernel.clone(thread, (5,), exit_signal=12).exit_signal == 12


def test_who_comes_to_another_process_has_sigchld(kernel: Kernel, top: TaskStruct) -> None:
    """A task that moves to another thread of the same process keeps its signal."""
    maker = kernel.clone(top, (2,))
    thread = kernel.clone(maker, (3,), thread=True)
    child = kernel.clone(thread, (4,), exit_signal=10)
    dead(kernel, thread)
    assert (child.parent, child.exit_signal) == (maker, 10)
    dead(kernel, maker)

    assert (child.parent, child.exit_signal) == (top, 17)


def test_an_exit_that_would_kill_the_parent_is_refused(kernel: Kernel, top: TaskStruct) -> None:
    """This is SIGKILL; an init is immune to its children, and other parents ignore every signal that can be ignored."""
    parent = kernel.clone(top, (2,))
    for number, signal in enumerate((0, 1, 10, 15, 18, 34, 64), 10):
        dead(kernel, kernel.clone(parent, (number,), exit_signal=signal))
    killer = kernel.clone(parent, (3,), exit_signal=9)
    dead(kernel, kernel.clone(top, (4,), exit_signal=9))

    assert refused(lambda: kernel.exit(killer, WaitStatus(0))) == "SIGKILL"


def test_the_number_1_alone_makes_no_init(kernel: Kernel) -> None:
    """In the caller's namespace 1 is only the image's number of the root."""
    root = kernel.clone(kernel.guard, (1,))
    killer = kernel.clone(root, (2,), exit_signal=9)

    assert refused(lambda: kernel.exit(killer, WaitStatus(0))) == "SIGKILL"


def test_who_is_stopped_by_an_exit_goes_on_when_it_waits(kernel: Kernel, top: TaskStruct) -> None:
    """All its threads continue; in a rebuild the guard sends SIGCONT."""
    parent = kernel.clone(top, (2,))
    thread = kernel.clone(parent, (3,), thread=True)
    child = dead(kernel, kernel.clone(thread, (4,), exit_signal=19))
    assert (parent.flags & STOPPED, thread.flags & STOPPED) == (STOPPED, STOPPED)
    kernel.wait(thread, child, reap=False)

    assert (parent.flags & STOPPED, thread.flags & STOPPED) == (0, 0)


def test_the_last_thread_of_a_group_tells_of_its_end(kernel: Kernel, top: TaskStruct) -> None:
    """The leader does not, if it exits first."""
    parent = kernel.clone(top, (2,))
    child = kernel.clone(parent, (3,), exit_signal=19)
    thread = kernel.clone(child, (4,), thread=True)
    dead(kernel, child)
    assert not parent.flags & STOPPED
    dead(kernel, thread)

    assert parent.flags & STOPPED


# ---- setpgid() and setsid() as rules -------------------------------------------------------------------------------


def test_the_rules_agree_with_the_calls(kernel: Kernel, top: TaskStruct) -> None:
    """`may_setpgid` and `may_setsid` return the answer without a change."""
    child, leader = kernel.clone(top, (2,)), kernel.clone(top, (3,))
    kernel.setsid(leader)

    assert rules.may_setpgid(child, child, None)
    assert rules.may_setpgid(top, child, top)
    assert not rules.may_setpgid(child, child, leader)
    assert not rules.may_setpgid(leader, leader, None)
    assert not rules.may_setpgid(child, top, None)
    assert (rules.may_setsid(child), rules.may_setsid(leader)) == (True, False)
