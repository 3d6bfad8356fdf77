# SPDX-License-Identifier: Apache-2.0
"""Each answer from a recording that is damaged is the one from the whole recording, or it names a gap.

The recordings are of several daemons, with lost records, missing keyframes, and clocks that are set.
"""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.errors import CkptreeError, NoSuchRootError
from agent.recorder import folder, segment
from agent.recorder.history import NumberHistory
from agent.recorder.past import Enquirer
from agent.recorder.recording import NoSuchInstantError, Recording
from agent.recorder.retelling import EventSpan, Retelling
from agent.rootname import RootName
from tests.support.examples import examples
from tests.support.taped import a_recording, last_at_each, replayed, state_of

_NUMBERS = range(1, 60)
_ASKED = 12
_ENDS = ("resync", "end")
_OWN = ("birth", "exec", "death", "setsid", "setpgid", "subreaper")
_OF_ARGUMENTS = ("arguments", "arguments_cut")
_SEED = os.environ.get("CKPTREE_SEED", "1")
Change = Callable[[Path, random.Random], None]


def lives_of(recording: Recording, number: int) -> object:
    """Return the lives of a number, or the name of the refusal; None where they name a gap."""
    span = recording.runs[0].first, recording.runs[-1].last
    history = NumberHistory(recording, span, number, Enquirer())
    try:
        lives = history.lives()
    except NoSuchRootError:
        return "none"
    except NoSuchInstantError:  # no keyframe is whole
        return None
    return None if history.gaps or any(event["event"] == "gap" for life in lives for event in life) else lives


def certain_of(recording: Recording, number: int) -> set[str]:
    """Return the events of the lives of a number that are told as certain, but for arguments, which may be missing."""
    history = NumberHistory(recording, (recording.runs[0].first, recording.runs[-1].last), number, Enquirer())
    try:
        told = [
            event for life in history.lives() for event in life if event["event"] in _OWN and "assumed" not in event
        ]
    except (NoSuchRootError, NoSuchInstantError):
        return set()
    rings = [run.ring for run in recording.runs]
    return {
        repr((rings[event["run"]], sorted((key, event[key]) for key in event.keys() - {"run", *_OF_ARGUMENTS})))
        for event in told
    }


def are_alike(found: Any, expected: Any) -> bool:
    """Return True if lives name a gap, or are those expected but for what they themselves call assumed.

    A new parent is told since the exit of the old one, whose record may be damaged.
    """
    if found is None or found == expected:
        return True
    if (
        "none" in (found, expected)
        or expected is None
        or [len(life) for life in found] != [len(life) for life in expected]
    ):
        return False
    pairs = [pair for lives in zip(found, expected, strict=True) for pair in zip(*lives, strict=True)]
    return all(one == other or (one.get("assumed") and one["event"] == other["event"]) for one, other in pairs)


def events_of(recording: Recording, root: int | None = None) -> list[dict[str, Any]] | None:
    """Return all events, or those of a root, none where it is not found; None where they name a gap."""
    name = None if root is None else RootName(namespace=False, number=root)
    span = EventSpan(recording.runs[0].first, recording.runs[-1].last, name)
    try:
        found = [event for batch in Retelling(recording, span, Enquirer()).batches() for event in batch]
    except NoSuchRootError:
        return []
    except NoSuchInstantError:  # no keyframe is whole
        return None
    return None if any(event["event"] == "gap" for event in found) else found


def ends_sooner(found: list[dict[str, Any]] | None, expected: list[dict[str, Any]] | None) -> bool:
    """Return True if the events of a root are those expected, but that their end is told in front of damage.

    The end of a root is told behind parts of the ring and sweeps, as a watch tells it. A root that is gone once a number
    has been given up has its end behind the next part: where that is damaged, at the number in front. Nothing follows.
    """
    if not found or not expected or found[-1]["event"] != "end":
        return False
    order, told = found[-1]["order"], [each for each in found if each["event"] not in _ENDS]
    last = max(range(len(found)), key=lambda place: (found[place]["event"] not in _ENDS, place))
    is_alike = len(found) == len(expected) and found[: last + 1] == expected[: last + 1] and bool(told)
    return is_alike and all(
        one["event"] == other["event"]
        and one["order"] == order <= other["order"]
        and one["time_ns"] <= other["time_ns"]
        for one, other in zip(found[last + 1 :], expected[last + 1 :], strict=True)
    )


def time_of(recording: Recording, time_ns: int) -> tuple[tuple[int, int], bytes] | None:
    """Return instant and state of a time; None where it is refused, or something is said to be missing."""
    try:
        found = recording.table_at(recording.at_time(time_ns))
    except CkptreeError:
        return None
    return None if found.reasons else ((found.instant.run, found.instant.order), state_of(found.table, found.stream))


def blocks_of(data: bytes) -> list[segment.Block]:
    """Return the blocks of the tape of a whole segment."""
    _, begin = segment.read_head(data)
    return [block for block in segment.blocks(data, begin) if block is not None and block.kind == segment.TAPE]


def flip_in_head(path: Path, chance: random.Random) -> None:
    """Flip a bit in the head of a block."""
    data = bytearray(path.read_bytes())
    block = chance.choice(blocks_of(bytes(data)))
    data[chance.randrange(block.begin, block.at)] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def flip_in_data(path: Path, chance: random.Random) -> None:
    """Flip a bit in the stored bytes of a block."""
    data = bytearray(path.read_bytes())
    block = chance.choice(blocks_of(bytes(data)))
    data[chance.randrange(block.at, block.end)] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def cut_out(path: Path, chance: random.Random) -> None:
    """Cut out a block."""
    data = path.read_bytes()
    block = chance.choice(blocks_of(data))
    path.write_bytes(data[: block.begin] + data[block.end :])


