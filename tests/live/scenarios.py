# SPDX-License-Identifier: Apache-2.0
"""Process trees that must be captured and rebuilt exactly, each a script of system calls.

Node 1 is the root unless the scenario says otherwise. In the notes n(pP gG sS) is node n with parent P, group G and
session S.
"""

from tests.live import nested_scenarios, signal_scenarios
from tests.live.scenario import CONTAINER, SCENARIOS, Scenario, Target, scenario
from tests.live.treeprog import Tree

__all__ = ["SCENARIOS", "Scenario", "Target", "nested_scenarios", "signal_scenarios"]


@scenario
def deep_and_broad(tree: Tree) -> Target:
    """Three children each, two generations: all in the root's session and group."""
    tree.run(CONTAINER + "fork 1 2; fork 1 3; fork 1 4; fork 2 5; fork 2 6; fork 3 7; fork 3 8; fork 4 9; fork 4 10")
    return Target()


@scenario
def threads(tree: Tree) -> Target:
    """Three tasks of one process; each thread has the root as its parent."""
    tree.run(CONTAINER + "fork 1 2; thread 2 3; thread 2 4")
    return Target()


@scenario
def child_of_a_thread(tree: Tree) -> Target:
    """4 has a thread as its parent, not the leader."""
    tree.run(CONTAINER + "fork 1 2; thread 2 3; fork 3 4; fork 2 5; thread 3 6; fork 6 7")
    return Target()


@scenario
def child_of_a_thread_that_dies(tree: Tree) -> Target:
    """4 goes to the first thread that lives, and was made by one that is gone."""
    tree.run(CONTAINER + "fork 1 2; thread 2 3; fork 3 4; leave 3")
    return Target()


@scenario
def child_of_a_leader_that_leaves(tree: Tree) -> Target:
    """4 goes from the dead leader to its thread."""
    tree.run(CONTAINER + "fork 1 2; thread 2 3; thread 2 5; fork 2 4; leave 2 3")
    return Target()


@scenario
def dead_group_leader(tree: Tree) -> Target:
    """The leader of a thread group is gone, its thread lives."""
    tree.run(CONTAINER + "fork 1 2; thread 2 3; leave 2 7")
    return Target()


@scenario
def dead_leader_of_a_stopped_group(tree: Tree) -> Target:
    """Stopped threads around a leader that has left."""
    tree.run(CONTAINER + "fork 1 2; thread 2 3; leave 2 7; kill 2 SIGSTOP")
    return Target()


@scenario
def zombies(tree: Tree) -> Target:
    """Unreaped, by every way to go."""
    tree.run(CONTAINER + "fork 1 2; fork 1 3; fork 1 4; fork 1 5; exit 2 0; exit 3 3; kill 4 SIGKILL; kill 5 SIGSEGV")
    return Target()


@scenario
def zombie_of_a_thread_group(tree: Tree) -> Target:
    """The leader left with 3, the last thread with 5: the process's status is the last one's."""
    tree.run(CONTAINER + "fork 1 2; thread 2 3; leave 2 3; leave 3 5")
    return Target()


@scenario
def zombie_session_leader_with_member(tree: Tree) -> Target:
    """2(Z s2), 3(p1 s2): the leader is still a task."""
    tree.run(CONTAINER + "fork 1 2; setsid 2; fork 2 3; exit 2")
    return Target()


@scenario
def orphan_of_a_dead_session_leader(tree: Tree) -> Target:
    """3(p1 g2 s2), and no task has pid 2."""
    tree.run(CONTAINER + "fork 1 2; setsid 2; fork 2 3; exit 2; wait 1 2")
    return Target()


@scenario
def orphan_with_its_leader_alive(tree: Tree) -> Target:
    """4(p1 g2 s2), 2 lives: 4's parent is not of its session."""
    tree.run(CONTAINER + "fork 1 2; setsid 2; fork 2 3; fork 3 4; exit 3; wait 2 3 waitid")
    return Target()


@scenario
def fork_before_setsid(tree: Tree) -> Target:
    """3(p2 s1), 2(s2): the child keeps the session its parent left."""
    tree.run(CONTAINER + "fork 1 2; fork 2 3; setsid 2")
    return Target()


@scenario
def fork_before_setsid_twice(tree: Tree) -> Target:
    """12(p11 s1), though both 10 and 11 lead sessions of their own."""
    tree.run(CONTAINER + "fork 1 10; fork 10 11; fork 11 12; setsid 10; setsid 11; fork 11 13")
    return Target()


@scenario
def subreaper_adopts_a_daemon(tree: Tree) -> Target:
    """4(p2 g3 s3): a session without a leader, whose orphan is not init's."""
    tree.run(CONTAINER + "fork 1 2; setsid 2; subreaper 2; fork 2 3; setsid 3; fork 3 4; exit 3; wait 2 3")
    return Target()


