# SPDX-License-Identifier: Apache-2.0
"""The change of a tree whose root is an init into a tree for the caller's pid namespace, which has an init already.

An init is the parent of its tree's orphans, and so is a subreaper. So the planner takes the tree for a subtree whose
root is a subreaper. A reaper stands above the root, as above every tree that gets no pid namespace of its own. In the
init's namespace, a session from outside had no number. In the caller's namespace that session has a number, as the
inherited session of any subtree.
"""

from agent.model import CKPT_PID_ROOT, Snapshot, Task
from agent.record import replace

NOTE = (
    "the root was the init of its pid namespace and is none here: it is a subreaper instead, so that orphans still come "
    "to it; every signal reaches it, and when it ends its tree is killed process by process"
)


def is_init(snapshot: Snapshot) -> bool:
    """Return True if the root is the init of its pid namespace."""
    return snapshot.number(snapshot.tasks[0].pid) == 1


def as_guest(snapshot: Snapshot) -> Snapshot:
    """Return the same tree below a root that is a subreaper and no init."""
    root = snapshot.tasks[0]

    def changed(task: Task) -> Task:
        if task.tgid == root.pid:
            task = task._replace(subreaper=True)
        if root.sid == 0 and task.sid == 0:
            task = task._replace(sid=CKPT_PID_ROOT, pgid=task.pgid or CKPT_PID_ROOT)
        return task

    return replace(snapshot, mode="subtree", tasks=tuple(map(changed, snapshot.tasks)))
