# SPDX-License-Identifier: Apache-2.0
"""The kin of a number: the numbers of the tasks on which its events depend. Records that name none of them are passed over.

Theory
------
What befalls a task depends on its process, its parent, that one's parents up to the init, and the init of its pid
namespace: one of these adopts it when its parent exits. A birth depends on its creator in the same way. So the kin are
closed under these relations. A record that names none of them as its task, process, group or session, nor in a wait,
changes none of them: it may name one as parent or creator, but no event of these depends on their children. A table that
gets the other records alone has the same state of the kin, and whatever of the tasks beside them.

That holds as long as all that changes the table are records, in their order. Losses and sweeps look at all tasks, and the
init of a pid namespace that dies waits for all others there. Where such a thing comes, or a record shows a relative that
is not among the kin, the replay is unfit, and one of all records takes its place. So the kin need only be guessed well.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from agent.errors import CkptreeError
from agent.recorder.blockindex import STEPS, word_at
from agent.recorder.facts import Instant
from agent.recorder.numberrecords import records_of
from agent.recorder.recording import Recording
from agent.recorder.replay import Replayer
from agent.recorder.tape import TapeEntry, TornError
from agent.recorder.tapesegment import TapeSegment
from agent.table import wire
from agent.table.inputs import Input
from agent.table.objects import CLONE_THREAD, PidNamespace, TaskStruct
from agent.table.pidspace import Data
from agent.table.processtable import ProcessTable
from agent.table.stream import Stream
from agent.table.wire import Kind

_MOST: Final = 512
"""Kin beyond which most records name one, so that passing over the others saves little."""

_MOST_BLOCKS: Final = 256
"""Blocks that are looked through for the kin: more take as long as a replay of all records."""

_MOST_READ: Final = 48
"""Blocks that are kept meanwhile, of a mebibyte each."""

_DISCARD: Final = 1 << 30
_RING_HEAD: Final = 8
_WORD: Final = 4
_NUMBER_WORDS: Final = wire.NUMBER.size // _WORD
_KIND: Final = word_at(wire.RECORD, "kind")
_TASK: Final = word_at(wire.RECORD_TASK, "tid")
_OBJECTS: Final = (_RING_HEAD + wire.TASK_BYTES) // _WORD
_END: Final = word_at(wire.RECORD_END, "tid")
_CALLER: Final = word_at(wire.RECORD_CALL, "tid")
_VALUE: Final = word_at(wire.RECORD_CALL, "value")
_STRINGS: Final = word_at(wire.RECORD_STRINGS, "tid")

_LAST_OF_TASK: Final = Kind.STATE.value
_ENDS: Final = (Kind.FREE.value, Kind.RELEASE.value)
_MARKER: Final = Kind.MARKER.value
_CALLS: Final = (Kind.WAITED.value, Kind.REGROUPED.value)
_OF_STRINGS: Final = Kind.STRINGS.value
_RELATIVES: Final = wire.reader(
    wire.RECORD_TASK, "kind", "argument", "pid", "tgid", "tid", "parent_tid", "by_tid"
).unpack_from


Records = Sequence[tuple[bytes, int]]
"""Buffers, and the offsets of records in them."""


class UnfitKinError(CkptreeError):
    """A replay of the records of the kin that cannot go on: one of all records has to take its place."""


class Kin:
    """The kin of a number, and the passing over of the records that name none of them.

    Args:
        numbers: of the kin, in the initial pid namespace. Threads that are born into their processes are added.
    """

    def __init__(self, numbers: set[int]) -> None:
        self.numbers = numbers
        self.last_at = 0

    def picked(self, part: memoryview, stream: Stream) -> Iterator[int]:
        """Yield the offsets in a part of the records that the stream has to take; the others are passed over.

        Records that are not the next ones are the stream's: it knows their order. `last_at` is the last record's offset
        afterwards.
        """
        words, longs = array("I"), array("Q")  # an array tells a word in two thirds of the time that a view takes
        words.frombytes(part)
        longs.frombytes(part)
        kin, steps = self.numbers, STEPS
        word, last, end, following, in_order = 0, 0, len(words), stream.next, not stream.waiting
        while word < end:
            try:
                step = steps[words[word]]
            except IndexError:  # it is discarded
                word += steps[words[word] ^ _DISCARD]
                continue
            last = word
            kind = words[word + _KIND]
            if 0 < kind <= _LAST_OF_TASK:
                picks, other, behind = words[word + _TASK] in kin, word + _OBJECTS, word + step
                while not picks and other < behind:
                    picks = words[other] in kin
                    other += _NUMBER_WORDS
            elif kind == _OF_STRINGS:
                picks = words[word + _STRINGS] in kin
            elif kind in _CALLS:
                picks = words[word + _CALLER] in kin or words[word + _VALUE] in kin
            elif kind in _ENDS:
                picks = words[word + _END] in kin
            else:
                picks = kind != _MARKER  # an answer about one that is gone names it by its address alone
            if in_order and not picks and longs[(word >> 1) + 1] == following:
                following += 1
            else:
                stream.next = following
                yield word * _WORD
                following, in_order = stream.next, not stream.waiting
            word += step
        self.last_at = last * _WORD
        stream.next = following

    def watch(self, stream: Stream) -> None:
        """Have the stream raise UnfitKinError before it takes a record that shows a relative who is not among the kin."""
        for kind, handler in stream.handlers().items():
            if kind <= Kind.STATE:
                stream.handle(kind, self._checked(handler))

    def _checked(self, apply: Callable[[Data, int], None]) -> Callable[[Data, int], None]:
        kin = self.numbers

        def applied(data: Data, at: int) -> None:
            kind, argument, pid, tgid, tid, parent_tid, by_tid = _RELATIVES(data, at)
            if kind == Kind.FORK and argument & CLONE_THREAD and pid != tgid and _process(data, at) in kin:
                kin.add(tid)
            if tid in kin and not {parent_tid, by_tid if kind == Kind.FORK else 0} - {0} <= kin:
                raise UnfitKinError(f"{tid} has relatives that no index tells")
            if kind == Kind.EXIT and tid in kin and _is_of_init(data, at):
                raise UnfitKinError(f"{tid} waits for the end of its pid namespace")
            apply(data, at)

        return applied

    @staticmethod
    def refuse(kind: int, value: int, table: ProcessTable) -> None:
        """Refuse an input beside records that looks at other tasks.

        Raises:
            UnfitKinError: it does.
        """
        if kind == Input.QUESTION:
            return
        # As many questions as there are: which ones came first does not matter.
        if kind == Input.TAKE and len(table.unknown) + len(table.doubts) <= value:
            return
        raise UnfitKinError(f"input {kind} looks at all tasks")

    @staticmethod
    def check(stream: Stream, table: ProcessTable) -> None:
        """Refuse what comes late, and a task that waits for the end of its pid namespace.

        Raises:
            UnfitKinError: there is such a thing.
        """
        if stream.suspect or table.lingering:
            raise UnfitKinError("what comes next depends on all tasks")


def replayer(recording: Recording, places: range, number: int, order: int, about: Records) -> Replayer | None:
    """Return a replay of the records of a number's kin that stands at a number; None where none can.

    Args:
        recording: the recording.
        places: indices of segments each of which joins the one before it.
        number: the number.
        order: a number of the first one of them.
        about: the records about the number in the first one of them.

    Raises:
        NoSuchTimeError: no keyframe before it is whole.
        UnfitKinError: one of all records has to take its place.
    """
    of = recording.segments[places.start]
    replay = recording.replayer(Instant(of.run, of.facts.first, 0, 0, 0), places.start)
    segments = recording.segments[places.start : places.stop]
    if replay.order != of.facts.first or not narrow(replay, segments, number, about):
        return None
    for _ in steps(replay, order):
        pass
    return replay


def narrow(replay: Replayer, segments: list[TapeSegment], number: int, about: Records) -> bool:
    """Have a replay take the records of a number's kin alone; return False where it has to take all.

    Args:
        replay: it stands at the beginning of the segments.
        segments: the segments, each of which joins the one before it.
        number: the number.
        about: the records about it in the first segment.
    """
    stream, table = replay.stream, replay.table
    awaited = (table.orphans, table.leaderless, table.creatorless, table.lingering)  # what other tasks may bring
    if any(awaited) or stream.suspect or table.astray or stream.waiting:
        return False
    kin = found(segments, number, table, about)
    if kin is not None:
        kin.watch(stream)
        replay.narrow(kin)
    return kin is not None


def steps(replay: Replayer, order: int) -> Iterator[TapeEntry]:
    """Go on with a replay, as its `steps` does; what it cannot tell of damage, one of all records does.

    Raises:
        UnfitKinError: one of all records has to take its place.
    """
    try:
        yield from replay.steps(order)
    except TornError as error:
        if replay.is_narrow:
            raise UnfitKinError(str(error)) from error
        raise


def refuse_islands(replay: Replayer) -> None:
    """Refuse to go on behind damage with the records of the kin alone.

    Raises:
        UnfitKinError: the replay has no others.
    """
    if replay.is_narrow:
        raise UnfitKinError("records behind damage are told by all that is known in front of it")


def found(segments: list[TapeSegment], number: int, table: ProcessTable, about: Records) -> Kin | None:
    """Return the kin of a number over segments that join, whose first state a table has; None: they are too many.

    Args:
        segments: the segments.
        number: the number.
        table: as it is at their beginning.
        about: the records about the number in the first segment.
    """
    kin: set[int] = set()
    left, blocks = [number, 1], 0
    read: list[dict[int, bytes]] = [{} for _ in segments]
    while left:
        each = left.pop()
        if each in kin or not each:
            continue
        kin.add(each)
        task = table.task(each)
        if task is not None:
            left += _relatives(task)
        for index, (of, contents) in enumerate(zip(segments, read, strict=True)):
            blocks += len(of.about(each))
            if len(kin) > _MOST or blocks > _MOST_BLOCKS or sum(map(len, read)) > _MOST_READ:
                return None
            for data, at in about if each == number and not index else records_of(of, each, contents):
                if wire.HEAD.unpack_from(data, at)[1] > Kind.STATE:
                    continue
                kind, _, pid, tgid, tid, parent_tid, by_tid = _RELATIVES(data, at)
                if tid != each:
                    continue
                left += [parent_tid, tid if pid == tgid else _process(data, at)]
                if kind == Kind.FORK:
                    left.append(by_tid)
                state = wire.pid_state(data, at, 0)
                if state is not None and any(ns_id not in table.pids.namespaces for ns_id in state.ns_ids[1:]):
                    return None  # its init may be anybody
    return Kin(kin)


def _relatives(task: TaskStruct) -> Iterator[int]:
    """Yield the numbers of a task's process, of its parent, and of the inits of its pid namespaces."""
    for each in task.group():
        yield each.pid.numbers[0]
    parent = task.leader.parent
    if parent is not None:
        yield parent.pid.numbers[0]
    namespace: PidNamespace | None = task.pid.namespace
    while namespace is not None:
        if namespace.reaper is not None:
            yield namespace.reaper.pid.numbers[0]
        namespace = namespace.parent


def _process(data: Data, at: int) -> int:
    """Return the number of the process in a record of a thread; 0: it does not tell."""
    state = wire.pid_state(data, at, 1)
    return state.numbers[0] if state is not None else 0


def _is_of_init(data: Data, at: int) -> bool:
    """Return True if a record is about a thread of the init of a pid namespace below the initial one."""
    states = (wire.pid_state(data, at, 0), wire.pid_state(data, at, 1))
    return any(state is not None and len(state.numbers) > 1 and state.numbers[-1] == 1 for state in states)
