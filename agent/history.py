# SPDX-License-Identifier: Apache-2.0
"""Births, and the dead that births run through.

Theory
------
Every task holds its creator, so the chain of creators is kept alive by the tasks below it: an ancestor that is gone
stays in memory exactly as long as some living task's birth runs through it, and Python's reference count lets it go.

That alone would let one lineage grow for ever: a daemon that keeps forking its successor and exiting leaves one dead
ancestor for each generation. So chains are contracted as they grow, when a task with a dead creator forks. A dead
ancestor ``d`` may be cut out of ``child -> d -> g`` when ``g`` is dead too and ``d`` cannot matter to a rebuild:

* nobody uses its number any more (else it must come back as a ghost, in its place), and
* ``g`` could have had the child itself: it ended in the session that the child was born into; or no living task uses that
  session any more, and then it is all one where the child was born. A session that nobody living uses counts as never
  having been made.

What stays is at most one dead helper for each session that a living task still uses: bounded by the living.

A chain may be long all the same, and whoever made it long is not the one who pays for the walk. So a fork looks at
`LINKS_AT_ONCE` links from its own creator on, and at as many further ones from where an earlier walk has stopped. Records
alone decide how far the walk comes: the same records leave the same chains.
"""

from collections.abc import Callable, Iterable
from typing import Final

from agent.objects import Deed, DeedName, Pid, Task

LINKS_AT_ONCE: Final = 16


def remember(task: Task, what: DeedName, order: int, value: Pid | int | None) -> None:
    """Note a deed; of each kind the last one counts."""
    deeds = task.deeds
    deed: Deed = (what, order, value)
    if deeds is None:
        task.deeds = (deed,)
    else:
        task.deeds = (*(other for other in deeds if other[0] != what), deed)


def is_gone(task: Task) -> bool:
    """It has been released: only births know it."""
    return task.pid.task is not task


def last_sid(task: Task) -> Pid | None:
    """The session that a task which is gone ended in, as far as that can still matter."""
    for what, _, value in task.deeds or ():
        if what == "setsid" and isinstance(value, Pid) and value.users:
            return value
    return task.birth_sid


def _is_idle(ancestor: Task, above: Task, child: Task) -> bool:
    if ancestor.pid.users or ancestor.order < 0:
        return False
    session = child.birth_sid
    return session is None or not session.users or last_sid(above) is session


def contract(task: Task, most: int) -> tuple[list[Task], Task | None]:
    """Cut idle ancestors out of the chain above a task, up to its first living ancestor.

    Args:
        task: where to begin.
        most: how many links to look at.

    Returns:
        The tasks that were changed, and the one where to go on; None: the walk has come to its end.
    """
    changed: list[Task] = []
    for _ in range(most):
        creator = task.creator
        if creator is None or not is_gone(creator):
            return changed, None
        above = creator.creator
        if above is not None and is_gone(above) and _is_idle(creator, above, task):
            if above.deeds is not None:  # what a dead session's leader did must not seem to come before this birth
                above.deeds = tuple(d for d in above.deeds if not isinstance(d[2], Pid) or d[2].users) or None
            task.creator = above
            changed += (task, above)
        else:
            task = creator
    return changed, task


def reunite(tasks: Iterable[Task], living: Callable[[Pid], Pid]) -> None:
    """Have births and deeds name the pid objects that live.

    One that nobody seemed to use any more, while not all of its users were known, is entered anew with these.

    Args:
        tasks: all of them; who is gone is found from there.
        living: the pid object that lives under the identity of another, which may be that one.
    """
    seen: set[Task] = set()
    for start in tasks:
        task: Task | None = start
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
