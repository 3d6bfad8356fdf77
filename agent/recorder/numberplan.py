# SPDX-License-Identifier: Apache-2.0
"""The segments of a recording that have to be replayed for the history of a number, and those that need not be.

Theory
------
A task's state changes by records about it, and by what befalls others: its parent exits, a thread of its process execs,
somebody waits for it. The index tells where there are records about it. For all else the states at the keyframes are
compared: a task that is the same one at two of them, with the same parent, did not have another one between, for a parent
that has exited never comes back, but for a leader whose number a thread of its process takes over by an exec. So where both
states are equal, no record between is about the number, and none tells of an exit of the parent, nothing has happened to
the number, be there gaps. Where they differ, the segments between are halved, until those are left in which it happened.

A number that no task has at two keyframes may have had one in a gap, and another gap may have its end. So each first
state behind a gap is looked at.
"""

from collections.abc import Hashable

from agent.capture import memoryreader, memorytask
from agent.capture.memoryreader import UnusableMemoryError
from agent.recorder import lossplan
from agent.recorder.lifestates import state_of_task
from agent.recorder.numberrecords import has_exit
from agent.recorder.recording import Recording
from agent.table import wire


class NumberPlan:
    """The segments of a span that have to be replayed.

    Args:
        recording: the recording.
        number: in the initial pid namespace.
        first, last: indices of the first and the last segment of the span.

    Attributes:
        loud: the indices of the segments that have to be replayed.
        lossy: those of them in which records were lost: a life may be within.
    """

    def __init__(self, recording: Recording, number: int, first: int, last: int) -> None:
        self._segments = recording.segments
        self._number = number
        self._states: dict[int, Hashable] = {}
        self._parents: dict[int, int] = {}
        self._parent = 0
        self._gaps = {recording.place_behind(gap) for gap in recording.seams}
        runs = recording.runs
        self.lossy = lossplan.lossy(recording, first, last)
        self.loud = set(self.lossy)
        begin = first
        for place in range(first, last + 1):
            is_about = bool(self._segments[place].about(number))
            if is_about:
                self._quieten(begin, place)
                self.loud.add(place)
                begin = place + 1
            boots = {runs[self._segments[each].run].boot_id for each in (place, min(place + 1, last))}
            if place == last or len(boots) > 1:
                if begin <= place:
                    self._quieten(begin, place)
                    if self.state(place) is not None:
                        self.loud.add(place)
                begin = place + 1

    def last_of_loud(self, place: int, last: int) -> int:
        """Return the last of the loud segments that follow one, up to another one, without a gap between."""
        while place < last and place + 1 in self.loud and place + 1 not in self._gaps:
            place += 1
        return place

    def state(self, place: int) -> Hashable:
        """Return the state of the task that has the number at the beginning of a segment; None where none has it.

        Where the keyframe is missing or damaged, it is equal to no other one.
        """
        if place not in self._states:
            self._states[place] = self._read(place)
            self._parents[place] = self._parent
        return self._states[place]

    def _quieten(self, first: int, end: int) -> None:
        """Note the loud segments from one on to another one, in none of which a record is about the number."""
        if first >= end:
            return
        one, other = self.state(first), self.state(end)
        if one is None and other is None and self._gaps.isdisjoint(range(first + 1, end + 1)):
            return
        if one is not None and one == other:
            left = [place for place in range(first, end) if has_exit(self._segments[place], self._parents[first])]
            if not left:
                return
            self.loud.update(left)
        if end - first == 1:
            if one != other:
                self.loud.add(first)
            return
        middle = (first + end) // 2
        self._quieten(first, middle)
        self._quieten(middle, end)

    def _read(self, place: int) -> Hashable:
        of = self._segments[place]
        if of.facts.head_bytes != wire.HEAD.size or of.facts.memory not in memoryreader.READS:
            return object()
        keyframe = of.keyframe()
        try:
            task = None if keyframe is None else memorytask.task_of(keyframe, self._number, (self._parent,))
        except UnusableMemoryError:
            keyframe = None
        if keyframe is None:
            return object()
        if task is None:
            return None
        above = task.leader.parent if task.leader is task else task.leader
        self._parent = self._parent if above is None else above.pid.numbers[0]
        return state_of_task(task)
