# SPDX-License-Identifier: Apache-2.0
"""Process trees across pid namespaces that must be captured and rebuilt exactly; see scenarios.py."""

from tests.live.scenario import CONTAINER, Target, scenario
from tests.live.treeprog import Tree


@scenario
def session_outside_is_refused(tree: Tree) -> Target:
    """`unshare -pf` without setsid: session and group of the init and of its child are from outside."""
    tree.run("fork 0 1; unshare 1; fork 1 2; fork 2 3; fork 2 4; setsid 4")
    return Target(root=2, leaks=(2, 3))


@scenario
def session_outside_of_a_subtree(tree: Tree) -> Target:
    """The same, as a subtree: 0 where there is no number."""
    tree.run("fork 0 1; unshare 1; fork 1 2; fork 2 3; fork 2 4; setsid 4")
    return Target(root=2, mode="subtree")


@scenario
def two_sessions_from_outside(tree: Tree) -> Target:
    """2 and 5 have different sessions, neither with a number where 2 lives."""
    tree.run("fork 0 1; fork 1 2 newpid; fork 1 3; setsid 3; setns 3 2; fork 3 4; fork 4 5; exit 4; wait 3 4")
    return Target(root=2, mode="subtree")


@scenario
def two_sessions_from_outside_are_refused(tree: Tree) -> Target:
    """The same as a container."""
    return two_sessions_from_outside(tree)._replace(mode="container", leaks=(2, 5))


@scenario
def linear_nested_namespace(tree: Tree) -> Target:
    """Numbers [2,1] and [3,2]; the inner init's session is the outer one's, without a number inside."""
    tree.run(CONTAINER + "fork 1 2 newpid; fork 2 3; fork 2 4; setsid 4; fork 1 5")
    return Target()


@scenario
def sibling_namespaces(tree: Tree) -> Target:
    """The same inner numbers twice."""
    tree.run(CONTAINER + "fork 1 2 newpid; fork 1 3 newpid; fork 2 4; fork 3 5; fork 4 6 newpid; fork 5 7 newpid")
    return Target()


@scenario
def dead_leaders_in_a_nested_namespace(tree: Tree) -> Target:
    """Sessions and groups whose leaders are gone keep both their numbers."""
    tree.run(CONTAINER + "fork 1 2 newpid; fork 2 3; setsid 3; fork 3 4; fork 4 5; setpgid 3 4 4; setpgid 4 5 4")
    tree.run("exit 4; wait 3 4; exit 3; wait 2 3")
    return Target()


@scenario
def group_of_a_dead_namespace(tree: Tree) -> Target:
    """3 is in the group of an inner init that is gone, and its namespace with it."""
    tree.run(CONTAINER + "fork 1 2 newpid; setpgid 1 2 2; fork 1 3; setpgid 1 3 2; kill 2; wait 1 2")
    return Target()


@scenario
def namespace_that_cannot_end(tree: Tree) -> Target:
    """An inner init waits inside its exit for a zombie whose parent is outside and does not reap it."""
    tree.run(CONTAINER + "fork 1 2 newpid; fork 1 3; setns 3 2; fork 3 4; kill 2")
    return Target()


@scenario
def namespace_that_cannot_end_and_is_ignored(tree: Tree) -> Target:
    """The same with a parent that ignores SIGCHLD: it leaves no zombie, but it has not left yet."""
    tree.run(CONTAINER + "fork 1 2; sigchld 2 ignore; fork 2 3 newpid; fork 1 4; setns 4 3; fork 4 5; kill 3")
    return Target()


@scenario
def namespaces_that_cannot_end_within_one_another(tree: Tree) -> Target:
    """The inner init exits with a status, the outer one is killed; both wait for zombies of 4, and of the root."""
    tree.run(CONTAINER + "fork 1 2 newpid; fork 2 3 newpid; fork 1 4; setns 4 3; fork 4 5; setns 1 2; fork 1 6")
    tree.run("exit 5 3; exit 3 7; kill 2")
    return Target()


@scenario
def namespace_that_cannot_end_in_its_last_thread(tree: Tree) -> Target:
    """The leader has exited before; a namespace within, whose init is that thread's child, cannot end either."""
    tree.run(
        CONTAINER + "fork 1 2 newpid; thread 2 3; fork 2 4 newpid; fork 1 5; setns 5 4; fork 5 6; leave 2; exit 3 4"
    )
    return Target()


@scenario
def namespace_that_cannot_end_and_whose_last_thread_was_killed(tree: Tree) -> Target:
    """By a signal, from outside."""
    tree.run(CONTAINER + "fork 1 2 newpid; thread 2 3; fork 1 5; setns 5 2; fork 5 6; leave 2 7; kill 2")
    return Target()


@scenario
def namespace_that_cannot_end_because_of_a_group(tree: Tree) -> Target:
    """An inner init waits inside its exit for the number of 4, which is gone; 3 is in its group."""
    tree.run(CONTAINER + "fork 1 2 newpid; fork 1 3; setns 1 2; fork 1 4; setns 1 1")
    tree.run("setpgid 1 4 4; setpgid 1 3 4; exit 2 5; wait 1 4")
    return Target()


@scenario
def namespace_whose_init_is_no_descendant(tree: Tree) -> Target:
    """It is a sibling of the root, where some live in it."""
    tree.run(
        "fork 0 1; setsid 1; fork 1 2 sibling newpid; setns 1 2; fork 1 3; fork 3 4; exit 4; fork 3 5 newpid; setsid 5"
    )
    return Target(mode="subtree")


