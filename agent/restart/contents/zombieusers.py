# SPDX-License-Identifier: Apache-2.0
"""The users and groups of zombies, as the images number those of the living.

CRIU's images tell the ids of living tasks, as the tree's user namespace numbers them, and none of zombies. The tree beside
the images tells both as the initial user namespace does. Where the two numbers of every living task are the same, so are
those of zombies. Else a zombie's are known by the image of the namespace, or by a living task of the same user.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from agent.model import Snapshot, Task, TaskState
from agent.restart.contents.images import Images, ProcessImage
from agent.restart.contents.refusals import Refused

_EXITED: Final = (TaskState.ZOMBIE, TaskState.DEAD_LEADER)
_KINDS: Final = ("user", "uid", "uid_map"), ("group", "gid", "gid_map")
"""For each kind of ids: a word, the field of a task and of a creds_entry, and the field of a userns_entry."""


class _TreeIds:
    """The numbers of ids of one kind in the tree's user namespace.

    Args:
        pairs: of living tasks, each id as the initial namespace and as the tree's numbers it.
        extents: the uid_gid_extent of the namespace; none: no image tells them.
    """

    def __init__(self, pairs: Iterable[tuple[int, int]], extents: Iterable[Any]) -> None:
        self._known = dict(pairs)
        self._same = all(outer == inner for outer, inner in self._known.items())
        self._extents = list(extents)
        if any(self._by_extents(outer) != inner for outer, inner in self._known.items()):
            self._extents = []  # they are those of a namespace between

    def inner(self, outer: int) -> int | None:
        """Return the number in the tree's namespace of one in the initial namespace; None: it is not known."""
        if self._same:
            return outer
        return self._known.get(outer, self._by_extents(outer))

    def _by_extents(self, outer: int) -> int | None:
        for each in self._extents:
            if each.lower_first <= outer < each.lower_first + each.count:
                return int(each.first + outer - each.lower_first)
        return None


def numbered(snapshot: Snapshot, images: Images) -> tuple[Snapshot, list[tuple[int, Refused]]]:
    """Return a tree whose zombies have the ids that they have in the tree's user namespace.

    Args:
        snapshot: the tree, with ids of the initial user namespace.
        images: its folder.

    Returns:
        The tree, and what is refused: zombies whose ids are not known there, each with the number of its process.
    """
    refused: list[tuple[int, Refused]] = []
    tasks = list(snapshot.tasks)
    if all(task.state not in _EXITED for task in tasks):
        return snapshot, refused
    for what, name, of_map in _KINDS:
        numbers = _TreeIds(_pairs(snapshot, images.processes, name), _extents(images, of_map))
        for place, task in enumerate(tasks):
            outer = getattr(task, name)
            if task.state not in _EXITED or outer is None:
                continue
            inner = numbers.inner(outer)
            if inner is None:
                pid = snapshot.number(task.pid)
                text = (
                    f"its {what} {outer} is a number of the initial user namespace, and nothing tells that of the tree's: "
                    f"restart without tree.ckpt, which makes zombies the caller's"
                )
                refused.append((pid, Refused("credentials", str(pid), what, text)))
            elif inner != outer:
                tasks[place] = task._replace(uid=inner) if name == "uid" else task._replace(gid=inner)
    return replace(snapshot, tasks=tuple(tasks)), refused


def _pairs(snapshot: Snapshot, processes: Mapping[int, ProcessImage], name: str) -> Iterator[tuple[int, int]]:
    """Yield the id of each living task, as the tree and as the images number it."""
    for task in snapshot.tasks:
        outer, creds = getattr(task, name), _creds(snapshot, processes, task)
        if outer is not None and creds is not None:
            yield int(outer), int(getattr(creds, name))


def _creds(snapshot: Snapshot, processes: Mapping[int, ProcessImage], task: Task) -> Any:
    """Return the creds_entry of a living task; None where the images have none."""
    process = processes.get(snapshot.number(task.tgid))
    core = process.cores.get(snapshot.number(task.pid)) if process is not None and process.lives else None
    if core is None or task.state in _EXITED or not core.thread_core.HasField("creds"):
        return None
    return core.thread_core.creds


def _extents(images: Images, of_map: str) -> Iterator[Any]:
    """Yield the extents of the user namespace that the root is in, if an image tells them."""
    root = next(iter(images.processes.values()), None)
    if root is None or root.ids is None or not root.ids.HasField("user_ns_id"):
        return
    for entry in images.all(f"userns-{root.ids.user_ns_id}.img"):
        yield from getattr(entry, of_map)
