# SPDX-License-Identifier: Apache-2.0
"""What a tree whose root is the init of a pid namespace becomes where there is an init already.

In the caller's namespace its root is one process among others, and it is to be to the tree what it was: the parent of
its orphans. That a subreaper is, too. So the tree is planned as the subtree of a root that is one, and a reaper stands
above it as above every tree that has no namespace of its own. A session from outside had no number in the namespace of
that init; here it has one, as the inherited session of any subtree.
"""

from dataclasses import replace

from agent.model import CKPT_PID_ROOT, Snapshot, Task

NOTE = (
    "the root was the init of its pid namespace and is none here: it is a subreaper instead, so that orphans still come "
    "to it; every signal reaches it, and when it ends its tree is killed process by process"
)


def is_init(snapshot: Snapshot) -> bool:
    """Whether the root is the init of its pid namespace."""
    return snapshot.number(snapshot.tasks[0].pid) == 1


def as_guest(snapshot: Snapshot) -> Snapshot:
    """The same tree below a root that is a subreaper and no init."""
    root = snapshot.tasks[0]

    def changed(task: Task) -> Task:
        if task.tgid == root.pid:
            task = task._replace(subreaper=True)
        if root.sid == 0 and task.sid == 0:
            task = task._replace(sid=CKPT_PID_ROOT, pgid=task.pgid or CKPT_PID_ROOT)
        return task

    return replace(snapshot, mode="subtree", tasks=tuple(map(changed, snapshot.tasks)))
