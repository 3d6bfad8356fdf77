# SPDX-License-Identifier: Apache-2.0
"""Trees that are hard to rebuild, by name: the calls on a simulated kernel that make them."""

from collections.abc import Callable
from itertools import pairwise

from agent.model import Mode, Snapshot
from agent.table.objects import CLONE_NEWPID, CLONE_PARENT
from tests.support.kernelobjects import Thread
from tests.support.kernelsim import Kernel
from tests.support.planned import taken
from tests.support.watched import watched

Scene = Callable[[Kernel, Thread], Thread | None]

SCENES: dict[str, Scene] = {}


def scene(made: Scene) -> Scene:
    """Register a tree; the function gets an init that leads a session, and may return another root."""
    SCENES[made.__name__] = made
    return made


def gone(kernel: Kernel, thread: Thread, waits: Thread) -> None:
    """Let the thread exit, and a parent wait for it."""
    kernel.exit_group(thread)
    kernel.wait(waits, thread)


def taken_from(name: str, mode: Mode = "container") -> Snapshot:
    """Return the snapshot of a scene."""
    pair = watched(lingers=True)
    kernel = pair.kernel
    root = kernel.fork(kernel.init, CLONE_NEWPID)
    kernel.setsid(root)
    root = SCENES[name](kernel, root) or root
    pair.ask()
    pair.sweep()  # no event tells unshare() and setns()
    pair.agree()
    return taken(pair, root, mode)


# ---- sessions ------------------------------------------------------------------------------------------------------


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


# ---- groups --------------------------------------------------------------------------------------------------------


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


# ---- threads and the dead ------------------------------------------------------------------------------------------


@scene
def threads(kernel: Kernel, root: Thread) -> None:
    """The process has two more threads."""
    child = kernel.fork(root)
    kernel.thread(kernel.thread(child))


@scene
def child_of_a_thread(kernel: Kernel, root: Thread) -> None:
    """The parent of the child is the thread itself."""
    kernel.fork(kernel.thread(kernel.fork(root)))


@scene
def dead_leader(kernel: Kernel, root: Thread) -> None:
    """A thread lives on and has the children."""
    child = kernel.fork(root)
    kernel.fork(child)
    kernel.thread(child)
    kernel.exit(child)


@scene
def zombies(kernel: Kernel, root: Thread) -> None:
    """No process has waited for the zombies; one is in a session of its own."""
    kernel.setsid(kernel.fork(root))
    for code in (0, 3 << 8, 9, 11):
        kernel.exit_group(kernel.fork(root), code)
    kernel.exit_group(next(thread for thread in kernel.threads if thread.group.parent is root), 1 << 8)


@scene
def subreaper_with_a_child(kernel: Kernel, root: Thread) -> None:
    """The flag is set again."""
    reaper = kernel.fork(root)
    kernel.fork(reaper)
    kernel.subreaper(reaper)


@scene
def exec_by_a_thread(kernel: Kernel, root: Thread) -> None:
    """The thread is the leader now."""
    child = kernel.fork(root)
    kernel.fork(child)
    kernel.exec(kernel.thread(child))


@scene
def deep_and_broad(kernel: Kernel, root: Thread) -> None:
    """Each process has three children."""
    for child in [kernel.fork(root) for _ in range(3)]:
        for grandchild in [kernel.fork(child) for _ in range(3)]:
            kernel.fork(grandchild)


# ---- namespaces ----------------------------------------------------------------------------------------------------


@scene
def nested_namespaces(kernel: Kernel, root: Thread) -> None:
    """One namespace is below the other."""
    inner = kernel.fork(root, CLONE_NEWPID)
    kernel.fork(inner)
    kernel.fork(kernel.fork(inner, CLONE_NEWPID))


@scene
def sibling_namespaces(kernel: Kernel, root: Thread) -> None:
    """The same inner numbers occur twice."""
    for inner in [kernel.fork(root, CLONE_NEWPID) for _ in range(2)]:
        kernel.fork(inner)


