# SPDX-License-Identifier: Apache-2.0
"""All trees that are hard to rebuild, by name, and the snapshots of them."""

from agent.model import Mode, Snapshot
from agent.table.objects import CLONE_NEWPID
from tests.support import initscenes, namespacescenes, sessionscenes
from tests.support.planned import taken
from tests.support.watched import watched

SCENES = sessionscenes.scene | namespacescenes.scene | initscenes.scene
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
