# SPDX-License-Identifier: Apache-2.0
"""Events and lives out of recordings of a simulated kernel, with gaps and losses, compared with the tables of then."""

import random
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from agent.access import Viewer
from agent.errors import CkptreeError, NoSuchRootError, UsageError
from agent.recorder import answers
from agent.recorder.facts import Instant
from agent.recorder.history import NumberHistory
from agent.recorder.past import Enquirer
from agent.recorder.recording import Recording
from agent.recorder.retelling import EventSpan
from agent.recorder.rootsearch import RootSearch
from agent.rootname import RootName
from tests.bench import longrecording
from tests.support.examples import examples
from tests.support.retold import in_pieces, told, whole
from tests.support.taped import AHEAD_NS, BOOT_NS, Taped, a_recording

Said = dict[str, Any]
Key = tuple[int, int]


def gaps_among(events: list[Said]) -> list[tuple[Any, ...]]:
    """Return the gaps among events: the numbers, and the time up to which they reach, which every answer tells alike."""
    return [
        tuple(each[key] for key in ("order", "next", "until_ns", "why")) for each in events if each["event"] == "gap"
    ]


@pytest.mark.parametrize("seed", range(8))
def test_what_is_there_and_all_events_make_the_last_table(tmp_path: Path, seed: int) -> None:
    """Across gaps and losses, each task is told once, with the parent, group and session that it has at the end."""
    a_recording(tmp_path, seed)
    recording = Recording(tmp_path)
    events = told(recording, whole(recording))
    here: dict[Key, Said] = {}
    for event in events:
        if "tid" not in event:
            continue
        key = (event["tid"], event["start_ns"])
        if event["event"] == "birth":
            assert key not in here
            here[key] = {}
        elif event["event"] == "reap":
            del here[key]
        leaders = {each[0]: each for each in here}
        owner = leaders.get(event["pid"], key)  # a thread gives its process a session or a group
        if owner in here:
            here[owner] |= {name: event[name] for name in ("parent", "pgid", "sid") if name in event}
    table = recording.table_at(recording.runs[-1].last).table
    assert set(here) == {(task.pid.numbers[0], task.start_ns) for task in table.tasks()}
    for task in table.tasks():
        known = here[task.pid.numbers[0], task.start_ns]
        leader = task.leader
        if leader is task and leader.parent is not None and leader.pgid is not None and leader.sid is not None:
            numbers = [each.numbers[0] for each in (leader.parent.pid, leader.pgid, leader.sid)]
            assert [known["parent"], known["pgid"], known["sid"]] == numbers
    assert "gap" in {event["event"] for event in events}
    orders = [(event["order"], event["event"]) for event in events]
    assert len(orders) > 100


@pytest.mark.parametrize("seed", range(4))
def test_a_history_has_what_the_events_have(tmp_path: Path, seed: int) -> None:
    """Both are made of the same records, in different ways: by the feed over a replay, and by the records alone."""
    taped = Taped(tmp_path, seed)
    taped.mark(continues=False)
    for step in range(30):
        taped.step()
        if step % 10 == 9:
            taped.mark(continues=True)
    taped.end()
    recording = Recording(tmp_path)
    span = whole(recording)
    by_life: dict[Key, list[tuple[str, int]]] = defaultdict(list)
    compared = ("birth", "exec", "death", "setsid", "setpgid", "subreaper")
    for event in told(recording, span):
        if event["event"] in compared and not event.get("assumed"):
            by_life[event["tid"], event["start_ns"]].append((event["event"], event["order"]))
    assert by_life
    for number in {tid for tid, _ in by_life}:
        lives = NumberHistory(recording, (span.since, span.until), number, Enquirer()).lives()
        for life in lives:
            own = {(each["event"], each["order"]) for each in life if not each.get("assumed")}
            assert set(by_life[number, life[0]["start_ns"]]) <= own
        assert {life[0]["start_ns"] for life in lives} >= {start_ns for tid, start_ns in by_life if tid == number}


