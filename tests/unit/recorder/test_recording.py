# SPDX-License-Identifier: Apache-2.0
"""A recording gives the state of every point of it; where it is damaged it says so, and never gives another state."""

import os
import random
import re
import shutil
from pathlib import Path

import pytest

from agent.errors import CkptreeError
from agent.record import replace
from agent.recorder import folder, folderlock, instant, segment
from agent.recorder.facts import Instant
from agent.recorder.past import find
from agent.recorder.recording import AmbiguousNumberError, NoRecordingError, NoSuchInstantError, Recording
from agent.recorder.segment import Block
from agent.recorder.tapesegment import TapeSegment
from tests.bench import longrecording
from tests.support.examples import examples
from tests.support.taped import AHEAD_NS, Taped, Truth, a_recording, last_at_each, replayed, state_of

_SECOND_NS = 1_000_000_000
_YEAR_NS = 365 * 86_400 * 1_000_000_000


def wrong(recording: Recording, truth: Truth) -> str:
    """Return what is wrong with the state that a recording gives; empty: it is the true one, or none is given."""
    try:
        found = replayed(recording, truth)
    except NoSuchInstantError:
        return ""
    if found is None or found.reasons:
        return ""
    return "" if state_of(found.table, found.stream) == truth.state else f"#{truth.order} of run {truth.run}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Truth]]:
    """A recording of two runs, and the truth about it."""
    place = tmp_path_factory.mktemp("recording")
    return place, last_at_each(a_recording(place))


@pytest.mark.parametrize("seed", range(12))
def test_every_point_is_there(tmp_path: Path, seed: int) -> None:
    """With numbers lost, records that came too early, gaps, and keyframes that are missing."""
    truths = last_at_each(a_recording(tmp_path, seed))
    recording = Recording(tmp_path)
    known = [each for each in truths if any(run.first.order <= each.order for run in recording.runs)]

    assert len(recording.runs) == 2
    for truth in known:
        found = recording.table_at(Instant(truth.run, truth.order, 0, 0, 0))
        assert state_of(found.table, found.stream) == truth.state, truth.order


def test_a_replay_may_stop_at_any_number_and_go_on(made: tuple[Path, list[Truth]]) -> None:
    """In steps of one number it comes to the same states as at once."""
    place, truths = made
    recording = Recording(place)
    first = recording.runs[0].first
    states = {each.order: each.state for each in truths if not each.run}
    replayer = recording.replayer(first)
    end = recording.gaps[0].first if recording.gaps else recording.runs[0].last.order
    met = 0
    for order in range(first.order, end + 1):
        replayer.advance(order)
        if replayer.order == order in states and not replayer.stream.suspect:
            met += 1
            assert state_of(replayer.table, replayer.stream) == states[order], order

    assert met > 5


def test_the_time_of_a_point_finds_it(made: tuple[Path, list[Truth]]) -> None:
    """Right behind its last record, before the next one."""
    place, truths = made
    recording = Recording(place)
    found = []
    for truth in truths:
        if truth.run == len(recording.runs) - 1 and truth.time_ns <= recording.until_ns and not truth.lost:
            instant = recording.at_time(truth.time_ns)
            found.append(instant.order == truth.order or bool(recording.table_at(instant).reasons))

    assert len(found) > 10
    assert all(found)


