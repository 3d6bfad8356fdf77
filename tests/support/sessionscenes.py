# SPDX-License-Identifier: Apache-2.0
"""Trees whose sessions and groups are hard to rebuild."""

from itertools import pairwise

from agent.table.objects import CLONE_NEWPID, CLONE_PARENT
from tests.support.kernelobjects import Thread
from tests.support.kernelsim import Kernel
from tests.support.scene import Scenes, gone

scene = Scenes()


@scene
def orphan_of_a_dead_session_leader(kernel: Kernel, root: Thread) -> None:
    """3 is in the session of 2, which has exited and been reaped."""
    leader = kernel.fork(root)
    kernel.setsid(leader)
    kernel.fork(leader)
    gone(kernel, leader, root)


@scene
def orphan_of_a_living_session_leader(kernel: Kernel, root: Thread) -> None:
    """4 is in the session of 2, and a child of the init."""
    leader = kernel.fork(root)
    kernel.setsid(leader)
    middle = kernel.fork(leader)
    kernel.fork(middle)
    gone(kernel, middle, leader)


@scene
def fork_before_setsid(kernel: Kernel, root: Thread) -> None:
    """3 is a child of 2 that 2 has left behind in its first session."""
    leader = kernel.fork(root)
    kernel.fork(leader)
    kernel.setsid(leader)


@scene
def fork_before_setsid_twice(kernel: Kernel, root: Thread) -> None:
    """The last one is of a session two generations up."""
    first = kernel.fork(root)
    second = kernel.fork(first)
    kernel.setsid(first)
    kernel.fork(second)
    kernel.setsid(second)


@scene
def zombie_session_leader_with_a_member(kernel: Kernel, root: Thread) -> None:
    """2 is a zombie that no process has waited for."""
    leader = kernel.fork(root)
    kernel.setsid(leader)
    kernel.fork(leader)
    kernel.exit_group(leader, 3 << 8)


@scene
def subreaper_adopts_a_daemon(kernel: Kernel, root: Thread) -> None:
    """4 is a child of 2, in the session of 3, which has exited."""
    reaper = kernel.fork(root)
    kernel.setsid(reaper)
    kernel.subreaper(reaper)
    leader = kernel.fork(reaper)
    kernel.setsid(leader)
    kernel.fork(leader)
    gone(kernel, leader, reaper)


@scene
def subreaper_adopts_of_a_living_leader(kernel: Kernel, root: Thread) -> None:
    """5 is a child of 2, in the session of 3, which is another child of 2."""
    reaper = kernel.fork(root)
    kernel.subreaper(reaper)
    leader = kernel.fork(reaper)
    kernel.setsid(leader)
    middle = kernel.fork(leader)
    kernel.fork(middle)
    gone(kernel, middle, leader)


@scene
def former_subreaper_has_an_orphan(kernel: Kernel, root: Thread) -> None:
    """The flag is off again."""
    subreaper_adopts_a_daemon(kernel, root)
    kernel.subreaper(next(thread for thread in kernel.threads if thread.group.subreaper), on=False)


@scene
def clone_parent_sibling(kernel: Kernel, root: Thread) -> None:
    """4 is a child of 2, in the session of 3, its creator."""
    leader = kernel.fork(root)
    kernel.setsid(leader)
    child = kernel.fork(leader)
    kernel.setsid(child)
    kernel.fork(child, CLONE_PARENT)


@scene
def session_leader_is_no_ancestor(kernel: Kernel, root: Thread) -> None:
    """An orphaned session leader with a child from before its setsid()."""
    first = kernel.fork(root)
    kernel.setsid(first)
    middle = kernel.fork(first)
    leader = kernel.fork(middle)
    kernel.fork(leader)
    kernel.setsid(leader)
    gone(kernel, middle, first)


@scene
def children_of_two_foreign_sessions(kernel: Kernel, root: Thread) -> None:
    """A subreaper has adopted from two sessions, whose leaders have exited."""
    reaper = kernel.fork(root)
    kernel.subreaper(reaper)
    for _ in range(2):
        leader = kernel.fork(reaper)
        kernel.setsid(leader)
        kernel.fork(leader)
        gone(kernel, leader, reaper)


