# SPDX-License-Identifier: Apache-2.0
"""The verbs that ask a recording alone: events, history."""

import json
import shlex
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

from agent.cli import message, terminal
from agent.cli.declarations import Argument, Option
from agent.cli.options import AsJson, Folder, Since, Socket, Until
from agent.errors import INCOMPLETE, NoSuchRootError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from agent.cli.recorded import Told
    from agent.protocol.client import Event


class EventsFormat(StrEnum):
    """The form in which events are written."""

    TEXT = "text"
    JSON = "json"
    PERFETTO = "perfetto"
    HTML = "html"


_MOST_DIGITS, _MOST_SHOWN = 12, 60

ROOT_THEN = "A pid at the time of --since, or the first process of that number behind it; or pidns:INUM."
AllowIncomplete = Annotated[
    bool, Option("--allow-incomplete", help="Exit with 0, and not with 6, where records are missing.")
]
Output = Annotated[
    str, Option("--output", "-o", metavar="FILE|-", help="Write to this file, or with - to standard output.")
]


def events(
    root: Annotated[str | None, Argument(metavar="[ROOT]", help=f"{ROOT_THEN} Without one: all tasks.")] = None,
    since: Since = None,
    until: Until = None,
    kind: Annotated[
        str | None,
        Option(
            help="Only these kinds, with commas: birth, exec, death, reap, reparent, setsid, setpgid, subreaper, change.",
            metavar="KINDS",
        ),
    ] = None,
    fmt: Annotated[
        EventsFormat,
        Option(
            "--format",
            "-f",
            help="Write lines, JSON lines, a trace for ui.perfetto.dev, or a page with a lane for each process and a "
            "cursor that shows the tree of any instant.",
        ),
    ] = EventsFormat.TEXT,
    output: Output = "-",
    allow_incomplete: AllowIncomplete = False,
    record: Folder = None,
    socket: Socket = None,
    as_json: AsJson = False,
) -> None:
    """Print the events of a span of a recording, as `watch` would have.

    Without --since it begins with the recording, and without --until it ends with it.
    """
    from agent.cli import output as writing
    from agent.cli import recorded
    from agent.cli.daemonverbs import chosen_kinds

    if as_json and fmt not in (EventsFormat.TEXT, EventsFormat.JSON):
        raise UsageError(f"--json is -f json: leave out -f {fmt.value}")
    kinds = chosen_kinds(kind)
    is_page = fmt is EventsFormat.HTML
    if is_page and kinds is not None:
        raise UsageError("-f html shows the tree of any instant, for which it needs all kinds: leave out --kind")
    if root is not None:
        recorded.check_root(root, "")
    is_trace = fmt is EventsFormat.PERFETTO
    writing.check_stream(output, is_binary=is_trace)

    def written(write: "Callable[[Iterator[bytes]], None]") -> bool:
        """Write the events; return True if any are missing."""
        with recorded.told(
            record, socket, since, until, root=root, kinds=kinds, present=is_trace or is_page or None
        ) as told:
            shortened = output == "-" and sys.stdout.isatty()
            told.tells_progress = is_page or not shortened
            if is_trace:
                write(_trace(told))
            elif is_page:
                write(iter([_page(told, root, record, socket)]))
            else:
                lines = _lines(told, as_json=as_json or fmt is EventsFormat.JSON, shortened=shortened)
                write(terminal.without_del(line).encode() for line in lines)
        return told.missing

    if record is None or output == "-":
        missing = written(lambda parts: writing.write_stream(output, parts))
    else:
        made, missing = recorded.made_apart(record, lambda: _joined_parts(written))
        writing.write_stream(output, [made] if isinstance(made, bytes) else [])
    if missing and not allow_incomplete:
        raise SystemExit(INCOMPLETE)


def _joined_parts(written: "Callable[[Callable[[Iterator[bytes]], None]], bool]") -> tuple[bytes, bool]:
    """Return what is written, and True if anything is missing in it."""
    found: list[bytes] = []
    missing = written(lambda parts: found.extend(parts))
    return b"".join(found), missing


