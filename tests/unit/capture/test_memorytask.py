# SPDX-License-Identifier: Apache-2.0
"""The task of a number out of a memory is the one that the whole memory has."""

from pathlib import Path

import pytest

from agent.capture import memoryreader, memorytask, memorywriter
from agent.capture.memoryreader import UnusableMemoryError
from agent.recorder.lifestates import state_of_task
from agent.recorder.recording import Recording
from tests.support.taped import a_recording

_NUMBERS = range(1, 70)


def keyframes(place: Path) -> list[bytes]:
    """Return the keyframes of a recording."""
    return [found for each in Recording(place).segments if (found := each.keyframe()) is not None]


@pytest.mark.parametrize("seed", range(4))
def test_each_task_of_a_memory_has_the_same_state_alone(tmp_path: Path, seed: int) -> None:
    """With threads, zombies, namespaces and numbers that only a group or a session has; and where its parent is guessed."""
    a_recording(tmp_path, seed, marks=0.2)
    found = threads = free = 0
    for data in keyframes(tmp_path):
        table = memoryreader.load(data, memorywriter.TOTALS).table
        for number in _NUMBERS:
            whole = table.task(number)
            for parents in ((), (1,), (number, 7, 4_000_000)):
                alone = memorytask.task_of(data, number, parents)
                if whole is None or alone is None:
                    assert alone is whole, number
                    free += 1
                else:
                    assert state_of_task(alone) == state_of_task(whole), number
                    threads += whole.leader is not whole
                    found += 1

    assert min(found, threads, free) > 20


def test_a_memory_that_is_damaged_has_no_task(tmp_path: Path) -> None:
    """The error is that of a whole memory."""
    a_recording(tmp_path, 1)
    data = bytearray(keyframes(tmp_path)[0])
    data[-20] ^= 1
    with pytest.raises(UnusableMemoryError, match="check sum"):
        memorytask.task_of(bytes(data), 1)