@scenario
def namespaces_whose_inits_are_no_descendants(tree: Tree) -> Target:
    """Two, one within the other; in the inner one there is a zombie, and in the outer one a living task."""
    tree.run(
        "fork 0 1; setsid 1; fork 1 2 sibling newpid; fork 0 7; setns 7 2; fork 7 8; fork 8 3 sibling newpid; exit 7"
    )
    tree.run("fork 1 4; setns 4 3; fork 4 5; exit 5 1; setns 1 2; fork 1 6")
    return Target(mode="subtree")


@scenario
def group_of_an_init_that_is_no_descendant(tree: Tree) -> Target:
    """The root and one who lives in that namespace are in it."""
    tree.run("fork 0 1; fork 1 2 sibling newpid; setpgid 0 2 2; setpgid 0 1 2; setns 1 2; fork 1 3")
    return Target(mode="subtree")


@scenario
def dead_namespaces_of_next_children(tree: Tree) -> Target:
    """Of a process, of its thread, of one below another namespace's init; another's is new, and one's has a zombie."""
    tree.run(
        CONTAINER
        + "fork 1 2; thread 2 3; fork 1 4 newpid; fork 4 5; fork 1 6; unshare 6; fork 1 7; unshare 7; fork 7 8; "
        + "unshare 2; unshare 3; unshare 5; fork 2 9; fork 3 10; fork 5 11; "
        + "exit 8; exit 9; wait 2 9; exit 10; wait 3 10; exit 11; wait 5 11"
    )
    return Target()


@scenario
def unshare_then_fork(tree: Tree) -> Target:
    """2 stays where it is; its first child is an init."""
    tree.run(CONTAINER + "fork 1 2; unshare 2; fork 2 3; fork 2 4; fork 4 5")
    return Target()


@scenario
def pending_namespaces(tree: Tree) -> Target:
    """Unshared without a child so far; set to a namespace below; by one thread of two; set back again."""
    tree.run(CONTAINER + "fork 1 2; unshare 2; fork 1 3; fork 1 4 newpid; setns 3 4; fork 1 5; thread 5 6; setns 6 4")
    tree.run("fork 1 7; setns 7 4; setns 7 7; fork 7 8")
    return Target()


@scenario
def set_into_one_of_two_namespaces(tree: Tree) -> Target:
    """An ancestor's child is born into one of two sibling namespaces: its parent is not to be seen from there."""
    tree.run(CONTAINER + "fork 1 2 newpid; fork 1 3 newpid; fork 1 4; setns 4 3; fork 4 5; fork 5 6; exit 5; wait 4 5")
    tree.run("fork 4 7")
    return Target()


@scenario
def entered_from_outside_is_refused(tree: Tree) -> Target:
    """3 entered, as docker exec does: it leads its own session inside, and still has no parent there."""
    tree.run(CONTAINER + "fork 0 2; setns 2 1; fork 2 3; setsid 3; fork 3 4; fork 1 5")
    return Target(leaks=(3,))


@scenario
def terminal_of_a_namespace_below(tree: Tree) -> Target:
    """The job in the foreground is an inner init; its own child leads a group that the terminal does not know."""
    tree.run(
        CONTAINER + "terminal 1; fork 1 2 newpid; setpgid 1 2 2; fork 2 3; setpgid 3 3 3; fork 3 4; foreground 1 2"
    )
    tree.run("fork 1 5; setpgid 1 5 5; own 1 pgrp 2; own 2 pgrp 3; own 3 pid 4; own 3 pid 2")
    return Target()


@scenario
def terminal_from_outside(tree: Tree) -> Target:
    """The foreground group, and an owner, have no number where the root lives."""
    tree.run("fork 0 1; setsid 1; terminal 1; own 1 pid 1; own 1 pgrp 1; fork 1 2 newpid; fork 2 3; setpgid 3 3 3")
    tree.run("own 3 pgrp 3; own 2 tid 3")
    return Target(root=2, mode="subtree")


@scenario
def deepest_namespace(tree: Tree) -> Target:
    """Thirty-three numbers: the kernel allows no more."""
    tree.run("fork 0 1; setsid 1")
    for level in range(32):
        tree.run(f"fork {level + 1} {level + 2} newpid")
    tree.run("fork 33 34; setsid 34; terminal 34; fork 34 35; setpgid 34 35 35; own 35 pgrp 35; foreground 34 35")
    return Target(mode="subtree")


@scenario
def four_hundred_nested(tree: Tree) -> Target:
    """More nested pid records than a page holds, on two levels."""
    tree.run(CONTAINER + "fork 1 2 newpid; fork 2 3 newpid")
    for node in range(4, 404):
        tree.run(f"fork {2 + node % 2} {node}")
    return Target()


@scenario
def stopped_init_without_its_leader(tree: Tree) -> Target:
    """No init can stop itself; and of this one only a thread is there to see to it."""
    tree.run(CONTAINER + "fork 1 2 newpid; thread 2 3; leave 2 3; kill 2 SIGSTOP -1")
    return Target()


@scenario
def group_handed_to_an_init_below_by_one_that_has_called_setsid(tree: Tree) -> Target:
    """The last one cannot see its group; two inits were in it; an older child of the founder is in another one."""
    tree.run(
        CONTAINER + "fork 1 4 newpid; fork 4 5; fork 5 6; setpgid 5 5 5; fork 5 10 newpid; fork 10 19 newpid; setsid 10"
    )
    return Target()
