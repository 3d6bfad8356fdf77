# SPDX-License-Identifier: Apache-2.0
"""A time about which a recording cannot be sure is named as one, and times behind damage are true."""

from pathlib import Path
from typing import Any

from agent.errors import CkptreeError
from agent.recorder import folder, segment
from agent.recorder.history import NumberHistory
from agent.recorder.past import Enquirer
from agent.recorder.recording import Recording
from agent.recorder.retelling import EventSpan, Retelling
from agent.table.objects import CLONE_THREAD
from tests.support.programs import make
from tests.support.taped import Taped

_SECOND_NS = 1_000_000_000


def reasons_at(recording: Recording, time_ns: int) -> tuple[str, ...]:
    """Return the reasons why the state at a time is uncertain."""
    return recording.table_at(recording.at_time(time_ns)).reasons


def test_a_time_between_a_record_and_the_loss_of_the_next_one_is_uncertain(tmp_path: Path) -> None:
    """No record tells when the lost one happened, and a sweep has mended the table since."""
    taped = Taped(tmp_path, 3)
    taped.mark(continues=False, why="the daemon began")
    taped.step()
    taped.rest(_SECOND_NS)
    between_ns, lost = taped.time_ns, taped.next
    taped.rest(_SECOND_NS)
    make(taped.kernel, ("fork", 0, 0))
    taped._probes.ring.records.clear()
    taped._watch.stream.give_up_below(taped.kernel.writer.seq)
    taped._watch._trust()  # as a sweep does, and the next line
    taped._watch.table.strike_off(taped.next)
    taped.rest(_SECOND_NS)
    taped.clock()
    behind_ns = taped.time_ns
    taped.end()
    recording = Recording(tmp_path)

    assert reasons_at(recording, behind_ns) == ()
    (reason,) = reasons_at(recording, between_ns)
    assert reason.startswith(f"#{lost} to #")
    assert "were lost: nothing tells if that was before this instant" in reason


def blocks_of(path: Path) -> tuple[bytes, list[segment.Block]]:
    """Return the bytes of a whole segment, and the blocks of its tape."""
    data = path.read_bytes()
    _, begin = segment.read_head(data)
    found = [block for block in segment.blocks(data, begin) if block is not None]
    return data, [block for block in found if block.kind == segment.TAPE]


def a_clock_that_was_set(place: Path, *, back_s: int) -> tuple[int, int]:
    """Make a recording in whose second block the clock is set back; return a time shown twice, and the later number."""
    taped = Taped(place, 5)
    taped.mark(continues=False, why="the daemon began")
    taped.step()
    taped.rest(_SECOND_NS)
    taped.step()
    taped.flush()
    taped.rest(_SECOND_NS)
    taped.clock(by_ns=-back_s * _SECOND_NS)
    taped.step()
    taped.rest(_SECOND_NS)
    found = taped.time_ns, taped.next
    taped.step()
    taped.end()
    return found


def test_a_time_that_a_missing_end_may_have_shown_again_is_named(tmp_path: Path) -> None:
    """The index tells that there was more."""
    time_ns, order = a_clock_that_was_set(tmp_path, back_s=2)
    assert Recording(tmp_path).at_time(time_ns).order == order
    (stored,) = folder.stored(tmp_path)
    data, tapes = blocks_of(stored.path)
    behind = tapes[-1].end
    begin = next(block.begin for block in tapes if block.last_ns > tapes[0].last_ns)
    stored.path.write_bytes(data[:begin] + data[behind:])

    try:
        found = reasons_at(Recording(tmp_path), time_ns)
    except CkptreeError as error:
        found = (str(error),)
    assert found


