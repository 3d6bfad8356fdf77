# SPDX-License-Identifier: Apache-2.0
"""Scripted trees of processes that are born with other exit signals than SIGCHLD."""

from tests.live.scenario import CONTAINER, Target, scenario
from tests.live.treeprog import Tree


@scenario
def sibling_of_a_dead_leader_with_a_signal(tree: Tree) -> Target:
    """It has its maker's exit signal, and that one is gone."""
    tree.run(CONTAINER + "fork 1 2 signal=10; setsid 2; fork 2 3 sibling; exit 2; wait 1 2")
    return Target()


@scenario
def sibling_without_a_signal(tree: Tree) -> Target:
    """Neither sends one; the third does."""
    tree.run(CONTAINER + "fork 1 2; fork 2 3 signal=0; setsid 3; fork 3 4 sibling; fork 3 5 signal=64")
    return Target()


@scenario
def init_that_is_the_sibling_of_a_dead_leader(tree: Tree) -> Target:
    """Inits have exit signals as all have."""
    tree.run(CONTAINER + "fork 1 2 signal=12; setsid 2; fork 2 3 sibling newpid; fork 3 4; exit 2; wait 1 2")
    return Target()


@scenario
def sibling_of_one_that_has_called_exec(tree: Tree) -> Target:
    """Its maker had that signal then."""
    tree.run(CONTAINER + "fork 1 2; fork 2 3 signal=10; fork 3 4 sibling; exec 3")
    return Target()


@scenario
def orphans_lose_their_signal(tree: Tree) -> Target:
    """A child that comes to another process has SIGCHLD; one that comes to another thread keeps its signal."""
    tree.run(
        CONTAINER + "fork 1 2; thread 2 3; fork 3 4 signal=10; leave 3; fork 1 5; fork 5 6 signal=12; exit 5; wait 1 5"
    )
    return Target()


@scenario
def zombies_with_signals_that_their_parent_ignores(tree: Tree) -> Target:
    """Or does not heed anyway."""
    tree.run(CONTAINER + "fork 1 2; ignore 2 SIGUSR1; ignore 2 SIGTERM; ignore 2 SIGRTMIN")
    for child, number in enumerate((0, 1, 10, 15, 18, 28, 34), 3):
        tree.run(f"fork 2 {child} signal={number}; exit {child} {child}")
    return Target()


@scenario
def zombies_of_an_init_with_deadly_signals(tree: Tree) -> Target:
    """It is immune to all of them."""
    tree.run(CONTAINER + "fork 1 2 newpid")
    tree.run("fork 2 30 signal=9; exit 30")  # where the root is made as no init, it is not immune to this one
    for child, number in enumerate((19, 15, 64), 3):
        tree.run(
            f"fork 1 {child} signal={number}; exit {child}; fork 2 {child + 10} signal={number}; exit {child + 10}"
        )
    return Target()


@scenario
def one_that_a_zombie_has_stopped(tree: Tree) -> Target:
    """With its thread; another one was continued."""
    tree.run(CONTAINER + "fork 1 2; thread 2 3; fork 2 4 signal=19; exit 4")
    tree.run(
        "fork 1 5; thread 5 6; fork 6 7 signal=19; fork 5 8 signal=19; exit 7; kill 5 SIGCONT; exit 8; kill 5 SIGCONT"
    )
    return Target()


@scenario
def one_that_its_child_has_killed(tree: Tree) -> Target:
    """By a signal that it had not asked for; the grandchild is an orphan."""
    tree.run(
        CONTAINER + "fork 1 2; fork 2 3 signal=15; fork 2 4; exit 3; fork 1 5; fork 5 6 signal=9; fork 6 7; exit 6"
    )
    return Target()