def test_a_number_that_two_daemons_have_given_is_refused_with_both_times(made: tuple[Path, list[Truth]]) -> None:
    """Each of the times is that of the number in one of the two runs; a number of one run alone is found."""
    place, truths = made
    recording = Recording(place)
    first, second = recording.runs
    common = range(max(first.first.order, second.first.order), min(first.last.order, second.last.order) + 1)
    order = next(each.order for each in truths if each.order in common and each.order > common[len(common) // 2])
    with pytest.raises(AmbiguousNumberError, match=f"'#{order}'.* 2 times") as refused:
        recording.at_order(order)
    assert refused.value.exit_code == 2
    named = re.findall(r"\d{4}-\d\d-\d\dT[0-9:.]+Z", str(refused.value))
    found = [find(recording, instant.parse(each, 0)) for each in named]
    assert [(each.run, each.order) for each in found] == [(0, order), (1, order)]

    longer = max(first, second, key=lambda run: run.last.order)
    assert longer.last.order not in common
    assert recording.at_order(longer.last.order).run == longer.last.run


def test_a_number_of_many_boots_is_refused_with_its_last_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them costs a replay, nor more than two blocks."""
    longrecording.make(tmp_path, 2000, 60, pid_max=1000, interval=1000)
    longrecording.repeat(tmp_path, 5)
    recording = Recording(tmp_path)
    order = recording.runs[0].last.order
    read: list[Block] = []
    content = TapeSegment.content

    def noted(of: TapeSegment, block: Block) -> bytes | None:
        read.append(block)
        return content(of, block)

    monkeypatch.setattr(Recording, "replayer", None)
    monkeypatch.setattr(TapeSegment, "content", noted)
    for each in recording.segments:
        assert each.known_ns  # opening the recording has cost this
    read.clear()
    with pytest.raises(AmbiguousNumberError, match=r"5 times.*, and 2 earlier times$") as refused:
        recording.at_order(order)
    assert str(refused.value).count("Z") == 3
    assert len(read) <= 6


def test_no_byte_of_a_recording_can_be_flipped_unnoticed(tmp_path: Path, made: tuple[Path, list[Truth]]) -> None:
    """Whatever is given is the truth, or it is said that something is missing."""
    place, truths = made
    chance = random.Random(4)
    for _ in range(examples(100)):
        target = tmp_path / "copy"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(place, target)
        victim = chance.choice(folder.stored(target)).path
        data = bytearray(victim.read_bytes())
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        victim.write_bytes(data)
        recording = Recording(target)
        for truth in chance.sample(truths, 8):
            assert wrong(recording, truth) == ""


def test_no_segment_can_be_missing_unnoticed(tmp_path: Path, made: tuple[Path, list[Truth]]) -> None:
    """Nor two of them; an instant of a missing one is none, or it is named."""
    place, truths = made
    names = [each.path.name for each in folder.stored(place)]
    assert len(names) > 4
    for name in names:
        target = tmp_path / name
        shutil.copytree(place, target)
        (target / name).unlink()
        recording = Recording(target)
        assert [line for truth in truths if (line := wrong(recording, truth))] == []
        if name not in (names[0], names[-1]):
            here = [each.facts.sequence for each in recording.segments]
            assert here != list(range(here[0], here[-1] + 1))
            assert recording.gaps


def test_a_recording_that_is_cut_short_anywhere_is_true_up_to_there(
    tmp_path: Path, made: tuple[Path, list[Truth]]
) -> None:
    """As after a power cut: the last segment ends within a block."""
    place, truths = made
    chance = random.Random(7)
    for number in range(examples(30)):
        target = tmp_path / str(number)
        shutil.copytree(place, target)
        last = folder.stored(target)[-1].path
        size = chance.randrange(1, last.stat().st_size)
        with last.open("r+b") as file:
            file.truncate(size)
        recording = Recording(target)
        assert [line for truth in truths if (line := wrong(recording, truth))] == []
        for truth in truths:
            if truth.time_ns > recording.until_ns + _SECOND_NS:
                with pytest.raises(NoSuchInstantError):
                    recording.at_time(truth.time_ns)


def at_time(recording: Recording, time_ns: int) -> tuple[int, bytes] | None:
    """Return number and state of a time; None where the recording does not have it, or says that something is missing."""
    try:
        instant = recording.at_time(time_ns)
        found = recording.table_at(instant)
    except NoSuchInstantError:
        return None
    return None if found.reasons else (instant.order, state_of(found.table, found.stream))


def test_a_time_in_a_damaged_part_is_named(tmp_path: Path, made: tuple[Path, list[Truth]]) -> None:
    """The damaged recording says of a time what the whole one says, or it says that something is missing."""
    place, truths = made
    chance = random.Random(3)
    whole = Recording(place)
    times = [each.time_ns for each in chance.sample(truths, 25)]
    told = {each: found for each in times if (found := at_time(whole, each)) is not None}
    named = 0
    assert len(told) > 10
    for number in range(examples(40)):
        target = tmp_path / str(number)
        shutil.copytree(place, target)
        victim = chance.choice(folder.stored(target)).path
        data = bytearray(victim.read_bytes())
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        victim.write_bytes(data)
        recording = Recording(target)
        for time_ns, expected in told.items():
            found = at_time(recording, time_ns)
            named += found is None
            assert found in (None, expected)

    assert named


def test_a_folder_without_a_segment_is_no_recording(tmp_path: Path) -> None:
    """The error has the exit code of a root that is not there."""
    with pytest.raises(NoRecordingError, match="no recording") as caught:
        Recording(tmp_path)

    assert isinstance(caught.value, CkptreeError)
    assert caught.value.exit_code == 4


def test_a_recording_has_no_time_behind_the_last_one_of_which_it_states_to_have_everything(tmp_path: Path) -> None:
    """A writer may hold the folder and write nothing: a disk is full, or stalls, or the daemon is stopped."""
    taped = Taped(tmp_path, 3)
    taped.mark(continues=False, why="the daemon began")
    taped.step()
    taped.rest(_SECOND_NS)
    taped.clock()
    stated_ns = taped.time_ns
    taped.end(orderly=False)
    lock = folderlock.lock(tmp_path)
    assert folderlock.hold(lock)
    try:
        recording = Recording(tmp_path)
        assert recording.until_ns == stated_ns
        assert not recording.table_at(recording.at_time(stated_ns)).reasons
        with pytest.raises(NoSuchInstantError, match="does not have that time"):
            recording.at_time(stated_ns + 1)
    finally:
        os.close(lock)


def test_a_part_that_was_read_in_pieces_is_no_sign_that_earlier_records_have_come(tmp_path: Path) -> None:
    """A daemon that was behind is killed: its last record is the end of what is known, not the time at which it read it."""
    taped = Taped(tmp_path, 3)
    taped.mark(continues=False, why="the daemon began")
    taped.step()
    last_ns = taped.time_ns
    taped.kernel.fork(next(iter(taped.kernel.threads)))
    born_ns = taped.time_ns
    taped.rest(5 * _SECOND_NS)
    taped.hear()
    taped.end(orderly=False)
    recording = Recording(tmp_path)

    assert last_ns <= recording.until_ns <= born_ns + 1


def points(taped: Taped, count: int) -> list[tuple[int, int]]:
    """Let time go by; return number and time of some points."""
    found = []
    for _ in range(count):
        taped.step()
        found.append((taped.next, taped.time_ns))
    return found


@pytest.mark.parametrize("skips", [False, True])
def test_of_a_time_that_the_clock_shows_twice_the_later_one_counts(tmp_path: Path, *, skips: bool) -> None:
    """Within a segment. A time that it shows once is found at that one, also where it was set over it later."""
    taped = Taped(tmp_path, 5)
    taped.mark(continues=False, why="the daemon began")
    first = points(taped, 20)
    back_ns = first[9][1] - first[-1][1]
    taped.clock(by_ns=back_ns)
    if skips:
        taped.clock(by_ns=-2 * back_ns)
    second = points(taped, 20)
    taped.end()
    recording = Recording(tmp_path)

    twice_ns = first[9][1]
    for order, time_ns in first:
        if skips or time_ns < twice_ns:
            assert recording.at_time(time_ns).order == order
    for order, time_ns in second:
        assert recording.at_time(time_ns).order == order


@pytest.mark.parametrize("seed", range(3))
def test_a_recording_of_an_older_program_is_known_up_to_its_last_part(tmp_path: Path, seed: int) -> None:
    """It does not state more."""
    truths = a_recording(tmp_path, seed, states=False)
    recording = Recording(tmp_path)

    assert recording.until_ns >= truths[-1].time_ns
    for truth in last_at_each(truths):
        assert wrong(recording, truth) == ""


def test_a_boot_with_an_earlier_clock_hides_nothing_of_the_boot_before(tmp_path: Path) -> None:
    """A host without a battery begins in some earlier year: what the recording has of a time is found as before."""
    first = Taped(tmp_path, 5)
    first.mark(continues=False, why="the daemon began")
    for _ in range(20):
        first.step()
    first.end()
    alone = Recording(tmp_path)
    times = [alone.runs[0].first.time_ns, *(truth.time_ns for truth in first.truths)]
    expected = [alone.at_time(each) for each in times]

    second = Taped(tmp_path, 6, 1, ahead_ns=AHEAD_NS - 10 * _YEAR_NS)
    second.mark(continues=False, why="the daemon began")
    second.step()
    second.end()
    path = folder.stored(tmp_path)[-1].path
    data = path.read_bytes()
    facts, length = segment.read_head(data)
    path.write_bytes(segment.head(replace(facts, boot_id="1" * 36)) + data[length:])
    both = Recording(tmp_path)

    assert [run.boot_id[0] for run in both.runs] == ["0", "1"]
    assert [both.at_time(each) for each in times] == expected
    assert not any(each.missing for each in expected)
    for each in (alone.until_ns + _YEAR_NS, facts.realtime_ns + _YEAR_NS, facts.realtime_ns - 1):
        with pytest.raises(NoSuchInstantError):
            both.at_time(each)