def test_a_root_that_is_born_later_is_followed_from_its_birth_on(tmp_path: Path) -> None:
    """No birth of a child is missed, though the records of both were read from the ring at once."""
    followed = 0
    for seed in range(10):
        (tmp_path / str(seed)).mkdir()
        taped = Taped(tmp_path / str(seed), seed)
        taped.mark(continues=False)
        for _ in range(12):
            taped.step()
        taped.end()
        recording = Recording(tmp_path / str(seed))
        first, last = recording.runs[0].first, recording.runs[0].last
        births = [each for each in told(recording, EventSpan(first, last)) if each["event"] == "birth"]
        born = [each["tid"] for each in births if each["tid"] == each["pid"] and not each.get("assumed")]
        for root in {number for number in born if born.count(number) == 1}:
            children = [each["tid"] for each in births if each["parent"] == root and not each.get("assumed")]
            below = told(recording, EventSpan(first, last, RootName(namespace=False, number=root)))
            found = [each["tid"] for each in below if each["event"] == "birth" and each["parent"] == root]
            assert [tid for tid in found if tid in children] == children
            followed += len(children)
    assert followed > 3


def test_a_root_that_is_born_later_begins_with_its_birth(tmp_path: Path) -> None:
    """As the events of all tasks have it, and with the gaps in front of it: an earlier one may have been in them.

    Where it is told with what is there at the beginning, it is not among that.
    """
    compared = behind = 0
    for seed in range(6):
        (tmp_path / str(seed)).mkdir()
        recording = in_pieces(tmp_path / str(seed), seed)
        span = whole(recording)
        everything = told(recording, span)
        births = [each for each in everything if each["event"] == "birth" and each["tid"] == each["pid"]]
        first = {each["tid"]: each for each in reversed(births)}
        for number, birth in first.items():
            if birth.get("assumed"):
                continue
            root = RootName(namespace=False, number=number)
            gaps = gaps_among(everything[: everything.index(birth)])
            for present in (False, True):
                events = told(recording, EventSpan(span.since, span.until, root, present=present))
                before = events[: events.index(birth)]
                assert gaps_among(before) == gaps
                assert [each["event"] for each in before] == ["gap", "resync"] * len(gaps)
            behind += bool(gaps)
            kinds = told(recording, EventSpan(span.since, span.until, root, ("exec", "death")))
            assert "birth" not in {each["event"] for each in kinds}
            compared += 1
    assert compared > 30
    assert behind


def test_a_root_whose_life_is_read_from_the_ring_at_once_is_found(tmp_path: Path) -> None:
    """From its birth to its reap: between two looks of the daemon at the ring it is in no table."""
    taped = Taped(tmp_path, 1)
    kernel = taped.kernel
    taped.mark(continues=False)
    parent = next(iter(kernel.threads))
    child = kernel.fork(parent)
    kernel.exit(child)
    kernel.wait(parent, child)
    taped.hear()
    taped.end()
    recording = Recording(tmp_path)
    root = RootName(namespace=False, number=child.pid.numbers[0])
    events = told(recording, EventSpan(recording.runs[0].first, recording.runs[0].last, root))
    assert [each["event"] for each in events] == ["birth", "death", "reap", "end"]


