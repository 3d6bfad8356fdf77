# SPDX-License-Identifier: Apache-2.0
"""Comparison of live snapshots with the same instants out of a recording."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Final, NamedTuple

from agent.capture import memoryreader, memorywriter
from agent.capture.memorywriter import Memory
from agent.model import Snapshot, Task
from agent.protocol.client import Client
from agent.recorder.recording import Recording
from agent.recorder.replay import Replayer
from agent.selection import select
from agent.table.processtable import ProcessTable
from exporters import registry
from exporters.image import checkpoint
from tests.support.memorydiff import differences

ALL: Final = 2**65
"""A number that no record has."""
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


def image_at(table: ProcessTable, live: Snapshot, root: int) -> bytes:
    """Return the image of a tree in a table of the past; what no record tells is that of the live snapshot."""
    task = table.task(root)
    if task is None:
        return b""
    chosen = select.select(task, "subtree")
    read = {each.pid: {name: getattr(each, name) for name in _READ} for each in live.tasks}
    rows: tuple[Task, ...] = tuple(each._replace(**read.get(each.pid, {})) for each in chosen.tasks)
    parts = {name: getattr(live, name) for name in Snapshot.__match_args__}
    parts |= {
        "pids": chosen.pids,
        "tasks": rows,
        "namespaces": chosen.namespaces,
        "ancestors": chosen.ancestors,
        "squashed": chosen.squashed,
        "entered": chosen.entered,
    }
    return checkpoint.dumps(Snapshot(**parts))


def differs(table: ProcessTable, each: Taken) -> bool:
    """Return True if the tree of a snapshot has another image in a table of the past."""
    live = registry.load(each.data)
    return image_at(table, live, each.root) != checkpoint.dumps(live)


def different(recording: Recording, snapshots: Sequence[Taken], *, alone: int = 100) -> list[str]:
    """Return a line for each complete snapshot whose image out of the recording has other bytes.

    Args:
        recording: of the daemon that has taken them.
        snapshots: in the order of their numbers.
        alone: of so many, one is also replayed from the keyframe before it.
    """
    wanted = [each for each in snapshots if each.complete]
    found = []
    replayer = recording.replayer(recording.at_order(wanted[0].order)) if wanted else None
    for number, each in enumerate(wanted):
        instant = recording.at_order(each.order) if not number % alone else None
        if instant is not None and differs(recording.table_at(instant).table, each):
            found.append(f"#{each.order}, from the keyframe before it")
        if replayer is not None:
            replayer.advance(each.order)
            if replayer.order != each.order:
                found.append(f"#{each.order}: the replay ends at #{replayer.order}")
            elif differs(replayer.table, each):
                found.append(f"#{each.order}")
    return found


def unlike(recording: Recording) -> list[str]:
    """Return the differences of the keyframes from replays of the segments before them, to the end of each of these.

    A replay to a *number* goes further: what the daemon did from the keyframe on until that record came has its effect, and
    a record that has come too early is held back. So it is no measure of a keyframe.

    What sweeps have noted of ties is left out, for no record tells it. The text of arguments is not kept, as in the daemon.
    Where there are differences, the folder is kept beside those of the tests, and named.
    """
    found = []
    for before, behind in zip(recording.segments, recording.segments[1:], strict=False):
        first, second = before.keyframe(), behind.keyframe()
        if first is None or second is None or not behind.joins(before):
            continue
        tapes = [before.content(block) or b"" for block in before.tapes]
        replayer = Replayer(first, tapes, before.facts.boottime_ns, before.ahead_ns)
        replayer.table.keeps_text = False
        replayer.advance(ALL)
        found += [f"the keyframe of segment {behind.facts.sequence}: {each}" for each in beside(second, replayer)]
    if found:
        kept = Path(mkdtemp(prefix="ckptree-unlike-"))
        shutil.copytree(recording.folder, kept, dirs_exist_ok=True)
        found.append(f"the recording is kept in {kept}")
    return found


def beside(keyframe: bytes, replayer: Replayer) -> list[str]:
    """Return the differences of a keyframe (first) from a replay (second), but for what sweeps have noted of ties."""
    told = memoryreader.load(keyframe, memorywriter.TOTALS)
    replayed = Memory(told.place, told.totals, replayer.table, replayer.stream)
    for memory in (told, replayed):
        memory.table.noted = {}
    if memorywriter.dump(told) == memorywriter.dump(replayed):
        return []
    return differences(told, replayed) or ["the same objects, in another order"]
