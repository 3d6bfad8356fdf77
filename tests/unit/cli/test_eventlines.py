# SPDX-License-Identifier: Apache-2.0
"""Live events as lines and as JSON."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from agent.cli.eventlines import MOST_OF_A_LOSS, as_json, as_line, lines_of
from agent.protocol.client import Event, EventTask

PROCESS = EventTask(4712, 4712, (4712, 3), 99, 1000, 100, b"make")

TIME_NS = int(datetime(2026, 1, 31, 13, 15, 2, 250_700).timestamp()) * 10**9 + 250_700_000  # noqa: DTZ001 - local time, as in a line


def event(kind: str, task: EventTask | None = PROCESS, **details: Any) -> Event:
    """Return an event with order 17, at a quarter past one."""
    return Event(kind, 17, task, details, TIME_NS)


BIRTH: dict[str, Any] = {"parent": 1, "creator": 1, "sid": 5, "pgid": 0, "flags": [], "exit_signal": 17}


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (event("birth", **BIRTH), "birth     4712/3 make: child of 1, session 5, group outside"),
        (
            event("birth", **BIRTH | {"creator": 9, "flags": ["CLONE_PARENT", "CLONE_VFORK"]}),
            "birth     4712/3 make: child of 1, by 9, session 5, group outside, CLONE_PARENT CLONE_VFORK",
        ),
        (
            event("birth", **BIRTH | {"entered": True, "stopped": False, "exit_code": 3 << 8, "subreaper": True}),
            "birth     4712/3 make: entered, child of 1, session 5, group outside, exited 3, subreaper",
        ),
        (
            event("birth", **BIRTH | {"exit_signal": 10}),
            "birth     4712/3 make: child of 1, session 5, group outside, exit signal SIGUSR1",
        ),
        (
            event("change", stopped=False, exit_code=None, exit_signal=17),
            "change    4712/3 make: uid 1000, gid 100, exit signal SIGCHLD",
        ),
        (event("exec"), "exec      4712/3 make"),
        (event("reap"), "reap      4712/3 make"),
        (event("change", stopped=True, exit_code=None), "change    4712/3 make: stopped, uid 1000, gid 100"),
        (event("setpgid", assumed=True), "setpgid   4712/3 make: assumed, session unknown, group unknown"),
        (event("death", exit_code=3 << 8, group_dead=True), "death     4712/3 make: exited 3"),
        (event("death", exit_code=9, group_dead=True), "death     4712/3 make: killed by SIGKILL"),
        (event("death", exit_code=0, group_dead=False), "death     4712/3 make: exited 0, other threads go on"),
        (event("reparent", parent=1), "reparent  4712/3 make: now child of 1"),
        (event("setsid", sid=4712, pgid=4712), "setsid    4712/3 make: session 4712, group 4712"),
        (event("setpgid", sid=0, pgid=7), "setpgid   4712/3 make: session outside, group 7"),
        (event("subreaper", on=True), "subreaper 4712/3 make: on"),
        (event("dropped", None, count=1), "dropped   1 event left out, because they were not read in time"),
        (event("end", None), "end       the root is gone"),
        (event("of-tomorrow", on=1), "of-tomorrow 4712/3 make"),
        (event("of-tomorrow", None), "of-tomorrow"),
    ],
)
def test_each_kind_has_its_words(told: Event, line: str) -> None:
    """An unknown kind is shown as far as possible."""
    assert as_line(told) == f"        17 13:15:02.250 {line}"


def test_the_event_of_an_older_daemon_has_no_time() -> None:
    """The line shows that the time is missing."""
    assert as_line(Event("end", 17, None, {})) == "        17 --:--:--.--- end       the root is gone"


def test_a_loss_is_told_with_its_count_and_what_it_means() -> None:
    """A reader must not take the following events for all that happened."""
    line = as_line(event("loss", None, count=250))

    assert "loss" in line
    assert "250 events lost on their way to the daemon" in line


def test_a_terminal_is_told_in_one_line_what_many_changes_a_loss_has_left_to_be_found_out() -> None:
    """The first few are shown, and so are events from records that come meanwhile."""
    lines = lines_of(as_objects=False, shortened=True)
    written: list[str] = []
    for told in (
        *[event("reap", assumed=True)] * (MOST_OF_A_LOSS + 1),  # by int 0x80, for example: no loss
        event("loss", None, count=9000),
        *[event("birth", **BIRTH, assumed=True)] * 5000,
        event("exec"),
        event("loss", None, count=50),
        *[event("reap", assumed=True)] * 1200,
        event("resync", None),
        None,
        *[event("reap", assumed=True)] * (MOST_OF_A_LOSS + 1),
    ):
        written += lines(told)

    kinds = [line[24:].split()[0] for line in written]
    assert kinds == [
        *["reap"] * (MOST_OF_A_LOSS + 1),
        "loss",
        *["birth"] * MOST_OF_A_LOSS,
        "exec",
        *["loss", "loss", "loss", "resync"],
        *["reap"] * (MOST_OF_A_LOSS + 1),
    ]
    first, _, second, _ = written[-(MOST_OF_A_LOSS + 1) - 4 : -(MOST_OF_A_LOSS + 1)]
    assert "4980 more changes found out after it, not shown here: birth 4980." in first
    assert "1200 more changes found out after it, not shown here: reap 1200." in second


def test_what_was_not_shown_is_counted_where_nothing_more_comes() -> None:
    """The count does not wait for the next event. The next loss shows its first few again."""
    lines = lines_of(as_objects=False, shortened=True)
    lines(event("loss", None, count=1))
    shown = [lines(event("reap", assumed=True)) for _ in range(MOST_OF_A_LOSS + 1)]
    assert shown[-2:] == [[as_line(event("reap", assumed=True))], []]
    (line,) = lines(None)
    assert "1 more change found out after it" in line
    assert lines(None) == []
    lines(event("resync", None))
    lines(event("loss", None, count=1))
    assert lines(event("reap", assumed=True))


@pytest.mark.parametrize("as_objects", [False, True])
def test_a_program_is_told_each_of_them(*, as_objects: bool) -> None:
    """This holds for JSON and for a pipe."""
    lines = lines_of(as_objects=as_objects, shortened=as_objects)
    many = [event("loss", None, count=1), *[event("reap", assumed=True)] * 5000]

    assert [line for told in many for line in lines(told)] == [
        (as_json if as_objects else as_line)(told) for told in many
    ]
    assert lines(None) == []


def test_a_thread_is_in_braces_and_belongs_to_its_process() -> None:
    """Trees show threads in the same way."""
    thread = EventTask(4712, 4713, (4713,), 99, 1000, 100, b"worker")

    assert as_line(event("birth", thread, **BIRTH)).partition("birth")[2] == (
        "     {4713 worker}: thread of 4712, session 5, group outside"
    )


def test_names_that_are_no_text_stay_in_their_line() -> None:
    """Examples are a newline, an escape sequence, and bytes that are not UTF-8."""
    task = EventTask(1, 1, (1,), 0, 0, 0, b"a\n\x1b[2J\xff")

    assert as_line(event("exec", task)).endswith(r"1 a\n\x1b[2J\xff")
    assert "\n" not in as_json(event("exec", task))
    assert json.loads(as_json(event("exec", task)))["comm"] == "a\n\x1b[2J\\xff"


def test_json_has_all_of_an_event() -> None:
    """An event without a task has only its own keys."""
    assert json.loads(as_json(event("reparent", parent=1))) == {
        "event": "reparent",
        "order": 17,
        "time": datetime.fromtimestamp(TIME_NS // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S.250700000Z"),
        "time_ns": TIME_NS,
        "pid": 4712,
        "tid": 4712,
        "numbers": [4712, 3],
        "start_ns": 99,
        "uid": 1000,
        "gid": 100,
        "comm": "make",
        "parent": 1,
    }
    assert json.loads(as_json(event("loss", None, count=2))) == {
        "event": "loss",
        "order": 17,
        "time": datetime.fromtimestamp(TIME_NS // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S.250700000Z"),
        "time_ns": TIME_NS,
        "count": 2,
    }


@pytest.mark.parametrize(
    ("code", "parts"),
    [
        (3 << 8, {"exited": 3, "signal": None, "core": False}),
        (0, {"exited": 0, "signal": None, "core": False}),
        (9, {"exited": None, "signal": "SIGKILL", "core": False}),
        (0x80 | 11, {"exited": None, "signal": "SIGSEGV", "core": True}),
        (34, {"exited": None, "signal": "SIGRTMIN", "core": False}),
        (None, {"exited": None, "signal": None, "core": None}),
    ],
)
def test_json_has_the_parts_of_a_wait_status_beside_it(code: int | None, parts: dict[str, Any]) -> None:
    """A reader need not know the macros of wait(2)."""
    told = json.loads(as_json(event("change", stopped=False, exit_code=code, exit_signal=17)))

    assert {key: told[key] for key in ("exit_code", *parts)} == {"exit_code": code, **parts}


@pytest.mark.parametrize("kind", ["birth", "setsid", "setpgid"])
def test_json_never_leaves_out_a_group_or_session(kind: str) -> None:
    """Null says that it is not known; a line says so, too."""
    told = json.loads(as_json(event(kind)))

    assert (told["pgid"], told["sid"]) == (None, None)
    assert "session unknown, group unknown" in as_line(event("birth", **BIRTH | {"pgid": None, "sid": None}))


def test_an_event_without_a_time_has_null_in_json() -> None:
    """An older daemon sends none."""
    told = json.loads(as_json(Event("end", 17, None, {})))

    assert (told["time"], told["time_ns"]) == (None, None)
