# SPDX-License-Identifier: Apache-2.0
"""Comparison of the lives of numbers with the events of all tasks: two ways to ask for the same."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final

from agent.errors import NoSuchRootError
from agent.events.announced import OF_GROUP
from agent.recorder import answers
from agent.recorder.past import Enquirer
from agent.recorder.recording import Recording

Said = dict[str, Any]

_APART: Final = ("gap", "loss")
_NOT_OF_EVENTS: Final = ("run", "arguments_cut")
_NAMES: Final = ("pid", "tid", "numbers", "start_ns", "uid", "gid", "comm")
_OF_BIRTHS: Final = ("creator", "flags", "assumed", "present", "entered")


def unlike(
    recording: Recording, numbers: Iterable[int] | None = None, span: dict[str, Any] | None = None
) -> dict[int, tuple[list[Said], list[Any]]]:
    """Return the numbers whose history differs from the events of all tasks: what each of the two alone tells.

    Args:
        recording: the recording.
        numbers: in the initial pid namespace; None: all that the events have, and the two behind them.
        span: its ends, as a question has them.
    """
    asked, by_number, without = span or {}, defaultdict[int, list[Said]](list), defaultdict[int, list[Said]](list)
    losses: list[tuple[int, ...]] = []
    for batch in answers.events(recording, {**asked, "present": True, "arguments": True}, Enquirer()):
        for event in batch:
            if "tid" in event:
                _take(by_number[event["tid"]], event)
                if event["event"] in OF_GROUP and event["pid"] != event["tid"]:
                    _give(by_number[event["pid"]], event)
            elif event["event"] == "gap":
                without[0].append(event)
            elif event["event"] == "loss":
                losses.append(_loss(event))
    found: dict[int, tuple[list[Said], list[Any]]] = {}
    for number in numbers if numbers is not None else [*sorted(by_number), *(max(by_number) + more for more in (1, 2))]:
        told, gaps = _history(recording, number, asked)
        expected = [_like(event) for event in by_number[number]]
        if _by_life(told) != _by_life(expected):
            found[number] = [e for e in told if e not in expected], [e for e in expected if e not in told]
        if sorted(_loss(event) for event in gaps if event["event"] == "loss") != sorted(losses):
            found[number] = gaps, losses
        marked = {(event["order"], event["time_ns"], event["until_ns"]) for event in gaps if event["event"] == "gap"}
        if not marked <= {(event["order"], event["time_ns"], event["until_ns"]) for event in without[0]}:
            found[number] = gaps, without[0]
    return found


def _history(recording: Recording, number: int, asked: dict[str, Any]) -> tuple[list[Said], list[Said]]:
    """Return the events of a number's lives, and the gaps and losses in them and beside them."""
    try:
        lives, gaps = answers.history(recording, {**asked, "pid": number}, Enquirer())
    except NoSuchRootError:
        return [], []
    events = [event for life in lives for event in life]
    gaps += [event for event in events if event["event"] in _APART]
    return [_like(event) for event in events if event["event"] not in _APART], gaps


def _loss(event: Said) -> tuple[int, ...]:
    return event["order"], event["count"], event["time_ns"], event["boottime_ns"]


def _by_life(events: list[Said]) -> dict[int, list[Said]]:
    """Return the events of each task: an earlier one may be told to have ended only behind the next one's birth."""
    lives = defaultdict[int, list[Said]](list)
    for event in events:
        lives[event["start_ns"]].append(event)
    return dict(lives)


def _give(events: list[Said], event: Said) -> None:
    """Add what a thread has given its process to the events of the process."""
    names = {key: events[-1][key] for key in _NAMES}
    events.append({key: value for key, value in event.items() if key not in _NAMES} | names | {"by": event["tid"]})


def _take(events: list[Said], event: Said) -> None:
    """Add an event, or the arguments of the last exec to that."""
    if event["event"] != "arguments":
        events.append(event)
        return
    execs = (each for each in reversed(events) if each["event"] == "exec" and each["start_ns"] == event["start_ns"])
    if (last := next(execs, None)) is not None:
        last["arguments"] = event["arguments"].removesuffix(b"\0").split(b"\0")


def _like(event: Said) -> Said:
    """Return an event as both tell it: of a task whose birth is not known a history tells that it is present."""
    said = {key: value for key, value in event.items() if key not in _NOT_OF_EVENTS}
    if said["event"] == "birth" and said.get("assumed"):
        said["event"] = "present"
    if said["event"] == "present":
        for key in (*_OF_BIRTHS, "time_ns", "boottime_ns"):
            said.pop(key, None)
    return said
