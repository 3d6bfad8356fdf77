# SPDX-License-Identifier: Apache-2.0
"""Answers of relays that mean harm, or are of another version: see agent.fleet.hostanswers."""

import json
from typing import Any, Final

import pytest

from agent.cli.eventlines import as_json, as_line
from agent.fleet import hostanswers
from agent.fleet.clocks import Offset
from agent.fleet.gathering import Gathering, Wanted
from agent.fleet.manifest import HostContents, hash_of

MS: Final = 1_000_000
SENT: Final = 1_800_000_000_000 * MS
CUT: Final[dict[str, Any]] = {
    "image": hash_of(b"x"),
    "bytes": 1,
    "tasks": 1,
    "complete": True,
    "reasons": ["late"],
    "before_ns": 1,
    "after_ns": 2,
    "data": b"x",
    "boot_id": "b",
    "kernel": "6",
    "version": "1",
}
BIRTH: Final[dict[str, Any]] = {
    "event": "birth",
    "order": 9,
    "time_ns": 7,
    "pid": 1,
    "tid": 1,
    "numbers": [1, 1],
    "start_ns": 5,
    "uid": 0,
    "gid": 0,
    "comm": b"x",
    "parent": 1,
    "creator": 1,
    "pgid": 1,
    "sid": None,
    "flags": ["CLONE_VM"],
    "exit_signal": 17,
}
DEATH: Final = BIRTH | {"event": "death", "exit_code": 256, "group_dead": True}
CONTENTS: Final = {"store": "nats://dumps", "list": hash_of(b""), "bytes": 9}


def test_an_answer_to_a_cut_is_its_parts() -> None:
    """A part that an older version leaves out is empty."""
    found = hostanswers.cut(CUT, contents=False)

    assert (found.image, found.size, found.data, found.reasons) == (hash_of(b"x"), 1, b"x", ("late",))
    bare = {key: CUT[key] for key in ("image", "bytes", "tasks", "before_ns", "after_ns")}
    assert hostanswers.cut(bare, contents=False)[-5:] == ((), "", "", "", None)


@pytest.mark.parametrize(
    "change",
    [
        *({"before_ns": "now"}, {"before_ns": -1}, {"before_ns": 3}, {"after_ns": 1 << 63}, {"after_ns": 0.5}),
        *({"tasks": None}, {"tasks": -4}, {"tasks": True}, {"bytes": 0}, {"bytes": 1 << 40}),
        *({"image": "sha256:x"}, {"image": 5}, {"data": b"xy"}, {"data": "x"}),
        *({"boot_id": [[[]]]}, {"kernel": "k" * 5000}, {"version": b"v"}),
        *({"reasons": [["deep"]]}, {"reasons": ["r"] * 2000}, {"reasons": "r"}, {"reasons": ["r" * 5000]}),
    ],
)
def test_a_part_of_another_type_or_size_makes_it_none(change: dict[str, Any]) -> None:
    """The errors are those that a gathering takes for a host that is missing."""
    with pytest.raises((KeyError, TypeError, ValueError)):
        hostanswers.cut(CUT | change, contents=False)


def test_contents_are_read_where_they_were_asked_for() -> None:
    """Then they must be there."""
    answer = CUT | {"contents": CONTENTS}

    assert hostanswers.cut(answer, contents=True).contents == HostContents("nats://dumps", hash_of(b""), 9)
    assert hostanswers.cut(answer, contents=False).contents is None
    with pytest.raises(KeyError, match="contents"):
        hostanswers.cut(CUT, contents=True)


@pytest.mark.parametrize(
    ("received_ns", "answered_ns"),
    [
        *(
            (SENT + 60_000 * MS, SENT),
            (SENT + 1500 * MS, SENT + MS),
            (SENT, SENT + 60_000 * MS),
            (SENT, SENT + 12 * MS),
        ),
        *((1 << 64, 1 << 64), (-5, -5), (float("nan"), SENT), (None, None), ("now", "now")),
    ],
)
def test_times_that_no_steady_clock_shows_are_refused(received_ns: Any, answered_ns: Any) -> None:
    """Else one host's word would tell all others how long to wait."""
    with pytest.raises((TypeError, ValueError)):
        hostanswers.clock({"received_ns": received_ns, "answered_ns": answered_ns}, SENT, SENT + 10 * MS)


def test_a_clock_that_runs_a_little_faster_is_steady() -> None:
    """By what adjtime(3) may do; the offset is as sure as the question took."""
    answer = {"received_ns": SENT + 5000 * MS, "answered_ns": SENT + 5010 * MS + 500_000}

    assert hostanswers.clock(answer, SENT, SENT + 10 * MS) == Offset(5000 * MS + 250_000, 1)
    assert hostanswers.clock(answer | {"answered_ns": SENT + 5000 * MS}, SENT, SENT + 10 * MS).bound_ns == 5 * MS + 1


