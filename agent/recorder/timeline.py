# SPDX-License-Identifier: Apache-2.0
"""The lives of a span -> one HTML file: a lane for each process, and a cursor that shows the tree of any instant.

    document = JSON: {title, summary, trust, complete, notes, ask, root, begin_us, realtime_ns, times, numbers, runs,
                clocks, boots, troubles, texts, ends, signals, users, lives}

    times    = ns from each stop to the next           numbers = of each stop, less the first one of its run
    runs     = [stop, first number, as text]           clocks  = [stop, ns by which CLOCK_REALTIME has been set so far]
    boots    = [stop, microseconds of the axis at which the clock of that boot began]
    lives    = [numbers, leader, parent, creator, number of the creator, born, gone or -1, marks, flags, start in
                microseconds since boot, facts at birth, changes]     marks: 1 assumed, 2 entered, 4 present, 8 left

agent.recorder.lives says what these are. The page computes nothing but what the changes up to an instant make.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final

from agent.recorder.instant import NS_PER_S
from agent.recorder.life import ASSUMED, NONE, UNKNOWN, Fact, TaskLife, Trouble
from agent.recorder.lives import SpanLives
from exporters.content.identity import UserName, nameless
from exporters.content.wording import count, ended, exit_signal, plain, short_span
from exporters.drawing import pageframe

_PARTS: Final = pageframe.PageParts(
    "events",
    "lanes-tools.html",
    "lanes-main.html",
    ("page.css", "timeline.css"),
    (
        "facts.js", "tree.js", "details.js", "stops.js", "instant.js", "lanes.js", "paint.js", "overview.js", "cursor.js",
        "tools.js", "timeline.js",
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TimelineQuestion:
    """The question that a timeline answers.

    Attributes:
        root: the ROOT as it was named; None: all tasks.
        options: what a command has to say so that it asks the same recording, with a blank before it.
        names: of users.
    """

    root: str | None = None
    options: str = ""
    names: UserName = nameless


def page(lives: SpanLives, asked: TimelineQuestion, *, full: bool = False) -> bytes:
    """Return the page of a span, in UTF-8; equal lives give equal bytes.

    Args:
        lives: of the span, at least one stop of it.
        asked: the question.
        full: True where there was no room for more, and the page ends before the span does.
    """
    return pageframe.filled(_PARTS, document(lives, asked, full=full))


def document(lives: SpanLives, asked: TimelineQuestion, *, full: bool = False) -> dict[str, object]:
    """Return the document of a page; arguments as of `page`."""
    lives.finish()
    begin_ns, ahead_ns = lives.times_ns[0], lives.clocks[0][1]
    troubles = [each for each in lives.troubles if each.kind in ("gap", "loss")]
    trust = [
        "INCOMPLETE" if troubles else "complete",
        *(_counted(troubles, kind) for kind in ("gap", "loss")),
    ]
    codes = _values(lives.lives, Fact.ENDED)
    signals = _values(lives.lives, Fact.EXIT_SIGNAL)
    return {
        "title": f"timeline of {asked.root}" if asked.root else "timeline of all processes",
        "summary": " · ".join(_summary(lives)),
        "trust": " · ".join([part for part in trust if part]),
        "complete": not troubles,
        "notes": list(_notes(lives, full=full)),
        "ask": asked.options,
        "root": asked.root,
        "begin_us": begin_ns // 1000,
        "realtime_ns": str(begin_ns + ahead_ns),
        "times": [0, *(after - before for before, after in pairwise(lives.times_ns))],
        "numbers": _numbers(lives),
        "runs": [[stop, str(lives.numbers[stop])] for stop in lives.runs],
        "clocks": [[stop, ahead - ahead_ns] for stop, ahead in lives.clocks],
        "boots": [[stop, shift_ns // 1000] for stop, shift_ns in lives.boots],
        "troubles": [
            [
                each.kind,
                each.from_ns - begin_ns,
                None if each.until_ns is None else each.until_ns - begin_ns,
                _said(each),
            ]
            for each in lives.troubles
        ],
        "texts": lives.texts.all,
        "ends": {code: ended(None if code == UNKNOWN else code) for code in codes if code != NONE},
        "signals": {number: text for number in signals if (text := exit_signal(number))},
        "users": {uid: plain(name) for uid in _values(lives.lives, Fact.UID) if (name := asked.names(uid)) is not None},
        "lives": [_row(each) for each in lives.lives],
    }


def _row(life: TaskLife) -> list[object]:
    marks = life.assumed | life.entered << 1 | life.present << 2 | life.left << 3
    return [
        life.numbers, life.leader, life.parent, life.creator, life.creator_number, life.born,
        NONE if life.gone is None else life.gone, marks, life.flags, life.start_ns // 1000, life.first, life.changes,
    ]  # fmt: skip


def _numbers(lives: SpanLives) -> list[int]:
    found: list[int] = []
    for begin, end in pairwise([*lives.runs, len(lives.numbers)]):
        found += [number - lives.numbers[begin] for number in lives.numbers[begin:end]]
    return found


def _values(lives: Iterable[TaskLife], fact: Fact) -> list[int]:
    """Return the values that a fact has in any life, each once."""
    found: dict[int | None, None] = {}
    for life in lives:
        found[life.first[fact]] = None
        changes = life.changes
        for at in range(1, len(changes), 3):
            if (changes[at] or 0) % ASSUMED == fact:
                found[changes[at + 1]] = None
    return [value for value in found if value is not None]


def _summary(lives: SpanLives) -> Iterator[str]:
    processes = [each for each in lives.lives if each.leader == NONE]
    there = sum(each.present for each in processes)
    yield f"{count(len(processes), 'process', 'processes')}, {there} of them there at the beginning"
    threads = len(lives.lives) - len(processes)
    if threads:
        yield count(threads, "thread")
    first_ns, last_ns = lives.times_ns[0], lives.times_ns[-1]
    yield short_span(last_ns - first_ns) if last_ns - first_ns < 60 * NS_PER_S else _long(last_ns - first_ns)
    yield f"from {_date(first_ns + lives.clocks[0][1])} to {_date(last_ns + lives.clocks[-1][1])} UTC"


def _notes(lives: SpanLives, *, full: bool) -> Iterator[str]:
    if full:
        yield (
            f"The page ends before the span does: it has no room for more than {len(lives.lives)} tasks and what "
            "happened to them. Name a later --since, an earlier --until, or a ROOT"
        )
    if lives.workers:
        yield f"{count(lives.workers, 'thread')} of the kernel left out, as from every snapshot"


def _counted(troubles: list[Trouble], kind: str) -> str:
    number = sum(each.kind == kind for each in troubles)
    many = "losses" if kind == "loss" else ""
    return count(number, "gap" if kind == "gap" else "loss", many) if number else ""


def _said(trouble: Trouble) -> str:
    told = trouble.details
    if trouble.kind == "gap":
        anew = "; the host was started anew" if told.get("reboot") else ""
        return f"no records {_between(told)}: {plain(str(told.get('why', '')))}{anew}"
    if trouble.kind == "loss":
        return f"{count(int(told['count']), 'event')} lost: tasks may have changed unseen"
    if trouble.kind == "clock":
        by_ns = int(told["by_ns"])
        return f"the clock was set {'forward' if by_ns > 0 else 'back'} by {short_span(abs(by_ns))}"
    return f"the host slept for {short_span(int(told['asleep_ns']))}"


def _between(gap: Mapping[str, Any]) -> str:
    """Return when the records of before a gap end, and when those behind it begin."""
    ends, begins = (datetime.fromtimestamp(gap[key] // 1_000_000 / 1000, UTC) for key in ("time_ns", "until_ns"))
    form = "%H:%M:%S.%f" if ends.date() == begins.date() else "%Y-%m-%d %H:%M:%S.%f"
    return f"from {ends.strftime(form)[:-3]} until {begins.strftime(form)[:-3]} UTC"


def _date(time_ns: int) -> str:
    return f"{datetime.fromtimestamp(time_ns // NS_PER_S, UTC):%Y-%m-%d %H:%M:%S}"


def _long(ns: int) -> str:
    minutes, seconds = divmod(ns // NS_PER_S, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
