# SPDX-License-Identifier: Apache-2.0
"""Births, and the dead ancestors that births run through.

Theory
------
Every task holds its creator, so the tasks below keep the chain of creators in memory: Python's reference count frees an
ancestor that is gone as soon as no living task's birth runs through it.

That alone would let one lineage grow for ever: a daemon that keeps forking its successor and exiting leaves one dead
ancestor for each generation. So chains are contracted as they grow, when a task with a dead creator forks. A dead
ancestor ``d`` may be cut out of ``child -> d -> g`` when ``g`` is dead too and ``d`` cannot matter to a rebuild:

* no task, group or session uses the number of ``d`` any more (else ``d`` must come back as a ghost, in its place), and
* ``g`` could have had the child itself: ``g`` ended in the session that the child was born into; or no living task uses
  that session any more, and then the session of the child's birth does not matter. A session without a living task
  counts as never made.

At most one dead ancestor stays for each session that a living task still uses, so their number is bounded.

A chain may be long all the same, and a fork must not pay for a chain that other tasks have made long. So a fork looks
at `LINKS_AT_ONCE` links from its own creator on, and at as many further ones from the point where an earlier walk has
stopped. Records alone decide how far the walk comes: the same records leave the same chains.
"""

from collections.abc import Callable, Iterable
from typing import Final

from agent.table.objects import Deed, DeedName, Pid, TaskStruct

LINKS_AT_ONCE: Final = 16


def remember(task: TaskStruct, what: DeedName, order: int, value: Pid | int | None) -> None:
    """Note a deed; of each kind only the last one is kept."""
    deeds = task.deeds
    deed: Deed = (what, order, value)
    if deeds is None:
        task.deeds = (deed,)
    else:
        task.deeds = (*(other for other in deeds if other[0] != what), deed)


def is_gone(task: TaskStruct) -> bool:
    """Return True if a task has been released, so that only births refer to it."""
    return task.pid.task is not task


def last_sid(task: TaskStruct) -> Pid | None:
    """Return the last session of a task that is gone, as far as that can still matter."""
    for what, _, value in task.deeds or ():
        if what == "setsid" and isinstance(value, Pid) and value.users:
            return value
    return task.birth_sid


def _is_idle(ancestor: TaskStruct, above: TaskStruct, child: TaskStruct) -> bool:
    if ancestor.pid.users or ancestor.order < 0:
        return False
    session = child.birth_sid
    return session is None or not session.users or last_sid(above) is session


def contract(task: TaskStruct, most: int) -> tuple[list[TaskStruct], TaskStruct | None]:
    """Cut idle ancestors out of the chain above a task, up to its first living ancestor.

    Args:
        task: the start of the walk.
        most: bound of the links to look at.

    Returns:
        The tasks that were changed, and the task from which to go on; None: the walk has come to its end.
    """
    changed: list[TaskStruct] = []
    for _ in range(most):
        creator = task.creator
        if creator is None or not is_gone(creator):
            return changed, None
        above = creator.creator
        if above is not None and is_gone(above) and _is_idle(creator, above, task):
            if above.deeds is not None:  # the setsid of a session that is gone must not seem to precede this birth
                above.deeds = tuple(d for d in above.deeds if not isinstance(d[2], Pid) or d[2].users) or None
            task.creator = above
            changed += (task, above)
        else:
            task = creator
    return changed, task


def reunite(tasks: Iterable[TaskStruct], living: Callable[[Pid], Pid]) -> None:
    """Make births and deeds name the pid objects that live.

    A pid object that seemed free, because some of its users were not known yet, has been entered anew with those users.

    Args:
        tasks: all living tasks; ancestors that are gone are found from there.
        living: gives the living pid object with the identity of another, which may be that one.
    """
    seen: set[TaskStruct] = set()
    for start in tasks:
        task: TaskStruct | None = start
        while task is not None and task not in seen:
            seen.add(task)
            if task.birth_sid is not None:
                task.birth_sid = living(task.birth_sid)
            if task.birth_pgid is not None:
                task.birth_pgid = living(task.birth_pgid)
            if task.deeds is not None:
                task.deeds = tuple(
                    [
                        (what, order, living(value) if isinstance(value, Pid) else value)
                        for what, order, value in task.deeds
                    ]
                )
            task = task.creator
