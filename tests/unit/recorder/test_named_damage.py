# SPDX-License-Identifier: Apache-2.0
"""Damage that hides records is named in each answer that they might change; what is whole has no gap."""

from pathlib import Path
from typing import Any, Final

import pytest

from agent.recorder import answers, segment
from agent.recorder.past import Enquirer
from agent.recorder.recording import Recording
from agent.table.inputs import Input
from tests.support.taped import Taped

_SECOND_NS: Final = 1_000_000_000
_NOBODY: Final = 4_000_000


def events(place: Path, root: int | None = None) -> list[dict[str, Any]]:
    """Return the events of a recording, of all tasks or of a root."""
    wanted = {} if root is None else {"root": root}
    return [each for batch in answers.events(Recording(place), wanted, Enquirer()) for each in batch]


def gaps_of_lives(place: Path, number: int) -> list[int]:
    """Return the numbers at which the lives of a number have gaps, or gaps stand beside them."""
    lives, beside = answers.history(Recording(place), {"pid": number}, Enquirer())
    told = [*beside, *(event for life in lives for event in life)]
    return [event["order"] for event in told if event["event"] == "gap"]


def begun(place: Path) -> Taped:
    """Return a recording that has begun."""
    taped = Taped(place, 4)
    taped.mark(continues=False, why="the daemon began")
    taped.step()
    taped.hear()
    taped.flush()
    return taped


def lose_a_record(taped: Taped) -> None:
    """Let a record find no room in the ring."""
    taped.kernel.exec(taped.kernel.init)
    taped._probes.ring.records.clear()
    taped._watch.stream.give_up_below(taped.kernel.writer.seq)
    taped.rest(_SECOND_NS)
    taped.clock()


def test_a_segment_in_which_records_were_lost_alone_is_behind_no_gap(tmp_path: Path) -> None:
    """It goes on from the one before it: no record tells that the replay has passed over its beginning."""
    taped = begun(tmp_path)
    taped.rest(_SECOND_NS)
    taped.clock()
    taped.mark(continues=True)
    lose_a_record(taped)
    taped.end(orderly=False)

    assert Recording(tmp_path).gaps == ()
    assert {each["event"] for each in events(tmp_path)} & {"gap", "resync", "loss"} == {"loss"}


def test_a_segment_that_was_cut_is_in_a_gap_though_the_next_one_begins_at_its_number_and_time(tmp_path: Path) -> None:
    """The gap is between the two: no replay from the first one gets behind it."""
    taped = begun(tmp_path)
    taped.mark(continues=True)
    taped.mark(continues=True)
    taped.step()
    taped.end()
    _, cut, behind = Recording(tmp_path).segments
    assert (cut.facts.first, cut.facts.realtime_ns) == (behind.facts.first, behind.facts.realtime_ns)
    whole = [each for each in events(tmp_path) if each["event"] != "resync"]
    cut.path.write_bytes(cut.path.read_bytes()[: cut._begin + 4])

    told = events(tmp_path)
    assert [each["order"] for each in told if each["event"] == "gap"] == [cut.facts.first]
    assert [each for each in told if each["event"] not in ("gap", "resync")] == whole
    assert gaps_of_lives(tmp_path, 1) == [cut.facts.first]


def test_an_end_of_a_root_is_told_in_front_of_damage_as_without_that(tmp_path: Path) -> None:
    """It stands where the sweep is over in which the root went, whatever comes next."""
    taped = begun(tmp_path)
    child = taped.kernel.fork(taped.kernel.init)
    taped.hear()
    lose_a_record(taped)
    watch = taped._watch
    watch._trust()
    taped.kernel.exit(child)
    taped.kernel.wait(taped.kernel.init, child)
    taped.hear()
    watch.table.strike_off(watch.stream.next)
    taped.flush()
    behind = watch.stream.next
    taped.kernel.exec(taped.kernel.init)
    taped.hear()
    taped.flush()
    taped.end()
    whole = events(tmp_path, child.tid)
    (of,) = Recording(tmp_path).segments
    block = next(each for each in of.tapes if each.first == behind < each.next)
    data = bytearray(of.path.read_bytes())
    data[block.at] ^= 1
    of.path.write_bytes(data)

    assert [each["event"] for each in whole] == ["birth", "loss", "death", "reap", "resync", "end"]
    assert {each["order"] for each in whole[4:]} == {behind}
    assert events(tmp_path, child.tid) == whole


def test_a_loss_goes_on_where_the_end_of_the_sweep_is_damaged(tmp_path: Path) -> None:
    """Not before a sweep has ended does the table count as repaired, also in front of a gap."""
    taped = begun(tmp_path)
    lose_a_record(taped)
    taped.kernel.exec(taped.kernel.init)
    taped.hear()
    watch = taped._watch
    watch._trust()
    taped.flush()
    watch.table.strike_off(watch.stream.next)
    taped.kernel.exec(taped.kernel.init)
    taped.hear()
    taped.flush()
    taped.end()
    whole = [each["event"] for each in events(tmp_path) if each["event"] in ("loss", "resync", "gap")]
    (of,) = Recording(tmp_path).segments
    block = next(each for each in of.tapes if Input.STRIKE_OFF in {entry.kind for entry in of._entries_of(each)})
    data = bytearray(of.path.read_bytes())
    data[block.at + 5] ^= 1
    of.path.write_bytes(data)

    assert whole == ["loss", "resync"]
    assert [each["event"] for each in events(tmp_path) if each["event"] in ("loss", "resync", "gap")] == ["loss", "gap"]


