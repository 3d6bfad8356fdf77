# SPDX-License-Identifier: Apache-2.0
"""Events that recordings of a simulated kernel tell, and such a recording with gaps."""

from pathlib import Path
from typing import Any

from agent.recorder.past import Enquirer
from agent.recorder.recording import Recording
from agent.recorder.retelling import EventSpan, Retelling
from tests.support.taped import Taped

Said = dict[str, Any]


def told(recording: Recording, span: EventSpan, enquirer: Enquirer | None = None) -> list[Said]:
    """Return the events of a span."""
    return [each for batch in Retelling(recording, span, enquirer or Enquirer()).batches() for each in batch]


def whole(recording: Recording) -> EventSpan:
    """Return a span from the beginning to the end, with the tasks that there are at the beginning."""
    return EventSpan(recording.runs[0].first, recording.runs[-1].last, arguments=True, present=True)


def in_pieces(place: Path, seed: int) -> Recording:
    """Make a recording with gaps in which things happen, and no loss."""
    taped = Taped(place, seed)
    taped.mark(continues=False)
    for step in range(40):
        if step % 10 == 9:
            taped.step(heard=False)
            taped.mark(continues=False, why="the writer fell behind")
        else:
            taped.step()
    taped.end()
    return Recording(place)