def double(path: Path, chance: random.Random) -> None:
    """Double a block."""
    data = path.read_bytes()
    block = chance.choice(blocks_of(data))
    path.write_bytes(data[: block.end] + data[block.begin : block.end] + data[block.end :])


def exchange(path: Path, chance: random.Random) -> None:
    """Exchange two neighbours."""
    data = path.read_bytes()
    blocks = blocks_of(data)
    if len(blocks) > 1:
        at = chance.randrange(len(blocks) - 1)
        one, other = blocks[at], blocks[at + 1]
        between = data[one.end : other.begin]
        pieces = data[: one.begin], data[other.begin : other.end], between, data[one.begin : one.end], data[other.end :]
        path.write_bytes(b"".join(pieces))


def cut_short(path: Path, chance: random.Random) -> None:
    """Cut a segment short anywhere behind its head."""
    data = path.read_bytes()
    _, begin = segment.read_head(data)
    path.write_bytes(data[: chance.randrange(begin, len(data))])


def remove(path: Path, _chance: random.Random) -> None:
    """Remove a segment."""
    path.unlink()


CHANGES = (flip_in_head, flip_in_data, cut_out, double, exchange, cut_short, remove)


def test_a_time_that_the_clock_shows_once_is_that_of_its_point(tmp_path: Path) -> None:
    """Or of one before which something is missing, however the clock was set."""
    met = 0
    for each in range(examples(8)):
        seed = int(_SEED) * 1000 + each
        (tmp_path / str(seed)).mkdir()
        truths = a_recording(tmp_path / str(seed), seed, steps=30, marks=0.12, clocks=0.1, losses=0.05)
        recording = Recording(tmp_path / str(seed))
        first_ns: list[int] = []
        for truth in reversed(truths):
            last = next(each for each in reversed(truths) if each[:2] == truth[:2])
            here = [each for each in recording.segments if (each.run, each.facts.first) <= truth[:2]]
            is_found = bool(here) and here[-1].facts.realtime_ns <= truth.time_ns  # not by a clock set there and back
            is_found &= truth.time_ns <= recording.until_ns
            if last is truth and is_found and not truth.lost and all(truth.time_ns < later for later in first_ns):
                found = time_of(recording, truth.time_ns)
                met += found is not None
                assert found in (None, ((truth.run, truth.order), truth.state)), (seed, truth.order)
            first_ns.append(truth.time_ns)
    assert met


@pytest.mark.parametrize("change", CHANGES, ids=[each.__name__ for each in CHANGES])
def test_an_answer_is_the_true_one_or_names_a_gap(tmp_path: Path, change: Change) -> None:
    """Of trees by number and by time, of all events, and of the lives of a number."""
    chance = random.Random(f"{change.__name__} {_SEED}")
    told = 0
    for number in range(examples(4)):
        place = tmp_path / str(number)
        place.mkdir()
        truths = a_recording(
            place, chance.randrange(1 << 30), runs=1 + number % 2, steps=30, marks=0.12, clocks=0.1, losses=0.05
        )
        recording = Recording(place)
        whole = recording.runs[-1].last
        points = chance.sample(ends := last_at_each(truths), min(_ASKED, len(ends)))
        times = {each.time_ns: time_of(recording, each.time_ns) for each in points}
        lives = {each: lives_of(recording, each) for each in chance.sample(_NUMBERS, _ASKED)}
        certain = {each: certain_of(recording, each) for each in lives}
        events = {root: events_of(recording, root) for root in (None, *lives)}
        change(chance.choice(folder.stored(place)).path, chance)
        if not folder.stored(place):
            continue
        damaged = Recording(place)
        what = f"{place}, {change.__name__}"
        for each in points:
            try:
                found = replayed(damaged, each)
            except CkptreeError:
                found = None
            if found is not None and not found.reasons and not each.lost:
                told += 1
                # Several are at one number, of which the later ones may be in what is cut off.
                states = [other.state for other in truths if other[:2] == each[:2]]
                assert state_of(found.table, found.stream) in states, (what, each.order)
            end, expected_one = damaged.runs[-1].last, times[each.time_ns]
            # It may be shown again behind the end, or before the first segment that there is; where the whole recording
            # names a gap, it is not sure itself.
            is_begun = damaged.segments[0].facts.sequence == recording.segments[0].facts.sequence
            if is_begun and expected_one is not None and expected_one[0] < (end.run, end.order):
                timed = time_of(damaged, each.time_ns)
                # The clock may show the time in a gap, too; and of several states of a number each one is true.
                if timed not in (None, expected_one):
                    assert timed is not None
                    assert timed[0] in (expected_one[0], (each.run, each.order)), (what, each.time_ns)
                    states = [other.state for other in truths if other[:2] == timed[0]]
                    assert timed[1] in states, (what, each.time_ns)
        for number_asked, all_certain in certain.items():
            assert certain_of(damaged, number_asked) <= all_certain, (what, number_asked)
        ending = damaged.runs[-1].last
        is_shorter = ending.time_ns < whole.time_ns or (ending.run, ending.order) < (
            whole.run,
            whole.order,
        )  # and says so
        if not is_shorter and damaged.segments[0].facts.sequence == recording.segments[0].facts.sequence:
            for number_asked, expected in lives.items():
                assert are_alike(lives_of(damaged, number_asked), expected), (what, number_asked)
            for root, expected in events.items():
                told_of = events_of(damaged, root)
                is_sooner = root is not None and ends_sooner(told_of, expected)
                assert told_of in (None, expected) or is_sooner, (what, root)
        shutil.rmtree(place)
    assert told