@scenario
def sibling_by_clone_parent(tree: Tree) -> Target:
    """4(p2 g3 s3): made by 3, a child of 2."""
    tree.run(CONTAINER + "fork 1 2; setsid 2; fork 2 3; setsid 3; fork 3 4 sibling")
    return Target()


@scenario
def subreaper_flags(tree: Tree) -> Target:
    """Set after its descendants were born; set and cleared again after an adoption; neither is inherited."""
    tree.run(CONTAINER + "fork 1 2; fork 2 3; fork 3 4; subreaper 2; exit 3; wait 2 3; fork 2 5")
    tree.run("fork 1 6; subreaper 6; fork 6 7; fork 7 8; exit 7; wait 6 7; subreaper 6 0")
    return Target()


@scenario
def dead_process_group_leader(tree: Tree) -> Target:
    """3(g2 s1), and no task has pid 2, which was of the same session."""
    tree.run(CONTAINER + "fork 1 2; setpgid 2 2 2; fork 2 3; exit 2; wait 1 2")
    return Target()


@scenario
def owner_left_its_group(tree: Tree) -> Target:
    """2(g1), 3(g2): 2 lives, but outside the group that has its number."""
    tree.run(CONTAINER + "fork 1 2; fork 1 3; setpgid 1 2 2; setpgid 1 3 2; setpgid 2 2 1")
    return Target()


@scenario
def groups_swapped(tree: Tree) -> Target:
    """2(g3), 3(g2): each is in the other's group."""
    tree.run(CONTAINER + "fork 1 2; fork 1 3; fork 1 4; setpgid 2 2 2; setpgid 3 3 3")
    tree.run("setpgid 4 4 2; setpgid 2 2 3; setpgid 3 3 2; exit 4; wait 1 4")
    return Target()


@scenario
def group_set_by_another_thread(tree: Tree) -> Target:
    """3 puts its leader's child in a group; what that makes next, a thread or a process, is born into it."""
    tree.run(CONTAINER + "fork 1 2; thread 2 3; fork 2 4; setpgid 3 4 4; thread 4 5; fork 5 6; fork 4 7")
    return Target()


@scenario
def subtree_of_a_dead_creator(tree: Tree) -> Target:
    """The creator of the root is not of its subtree, dead or alive."""
    tree.run(CONTAINER + "fork 1 2; setsid 2; fork 2 3; fork 3 4; exit 2; wait 1 2")
    return Target(root=3, mode="subtree")


@scenario
def job_of_a_shell(tree: Tree) -> Target:
    """The root leads a group in a session that is not its own; 5 is in the group of a task outside the subtree."""
    tree.run("fork 0 1; setsid 1; fork 1 2; setpgid 1 2 2; fork 2 3; fork 2 4; setsid 4; fork 2 5; setpgid 5 5 1")
    tree.run("fork 1 6; setpgid 6 6 6; fork 2 7; setpgid 7 7 6")
    return Target(root=2, mode="subtree")


@scenario
def exec_by_a_thread(tree: Tree) -> Target:
    """One task with the leader's pid; the thread's own number is gone."""
    tree.run(CONTAINER + "fork 1 2; thread 2 3; thread 2 4; exec 3")
    return Target()


@scenario
def exec_by_a_thread_with_children(tree: Tree) -> Target:
    """Children of the leader and of each thread all come to the one that is left."""
    tree.run(CONTAINER + "fork 1 2; thread 2 3; thread 2 4; fork 2 5; fork 3 6; fork 4 7; exec 3; fork 3 8; exec 5")
    return Target()


@scenario
def exec_under_a_dead_leader(tree: Tree) -> Target:
    """The leader had left before its thread took its number."""
    tree.run(CONTAINER + "fork 1 2; setsid 2; fork 2 5; thread 2 3; leave 2 7; exec 3; fork 3 4")
    return Target()


@scenario
def vfork_pending(tree: Tree) -> Target:
    """The parent waits, the child shares its memory."""
    tree.run(CONTAINER + "fork 1 2; fork 2 3 vfork; fork 3 4; thread 3 5")
    return Target()


@scenario
def vfork_over(tree: Tree) -> Target:
    """One child has exited, one has called exec; the parent goes on."""
    tree.run(CONTAINER + "fork 1 2; fork 2 3 vfork; exit 3 4; fork 2 4 vfork; exec 4; fork 2 5")
    return Target()


@scenario
def stopped(tree: Tree) -> Target:
    """Stopped alone, stopped with a thread, and continued."""
    tree.run(CONTAINER + "fork 1 2; fork 1 3; thread 3 4; fork 1 5; kill 2 SIGSTOP; kill 3 SIGSTOP 4; kill 5 SIGSTOP 1")
    tree.run("kill 5 SIGCONT")
    return Target()


@scenario
def stopped_orphans_are_continued(tree: Tree) -> Target:
    """A stopped group that loses its last link to its session goes on."""
    tree.run(CONTAINER + "fork 1 2; setsid 2; fork 2 3; fork 3 4; setpgid 4 4 4; fork 4 5; kill 5 SIGSTOP; exit 3")
    tree.run("fork 2 6; kill 6 SIGSTOP")
    return Target()