@pytest.mark.parametrize(
    "change",
    [{"allow": 5}, {"allow": [["x"]]}, {"tasks": "1"}, {"tasks": -1}, {"version": ["1"]}, {"kernel": None}],
)
def test_a_host_that_tells_something_else_of_itself_is_refused(change: dict[str, Any]) -> None:
    """Each part of it is printed."""
    told = {"version": "1", "kernel": "6", "tasks": None, "allow": ["snapshot"]}

    assert hostanswers.hello(told | {"more": 1}) == told
    with pytest.raises((TypeError, ValueError)):
        hostanswers.hello(told | change)


def test_the_events_of_an_answer_are_those_that_have_not_come() -> None:
    """Whatever their kind; what only a later version tells is passed on."""
    later = {"event": "freeze", "order": 3, "share": 0.5, "by": {"names": ["a"]}}
    dropped = {"event": "dropped", "order": 2, "count": 4}
    told: list[dict[str, Any]] = [BIRTH, DEATH, dropped, BIRTH | {"time_ns": None, "assumed": True}, later]
    found = hostanswers.events({"first": 5, "events": told}, 5)

    assert [event.kind for event in found] == ["death", "dropped", "birth", "freeze"]
    assert found[-1].details == {"share": 0.5, "by": {"names": ["a"]}}
    assert hostanswers.events({"first": 1, "events": []}, 0) == []


def nested(levels: int) -> list[Any]:
    """Return lists, each in another one."""
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


@pytest.mark.parametrize(
    "said",
    [
        *(5, "birth", [], {}, BIRTH | {b"k": 1}),
        *(BIRTH | {"order": each} for each in (float("inf"), 1.0, "1", None, True, -1)),
        *(BIRTH | {"time_ns": each} for each in (float("nan"), "now", 1 << 63, -(1 << 64))),
        *(BIRTH | {"event": each} for each in (5, b"birth", None)),
        *(BIRTH | {"comm": each} for each in ("x", None, 5)),
        *(BIRTH | {"numbers": each} for each in ("12", [], ["1"], [1] * 99, 5, [-1])),
        *(BIRTH | {"flags": each} for each in ("CLONE_VM", [5], None)),
        *(BIRTH | {"parent": each} for each in ("1", None, [1], 1 << 33)),
        *(BIRTH | {"exit_signal": each} for each in ("x", 1 << 40)),
        *(DEATH | {"exit_code": "x"}, DEATH | {"group_dead": 5}),
        *(BIRTH | {"more": each} for each in (b"x", float("inf"), {5: 1}, nested(900))),
        *({"event": "dropped", "order": 1, "count": each} for each in ("x" * 10, -1, 0.5, None)),
    ],
)
def test_an_event_of_other_types_is_refused(said: Any) -> None:
    """It would be printed as it is: in JSON that no reader takes, or in the place of a number."""
    with pytest.raises((KeyError, TypeError, ValueError)):
        hostanswers.events({"first": 1, "events": [said]}, 0)


@pytest.mark.parametrize(
    "change",
    [{"first": "x"}, {"first": 0}, {"first": 3}, {"first": 1 << 63}, {"events": "abc"}, {"events": {"a": 1}}],
)
def test_events_of_no_place_are_refused(change: dict[str, Any]) -> None:
    """A gap before the first one would be a loss that nobody tells."""
    answer = {"first": 2, "events": [BIRTH]}

    assert len(hostanswers.events(answer, 1)) == 1
    with pytest.raises((TypeError, ValueError)):
        hostanswers.events(answer | change, 1)


@pytest.mark.parametrize("key", ["exit_code", "exit_signal", "time_ns", "order", "uid", "start_ns", "pid", "sid"])
@pytest.mark.parametrize(
    "value", [-(1 << 63), -(1 << 31), -1, 0, (1 << 31) - 1, (1 << 32) - 1, (1 << 63) - 1, (1 << 64) - 1]
)
def test_a_number_that_is_taken_is_printed(key: str, value: int) -> None:
    """As a line and as JSON, at the bounds as well."""
    try:
        (event,) = hostanswers.events({"first": 1, "events": [DEATH | {key: value}]}, 0)
    except ValueError:
        return
    assert json.loads(as_json(event), parse_constant=pytest.fail)["order"] == event.order
    assert as_line(event)


def test_of_a_refusal_a_bounded_part_is_kept() -> None:
    """It becomes part of the set."""
    gathering = Gathering(Wanted("x", {"a": "1"}, 1000 * MS), SENT)
    (arm,) = gathering.due(SENT)
    gathering.refused(arm.number, "no" * 100_000)

    assert len(gathering.result().made.missing[0].reason) == 4096
