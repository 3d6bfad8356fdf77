# SPDX-License-Identifier: Apache-2.0
"""The session and group in which a tree begins."""

from enum import Enum

from agent.model import CKPT_PID_ROOT, Snapshot


class Begin(Enum):
    """The session and group that a tree begins in, and inherits from outside."""

    HERE = "this process's own"
    NUMBERED = "this process's own, or a new session if that one has no number in this namespace"
    LEADERS_GROUP = "such a session, and the group of its leader"
    APART = "a new session and group: those of this process may be killed as a whole, and the tree is to outlive them"


def beginning(snapshot: Snapshot, *, pidns: bool, apart: bool = False) -> Begin:
    """Return the session and group in which a tree has to begin, so that its tags CKPT_PID_ROOT stay true.

    Args:
        snapshot: the tree.
        pidns: the tree gets a pid namespace of its own.
        apart: the tree is to outlive the session and group of this process.
    """
    if apart:
        return Begin.APART
    if not pidns and any(task.pgid == CKPT_PID_ROOT for task in snapshot.tasks):
        return Begin.LEADERS_GROUP
    if not pidns and any(task.sid == CKPT_PID_ROOT for task in snapshot.tasks):
        return Begin.NUMBERED
    return Begin.HERE