@pytest.mark.parametrize("damage", ["zeros", "a bit of its head"])
def test_a_last_block_that_is_damaged_is_named(tmp_path: Path, damage: str) -> None:
    """All its bytes are there, so its writer was not broken off within it."""
    taped = begun(tmp_path)
    child = taped.kernel.fork(taped.kernel.init)
    taped.hear()
    taped.flush()
    (of,) = Recording(tmp_path).segments
    block = of.tapes[-1]
    data = of.path.read_bytes()
    taped.end(orderly=False)
    if damage == "zeros":
        of.path.write_bytes(data[: block.begin] + bytes(block.end - block.begin))
    else:
        of.path.write_bytes(data[: block.begin + 20] + bytes([data[block.begin + 20] ^ 1]) + data[block.begin + 21 :])

    assert [(each["event"], each["order"]) for each in events(tmp_path, child.tid)] == [("gap", block.first)]
    assert gaps_of_lives(tmp_path, child.tid) == [block.first]
    assert gaps_of_lives(tmp_path, _NOBODY) == [block.first]
    assert Recording(tmp_path).runs[-1].last.missing


@pytest.mark.parametrize("rest", [1, segment.BLOCK_HEAD - 1, segment.BLOCK_HEAD, segment.BLOCK_HEAD + 9])
def test_a_recording_ends_where_its_writer_was_broken_off_within_a_block(tmp_path: Path, rest: int) -> None:
    """As while it writes: the beginning of a block is no damage."""
    taped = begun(tmp_path)
    taped.kernel.fork(taped.kernel.init)
    taped.hear()
    taped.flush()
    (of,) = Recording(tmp_path).segments
    block = of.tapes[-1]
    data = of.path.read_bytes()
    taped.end(orderly=False)
    of.path.write_bytes(data[: block.begin + rest])
    recording = Recording(tmp_path)

    assert (recording.runs[-1].last.order, recording.runs[-1].last.missing) == (block.first, "")
    assert "gap" not in {each["event"] for each in events(tmp_path)}


def test_a_root_behind_damage_has_the_gap_in_front_of_it(tmp_path: Path) -> None:
    """Another process of its number may be within; a damaged block is none of which the index tells that it is not."""
    taped = begun(tmp_path)
    taped.kernel.exec(taped.kernel.init)
    taped.hear()
    taped.flush()
    taped.rest(_SECOND_NS)
    taped.mark(continues=True)
    child = taped.kernel.fork(taped.kernel.init)
    taped.hear()
    taped.end()
    whole = [each["event"] for each in events(tmp_path, child.tid)]
    of = Recording(tmp_path).segments[0]
    block = of.tapes[-1]
    data = bytearray(of.path.read_bytes())
    data[block.at + 5] ^= 1
    of.path.write_bytes(data)
    indexed = [each["event"] for each in events(tmp_path, child.tid)]
    of.path.write_bytes(data[: block.begin] + data[block.end :])

    assert whole == indexed == ["birth"]
    assert [each["event"] for each in events(tmp_path, child.tid)] == ["gap", "resync", "birth"]
    assert gaps_of_lives(tmp_path, child.tid)


def call(taped: Taped) -> None:
    """Let the daemon compare its table with the kernel, which makes no record."""
    watch = taped._watch
    watch._trust()
    watch.table.strike_off(watch.stream.next)


def reasons_at(place: Path, order: int) -> tuple[str, ...]:
    """Return why the state in front of a record is incomplete."""
    recording = Recording(place)
    return recording.table_at(recording.at_order(order)).reasons


@pytest.mark.parametrize("is_last", [True, False])
def test_calls_without_records_that_are_damaged_are_named_at_the_number_in_front_of_them(
    tmp_path: Path, *, is_last: bool
) -> None:
    """They belong to the state in front of that record."""
    taped = begun(tmp_path)
    order = taped.next
    call(taped)
    taped.flush()
    (of,) = Recording(tmp_path).segments
    block = of.tapes[-1]
    if not is_last:
        taped.kernel.exec(taped.kernel.init)
        taped.hear()
    taped.end(orderly=False)
    whole = reasons_at(tmp_path, order)
    data = bytearray(of.path.read_bytes())
    data[block.at + 5] ^= 1
    of.path.write_bytes(data)

    assert (block.first, block.next) == (order, order)
    assert whole == ()
    assert len(reasons_at(tmp_path, order)) == 1
    assert reasons_at(tmp_path, order - 1) == ()


def test_a_segment_of_calls_alone_that_is_missing_is_named_at_the_number_in_front_of_it(tmp_path: Path) -> None:
    """The next one that there is goes on behind a gap."""
    taped = begun(tmp_path)
    order = taped.next
    taped.mark(continues=True, keyframe=False)
    call(taped)
    for _ in range(3):
        taped.step(heard=False)
    taped.mark(continues=False, why="the writer fell behind")
    assert taped.next > order
    taped.end()
    whole = reasons_at(tmp_path, order)
    Recording(tmp_path).segments[1].path.unlink()

    assert whole == ()
    assert len(reasons_at(tmp_path, order)) == 1


def test_a_recording_that_ends_or_goes_on_behind_a_gap_is_whole_at_its_last_number(tmp_path: Path) -> None:
    """Nothing was written there that is missing."""
    taped = begun(tmp_path)
    order = taped.next
    for _ in range(3):
        taped.step(heard=False)
    taped.mark(continues=False, why="the writer fell behind")
    behind = taped.next
    taped.end()

    assert behind > order
    assert reasons_at(tmp_path, order) == reasons_at(tmp_path, behind) == ()