@scenario
def autoreaped_children(tree: Tree) -> Target:
    """3 and 7 left no zombie, without a wait call; 5's zombie went when its new parent ignored SIGCHLD."""
    tree.run(CONTAINER + "sigchld 1 ignore; fork 1 2; sigchld 2 ignore; fork 2 3; fork 3 4; exit 3 1")
    tree.run("fork 1 6; sigchld 6 default; fork 6 5; exit 5; exit 6; fork 2 7; setsid 7; fork 7 8; exit 7")
    return Target()


@scenario
def chain_of_dead_ancestors(tree: Tree) -> Target:
    """Each generation left at once: 7's session came through four that are gone."""
    tree.run(
        CONTAINER + "fork 1 2; fork 2 3; setsid 3; fork 3 4; setpgid 4 4 4; fork 4 5; fork 5 6; fork 6 7; setsid 6"
    )
    for node in (2, 3, 4, 5, 6):
        tree.run(f"exit {node}; wait 1 {node}")
    return Target()


@scenario
def double_fork_daemons(tree: Tree) -> Target:
    """Two daemons of the classic kind, one below the other."""
    tree.run(CONTAINER + "fork 1 2; fork 2 3; setsid 3; fork 3 4; exit 3; wait 2 3; exit 2; wait 1 2")
    tree.run("fork 4 5; setsid 5; fork 5 6; exit 5; wait 4 5")
    return Target()


@scenario
def controlling_terminal(tree: Tree) -> Target:
    """A shell with a job in the foreground and one in the background; a daemon that left the terminal, and a zombie."""
    tree.run(CONTAINER + "fork 1 2; setsid 2; terminal 2; fork 2 3; setpgid 2 3 3; fork 3 4; fork 2 5; setpgid 2 5 5")
    tree.run("foreground 2 3; thread 5 6; fork 2 7; setsid 7; fork 7 8; fork 2 9; exit 9 1")
    return Target()


@scenario
def terminal_of_a_subtree(tree: Tree) -> Target:
    """The root's terminal has a group in its foreground that is no part of the subtree, and none of its tasks' ids."""
    tree.run(
        "fork 0 1; setsid 1; terminal 1; fork 1 2; setpgid 1 2 2; fork 1 3; setpgid 1 3 3; fork 2 4; foreground 1 3"
    )
    return Target(root=2, mode="subtree")


@scenario
def terminal_of_a_subtrees_session(tree: Tree) -> Target:
    """The session that the root inherited is the group in the foreground."""
    tree.run("fork 0 1; setsid 1; terminal 1; fork 1 2; setpgid 1 2 2; fork 2 3")
    return Target(root=2, mode="subtree")


@scenario
def foreground_group_without_its_leader(tree: Tree) -> Target:
    """Group 3 has its number from a process that is gone."""
    tree.run(CONTAINER + "terminal 1; fork 1 3; setpgid 1 3 3; fork 3 4; foreground 1 3; exit 3; wait 1 3")
    return Target()


@scenario
def owners_of_files(tree: Tree) -> Target:
    """Groups with and without a leader, processes and threads, some gone since; and a child that has the same files."""
    tree.run(CONTAINER + "fork 1 2; setpgid 2 2 2; fork 2 3; fork 1 4; setpgid 4 4 4; fork 1 5; thread 5 6")
    tree.run("own 5 pgrp 2; own 5 pgrp 4; own 5 pid 1; own 5 tid 6; own 5 pid 4; own 6 pgrp 1; own 3 pgrp 2")
    tree.run("fork 5 7; own 7 pid 7; exit 2; wait 1 2; exit 4; wait 1 4")
    return Target()


@scenario
def owner_of_files_of_a_dead_leader(tree: Tree) -> Target:
    """The leader has no files any more; its threads have."""
    tree.run(CONTAINER + "fork 1 2; thread 2 3; thread 2 4; own 3 pgrp 1; leave 2 1")
    return Target()


@scenario
def pid_reuse(tree: Tree) -> Target:
    """3 has the number and the parent that 2 had; 4 was made by 2."""
    tree.run(CONTAINER + "fork 1 2; fork 2 4; exit 2 5; wait 1 2; fork 1 3 like=2; fork 3 5")
    return Target()


@scenario
def six_hundred_pids(tree: Tree) -> Target:
    """More pid records than a page holds."""
    tree.run(CONTAINER)
    for node in range(2, 601):
        tree.run(f"fork {node // 8 + 1 if node > 8 else 1} {node}")
    return Target()


@scenario
def two_hundred_tasks(tree: Tree) -> Target:
    """More task records than a page holds, half of them threads."""
    tree.run(CONTAINER)
    for node in range(2, 200, 2):
        tree.run(f"fork 1 {node}; thread {node} {node + 1}")
    return Target()