def test_a_clock_set_in_a_damaged_end_without_records_is_in_a_gap(tmp_path: Path) -> None:
    """All records are there, and the events say that something else is not."""
    taped = Taped(tmp_path, 5)
    taped.mark(continues=False, why="the daemon began")
    taped.step()
    taped.flush()
    taped.rest(_SECOND_NS)
    taped.clock(by_ns=9 * _SECOND_NS)
    taped.flush()
    taped.mark(continues=True)
    taped.rest(_SECOND_NS)
    taped.end()
    first = folder.stored(tmp_path)[0].path
    data, tapes = blocks_of(first)
    changed = bytearray(data)
    changed[tapes[-1].at] ^= 1
    first.write_bytes(changed)
    recording = Recording(tmp_path)

    span = EventSpan(recording.runs[0].first, recording.runs[-1].last)
    events = [event for batch in Retelling(recording, span, Enquirer()).batches() for event in batch]
    assert [each["event"] for each in events if each["event"] in ("clock", "gap")] == ["gap"]


def test_the_time_of_a_record_behind_damage_is_by_the_clock_that_was_set_in_it(tmp_path: Path) -> None:
    """As in the whole recording: the index has the clock before each block, and a later look at the clocks else."""
    taped = Taped(tmp_path, 11)
    taped.mark(continues=False, why="the daemon began")
    for _ in range(3):
        taped.step()
    taped.flush()
    taped.rest(_SECOND_NS)
    taped.clock(by_ns=50 * _SECOND_NS)
    taped.step()
    taped.flush()
    for _ in range(12):
        taped.step()
    taped.end()
    whole = Recording(tmp_path)
    (stored,) = folder.stored(tmp_path)
    data, tapes = blocks_of(stored.path)
    hidden = next(block for block in tapes if block.ahead_ns != tapes[0].ahead_ns)
    expected = times_of(whole, behind=hidden.next)
    for end in (len(data), max(block.end for block in tapes)):  # with the index, and without it
        changed = bytearray(data[:end])
        changed[hidden.begin] ^= 1
        stored.path.write_bytes(changed)
        found = times_of(Recording(tmp_path), behind=hidden.next)
        assert found
        assert found.items() <= expected.items()


def times_of(recording: Recording, *, behind: int) -> dict[tuple[int, int, str], int]:
    """Return CLOCK_REALTIME of the certain events in all lives behind a number."""
    span = recording.runs[0].first, recording.runs[-1].last
    found = {}
    for number in range(1, 60):
        try:
            lives = NumberHistory(recording, span, number, Enquirer()).lives()
        except CkptreeError:
            continue
        for event in (event for life in lives for event in life):
            is_told = event["event"] in ("exec", "death", "setsid", "setpgid", "subreaper") and not event.get("assumed")
            if is_told and event["order"] >= behind:
                found[number, event["order"], event["event"]] = event["time_ns"]
    return found


