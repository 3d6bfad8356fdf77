# SPDX-License-Identifier: Apache-2.0
"""The answers of relays to a requester, checked: a relay may be of another version, at fault, or mean harm.

What is read here goes into a set that the requester may sign, and decides on what the other hosts are asked. So every part
has its type and bounds, and a relay's word about time counts as far as the requester's own clock bears it out.
"""

import math
from typing import Any, Final

from agent.fleet.clocks import Offset
from agent.fleet.manifest import HASH, HostContents, read_contents
from agent.fleet.messages import Message
from agent.protocol.replies import Event, event_of
from agent.record import NamedTuple

MOST_IMAGE: Final = 256 << 20
_MOST_TEXT: Final = 4096  # characters
_MOST_REASONS: Final = 1000
_END: Final = 1 << 63
_MOST_LEVELS: Final = 33
"""Numbers of a task: MAX_PID_NS_LEVEL of kernel/pid_namespace.c is 32, and the initial namespace is one more."""
_MOST_NESTED: Final = 8
_OF_EVENT: Final = {
    "order": (0, (1 << 64) - 1),
    **dict.fromkeys(("time_ns", "until_ns"), (-_END, _END - 1)),
    **dict.fromkeys(("start_ns", "count"), (0, (1 << 64) - 1)),
    **dict.fromkeys(("pid", "tid", "uid", "gid", "parent", "creator", "pgid", "sid", "old_tid"), (0, (1 << 32) - 1)),
    "exit_code": (0, (1 << 32) - 1),
    "exit_signal": (-(1 << 31), (1 << 31) - 1),
}
"""Numbers of an event, with their bounds, as agent.events.eventpack has them."""
_MAYBE: Final = ("time_ns", "pgid", "sid", "exit_code")  # None: not known, or not so
_SIGNS: Final = ("group_dead", "on", "subreaper", "stopped", "kernel", "assumed", "entered", "reboot", "arguments_cut")
_SLOWER_NS: Final = 1_000_000
_SLOWER: Final = 1000
"""A host's clock may seem to have passed a millisecond and a thousandth more than the requester's: both are adjusted."""


class CutAnswer(NamedTuple):
    """An answer to a cut.

    Attributes:
        image: the image's hash.
        size: its bytes.
        data: the image, where it is part of the answer; else empty.
        tasks, before_ns, after_ns, complete, reasons, boot_id, kernel, version, contents: as
            agent.fleet.manifest.HostImage has them.
    """

    image: str
    size: int
    data: bytes
    tasks: int
    before_ns: int
    after_ns: int
    complete: bool
    reasons: tuple[str, ...]
    boot_id: str
    kernel: str
    version: str
    contents: HostContents | None


def cut(answer: Message, *, contents: bool) -> CutAnswer:
    """Read an answer to a cut.

    Args:
        answer: of the relay.
        contents: they were asked for; else such a relay has none to name.

    Raises:
        KeyError, TypeError, ValueError: it is none; the text says what it lacks.
    """
    size = whole(answer, "bytes", 1, MOST_IMAGE)
    before_ns = whole(answer, "before_ns")
    if not HASH.fullmatch(image := _text(answer, "image")):
        raise ValueError("a hash as image")
    data = answer.get("data", b"")
    if not isinstance(data, bytes) or len(data) > size:
        raise ValueError(f"data of the {size} bytes that it announced")
    reasons = answer.get("reasons", [])
    if not isinstance(reasons, list) or len(reasons) > _MOST_REASONS:
        raise TypeError(f"a list of at most {_MOST_REASONS} reasons")
    return CutAnswer(
        image=image,
        size=size,
        data=data,
        tasks=whole(answer, "tasks"),
        before_ns=before_ns,
        after_ns=whole(answer, "after_ns", before_ns),
        complete=answer.get("complete") is True,
        reasons=tuple(_checked(each, "text as reason") for each in reasons),
        boot_id=_text(answer, "boot_id", ""),
        kernel=_text(answer, "kernel", ""),
        version=_text(answer, "version", ""),
        contents=_contents(answer) if contents else None,
    )


def _contents(answer: Message) -> HostContents:
    found = read_contents(answer.get("contents"), "contents")
    if found is None:
        raise KeyError("contents")
    return found


