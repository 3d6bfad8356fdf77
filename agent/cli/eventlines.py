# SPDX-License-Identifier: Apache-2.0
"""Live events as lines, for people and for programs.

    line  = order time kind task ": " what       order as in the births of snapshots: larger is later
    time  = hours ":" minutes ":" seconds        local; of a birth the time itself, else a time by which it had happened
    task  = numbers " " comm                     numbers from the reader's pid namespace inward; a thread's in braces

Bytes of a name other than printable characters are escaped (exporters.content.fields), so that a name cannot end the
line or send a sequence to the terminal.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from agent.model.signalnames import signal_name
from agent.protocol.client import Event, EventTask
from exporters.content.fields import escape
from exporters.content.identity import word
from exporters.content.instants import instant
from exporters.content.wording import count, ended, exit_signal, path, plain, status_document

Lines = Callable[[Event | None], list[str]]
"""Gives the lines to write for an event; None: for now nothing more has come."""

MOST_OF_A_LOSS: Final = 20
"""Changes that are shown on a terminal one by one, of those that come to light after a loss."""

MOST_OF_A_LINE: Final = 1000
"""Characters of arguments in a line for people."""

_WITH_IDS: Final = ("birth", "setsid", "setpgid")

_UNASKED = {
    "loss": "{} lost on their way to the daemon: tasks may have changed unseen until the next resync",
    "resync": "the daemon has compared its table with the kernel, and told each difference: all is known again",
    "dropped": "{} left out, because they were not read in time",
    "hidden": "a task of the tree is not yours: its events are not told",
    "end": "the root is gone",
    "clock": "the clock was set",
    "suspend": "the host slept",
}


def as_line(event: Event) -> str:
    """Return an event as a line for people, without a newline."""
    head = _head(event, event.kind)
    if event.task is None:
        told = event.details
        said = _UNASKED.get(event.kind, "").format(count(told.get("count", 0), "event"))
        if event.kind == "gap":
            said = ", ".join(filter(None, _gap(told)))
        return f"{head} {said}".rstrip()
    marks = [mark for mark in ("entered", "assumed") if event.details.get(mark)]
    said = ", ".join([*marks, *(part for part in _details(event, event.task) if part)])
    return f"{head} {_task(event.task)}" + (f": {said}" if said else "")


class Shortened:
    """Lines for a terminal: of the changes found after a loss, the first few, and one line that counts the rest."""

    def __init__(self) -> None:
        self._uncertain = False
        self._shown = 0
        self._others: Counter[str] = Counter()
        self._last: Event | None = None

    def lines(self, event: Event | None) -> list[str]:
        """Return the lines to write for an event; None: no further event has come for now."""
        if event is None:
            return self._rest()
        if event.task is None:
            lines = [*self._rest(), as_line(event)]
            if event.kind in ("loss", "resync"):
                if not self._uncertain:
                    self._shown = 0
                self._uncertain = event.kind == "loss"
            return lines
        if self._uncertain and event.details.get("assumed"):
            if self._shown == MOST_OF_A_LOSS:
                self._others[event.kind] += 1
                self._last = event
                return []
            self._shown += 1
        return [as_line(event)]

    def _rest(self) -> list[str]:
        """Return a line that counts the changes that were not shown, if there are any."""
        last, others = self._last, self._others
        if last is None:
            return []
        kinds = ", ".join(f"{kind} {number}" for kind, number in others.items())
        more = count(others.total(), "more change")
        line = f"{_head(last, 'loss')} {more} found out after it, not shown here: {kinds}. --json, or a pipe, has each"
        self._others, self._last = Counter(), None
        return [line]


def lines_of(*, as_objects: bool, shortened: bool) -> Lines:
    """Return a function that gives the lines of an event.

    Args:
        as_objects: each event as JSON.
        shortened: shorten the lines for people as `Shortened` does.
    """
    if shortened and not as_objects:
        return Shortened().lines
    line = as_json if as_objects else as_line
    return lambda event: [] if event is None else [line(event)]


def as_json(event: Event) -> str:
    """Return an event as one JSON object for programs, without a newline. An absent value is null, as in documents."""
    document: dict[str, Any] = {
        "event": event.kind,
        "order": event.order,
        "time": None if event.time_ns is None else instant(event.time_ns),
        "time_ns": event.time_ns,
    }
    if event.task is not None:
        task = event.task
        document |= {
            "pid": task.pid,
            "tid": task.tid,
            "numbers": list(task.numbers),
            "start_ns": task.start_ns,
            "uid": task.uid,
            "gid": task.gid,
            "comm": escape(task.comm),
        }
    told = dict(event.details)
    if event.kind in _WITH_IDS:
        document |= {"pgid": None, "sid": None}
    if event.kind == "exec":
        words = told.get("arguments")
        told["arguments"] = None if words is None else [escape(each) for each in words]
        told.setdefault("arguments_cut", None)
    if "exit_code" in told:
        document |= status_document(told["exit_code"])
    return json.dumps(document | told)


def _head(event: Event, kind: str) -> str:
    return f"{event.order:>10} {_time(event.time_ns)} {kind:<9}"


def _time(time_ns: int | None) -> str:
    """Return the local time of day."""
    if time_ns is None:
        return "--:--:--.---"
    return datetime.fromtimestamp(time_ns / 1e9, UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]


def _task(task: EventTask) -> str:
    text = f"{path(task.numbers)} {plain(escape(task.comm))}"
    return text if task.pid == task.tid else f"{{{text}}}"


def _details(event: Event, task: EventTask) -> list[str]:
    told = event.details
    match event.kind:
        case "exec":
            return [_arguments(told["arguments"], cut=told["arguments_cut"])] if "arguments" in told else []
        case "present":
            return [f"there already, child of {told['parent']}", *_ids(event)]
        case "birth":
            parent, creator = told["parent"], told["creator"]
            kin = f"child of {parent}" if task.pid == task.tid else f"thread of {task.pid}"
            return [
                kin,
                f"by {creator}" if creator not in (parent, 0) else "",
                *_ids(event),
                " ".join(told["flags"]),
                *_condition(event),
                "subreaper" if told.get("subreaper") else "",
                exit_signal(told.get("exit_signal")),
            ]
        case "death":
            last = told["group_dead"]
            return [ended(told["exit_code"]), "" if last else "other threads go on"]
        case "gap":
            return _gap(told)
        case "loss":
            return [f"{count(told['count'], 'event')} lost on their way to the daemon: some may be of this number"]
        case "reparent":
            return [f"now child of {told['parent']}"]
        case "setsid" | "setpgid":
            return _ids(event)
        case "subreaper":
            return ["on" if told["on"] else "off"]
        case "change":
            signal = told.get("exit_signal", -1)
            sends = f"exit signal {signal_name(signal)}" if signal >= 0 else ""
            return [*_condition(event), f"uid {task.uid}", f"gid {task.gid}", sends]
    return []


def _gap(told: Mapping[str, Any]) -> list[str]:
    return [
        "it is another boot then" if told["reboot"] else "",
        f"no records until {_time(told['until_ns'])}: {plain(str(told['why']))}",
    ]


def _arguments(words: Sequence[bytes], *, cut: bool) -> str:
    text = " ".join([word(each) for each in words[:MOST_OF_A_LINE]])
    cut = cut or len(words) > MOST_OF_A_LINE or len(text) > MOST_OF_A_LINE
    return text[:MOST_OF_A_LINE] + ("…" if cut else "")


def _condition(event: Event) -> list[str]:
    """Return the state of a task that was born before the subscription, where the event tells it."""
    told = event.details
    code = told.get("exit_code")
    return ["stopped" if told.get("stopped") else "", "" if code is None else ended(code)]


def _ids(event: Event) -> list[str]:
    """Return session and group; number 0 is shown as outside: the reader's namespace does not see it."""
    found = []
    for name, key in (("session", "sid"), ("group", "pgid")):
        number = event.details.get(key)
        found.append(f"{name} {'unknown' if number is None else number or 'outside'}")
    return found
