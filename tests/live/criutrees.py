# SPDX-License-Identifier: Apache-2.0
"""The trees of CRIU's images and of snapshots, in the same words."""

from pathlib import Path
from typing import Any, NamedTuple

from agent.model import Snapshot, TaskState
from exporters.criu import criuschema, imagefolder

STATES = {
    TaskState.RUNNING: criuschema.ALIVE,
    TaskState.STOPPED: criuschema.STOPPED,
    TaskState.ZOMBIE: criuschema.DEAD,
}


class Process(NamedTuple):
    """A process as CRIU has it in its images: numbers of the root's pid namespace.

    Attributes:
        ppid: 0 for the root's parent.
        threads: numbers of all threads, sorted.
        state: CRIU's number.
    """

    ppid: int
    pgid: int
    sid: int
    threads: tuple[int, ...]
    state: int


def dumped_tree(folder: Path) -> dict[int, Process]:
    """Return the tree of a folder of images, by pid."""
    found = {}
    files = imagefolder.ImageFolder(folder)
    for each in imagefolder.entries(files, "pstree.img"):
        entry: Any = each.message
        core: Any = imagefolder.one(files, f"core-{entry.pid}.img")
        state = core.tc.task_state
        # For a zombie criu writes a number of a thread that it never set.
        threads = (entry.pid,) if state == criuschema.DEAD else tuple(sorted(entry.threads))
        found[entry.pid] = Process(entry.ppid, entry.pgid, entry.sid, threads, state)
    return found


def snapshot_tree(snapshot: Snapshot) -> dict[int, Process]:
    """Return the tree of a snapshot in the same words."""
    tasks, number = {task.pid: task for task in snapshot.tasks}, snapshot.number
    threads: dict[int, list[int]] = {}
    for task in snapshot.tasks:
        threads.setdefault(number(task.tgid), []).append(number(task.pid))
    found = {}
    for task in snapshot.tasks:
        if task.pid == task.tgid:
            ppid = number(tasks[task.ppid].tgid) if task.ppid in tasks else 0
            assert task.state is not None
            pid = number(task.pid)
            found[pid] = Process(
                ppid, number(task.pgid), number(task.sid), tuple(sorted(threads[pid])), STATES[task.state]
            )
    return found
