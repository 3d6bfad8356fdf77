# SPDX-License-Identifier: Apache-2.0
"""A tree without its processes that only forked, which run nothing when the others run their programs again.

A worker that its program will fork again is in the way of a cold restart: it holds a number, and its parent has a child
that it knows nothing of. A process that stays below one that is left out becomes a child of the nearest process above
that stays. Its birth is then unknown. The root stays in any case, and so does the init of a pid namespace, for the
other tasks need them. The numbers of the processes left out stay in the image: a ghost holds each until all stand.
"""

from agent.model import Ancestor, Birth, Creator, Snapshot, Tag, Task, TaskState
from agent.record import replace

_ASSUMED = Birth(None, observed=False, sid=None, pgid=None, flags=(), order=None)


def without_held(snapshot: Snapshot) -> tuple[Snapshot, list[Task]]:
    """Leave the processes out that have only forked, and their zombie children.

    Returns:
        The rest of the snapshot; and the rows of the processes left out, without their threads and zombies.
    """
    root = snapshot.tasks[0]
    dropped = {
        task.pid: task
        for task in snapshot.tasks
        if task.pid == task.tgid
        and task.tgid != root.tgid
        and not _is_init(snapshot, task)
        and task.state is not TaskState.ZOMBIE
        and task.details is not None
        and task.details.execed is False
    }
    if not dropped:
        return snapshot, []
    gone = {task.pid for task in snapshot.tasks if task.tgid in dropped}
    gone |= {task.pid for task in snapshot.tasks if task.state is TaskState.ZOMBIE and task.ppid in gone}
    return rest_of(snapshot, gone), list(dropped.values())


def rest_of(snapshot: Snapshot, gone: set[Tag]) -> Snapshot:
    """Return a snapshot without some tasks: what stays below one of them is a child of the nearest one above that stays."""
    rows = {task.pid: task for task in snapshot.tasks}

    def above(task: Task) -> Tag:
        tag = task.ppid
        while tag in gone:
            tag = rows[tag].ppid
        return tag

    kept = tuple(
        [
            task._replace(ppid=above(task), birth=_birth(task, gone, snapshot))
            for task in snapshot.tasks
            if task.pid not in gone
        ]
    )
    ancestors = tuple([_ancestor(one, gone) for one in snapshot.ancestors])
    return replace(snapshot, tasks=kept, ancestors=ancestors)


def _is_init(snapshot: Snapshot, task: Task) -> bool:
    pid = snapshot.pid(task.pid)
    return pid is not None and len(pid.numbers) > 1 and pid.numbers[-1] == 1


def _birth(task: Task, gone: set[Tag], snapshot: Snapshot) -> Birth | None:
    """Return the birth of a task; an assumed one if a process in its line of creators is left out."""
    birth = task.birth
    if birth is None or task.ppid in gone:
        return None if birth is None else _ASSUMED
    creator = birth.creator
    while creator is not None:
        if creator.tag is not None:
            return _ASSUMED if creator.tag in gone else birth
        creator = snapshot.ancestors[creator.ancestor or 0].birth.creator
    return birth


def _ancestor(one: Ancestor, gone: set[Tag]) -> Ancestor:
    creator: Creator | None = one.birth.creator
    if creator is None or creator.tag not in gone:
        return one
    return one._replace(birth=one.birth._replace(creator=None, observed=False))
