# SPDX-License-Identifier: Apache-2.0
"""Doubts that later records settle, compared with what a simulated kernel really had at the instant."""

from collections import Counter
from pathlib import Path

import pytest

from agent.recorder import hindsight
from agent.recorder.facts import Instant
from agent.recorder.hindsight import Hindsight
from agent.recorder.recording import Recording
from agent.table import departure
from agent.table.objects import TaskStruct
from tests.support.kernelobjects import Thread
from tests.support.kernelsim import Kernel
from tests.support.taped import Taped

Key = tuple[int, int]


def there(kernel: Kernel) -> dict[Key, Thread]:
    """Return the tasks of a kernel by number and birth."""
    return {(thread.tid, thread.start_ns): thread for thread in kernel.threads}


def facts_of(thread: Thread) -> tuple[int, int, int, bool]:
    """Return parent, group and session of a kernel's task, and True while its parent is within its exit."""
    parent = thread.group.parent
    assert parent is not None
    return parent.tid, thread.group.pgid.numbers[0], thread.group.sid.numbers[0], parent.exiting


def told_of(task: TaskStruct) -> tuple[int, int, int]:
    """Return what a table tells of the same."""
    leader = task.leader
    assert leader.parent is not None
    assert leader.pgid is not None
    assert leader.sid is not None
    return leader.parent.pid.numbers[0], leader.pgid.numbers[0], leader.sid.numbers[0]


@pytest.mark.parametrize("tells_release", [False, True])
def test_what_is_settled_was_so(tmp_path: Path, tells_release: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Each zombie was there; each doubtful task had the parent, the group and the session that the table has."""
    counts = Counter[str]()
    for seed in range(8):
        place = tmp_path / str(seed)
        place.mkdir()
        taped = Taped(place, seed)
        taped._kernel.tells_release = tells_release
        truths: dict[int, dict[Key, tuple[int, int, int, bool] | None]] = {}
        taped.mark(continues=False)
        for _ in range(60):
            taped.step()
            now = there(taped._kernel)
            truths[taped.truths[-1].order] = {
                key: facts_of(each) if each.group.parent is not None else None for key, each in now.items()
            }
        taped.end()
        recording = Recording(place)
        for order, truth in truths.items():
            instant = Instant(0, order, 0, 0, 0)
            found = recording.table_at(instant)
            table = found.table
            doubtful = [each for each in table.tasks() if each in table.doubts or departure.may_vanish(each)]
            seen = Hindsight(table, doubtful)
            seen.look(hindsight.later(recording.entries(instant), order))
            counts["left"] += len(doubtful) - len(seen.settled)
            for task in seen.settled:
                key = task.pid.numbers[0], task.start_ns
                kind = "doubts" if task in table.doubts else "zombies"
                counts[kind] += 1
                assert key in truth, (seed, order, key, kind)
                real = truth[key]
                if kind == "doubts" and real is not None and not real[-1]:
                    assert told_of(task) == real[:3], (seed, order, key)
    assert counts["zombies"] > 5
    assert counts["doubts"] > 1
    assert counts["left"] > 5