@scene
def unshare_then_fork(kernel: Kernel, root: Thread) -> None:
    """The first child is an init, the second one is not."""
    child = kernel.fork(root)
    kernel.unshare(child)
    kernel.fork(child)
    kernel.fork(child)


@scene
def unshare_and_no_child_yet(kernel: Kernel, root: Thread) -> None:
    """The next child will be an init."""
    kernel.unshare(kernel.fork(root))


@scene
def the_namespace_of_the_next_child_is_dead(kernel: Kernel, root: Thread) -> None:
    """The cases are a process, a thread beside one with a new namespace, and a process below another
    namespace's init.
    """
    process, inner = kernel.fork(root), kernel.fork(root, CLONE_NEWPID)
    for by in (process, kernel.thread(process), kernel.fork(inner)):
        kernel.unshare(by)
        gone(kernel, kernel.fork(by), by)
    kernel.unshare(kernel.fork(root))


@scene
def the_init_of_the_next_childs_namespace_is_a_zombie(kernel: Kernel, root: Thread) -> None:
    """One process waits for the init, and another has entered its namespace."""
    by = kernel.fork(root)
    kernel.unshare(by)
    init = kernel.fork(by)
    kernel.setns(kernel.fork(root), init.space)
    kernel.exit_group(init)


@scene
def owners_in_each_others_groups_wait_for_children_elsewhere(kernel: Kernel, root: Thread) -> None:
    """The helper that keeps a group alive must not be born into the namespace that waits."""
    owners_in_each_others_groups(kernel, root)
    for one in kernel.children(root):
        kernel.unshare(one.leader)


@scene
def entered_from_the_namespace_above(kernel: Kernel, root: Thread) -> None:
    """The parent is not in the namespace of its child."""
    inner = kernel.fork(root, CLONE_NEWPID)
    child = kernel.fork(root)
    kernel.setns(child, inner.space)
    kernel.fork(child)
    kernel.setns(child, child.space)


@scene
def group_of_a_dead_inner_init(kernel: Kernel, root: Thread) -> None:
    """The group is of a namespace within another; a task that takes its number must be born below the right one."""
    inner = kernel.fork(root, CLONE_NEWPID)
    innermost = kernel.fork(inner, CLONE_NEWPID)
    kernel.setpgid(inner, innermost.group, innermost.pid)
    kernel.setpgid(inner, kernel.fork(inner).group, innermost.pid)
    gone(kernel, innermost, inner)


@scene
def children_of_an_init_are_in_a_group_that_it_was_in(kernel: Kernel, root: Thread) -> None:
    """None of them sees the group: they were born into it, and the init has a session of its own now."""
    inner = kernel.fork(root, CLONE_NEWPID)
    owner = kernel.fork(root)
    kernel.setpgid(root, owner.group, owner.pid)
    kernel.setpgid(root, inner.group, owner.pid)
    kernel.fork(inner)
    kernel.fork(inner, CLONE_NEWPID)
    kernel.setsid(inner)


@scene
def children_of_an_init_are_in_the_group_that_it_is_in(kernel: Kernel, root: Thread) -> None:
    """The parent of the init put it there, before the children were born."""
    inner = kernel.fork(root, CLONE_NEWPID)
    owner = kernel.fork(root)
    kernel.setpgid(root, owner.group, owner.pid)
    kernel.setpgid(root, inner.group, owner.pid)
    kernel.fork(kernel.fork(inner), CLONE_NEWPID)


@scene
def an_orphaned_init_is_in_a_group_of_another_session(kernel: Kernel, root: Thread) -> None:
    """The init does not see that group, and its parent is not in that session."""
    leader = kernel.fork(root)
    kernel.setsid(leader)
    between = kernel.fork(leader)
    owner = kernel.fork(leader)
    kernel.setpgid(owner, owner.group, owner.pid)
    kernel.setpgid(leader, between.group, owner.pid)
    kernel.fork(between, CLONE_NEWPID)
    gone(kernel, between, leader)
    gone(kernel, leader, root)


