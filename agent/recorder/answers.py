# SPDX-License-Identifier: Apache-2.0
"""Questions to a recording as the daemon's protocol has them, and the answers, for a daemon's client and for a folder.

A point in time is ``{"order": n}`` or ``{"time_ns": n}`` (docs/protocol.md); none is the beginning or the end.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, cast, get_args

from agent import rootname
from agent.errors import HostError, UsageError
from agent.events.subscriber import KINDS
from agent.model import Dialect, Snapshot
from agent.recorder import instant, past
from agent.recorder.facts import Instant
from agent.recorder.history import NumberHistory
from agent.recorder.instant import MOST_NS, ClockTime, RecordNumber, Time
from agent.recorder.newest import awaited
from agent.recorder.past import Enquirer
from agent.recorder.recording import Recording
from agent.recorder.retelling import EventSpan, Retelling, Said
from agent.selection.select import Selection

Question = Mapping[str, Any]

_MODES: Final = ("auto", "container", "subtree")


def point(value: object, key: str) -> Time:
    """Read a point in time.

    Raises:
        UsageError: it is none.
    """
    if isinstance(value, Mapping) and len(value) == 1:
        ((name, number),) = value.items()
        if type(number) is int and 0 <= number <= (2**64 - 1 if name == "order" else MOST_NS):
            if name == "order":
                return RecordNumber(number)
            if name == "time_ns":
                return ClockTime(number)
    raise UsageError(f'{key}: expected {{"order": NUMBER}} or {{"time_ns": NANOSECONDS}}')


def snapshot(recording: Recording, question: Question, enquirer: Enquirer) -> tuple[Snapshot, Selection]:
    """Return the tree that a question is about, and its selection of live objects; errors as of past.snapshot."""
    at = point(question.get("at"), "at")
    recording = awaited(recording, at)
    instant = past.find(recording, at)
    wanted = past.WantedTree(
        rootname.parse(_text(question.get("root"))),
        _one_of(question, "mode", _MODES),
        bool(question.get("without_entered")),
        cast("Dialect", _one_of(question, "dialect", get_args(Dialect))),
    )
    return past.snapshot(recording, instant, wanted, enquirer)


def events(recording: Recording, question: Question, enquirer: Enquirer) -> Iterator[list[Said]]:
    """Yield the events that a question is about, in batches; errors as of retelling.Retelling."""
    recording, since, until = span(recording, question)
    kinds = question.get("kinds") or KINDS
    if not isinstance(kinds, (list, tuple)) or not all(kind in KINDS for kind in kinds):
        raise UsageError(f"kinds: expected a list of some of {', '.join(KINDS)}")
    root = question.get("root")
    asked = EventSpan(
        since,
        until,
        None if root is None else rootname.parse(_text(root)),
        tuple(kinds),
        arguments=bool(question.get("arguments")) and enquirer.viewer.uid == 0,
        present=bool(question.get("present")),
    )
    return Retelling(recording, asked, enquirer).batches()


def history(recording: Recording, question: Question, enquirer: Enquirer) -> tuple[list[list[Said]], list[Said]]:
    """Return the events of each life of a number, and of the gaps in which none goes on.

    Errors as of history.NumberHistory.
    """
    number = question.get("pid")
    if type(number) is not int or not 0 < number < 2**32:
        raise UsageError("pid: expected a number")
    if enquirer.namespace:
        raise HostError("history: numbers of another pid namespace than the initial one cannot be looked up")
    recording, since, until = span(recording, question)
    told = NumberHistory(recording, (since, until), number, enquirer)
    return told.lives(), told.gaps


def span(recording: Recording, question: Question) -> tuple[Recording, Instant, Instant]:
    """Return the recording once it has the span that a question is about, and the first and the last instant of that.

    Raises:
        UsageError: the first is behind the last.
        NoSuchTimeError: the recording does not have them.
    """
    moments = {key: point(question[key], key) for key in ("since", "until") if question.get(key) is not None}
    recording = awaited(recording, *moments.values())
    since, until = recording.runs[0].first, recording.runs[-1].last
    if "since" in moments:
        since = past.find(recording, moments["since"])
    if "until" in moments:
        until = past.find(recording, moments["until"])
    clocks = [each.realtime_ns for each in moments.values() if isinstance(each, ClockTime)]
    places = [(*each[:2], recording.place(each)) for each in (since, until)]
    # Between two records the clock alone tells which is the first.
    if places[0] > places[1] or (places[0] == places[1] and clocks != sorted(clocks)):
        times = " is behind until ".join(f"{instant.written(each.time_ns)} (#{each.order})" for each in (since, until))
        raise UsageError(f"since {times}: exchange them")
    return recording, since, until


def _text(value: object) -> str:
    if not isinstance(value, str) and type(value) is not int:
        raise UsageError("root: expected a pid, or the text pidns:INUM")
    return str(value)


def _one_of(question: Question, key: str, allowed: tuple[str, ...]) -> str:
    value = question.get(key, allowed[0])
    if value not in allowed:
        raise UsageError(f"{key}: expected one of {', '.join(allowed)}")
    return str(value)
