# SPDX-License-Identifier: Apache-2.0
"""The arguments of execs: they stand in the exec's line, and no event changes its place for them."""

import json
from collections.abc import Iterable
from typing import Any

import pytest

from agent.cli.eventlines import MOST_OF_A_LINE, as_json, as_line, lines_of
from agent.cli.execlines import LONGEST_NS, MOST_WAITING, Joined, with_arguments
from agent.protocol.client import Event, EventTask


def event(kind: str, order: int, tid: int = 5, time_ns: int | None = 0, **details: Any) -> Event:
    """Return an event of a task, or one of no task where the number is 0."""
    task = EventTask(tid, tid, (tid,), 9, 0, 0, b"make") if tid else None
    return Event(kind, order, task, details, time_ns)


def arguments(order: int, tid: int = 5, text: bytes = b"make\0all\0", size: int = 9) -> Event:
    """Return an event with arguments."""
    return event("arguments", order, tid, arguments=text, size=size)


def told(events: Iterable[Event | None], *, told: bool = True) -> list[list[tuple[int, Any]]]:
    """Return for each event the orders and arguments of the lines that it releases."""
    joined = Joined(lines_of(as_objects=True, shortened=False), told=told)
    found = []
    for each in events:
        lines = [json.loads(line) for line in joined.lines(each)]
        found.append([(line["order"], line.get("arguments", "-")) for line in lines])
    return found


def test_an_exec_and_all_behind_it_wait_for_its_arguments() -> None:
    """Records of other tasks stand between them."""
    assert told([event("reap", 1, 7), event("exec", 2), event("reap", 3, 8), arguments(4), event("reap", 5, 9)]) == [
        [(1, "-")],
        [],
        [],
        [(2, ["make", "all"]), (3, "-")],
        [(5, "-")],
    ]


def test_each_exec_has_its_own() -> None:
    """Two tasks may run programs at once, and one task may run two programs."""
    events = [event("exec", 1, 5), event("exec", 2, 6), arguments(3, 6, b"b\0", 2), arguments(4, 5, b"a\0", 2)]
    assert told(events) == [[], [], [], [(1, ["a"]), (2, ["b"])]]
    assert told([event("exec", 1), event("exec", 2), arguments(3)]) == [[], [(1, None)], [(2, ["make", "all"])]]


@pytest.mark.parametrize(
    "last",
    [
        event("death", 3, exit_code=0, group_dead=True),
        event("reap", 3),
        event("reap", 3, 7, time_ns=LONGEST_NS + 1),
        event("loss", 3, 0, time_ns=LONGEST_NS + 1, count=1),
    ],
)
def test_an_exec_whose_arguments_do_not_come_does_not_wait_for_long(last: Event) -> None:
    """A program that was started without any has none to tell."""
    assert told([event("exec", 1), last]) == [[], [(1, None), (3, "-")]]


def test_nothing_waits_where_nothing_comes_or_too_much() -> None:
    """The reader sees all of it in the end."""
    assert told([event("exec", 1), None, arguments(2)]) == [[], [(1, None)], []]
    many = [event("reap", order, order) for order in range(10, 10 + MOST_WAITING)]
    assert told([event("exec", 1), *many])[-1] == [(1, None), *[(each.order, "-") for each in many]]


def test_where_the_daemon_tells_no_arguments_no_exec_waits() -> None:
    """Nor does one that no record told."""
    assert told([event("exec", 1)], told=False) == [[(1, None)]]
    assert told([event("exec", 1, assumed=True)]) == [[(1, None)]]
    assert told([arguments(1)]) == [[]]


def test_arguments_are_text_of_one_line_and_bounded() -> None:
    """JSON has all that the daemon has told, and says where the end is missing."""
    exec_ = with_arguments(event("exec", 1), {"arguments": b"sh\0-c\0a b\n\xff\0\0", "size": 13})
    assert as_line(exec_).endswith(r"exec      5 make: sh -c 'a b\n\xff' ''")
    assert json.loads(as_json(exec_))["arguments"] == ["sh", "-c", "a b\n\\xff", ""]
    assert json.loads(as_json(exec_))["arguments_cut"] is False
    cut = with_arguments(event("exec", 1), {"arguments": b"x" * 4096, "size": 4097})
    assert as_line(cut).endswith(": " + "x" * MOST_OF_A_LINE + "…")
    assert json.loads(as_json(cut))["arguments"] == ["x" * 4096]
    assert json.loads(as_json(cut))["arguments_cut"] is True
    unknown = json.loads(as_json(event("exec", 1)))
    assert (unknown["arguments"], unknown["arguments_cut"]) == (None, None)