@scene
def a_thread_bears_before_two_setsids(kernel: Kernel, root: Thread) -> Thread:
    """The last one is in the session outside, though two processes above it have left that session since."""
    outer = kernel.fork(kernel.init, CLONE_NEWPID)
    leader = kernel.fork(kernel.thread(outer))
    kernel.fork(kernel.thread(leader))
    kernel.setsid(outer)
    kernel.setsid(leader)
    return outer


@scene
def dead_group_leader(kernel: Kernel, root: Thread) -> None:
    """3 is in the group of 2, which has exited."""
    owner = kernel.fork(root)
    kernel.setpgid(owner, owner.group, owner.pid)
    kernel.fork(owner)
    gone(kernel, owner, root)


@scene
def owner_has_left_its_group(kernel: Kernel, root: Thread) -> None:
    """2 lives on in the group of 1, and 3 in that of 2."""
    owner, member = kernel.fork(root), kernel.fork(root)
    kernel.setpgid(owner, owner.group, owner.pid)
    kernel.setpgid(member, member.group, owner.pid)
    kernel.setpgid(owner, owner.group, root.pid)


@scene
def owners_in_each_others_groups(kernel: Kernel, root: Thread) -> None:
    """2 is in the group of 3, and 3 in that of 2."""
    one, other = kernel.fork(root), kernel.fork(root)
    kernel.setpgid(one, one.group, one.pid)
    kernel.setpgid(other, other.group, other.pid)
    third = kernel.fork(one)
    kernel.setpgid(one, one.group, other.pid)
    kernel.setpgid(other, other.group, one.pid)
    gone(kernel, third, one)


@scene
def owners_in_a_row(kernel: Kernel, root: Thread) -> None:
    """Each is in the group of the next."""
    owners = [kernel.fork(root) for _ in range(5)]
    for owner in owners:
        kernel.setpgid(owner, owner.group, owner.pid)
    for owner, following in pairwise(owners):
        kernel.fork(owner)
        kernel.setpgid(owner, owner.group, following.pid)


@scene
def a_group_that_an_inner_init_does_not_see(kernel: Kernel, root: Thread) -> None:
    """Its children are in that group too, and the init has a group of its own by now."""
    owner = kernel.fork(root)
    kernel.setpgid(owner, owner.group, owner.pid)
    inner = kernel.fork(owner, CLONE_NEWPID)
    kernel.fork(inner)
    kernel.setpgid(owner, inner.group, inner.pid)


@scene
def an_inner_init_has_left_the_group_outside(kernel: Kernel, root: Thread) -> Thread:
    """Its child is still in that group, and neither of them sees any of the two groups."""
    outer = kernel.fork(kernel.init, CLONE_NEWPID)
    owner = kernel.fork(outer)
    inner = kernel.fork(outer, CLONE_NEWPID)
    kernel.fork(inner)
    kernel.setpgid(owner, owner.group, owner.pid)
    kernel.setpgid(outer, inner.group, owner.pid)
    return outer


@scene
def a_session_leader_passes_a_group_on(kernel: Kernel, root: Thread) -> None:
    """An inner init, whose parent founded a group, has children in that group from before its setsid()."""
    owner = kernel.fork(root)
    kernel.setpgid(owner, owner.group, owner.pid)
    inner = kernel.fork(owner, CLONE_NEWPID)
    kernel.fork(inner)
    kernel.setsid(inner)


@scene
def a_dead_owner_of_a_session_left(kernel: Kernel, root: Thread) -> Thread:
    """An inner init was put into the group of a process that has left their session since."""
    outer = kernel.fork(kernel.init, CLONE_NEWPID)
    inner = kernel.fork(outer, CLONE_NEWPID)
    owner = kernel.fork(outer)
    kernel.setpgid(owner, owner.group, owner.pid)
    kernel.setpgid(outer, inner.group, owner.pid)
    gone(kernel, owner, outer)
    kernel.setsid(outer)
    return outer
