# SPDX-License-Identifier: Apache-2.0
"""A tree without what the kernel was about to end: the tasks of pid namespaces whose init has exited.

Theory
------
zap_pid_ns_processes() (kernel/pid_namespace.c of Linux 6.18) sends SIGKILL to every task of the namespace and of those
below it, and reaps them; then the init goes on with its exit. A snapshot at an instant between shows tasks that live where
none can be made. The kernel would have left this of them:

* nothing, where the parent is in the namespace, too: the init reaps it, as a child of its own or of a task that it ended;
* a zombie that SIGKILL has ended, where a process outside is the parent, as of a task that entered from there. The init
  waits within its exit until that zombie is reaped.

An init below, which has exited and waits as well, stays where something in its own namespace stays.
"""

from signal import SIGKILL

from agent.model import PidObject, Snapshot, Tag, Task, TaskState, WaitStatus
from agent.record import replace
from agent.restart.planning.cast import Cast, Node
from agent.restart.planning.dropping import rest_of


def without_dying(snapshot: Snapshot) -> tuple[Snapshot, list[Task], list[Task]]:
    """Leave out what the kernel was about to end.

    Returns:
        The rest of the snapshot; the rows of the processes that are left out, without their threads; and the rows of those
        that are zombies now.

    Raises:
        NotRebuildableError: the image does not say in which namespace a pid object is.
    """
    cast = Cast(snapshot)
    dying = {
        space
        for space, init in cast.inits.items()
        if init.task is not None and init.waits_in_exit and init.leader is not cast.top
    }
    if not dying:
        return snapshot, [], []
    gone: list[Node] = []
    killed: list[Node] = []
    waiting: list[Node] = []
    for node in cast.tasks:
        spaces = [space for space in cast.chain(node.space) if space in dying and cast.inits[space] is not node.leader]
        if node.leader is not node or not spaces:
            continue
        parent = node.parent
        if node.waits_in_exit:
            waiting.append(node)
        elif parent is not None and any(space in cast.chain(parent.space) for space in spaces):
            gone.append(node)
        elif not node.exits:
            killed.append(node)
    left = {node for node in cast.tasks if node.leader not in (*gone, *waiting)}
    for init in sorted(waiting, key=lambda each: -cast.level(each.space)):
        if any(init.space in cast.chain(node.space) for node in left):
            left.update((init, *init.threads))
        else:
            gone.append(init)
    tags = {thread.tag for node in gone for thread in (node, *node.threads)}
    tags |= {thread.tag for node in killed for thread in node.threads}
    ended = {node.tag for node in killed}
    tasks = tuple([_ended(task) if task.pid in ended else task for task in snapshot.tasks])
    rest = rest_of(replace(snapshot, tasks=tasks), tags)
    return replace(rest, pids=_above(rest, cast, dying)), _rows(gone), _rows(killed)


def told(rest: Snapshot, gone: list[Task], killed: list[Task]) -> list[str]:
    """Return a line for the user about each process that `without_dying` has left out or ended."""
    ends = "was in a pid namespace that was ending"
    return [
        *(f"task {task.pid} ({rest.number(task.pid)}) {ends}, and is left out" for task in gone),
        *(
            f"task {task.pid} ({rest.number(task.pid)}) {ends}, and is made as a zombie, killed by SIGKILL"
            for task in killed
        ),
    ]


def _above(rest: Snapshot, cast: Cast, dying: set[int]) -> tuple[PidObject, ...]:
    """Return the pid objects, those that no task uses any more with their numbers above the namespaces that end alone.

    A number within such a namespace would keep the init of that waiting. The tags stay those of the image.
    """
    used = {tag for task in rest.tasks for tag in (task.pid, task.tgid, task.pgid, task.sid)}
    found = []
    for tag, pid in rest.tagged():
        outermost = min(
            [cast.level(space) for space in cast.chain(cast.by_tag[tag].space) if space in dying], default=0
        )
        if outermost and tag not in used:
            pid = PidObject(pid.numbers[:outermost], pid.namespaces[:outermost])
        found.append(pid)
    return tuple(found)


def _ended(task: Task) -> Task:
    """Return the row of a process once SIGKILL has ended it."""
    return task._replace(state=TaskState.ZOMBIE, exit_code=WaitStatus(SIGKILL), child_namespace=None)


def _rows(nodes: list[Node]) -> list[Task]:
    rows: dict[Tag, Task] = {node.tag: node.task for node in nodes if node.task is not None}
    return [rows[tag] for tag in sorted(rows)]
