# SPDX-License-Identifier: Apache-2.0
"""Trees whose threads, dead and pid namespaces are hard to rebuild."""

from agent.table.objects import CLONE_NEWPID, CLONE_PARENT
from tests.support.kernelobjects import Thread
from tests.support.kernelsim import Kernel
from tests.support.scene import Scenes, gone
from tests.support.sessionscenes import owners_in_each_others_groups

scene = Scenes()


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
