# SPDX-License-Identifier: Apache-2.0
"""The index of a segment saves reading and changes no answer: for random recordings, whole, old and damaged ones."""

import random
import shutil
from array import array
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agent.errors import CkptreeError
from agent.recorder import blockindex, folder, segment, tape
from agent.recorder.history import NumberHistory
from agent.recorder.past import Enquirer
from agent.recorder.recording import Recording
from agent.recorder.tapesegment import TapeSegment
from agent.table import wire
from agent.table.inputs import Input
from agent.table.wire import Kind
from tests.bench import longrecording
from tests.support.examples import examples
from tests.support.records import RecordWriter, a_state, nonsense
from tests.support.simwatch import part_of
from tests.support.taped import a_recording

_HIGHEST = 62
"""Above any number of a simulated kernel (tests.support.taped)."""


def lives(recording: Recording, number: int) -> Any:
    """Return the lives of a number, or the error that there are none."""
    span = recording.runs[0].first, recording.runs[-1].last
    try:
        return NumberHistory(recording, span, number, Enquirer()).lives()
    except CkptreeError as error:
        return str(error)


def histories(place: Path) -> list[Any]:
    """Return the lives of all numbers."""
    recording = Recording(place)
    return [lives(recording, number) for number in range(1, _HIGHEST)]


def indexed(recording: Recording) -> list[TapeSegment]:
    """Return the segments that have an index."""
    return [each for each in recording.segments if each.index() is not None]


def cut(path: Path) -> None:
    """Take the index off a segment, as a program has written it that knew none."""
    facts, begin = segment.read_head(path.read_bytes())
    blocks = [block for block in TapeSegment(path, facts, begin, 0).blocks if block is not None]
    ends = [block.begin for block in blocks if block.kind == segment.INDEX]
    with path.open("r+b") as file:
        file.truncate(ends[0] if ends else path.stat().st_size)


