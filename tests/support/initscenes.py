# SPDX-License-Identifier: Apache-2.0
"""Trees with inits that have exited, and trees whose inits are outside."""

from agent.table.objects import CLONE_NEWPID, CLONE_PARENT
from tests.support.kernelobjects import Thread
from tests.support.kernelsim import Kernel
from tests.support.scene import Scenes

scene = Scenes()


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
