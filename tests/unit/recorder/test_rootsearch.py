# SPDX-License-Identifier: Apache-2.0
"""A root that is found nowhere, in recordings that have gaps or are damaged."""

import os
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest

from agent.recorder import answers, segment
from agent.recorder.past import Enquirer
from agent.recorder.recording import Recording
from tests.support.taped import Taped, a_recording

_SECOND_NS: Final = 1_000_000_000


@pytest.mark.parametrize("root", [4_000_000, "pidns:4000000000"])
def test_a_root_that_may_have_been_in_a_gap_alone_is_no_error(tmp_path: Path, root: int | str) -> None:
    """Its gaps are told, as those of a history are, and nothing else."""
    a_recording(tmp_path, 2)
    recording = Recording(tmp_path)
    found = [each for batch in answers.events(recording, {"root": root}, Enquirer()) for each in batch]

    assert [(each["event"], each["order"], each["why"]) for each in found] == [
        ("gap", gap.first, gap.why) for gap in recording.gaps
    ]
    assert all(each["time_ns"] > each["boottime_ns"] for each in found)


@pytest.mark.parametrize("place", ["head", "content"])
@pytest.mark.parametrize("is_last", [False, True])
@pytest.mark.parametrize("orderly", [False, True])
def test_a_root_that_was_born_in_a_damaged_part_is_no_error(
    tmp_path: Path, place: str, *, is_last: bool, orderly: bool
) -> None:
    """Its block is damaged, the last one with records or another one: the damage is told, wherever it is.

    The head of a last block is damaged where the segment has its end; without it, it is what a power cut leaves.
    """
    taped = Taped(tmp_path, 4)
    taped.mark(continues=False, why="the daemon began")
    taped.step()
    taped.flush()
    child = taped.kernel.fork(taped.kernel.init)
    taped.hear()
    taped.flush()
    if not is_last:
        taped.kernel.exec(taped.kernel.init)
        taped.hear()
        taped.flush()
    taped.end(orderly=orderly)
    (of,) = Recording(tmp_path).segments
    block = of.tapes[-1 - orderly - (not is_last)]
    data = bytearray(of.path.read_bytes())
    data[block.begin + 20 if place == "head" else block.at + 5] ^= 1
    of.path.write_bytes(data)
    recording = Recording(tmp_path)
    found = [each for batch in answers.events(recording, {"root": child.tid}, Enquirer()) for each in batch]

    assert [(each["event"], each["order"]) for each in found] == [("gap", block.first)]


def test_a_root_that_was_born_behind_a_gap_in_which_nothing_happened_is_found(tmp_path: Path) -> None:
    """Three segments begin at one number: one goes on after a restart, the other ones do after ends of the writer."""
    taped = Taped(tmp_path, 4)
    taped.mark(continues=False, why="the daemon began")
    taped.step()
    taped.hear()
    for continues, why in ((True, ""), (False, "the writer ended"), (False, "the writer ended again")):
        taped.rest(_SECOND_NS)
        taped.mark(continues=continues, why=why)
        taped.rest(_SECOND_NS)
        taped.clock()
        taped.flush()
    taped.kernel.exec(taped.kernel.init)
    taped.hear()
    child = taped.kernel.fork(taped.kernel.init)
    taped.hear()
    taped.end()
    for each in Recording(tmp_path).segments[1:3]:  # a writer that is killed leaves no index
        begin = next(block.begin for block in each.blocks if block and block.kind == segment.INDEX)
        os.truncate(each.path, begin)
    recording = Recording(tmp_path)
    segments = recording.segments
    found = [each for batch in answers.events(recording, {"root": child.tid}, Enquirer()) for each in batch]

    assert [each.joins(one) for one, each in pairwise(segments)] == [True, False, False]
    assert len({each.facts.first for each in segments[1:]}) == 1
    assert [(each["event"], each.get("why")) for each in found[:-1]] == [
        *(("gap", "the writer ended"), ("resync", None)),
        *(("gap", "the writer ended again"), ("resync", None)),
    ]
    assert (found[-1]["event"], found[-1]["tid"]) == ("birth", child.tid)
    assert [each["order"] for each in found] == sorted(each["order"] for each in found)


@pytest.mark.parametrize("root", [None, 4_000_000])
def test_each_of_two_gaps_at_one_number_is_told(tmp_path: Path, root: int | None) -> None:
    """Nothing happened between them, nor within; behind them something does."""
    taped = Taped(tmp_path, 4)
    taped.mark(continues=False, why="the daemon began")
    taped.step()
    taped.hear()
    for why in ("the writer ended", "the writer ended again"):
        taped.rest(_SECOND_NS)
        taped.mark(continues=False, why=why)
        taped.rest(_SECOND_NS)
        taped.clock()
        taped.flush()
    taped.kernel.fork(taped.kernel.init)
    taped.hear()
    taped.end()
    recording = Recording(tmp_path)
    wanted = {} if root is None else {"root": root}
    found = [each for batch in answers.events(recording, wanted, Enquirer()) for each in batch]
    gaps = [(each["why"], each["order"], each["until_ns"]) for each in found if each["event"] == "gap"]
    _, beside = answers.history(recording, {"pid": 4_000_000}, Enquirer())

    assert gaps == [(gap.why, gap.first, gap.until_ns) for gap in recording.gaps]
    assert gaps == [(each["why"], each["order"], each["until_ns"]) for each in beside]
    assert len(gaps) == len({first for _, first, _ in gaps}) + 1


def test_a_damaged_place_of_an_index_hides_nothing_behind_it(tmp_path: Path) -> None:
    """The tape in front of it is whole, and that of the next segment goes on from there."""
    taped = Taped(tmp_path, 4)
    taped.mark(continues=False, why="the daemon began")
    taped.step()
    taped.hear()
    taped.mark(continues=True)
    child = taped.kernel.fork(taped.kernel.init)
    taped.hear()
    taped.end()
    told = list(answers.events(Recording(tmp_path), {}, Enquirer()))
    first = Recording(tmp_path).segments[0]
    place = first.blocks[-1]
    assert place is not None
    assert place.kind == segment.PLACE
    data = bytearray(first.path.read_bytes())
    data[place.begin + 20] ^= 1
    first.path.write_bytes(data)
    found = [each for batch in answers.events(Recording(tmp_path), {"root": child.tid}, Enquirer()) for each in batch]

    assert [(each["event"], each["tid"]) for each in found] == [("birth", child.tid)]
    assert list(answers.events(Recording(tmp_path), {}, Enquirer())) == told