@scene
def a_child_of_a_session_left_to_a_thread_of_a_dead_leader(kernel: Kernel, root: Thread) -> None:
    """Only descendants of the child, or a thread, live to make the leader of its session again."""
    thread = kernel.thread(root)
    leader = kernel.fork(thread)
    kernel.setsid(leader)
    kernel.fork(kernel.fork(leader, CLONE_PARENT))
    kernel.exit(root)
    gone(kernel, leader, thread)


# ---- inits that have exited, and inits outside of the tree ---------------------------------------------------------


def entered(kernel: Kernel, by: Thread, init: Thread) -> Thread:
    """Return a child of `by`, born into the namespace of `init`."""
    kernel.setns(by, init.space)
    child = kernel.fork(by)
    kernel.setns(by, by.space)
    return child


@scene
def a_dead_init_waits_for_a_zombie_of_another_parent(kernel: Kernel, root: Thread) -> None:
    """3 was killed with its namespace, and its parent does not wait for it."""
    init = kernel.fork(root, CLONE_NEWPID)
    entered(kernel, kernel.fork(root), init)
    kernel.exit_group(init, 3 << 8)


@scene
def the_last_thread_of_a_dead_init_waits(kernel: Kernel, root: Thread) -> None:
    """It waits for a zombie, and for a dead init below, which is its child."""
    init = kernel.fork(root, CLONE_NEWPID)
    thread = kernel.thread(init)
    entered(kernel, root, init)
    entered(kernel, root, kernel.fork(thread, CLONE_NEWPID))
    kernel.exit(init)
    kernel.exit_group(thread, 3 << 8)


@scene
def the_last_thread_of_a_dead_init_was_killed(kernel: Kernel, root: Thread) -> None:
    """Its leader exited by itself before; the exit status is that of the group."""
    init = kernel.fork(root, CLONE_NEWPID)
    thread = kernel.thread(init)
    entered(kernel, root, init)
    kernel.exit(init, 5 << 8)
    kernel.exit_group(thread, 9)


@scene
def a_dead_init_waits_for_a_dead_init_within(kernel: Kernel, root: Thread) -> None:
    """The inner one waits for a zombie, and all three have different parents."""
    outer = kernel.fork(root, CLONE_NEWPID)
    inner = kernel.fork(outer, CLONE_NEWPID)
    entered(kernel, kernel.fork(root), inner)
    entered(kernel, root, outer)
    kernel.exit_group(inner, 7 << 8)
    kernel.exit_group(outer)


@scene
def a_dead_init_waits_for_a_number(kernel: Kernel, root: Thread) -> None:
    """2 is in a group of the init's namespace whose founder has exited."""
    member = kernel.fork(root)
    init = kernel.fork(root, CLONE_NEWPID)
    owner = entered(kernel, root, init)
    kernel.setpgid(root, owner.group, owner.pid)
    kernel.setpgid(root, member.group, owner.pid)
    kernel.exit_group(init)
    kernel.wait(root, owner)


@scene
def a_dead_init_waits_for_a_number_below(kernel: Kernel, root: Thread) -> None:
    """The number is of a namespace within its own, whose init has exited."""
    member = kernel.fork(root)
    inner = kernel.fork(root, CLONE_NEWPID)
    owner = kernel.fork(entered(kernel, root, inner), CLONE_NEWPID | CLONE_PARENT)
    kernel.setpgid(root, owner.group, owner.pid)
    kernel.setpgid(root, member.group, owner.pid)
    kernel.exit_group(owner)
    kernel.wait(root, owner)
    kernel.exit_group(inner)