def history(
    pid: Annotated[
        str,
        Argument(
            metavar="PID",
            help="A pid or tid, as the initial pid namespace counts; 26319/150, as events show it, is 26319.",
        ),
    ],
    since: Since = None,
    until: Until = None,
    allow_incomplete: AllowIncomplete = False,
    record: Folder = None,
    socket: Socket = None,
    as_json: AsJson = False,
) -> None:
    """Tell each life that a number has had: its birth, programs, sessions, groups, parents, death and reap."""
    from agent.cli import recorded
    from agent.cli.eventlines import as_json as as_object
    from agent.cli.eventlines import as_line

    number = _number(pid)
    lives, gaps = recorded.lives(record, socket, since, until, number)
    if as_json:
        told = [[json.loads(as_object(event)) for event in life] for life in [*lives, gaps]]
        terminal.tell_json({"pid": number, "lives": told[:-1], "gaps": told[-1]})
    else:
        parts = sorted([*lives, *([gap] for gap in gaps)], key=lambda part: part[0].time_ns or 0)
        for place, part in enumerate(parts):
            if place:
                terminal.tell("")
            for event in part:
                terminal.tell(as_line(event))
    if not allow_incomplete and (gaps or any(event.kind in ("gap", "loss") for life in lives for event in life)):
        raise SystemExit(INCOMPLETE)


def _number(text: str) -> int:
    """Read a PID: a number, or all that a task has, as events show them, of which the first counts.

    Raises:
        UsageError: it is none.
    """
    from exporters.content.soundness import PID_NUMBER_MAX

    numbers = text.split("/")
    if all(each.isascii() and each.isdigit() and len(each) < _MOST_DIGITS for each in numbers):
        number = int(numbers[0])
        if 0 < number <= PID_NUMBER_MAX:
            return number
    shown = text if len(text) < _MOST_SHOWN else text[:_MOST_SHOWN] + "..."
    raise UsageError(f"PID {shown!r}: expected the number of a process or thread, from 1 to {PID_NUMBER_MAX}")


def _lines(told: "Told", *, as_json: bool, shortened: bool) -> "Iterator[str]":
    from agent.cli.eventlines import lines_of
    from agent.cli.execlines import Joined

    lines = Joined(lines_of(as_objects=as_json, shortened=shortened), told=told.has_arguments)
    for event in told.events():
        for line in lines.lines(event):
            yield f"{line}\n"
    for line in lines.lines(None):
        yield f"{line}\n"


def _joined(told: "Told") -> "Iterator[Event]":
    """Yield the events, an exec with its arguments."""
    from agent.cli.execlines import Joined

    lines = Joined(lambda event: [] if event is None else [event], told=told.has_arguments)
    for event in told.events():
        yield from lines.lines(event)
    yield from lines.lines(None)


def _trace(told: "Told") -> "Iterator[bytes]":
    from agent.recorder.tracks import Tracks

    tracks: Tracks | None = None
    for event in _joined(told):
        if tracks is None:
            time_ns = event.time_ns or 0
            boottime_ns = int(event.details.get("boottime_ns", time_ns))
            tracks = Tracks(time_ns - boottime_ns)
            yield tracks.head(boottime_ns)
        yield tracks.event(event)


def _page(told: "Told", root: str | None, record: "Path | None", socket: "Path | None") -> bytes:
    from agent.proc import users
    from agent.recorder import timeline
    from agent.recorder.lives import SpanLives

    lives = SpanLives(None if root is None else int(root) if root.isdecimal() else 0)
    full = not all(lives.take(event) for event in _joined(told))
    if not lives.numbers:
        raise NoSuchRootError("no process that you may see was there in that time")
    if full:
        message.say(f"the page ends before the span does: it has room for {len(lives.lives)} tasks")
    places = {"record": record, "socket": socket}
    named = [f" --{name} {shlex.quote(str(place.absolute()))}" for name, place in places.items() if place is not None]
    return timeline.page(lives, timeline.TimelineQuestion(root, "".join(named), users.names(told.boot_id)), full=full)