def test_a_time_shown_again_in_front_of_a_missing_segment_is_the_later_one(tmp_path: Path) -> None:
    """The segment behind the missing one does not have the clock with which this one ended."""
    taped = Taped(tmp_path, 5)
    taped.mark(continues=False, why="the daemon began")
    taped.step()
    time_ns, first = taped.time_ns + 1000, taped.next
    taped.rest(_SECOND_NS)
    while taped.next == first:
        taped.step()
    taped.mark(continues=True)
    taped.rest(3 * _SECOND_NS)
    taped.clock(by_ns=time_ns - taped.time_ns - _SECOND_NS // 2)
    expected = taped.next
    taped.rest(_SECOND_NS)
    taped.step()
    for _ in range(2):
        taped.mark(continues=True)
        taped.rest(_SECOND_NS)
        taped.clock(by_ns=20 * _SECOND_NS)
        taped.step()
    taped.end()
    assert Recording(tmp_path).at_time(time_ns).order == expected
    folder.stored(tmp_path)[2].path.unlink()

    assert Recording(tmp_path).at_time(time_ns).order == expected


def test_records_that_are_read_behind_a_mark_count_before_it_by_their_times(tmp_path: Path) -> None:
    """A segment begins where the daemon stands, and the ring has some records of before; or it is named."""
    taped = Taped(tmp_path, 7)
    taped.mark(continues=False, why="the daemon began")
    taped.step()
    taped.hear()
    taped.clock()
    taped.flush()
    taped.rest(_SECOND_NS // 100)
    for _ in range(4):
        make(taped.kernel, ("fork", 0, 0))
    first = taped.next
    taped.rest(_SECOND_NS // 100)
    between_ns = taped.time_ns
    taped.rest(_SECOND_NS // 100)
    taped.mark(continues=True)
    taped.hear()
    behind = taped.next
    taped.rest(_SECOND_NS)
    taped.step()
    taped.end()

    found = Recording(tmp_path).at_time(between_ns)
    assert first < behind == found.order
    assert not found.missing
    newest = folder.stored(tmp_path)[-1].path
    data, tapes = blocks_of(newest)
    changed = bytearray(data)
    changed[tapes[0].at] ^= 1
    newest.write_bytes(changed)
    assert reasons_at(Recording(tmp_path), between_ns)


def test_a_birth_behind_damage_names_the_parent_that_was_born_in_it(tmp_path: Path) -> None:
    """The record has its number, and no table has the parent. What happens to the child later stands behind a gap."""
    taped = Taped(tmp_path, 7)
    taped.mark(continues=False, why="the daemon began")
    taped.flush()
    parent = taped.kernel.fork(taped.kernel.init)
    taped.hear()
    taped.flush()
    child = taped.kernel.fork(parent)
    taped.hear()
    taped.rest(_SECOND_NS)
    taped.kernel.exit(child)
    taped.hear()
    taped.end()
    (expected,) = lives_of(tmp_path, child.tid)
    (stored,) = folder.stored(tmp_path)
    data, tapes = blocks_of(stored.path)
    hidden = next(block for block in tapes if block.next > block.first)
    changed = bytearray(data)
    changed[hidden.at] ^= 1
    stored.path.write_bytes(changed)

    (told,) = lives_of(tmp_path, child.tid)
    assert told[0] == expected[0]
    assert told[0]["parent"] == parent.tid
    assert [event["event"] for event in told] == ["birth", "gap", "death"]
    assert told[2] == expected[1]


def lives_of(place: Path, number: int) -> list[list[dict[str, Any]]]:
    """Return all lives of a number."""
    recording = Recording(place)
    return NumberHistory(recording, (recording.runs[0].first, recording.runs[-1].last), number, Enquirer()).lives()


def test_no_record_of_another_numbering_is_told_of_a_task_in_front_of_a_gap(tmp_path: Path) -> None:
    """A number of its own has each, and where the keyframe behind the gap is damaged no table knows the task."""
    for run in range(2):
        taped = Taped(tmp_path, 7, run)
        taped.mark(continues=False, why="the daemon began")
        task = taped.kernel.fork(taped.kernel.init, CLONE_THREAD if run == 0 else 0)
        taped.hear()
        for _ in range(8 * run):
            taped.kernel.exec(task)
        taped.hear()
        taped.rest(_SECOND_NS)
        if run:
            taped.mark(continues=True)
        taped.end()
    expected = [event for life in lives_of(tmp_path, task.tid) for event in life]
    damaged = Recording(tmp_path).segments[1]
    (keyframe,) = [block for block in damaged.blocks if block is not None and block.kind == segment.KEYFRAME]
    data = damaged.path.read_bytes()
    numbers, times_ns = (keyframe.first, keyframe.next), (keyframe.first_ns, keyframe.last_ns, keyframe.ahead_ns)
    unusable = segment.block(segment.KEYFRAME, b"none", 4, numbers, times_ns, segment.PLAIN, keyframe.number)
    damaged.path.write_bytes(data[: keyframe.begin] + b"".join(map(bytes, unusable)) + data[keyframe.end :])

    told = [event for life in lives_of(tmp_path, task.tid) for event in life]
    assert [each for each in told if each["run"] == 1 and "assumed" not in each and each["event"] != "gap"] == []
    assert told[0] == expected[0]