def clock(answer: Message, sent_ns: int, got_ns: int) -> Offset:
    """Return the offset of a host's clock that an answer shows.

    Args:
        answer: of the relay.
        sent_ns, got_ns: when it was asked, and when the answer came, by the requester's clock.

    Raises:
        KeyError, TypeError, ValueError: it has no times, or such as no steady clock shows.
    """
    received_ns, answered_ns = whole(answer, "received_ns"), whole(answer, "answered_ns")
    waited_ns = got_ns - sent_ns
    if not 0 <= answered_ns - received_ns <= waited_ns + waited_ns // _SLOWER + _SLOWER_NS:
        raise ValueError("times of a steady clock (is its clock being set?)")
    return Offset.measured(sent_ns, received_ns, answered_ns, got_ns)


def hello(answer: Message) -> dict[str, Any]:
    """Return what a relay tells of its host: version, kernel, tasks (None: it has no daemon), and what it allows.

    Raises:
        KeyError, TypeError, ValueError: it tells something else; the text says what it lacks.
    """
    allow = answer["allow"]
    if not isinstance(allow, list) or len(allow) > _MOST_REASONS:
        raise TypeError("a list as allow")
    return {
        "version": _text(answer, "version"),
        "kernel": _text(answer, "kernel"),
        "tasks": None if answer["tasks"] is None else whole(answer, "tasks"),
        "allow": [_checked(each, "text as allow") for each in allow],
    }


def events(answer: Message, after: int) -> list[Event]:
    """Return the events of an answer that have not come before.

    Args:
        answer: of the relay.
        after: number of the last event that has come.

    Raises:
        KeyError, TypeError, ValueError: it tells something else; the text says what it lacks.
    """
    first = whole(answer, "first", 1, after + 1)
    told = answer["events"]
    if not isinstance(told, list):
        raise TypeError("a list as events")
    return [_event(each) for each in told[after + 1 - first :]]


def _event(said: object) -> Event:
    """Read an event. What only a later version tells may be anything that JSON can have."""
    if not isinstance(said, dict) or not all(isinstance(key, str) for key in said):
        raise TypeError("a map as event")
    kind = _text(said, "event")
    for key, value in said.items():
        if key in _OF_EVENT:
            if value is not None or key not in _MAYBE:
                whole(said, key, *_OF_EVENT[key])
        elif key in _SIGNS:
            if not isinstance(value, bool):
                raise TypeError(f"true or false as {key}")
        elif key == "comm":
            _bytes(value, key)
        elif key == "numbers":
            _numbers(value)
        elif key == "flags":
            for each in _listed(value, key):
                _checked(each, f"texts as {key}")
        elif key == "arguments" and kind == "exec":
            for each in _listed(value, key):
                _bytes(each, key)
        else:
            _check_plain(value, key)
    return event_of(said)


def _numbers(value: object) -> None:
    numbers = _listed(value, "numbers")
    if not 0 < len(numbers) <= _MOST_LEVELS:
        raise ValueError(f"1 to {_MOST_LEVELS} numbers")
    for each in numbers:
        whole({"numbers": each}, "numbers", 0, (1 << 32) - 1)


def _listed(value: object, key: str) -> list[object]:
    if not isinstance(value, list):
        raise TypeError(f"a list as {key}")
    return value


def _bytes(value: object, key: str) -> None:
    if not isinstance(value, bytes):
        raise TypeError(f"bytes as {key}")


def _check_plain(value: object, key: str, depth: int = 0) -> None:
    """Refuse what JSON cannot have, and what is nested deeply."""
    if isinstance(value, (list, dict)) and depth < _MOST_NESTED:
        for name in value if isinstance(value, dict) else ():
            _checked(name, f"texts as keys of {key}")
        for each in value.values() if isinstance(value, dict) else value:
            _check_plain(each, key, depth + 1)
    elif not (value is None or isinstance(value, (bool, int, str)) or (type(value) is float and math.isfinite(value))):
        raise TypeError(f"plain values as {key}")


def whole(answer: Message, key: str, least: int = 0, most: int = _END - 1) -> int:
    """Return a number of an answer.

    Raises:
        KeyError, TypeError, ValueError: it has none, or one out of its bounds.
    """
    value = answer[key]
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"a number as {key}")
    if not least <= value <= most:
        raise ValueError(f"a number from {least} to {most} as {key}")
    return value


def _text(answer: Message, key: str, default: str | None = None) -> str:
    return _checked(answer[key] if default is None else answer.get(key, default), f"text as {key}")


def _checked(value: object, wanted: str) -> str:
    if not isinstance(value, str) or len(value) > _MOST_TEXT:
        raise TypeError(wanted)
    return value
