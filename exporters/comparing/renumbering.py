# SPDX-License-Identifier: Apache-2.0
"""The numbers that a rebuild gave to the tasks of an image: the map that `restart --no-pids --json` prints.

    {"root": PID, "tasks": [{"tag": T, "pid": PID, "numbers": [...]}, ...]}

The map has one entry for each task of the image, `numbers` from the rebuilt root's namespace inward. A pid object
without a task has no entry. Its number is found in a snapshot of the rebuilt tree: as the group, session or thread
group of a task.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from agent.errors import FormatError, UsageError
from agent.model import PidObject, Snapshot, Tag, Task
from agent.record import replace
from exporters.content.fields import Fields
from exporters.content.soundness import PID_NUMBER_MAX

Map: TypeAlias = Mapping[int, tuple[int, ...]]
"""The numbers of each tag."""


def parse(data: bytes) -> Map:
    """Read a map.

    Raises:
        FormatError: the bytes are no map.
    """
    try:
        from exporters.documents import jsonfmt  # takes time, and few comparisons have a map

        document = jsonfmt.parse(data, "map")
    except FormatError as error:
        said = f"is not the line that `restart --no-pids --json` prints: it {error.message}"
        raise FormatError("map", said, error.offset) from error
    if not isinstance(document, dict):
        raise FormatError("map", "is not the line that `restart --no-pids --json` prints: it is no object")
    found: dict[int, tuple[int, ...]] = {}
    for entry in Fields(document, "map").maps("tasks"):
        tag = entry.integer("tag", 1, 2**31 - 1)
        numbers = entry.integers("numbers", 1, PID_NUMBER_MAX)
        if tag in found:
            raise FormatError(entry.at("tag"), f"{tag} is there twice")
        if not numbers:
            raise FormatError(entry.at("numbers"), "is empty")
        found[tag] = numbers
    return found


def renumbered(image: Snapshot, numbers: Map, rebuilt: Snapshot) -> Snapshot:
    """Return an image with the numbers of the tree that was rebuilt from it.

    Args:
        image: the snapshot that was rebuilt.
        numbers: the map that the rebuild printed.
        rebuilt: a snapshot of the rebuilt tree.

    Raises:
        FormatError: the map belongs to another image.
        UsageError: the map belongs to another rebuild: no pid of `rebuilt` has one of its numbers.
    """
    tasks = {task.pid for task in image.tasks}
    for tag in sorted(numbers.keys() ^ tasks):
        said = "has no entry for a task of A" if tag in tasks else "has an entry for a tag that is no task of A"
        raise FormatError("map", f"{said}: tag {tag}. It is the map of another image")
    known = dict(numbers)
    standing = {rebuilt.pids[task.pid - rebuilt.first_tag].numbers: task for task in rebuilt.tasks}
    taken = set(numbers.values())
    if standing.keys().isdisjoint(taken):
        raise UsageError("--map: no pid of the map is in B: it is the map of another rebuild, take that of B's")
    for task in image.tasks:
        other = standing.get(numbers[task.pid])
        for tag, theirs in zip(_others(task), _others(other), strict=True) if other is not None else ():
            pid = rebuilt.pid(theirs)
            if tag >= image.first_tag and tag not in known and pid is not None and pid.numbers not in taken:
                known[tag] = pid.numbers
                taken.add(pid.numbers)
    pids = []
    for tag, pid in image.tagged():
        given = known.get(tag, pid.numbers)
        pids.append(PidObject(given, pid.namespaces if len(given) == len(pid.namespaces) else ()))
    return replace(image, pids=tuple(pids))


def _others(task: Task) -> Sequence[Tag]:
    return task.tgid, task.pgid, task.sid
