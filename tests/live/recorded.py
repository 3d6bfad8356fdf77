# SPDX-License-Identifier: Apache-2.0
"""Comparison of live snapshots with the same instants out of a recording."""

from typing import NamedTuple

from agent.model import Snapshot, Task
from agent.protocol.client import Client
from agent.recorder.facts import Replayed
from agent.recorder.recording import Recording
from agent.selection import select
from exporters import registry
from exporters.image import checkpoint

_READ = ("tty", "fown", "shares", "argv", "cwd", "env", "details")  # after the cut, or from /proc


class Taken(NamedTuple):
    """A live snapshot.

    Attributes:
        root: number of its root.
        order: the number at which it is true.
        data: its image.
        complete: as the daemon said.
    """

    root: int
    order: int
    data: bytes
    complete: bool


def taken(client: Client, root: int) -> Taken:
    """Take a live snapshot."""
    answer = client.snapshot(str(root), mode="subtree")
    return Taken(root, answer.order, answer.data, answer.complete)


def image_at(replayed: Replayed, live: Snapshot, root: int) -> bytes:
    """Return the image of a tree at an instant; what no record tells is that of the live snapshot."""
    task = replayed.table.task(root)
    assert task is not None, f"process {root} is not there at {replayed.instant}"
    chosen = select.select(task, "subtree")
    read = {each.pid: {name: getattr(each, name) for name in _READ} for each in live.tasks}
    rows: tuple[Task, ...] = tuple(each._replace(**read.get(each.pid, {})) for each in chosen.tasks)
    parts = {name: getattr(live, name) for name in Snapshot.__slots__}
    parts |= {
        "pids": chosen.pids,
        "tasks": rows,
        "namespaces": chosen.namespaces,
        "ancestors": chosen.ancestors,
        "squashed": chosen.squashed,
        "entered": chosen.entered,
    }
    return checkpoint.dumps(Snapshot(**parts))


def different(recording: Recording, snapshots: list[Taken]) -> list[int]:
    """Return the numbers of the snapshots whose image out of the recording has other bytes."""
    found = []
    for each in snapshots:
        live = registry.load(each.data)
        replayed = recording.table_at(recording.at_order(each.order))
        if replayed.reasons or image_at(replayed, live, each.root) != checkpoint.dumps(live):
            found.append(each.order)
    return found
