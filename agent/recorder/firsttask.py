# SPDX-License-Identifier: Apache-2.0
"""The task that has a number at the first state behind a gap, out of the keyframe there, of which little is read.

A history crosses each gap of its span, and a recording may have hundreds, each with the tasks of a whole host behind it.
The first state is that of the keyframe where nothing but looks at the clocks comes before the first record. Else it is
replayed.
"""

from collections.abc import Iterable, Iterator

from agent.capture import memoryreader, memorytask
from agent.capture.memoryreader import UnusableMemoryError
from agent.record import NamedTuple
from agent.recorder import segment, tape
from agent.recorder.facts import Gap, Instant
from agent.recorder.recording import Recording
from agent.recorder.tapesegment import TapeSegment
from agent.table import wire
from agent.table.objects import TaskStruct


class FirstState(NamedTuple):
    """The first state behind a gap.

    Attributes:
        task: the task that has the number; None: none has.
        ahead_ns: by how much CLOCK_REALTIME was ahead of CLOCK_BOOTTIME, ns.
    """

    task: TaskStruct | None
    ahead_ns: int


def first_state(recording: Recording, gap: Gap, number: int, parents: Iterable[int]) -> FirstState | None:
    """Return the first state behind a gap; None where what is there cannot be replayed.

    Args:
        recording: the recording.
        gap: the gap.
        number: the number of the task, in the initial namespace.
        parents: numbers of tasks that may be its parent.

    Raises:
        NoSuchInstantError: there is no whole keyframe.
    """
    place = recording.place_behind(gap)
    if place == len(recording.segments):
        return None
    if (found := _of_keyframe(recording.segments[place], number, parents)) is not None:
        return found
    replay = recording.replayer(Instant(gap.next_run, gap.next, gap.until_ns, 0, 0), place)
    return FirstState(replay.table.task(number), replay.ahead_ns) if replay.order >= gap.next else None


def _of_keyframe(of: TapeSegment, number: int, parents: Iterable[int]) -> FirstState | None:
    """Return the state of a keyframe, if it is that before the first record; None: it has to be replayed."""
    if of.facts.head_bytes != wire.HEAD.size or of.facts.memory not in memoryreader.READS:
        return None
    ahead_ns = of.ahead_ns
    for entry in _entries(of):
        if entry is None or entry.kind not in (tape.CLOCK, tape.PART, tape.END):
            return None
        if entry.kind != tape.CLOCK:
            break
        ahead_ns = entry.value - entry.ns
    try:
        keyframe = of.keyframe()
        return None if keyframe is None else FirstState(memorytask.task_of(keyframe, number, parents), ahead_ns)
    except UnusableMemoryError:
        return None


def _entries(of: TapeSegment) -> Iterator[tape.TapeEntry | None]:
    """Yield the entries of a segment's tape, and None where it is damaged."""
    for block in of.blocks:
        content = None if block is None else of.content(block) if block.kind == segment.TAPE else b""
        if content is None:
            yield None
            return
        yield from tape.entries(content)