def test_a_root_that_begins_within_a_gap_is_told_behind_it(tmp_path: Path) -> None:
    """Earlier gaps come first, then its own, then what is there, as assumed births; each number is found."""
    begun = 0
    for seed in range(6):
        (tmp_path / str(seed)).mkdir()
        recording = in_pieces(tmp_path / str(seed), seed)
        span = whole(recording)
        births = [each for each in told(recording, span) if each["event"] == "birth" and each["tid"] == each["pid"]]
        first = {each["tid"]: each for each in reversed(births)}
        gaps = {gap.next: gap for gap in recording.gaps}
        for number, birth in first.items():
            if "present" in birth or not birth.get("assumed"):
                continue
            gap = gaps[birth["order"]]
            events = told(recording, EventSpan(span.since, span.until, RootName(namespace=False, number=number)))
            earlier = 2 * recording.gaps.index(gap)
            assert [each["event"] for each in events[:earlier]] == ["gap", "resync"] * (earlier // 2)
            events = events[earlier:]
            assert [each["event"] for each in events[:2]] == ["gap", "birth"]
            assert (events[0]["why"], events[0]["until_ns"], events[0]["reboot"]) == (gap.why, gap.until_ns, False)
            assert events[1] == birth
            resync = [each["event"] for each in events].index("resync")
            assert {(each["event"], each.get("assumed")) for each in events[1:resync]} == {("birth", True)}
            begun += 1
    assert begun > 10


@pytest.mark.parametrize("seed", range(6))
def test_a_root_of_later_is_found_by_the_index_as_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """The same events, or the same error, for each number and from each point on."""
    a_recording(tmp_path, seed, steps=40)
    recording = Recording(tmp_path)
    first, last = recording.runs[0].first, recording.runs[-1].last
    middle = first._replace(order=(first.order + recording.runs[0].last.order) // 2)

    numbers = random.Random(seed).sample(range(1, 62), examples(61))

    def everything() -> list[Any]:
        found: list[Any] = []
        for since, until in ((first, last), (middle, last), (first, middle)):
            for number in numbers:
                try:
                    found.append(told(recording, EventSpan(since, until, RootName(namespace=False, number=number))))
                except CkptreeError as error:
                    found.append(type(error))  # the text says what the number was when the search ended
        return found

    by_index = everything()
    monkeypatch.setattr(RootSearch, "_skipper", lambda _self, _since: lambda: True)
    assert everything() == by_index
    assert sum(isinstance(each, list) for each in by_index) > len(by_index) // 10


@pytest.mark.parametrize("seed", range(6))
def test_a_life_that_goes_on_over_a_gap_is_one_life(tmp_path: Path, seed: int) -> None:
    """The lives that have not ended are those of the last table, each told once, whatever happened within the gaps."""
    recording = in_pieces(tmp_path, seed)
    assert len(recording.gaps) == 4
    assert recording.seams == recording.gaps
    span = recording.runs[0].first, recording.runs[-1].last
    table = recording.table_at(span[1]).table
    gaps = 0
    for number in range(1, 62):
        try:
            lives = NumberHistory(recording, span, number, Enquirer()).lives()
        except NoSuchRootError:
            assert table.task(number) is None
            continue
        starts = [life[0]["start_ns"] for life in lives]
        assert len(set(starts)) == len(starts)
        task = table.task(number)
        assert [life[0]["start_ns"] for life in lives if life[-1]["event"] != "reap"] == (
            [task.start_ns] if task is not None else []
        )
        for life in lives:
            assert [each["event"] in ("present", "birth") for each in life] == [True] + [False] * (len(life) - 1)
            times = [each["order"] for each in life]
            assert times == sorted(times)
            gaps += sum(each["event"] == "gap" for each in life)
            last = {name: each[name] for each in life for name in ("parent", "pgid") if name in each}
            if task is not None and life[-1]["event"] != "reap" and task.leader is task and task.leader.parent:
                assert task.pgid is not None
                assert last == {"parent": task.leader.parent.pid.numbers[0], "pgid": task.pgid.numbers[0]}
    assert gaps > 4


def test_a_life_that_begins_within_a_gap_is_there_behind_it(tmp_path: Path) -> None:
    """From the first state behind the gap on, whatever records follow; each later gap is in it."""
    begun = 0
    for seed in range(6):
        (tmp_path / str(seed)).mkdir()
        recording = in_pieces(tmp_path / str(seed), seed)
        span = recording.runs[0].first, recording.runs[-1].last
        births = [each for each in told(recording, whole(recording)) if each["event"] == "birth"]
        known = {(each["tid"], each["start_ns"]) for each in births if not each.get("assumed") or "present" in each}
        for place, gap in enumerate(recording.gaps):
            there = recording.table_at(Instant(gap.next_run, gap.next, 0, 0, 0)).table.tasks()
            for number, start_ns in {(task.pid.numbers[0], task.start_ns) for task in there} - known:
                known.add((number, start_ns))
                lives = NumberHistory(recording, span, number, Enquirer()).lives()
                (life,) = [each for each in lives if each[0]["start_ns"] == start_ns]
                assert (life[0]["event"], life[0]["order"], life[0]["time_ns"]) == ("present", gap.next, gap.until_ns)
                if life[-1]["event"] != "reap":
                    later = recording.gaps[place + 1 :]
                    assert [each["order"] for each in life if each["event"] == "gap"] == [each.first for each in later]
                begun += 1
    assert begun > 10


def test_a_block_that_is_damaged_is_a_gap_in_the_lives_that_it_was_about(tmp_path: Path) -> None:
    """And in no other one."""
    longrecording.make(tmp_path, 20_000, 100, interval=30_000)
    each = Recording(tmp_path).segments[0]
    block = each.tapes[2]
    rows = each.index()
    assert rows is not None
    inside, others = (set(rows[2].numbers), set(rows[0].numbers) - set(rows[2].numbers))
    data = bytearray(each.path.read_bytes())
    data[block.at + 50] ^= 1
    each.path.write_bytes(data)
    recording = Recording(tmp_path)
    span = recording.runs[0].first, recording.runs[0].last._replace(order=block.next)

    def gaps_of(number: int) -> list[str]:
        lives = NumberHistory(recording, span, number, Enquirer()).lives()
        return [event["why"] for life in lives for event in life if event["event"] == "gap"]

    begun = [number for number in sorted(inside) if number in rows[1].numbers and number not in rows[0].numbers]
    assert begun
    assert gaps_of(begun[0]) == ["what lies between is damaged, or missing"]
    assert gaps_of(max(others)) == []


def test_a_step_of_the_clock_and_a_suspend_are_told_where_they_were(tmp_path: Path) -> None:
    """The times behind a step are those of the new clock."""
    taped = Taped(tmp_path, 1)
    taped.mark(continues=False)
    taped.step()
    for step_ns, slept_ns in ((0, 0), (3_000_000_000, 0), (0, 7_000_000_000)):
        taped.clock(by_ns=step_ns, slept_ns=slept_ns)
        taped.step()
    taped.end()
    recording = Recording(tmp_path)
    events = told(recording, whole(recording))
    assert [event["by_ns"] for event in events if event["event"] == "clock"] == [3_000_000_000]
    assert [event["asleep_ns"] for event in events if event["event"] == "suspend"] == [7_000_000_000]
    assert events[0]["time_ns"] - events[0]["boottime_ns"] == AHEAD_NS
    assert events[-1]["time_ns"] - events[-1]["boottime_ns"] == AHEAD_NS + 3_000_000_000
    assert all(event["boottime_ns"] >= 0 for event in events)
    assert events[-1]["boottime_ns"] > BOOT_NS


def test_events_of_a_user_are_of_that_users_tasks(tmp_path: Path) -> None:
    """By the ids that the tasks have at each event."""
    a_recording(tmp_path, 1, runs=1)
    recording = Recording(tmp_path)
    everything = told(recording, whole(recording))
    ids = {(event["uid"], event["gid"]) for event in everything if "uid" in event}
    for uid, gid in ids:
        enquirer = Enquirer(Viewer(0, uid, gid))
        own = [event for event in told(recording, whole(recording), enquirer) if "uid" in event]
        assert {(event["uid"], event["gid"]) for event in own} == {(uid, gid)}


def test_a_question_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    """Whatever a client sends as one."""
    a_recording(tmp_path, 2, runs=1)
    recording = Recording(tmp_path)
    last = recording.runs[0].last.order
    for wrong in (
        {"since": {"order": last}, "until": {"order": recording.runs[0].first.order}},
        {"since": 3},
        {"since": {"order": True}},
        {"until": {"time_ns": -1}},
        {"kinds": "birth"},
        {"kinds": [["birth"]]},
        {"root": 1.5},
    ):
        with pytest.raises(UsageError):
            list(answers.events(recording, wrong, Enquirer()))
    with pytest.raises(UsageError, match="pid: expected"):
        answers.history(recording, {"pid": "1"}, Enquirer())
    lives, gaps = answers.history(recording, {"pid": 4_000_000}, Enquirer())
    found = [each["order"] for each in gaps if each["event"] == "gap"]
    assert (lives, found) == ([], [each.first for each in recording.gaps])
    with pytest.raises(NoSuchRootError, match=r"has had number 4000000 from 20.*Z to 20"):
        answers.history(recording, {"pid": 4_000_000, "until": {"order": recording.gaps[0].first}}, Enquirer())
    until = {"order": recording.gaps[0].first}
    with pytest.raises(NoSuchRootError):
        list(answers.events(recording, {"root": 4_000_000, "until": until}, Enquirer()))


def test_a_span_that_ends_before_it_begins_names_both_times(tmp_path: Path) -> None:
    """As somebody wrote them, and with the numbers that they mean."""
    truths = a_recording(tmp_path, 3, runs=1)
    early, late = ({"order": truths[index].order} for index in (5, 20))
    with pytest.raises(UsageError) as caught:
        answers.span(Recording(tmp_path), {"since": late, "until": early})

    assert re.fullmatch(
        rf"since \S+T\S+ \(#{late['order']}\) is behind until \S+T\S+ \(#{early['order']}\): exchange them",
        str(caught.value),
    )


def test_a_span_that_ends_before_it_begins_is_refused_where_no_record_lies_between(tmp_path: Path) -> None:
    """The two times are one number then."""
    truths = a_recording(tmp_path, 3, runs=1)
    after = {"time_ns": truths[10].time_ns + 2}
    answers.span(Recording(tmp_path), {"since": {"time_ns": after["time_ns"] - 1}, "until": after})
    with pytest.raises(UsageError, match="exchange them"):
        answers.span(Recording(tmp_path), {"since": after, "until": {"time_ns": after["time_ns"] - 1}})
