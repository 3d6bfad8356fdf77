# SPDX-License-Identifier: Apache-2.0
"""The model of the kernel: its permissions and refusals, call by call, with the errno of the real kernel."""

from agent.restart.planning.kernelmodel import Kernel
from agent.table import rules
from agent.table.objects import TaskStruct
from tests.support.modelcalls import dead, refused

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