@scene
def an_init_is_the_child_of_one_two_levels_above(kernel: Kernel, root: Thread) -> None:
    """3 entered, and made the init with CLONE_PARENT."""
    inner = kernel.fork(root, CLONE_NEWPID)
    kernel.fork(kernel.fork(entered(kernel, root, inner), CLONE_NEWPID | CLONE_PARENT))


def beside(kernel: Kernel, shell: Thread, levels: int) -> tuple[Thread, Thread]:
    """Return a child of `shell`, and another child that is an init this many levels below."""
    root = kernel.fork(shell)
    init = kernel.fork(root, CLONE_NEWPID | CLONE_PARENT)
    for _ in range(levels - 1):
        init = kernel.fork(entered(kernel, shell, init), CLONE_NEWPID | CLONE_PARENT)
    return root, init


@scene
def members_of_a_namespace_whose_init_is_no_descendant(kernel: Kernel, shell: Thread) -> Thread:
    """The init is the root's sibling."""
    root, init = beside(kernel, shell, 1)
    member = entered(kernel, root, init)
    kernel.setsid(member)
    kernel.exit_group(kernel.fork(member), 5)
    kernel.fork(member, CLONE_NEWPID)
    return root


@scene
def members_of_three_namespaces_whose_inits_are_no_descendants(kernel: Kernel, shell: Thread) -> Thread:
    """The three namespaces are one within the other."""
    root, init = beside(kernel, shell, 3)
    kernel.fork(entered(kernel, root, init))
    return root


@scene
def zombies_of_a_namespace_whose_init_is_no_descendant(kernel: Kernel, shell: Thread) -> Thread:
    """No task in the namespace lives."""
    root, init = beside(kernel, shell, 2)
    entered(kernel, root, init)
    kernel.exit_group(init)
    return root


@scene
def a_group_of_an_init_that_is_no_descendant(kernel: Kernel, shell: Thread) -> Thread:
    """The root is in it, and so is a process in that namespace."""
    root, init = beside(kernel, shell, 1)
    kernel.setpgid(shell, init.group, init.pid)
    kernel.setpgid(shell, root.group, init.pid)
    entered(kernel, root, init)
    return root


@scene
def subtree_of_a_job(kernel: Kernel, root: Thread) -> Thread:
    """The root leads a group, in the session of a shell."""
    job = kernel.fork(root)
    kernel.setpgid(job, job.group, job.pid)
    kernel.fork(kernel.fork(job))
    return job


SUBTREES = {
    "members_of_a_namespace_whose_init_is_no_descendant",
    "members_of_three_namespaces_whose_inits_are_no_descendants",
    "zombies_of_a_namespace_whose_init_is_no_descendant",
    "a_group_of_an_init_that_is_no_descendant",
    "subtree_of_a_job",
    "a_thread_bears_before_two_setsids",
    "an_inner_init_has_left_the_group_outside",
    "a_dead_owner_of_a_session_left",
}


@scene
def thread_bears_into_the_group_that_its_leader_leaves(kernel: Kernel, root: Thread) -> None:
    """A child of an inner init's thread is in the group outside; a child of the init is in the init's own, and sees
    neither.
    """
    init = kernel.fork(root, CLONE_NEWPID)
    thread = kernel.thread(init)
    kernel.fork(thread)
    kernel.setpgid(init, init.group, init.pid)
    kernel.fork(init, CLONE_NEWPID)


@scene
def group_handed_to_an_init_below_by_one_that_has_called_setsid(kernel: Kernel, root: Thread) -> None:
    """The last one cannot see its group; two inits were in it; an older child of the founder is in another group."""
    outer = kernel.fork(root, CLONE_NEWPID)
    founder = kernel.fork(outer)
    kernel.fork(founder)
    kernel.setpgid(founder, founder.group, founder.pid)
    middle = kernel.fork(founder, CLONE_NEWPID)
    kernel.fork(middle, CLONE_NEWPID)
    kernel.setsid(middle)