def numbers_of(entries: bytes) -> "array[int] | None":
    """Return the numbers of a tape, behind which are bytes of another."""
    return blockindex.numbers_of(array("I", entries + b"\x03" * 64), len(entries) // 4)


def index_of(each: TapeSegment) -> segment.Block:
    """Return the block of a segment's index."""
    (found,) = [block for block in each.blocks if block is not None and block.kind == segment.INDEX]
    return found


def stored(kind: int, content: bytes, like: segment.Block) -> bytes:
    """Return a block as it is stored, with the numbers and times of another one."""
    numbers, times_ns = (like.first, like.next), (like.first_ns, like.last_ns, like.ahead_ns)
    return b"".join(map(bytes, segment.block(kind, content, len(content), numbers, times_ns, segment.PLAIN)))


def told_of(data: bytes) -> Iterator[int]:
    """Yield the numbers that the records of a tape are about, field by field."""
    for entry in tape.entries(data):
        at = 0
        while entry.kind == tape.PART and at < len(entry.payload):
            begin, flags = at + 8, int.from_bytes(entry.payload[at : at + 4], "little")
            length, discarded = flags & ((1 << 30) - 1), flags >> 30 & 1
            kind = wire.HEAD.unpack_from(entry.payload, begin)[1]
            if discarded:
                pass
            elif kind <= Kind.STATE:
                yield wire.TaskRecord(*wire.TASK.unpack_from(entry.payload, begin)).tid
                process = wire.pid_state(entry.payload, begin, 1)
                if process is not None and kind in (Kind.SESSION, Kind.GROUP, Kind.SUBREAPER):
                    yield process.numbers[0]
            elif kind == Kind.WAITED:
                yield wire.CALL.unpack_from(entry.payload, begin)[-1]
            elif kind == Kind.STRINGS:
                yield wire.reader(wire.RECORD_STRINGS, "tid").unpack_from(entry.payload, begin)[0]
            elif kind in (Kind.GONE, Kind.FREE, Kind.RELEASE):
                yield wire.END.unpack_from(entry.payload, begin)[-2]
            at = begin + tape.padded(length)


def a_record(writer: RecordWriter, kind: Kind, chance: random.Random) -> bytes:
    """Return a record of a kind, with random contents and, where it may have any, a random length."""
    if kind is Kind.MARKER:
        return writer.marker()
    if kind in (Kind.WAITED, Kind.REGROUPED):
        return writer.call(kind, 1, 5, chance.randint(1, 9))
    if kind is Kind.STRINGS:
        text = chance.randbytes(chance.choice([0, 7, 8, 121, wire.KEPT_BYTES]))
        return writer.strings(0, tid=chance.randint(1, 9), start_ns=1, text=text, kept=True)
    return nonsense(writer, kind, chance.getrandbits(32))


@pytest.mark.parametrize("seed", range(6))
def test_a_history_is_the_same_with_and_without_an_index(tmp_path: Path, seed: int) -> None:
    """In recordings with gaps, losses, swapped records, threads and namespaces."""
    a_recording(tmp_path, seed, steps=40)
    with_index = histories(tmp_path)
    assert len(indexed(Recording(tmp_path))) == len(folder.stored(tmp_path))
    for each in folder.stored(tmp_path):
        cut(each.path)
    assert not indexed(Recording(tmp_path))
    assert histories(tmp_path) == with_index
    assert sum(isinstance(each, list) for each in with_index) > 10


def needed(recording: Recording, number: int, life: list[dict[str, Any]]) -> tuple[set[int], set[int]]:
    """Return the offsets of the blocks of the tape and the places of the keyframes without which a life is not known.

    Of each segment that has records about the number: its keyframe, and the tape from there up to the last of those
    records, or to the end of the life. Of each row of other segments: the keyframes at its beginning and behind it.
    For the losses of the span: the first keyframe and the last one, and the tape behind that.
    """
    ends = max(event["order"] for event in life)
    about = [[block for block, _ in each.about(number)] for each in recording.segments]
    places = [place for place, blocks in enumerate(about) if blocks]
    tapes: set[int] = set()
    for place in places:
        each = recording.segments[place]
        last = max(about[place][-1].first, min(ends, each.next - 1))
        tapes.update(1000 * place + block.number for block in each.tapes if block.first <= last)
    last = len(about) - 1
    tapes.update(1000 * last + block.number for block in recording.segments[last].tapes)
    keyframes = {0, *places, last}
    for before, behind in pairwise([-1, *places, last + 1]):
        if behind - before > 1:
            keyframes |= {before + 1, min(behind, last)}
    return tapes, keyframes


def test_only_what_a_life_cannot_be_known_without_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other block, and none more than three times: to find losses and the records about the number, and to replay it."""
    longrecording.make(tmp_path, 250_000, 100, interval=50_000)
    read: list[tuple[int, int, int]] = []
    content = TapeSegment.content

    def counted(self: TapeSegment, block: segment.Block) -> bytes | None:
        read.append((block.kind, self.facts.sequence - 1, block.number))
        return content(self, block)

    recording = Recording(tmp_path)
    monkeypatch.setattr(TapeSegment, "content", counted)
    for number in (700, 2000, 20_000, 40_000):
        read.clear()
        (life,) = lives(recording, number)
        assert [life[0]["event"], life[-1]["event"]] == ["birth", "reap"]
        tapes = Counter(1000 * place + block for kind, place, block in read if kind == segment.TAPE)
        keyframes = Counter(place for kind, place, _ in read if kind == segment.KEYFRAME)
        needed_tapes, needed_keyframes = needed(recording, number, life)
        assert set(tapes) == needed_tapes
        assert set(keyframes) == needed_keyframes
        assert max(*tapes.values(), *keyframes.values()) <= 3


@pytest.mark.parametrize("seed", range(4))
def test_an_index_has_the_numbers_that_the_records_are_about(tmp_path: Path, seed: int) -> None:
    """No more and no less, for each block."""
    a_recording(tmp_path, seed, steps=30)
    met = set()
    for each in Recording(tmp_path).segments:
        rows = each.index()
        assert rows is not None
        assert [(row.at, row.check) for row in rows] == [(block.begin, block.check) for block in each.tapes]
        for row, block in zip(rows, each.tapes, strict=True):
            content = each.content(block)
            assert content is not None
            numbers = sorted(set(told_of(content)))
            assert list(row.numbers) == numbers
            met.update(numbers)
    assert len(met) > 10


def test_a_call_that_a_thread_makes_for_its_process_is_about_both() -> None:
    """A process that lives on two levels, its group led by another one."""
    writer = RecordWriter()
    process, thread, group = a_state((400, 4), (0, 9)), a_state((401, 5), (0, 9)), a_state((300,), (0,))
    roles = ((11, thread), (10, process), (12, group), (12, group))
    records = [writer.task(kind, roles=roles, tid=401) for kind in (Kind.SESSION, Kind.STATE)]
    found = [numbers_of(tape.pack(tape.PART, 1, 1, part_of([each]))) for each in records]
    assert found == [array("I", (400, 401)), array("I", (401,))]


@pytest.mark.parametrize("seed", range(examples(20)))
def test_the_numbers_are_those_of_the_records_whatever_their_kinds_and_lengths(seed: int) -> None:
    """All kinds with random contents, strings of any length, some records discarded, calls of the daemon between parts."""
    chance = random.Random(seed)
    writer, tapes = RecordWriter(), []
    for _ in range(chance.randint(1, 8)):
        records = []
        for kind in chance.choices([*Kind], k=chance.randint(0, 60)):
            part = bytearray(part_of([a_record(writer, kind, chance)]))
            part[3] |= (chance.random() < 0.1) << 6
            records.append(bytes(part))
        tapes.append(tape.pack(tape.PART, writer.seq, 1, b"".join(records)))
        tapes.append(tape.pack(Input.GIVE_UP, chance.randint(1, 99)))
    entries = b"".join(tapes)
    assert numbers_of(entries) == array("I", sorted(set(told_of(entries))))


def test_the_longest_record_is_indexed_and_a_longer_one_is_none() -> None:
    """A tape that has one is of no daemon, so its segment gets no index."""
    deepest = tuple(range(1, wire.MAX_LEVELS + 1))
    roles = [(number, a_state(deepest, deepest)) for number in range(1, 5)]
    writer = RecordWriter()
    longest = [writer.task(Kind.FORK, roles=(roles[0], roles[1], roles[2], roles[3]), tid=7)]
    longest.append(writer.strings(0, tid=8, start_ns=1, text=bytes(wire.KEPT_BYTES), kept=True))
    assert numbers_of(tape.pack(tape.PART, 2, 1, part_of(longest))) == array("I", (7, 8))
    assert numbers_of(tape.pack(tape.PART, 1, 1, part_of([longest[1] + bytes(8)]))) is None


def test_a_record_that_was_discarded_is_about_no_number() -> None:
    """The ring has its bytes all the same, whatever they are."""
    record = bytearray(part_of([b"\xff" * 48]))
    record[3] |= 1 << 6
    assert numbers_of(tape.pack(tape.PART, 1, 1, bytes(record))) == array("I")
    assert numbers_of(tape.pack(tape.PART, 1, 1, part_of([b"\xff" * 48]))) is None


def test_a_damaged_index_changes_no_answer(tmp_path: Path) -> None:
    """Each history is that of the whole recording, wherever a bit of an index, or of the place of one, is flipped."""
    place = tmp_path / "whole"
    place.mkdir()
    a_recording(place, 3, steps=30)
    expected = histories(place)
    chance = random.Random(5)
    spoiled = 0
    for number in range(examples(25)):
        target = tmp_path / str(number)
        shutil.copytree(place, target)
        victim = chance.choice(indexed(Recording(target)))
        own = [block for block in victim.blocks if block is not None and block.kind in (segment.INDEX, segment.PLACE)]
        block = chance.choice(own)
        data = bytearray(victim.path.read_bytes())
        data[chance.randrange(block.begin, block.end)] ^= 1 << chance.randrange(8)
        victim.path.write_bytes(data)
        spoiled += len(indexed(Recording(target))) < len(folder.stored(target))
        assert histories(target) == expected
    assert spoiled == examples(25)


def test_an_index_of_another_segment_does_not_count(tmp_path: Path) -> None:
    """Whole as it is: it would hide what it does not have."""
    a_recording(tmp_path, 2, runs=1, steps=40)
    expected = histories(tmp_path)
    first, second = indexed(Recording(tmp_path))[:2]
    data, block = first.path.read_bytes(), index_of(first)
    moved = second.content(index_of(second))
    assert moved is not None
    first.path.write_bytes(
        data[: block.begin]
        + stored(segment.INDEX, moved, block)
        + stored(segment.PLACE, blockindex.PLACE.pack(block.begin), block)
    )
    assert Recording(tmp_path).segments[0].index() is None
    assert histories(tmp_path) == expected


def test_an_index_over_other_blocks_does_not_count(tmp_path: Path) -> None:
    """A row whose block has another check sum makes all blocks be read."""
    a_recording(tmp_path, 2, runs=1, steps=40)
    expected = histories(tmp_path)
    for each in indexed(Recording(tmp_path)):
        rows, block, data = each.index() or [], index_of(each), each.path.read_bytes()
        wrong = [row._replace(check=row.check ^ 1, numbers=array("I", row.numbers)) for row in rows]
        content = blockindex.pack(wrong, segment.facts_check(data))
        each.path.write_bytes(
            data[: block.begin]
            + stored(segment.INDEX, content, block)
            + stored(segment.PLACE, blockindex.PLACE.pack(block.begin), block)
        )
    assert indexed(Recording(tmp_path))
    assert histories(tmp_path) == expected
