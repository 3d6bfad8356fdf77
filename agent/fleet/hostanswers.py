# SPDX-License-Identifier: Apache-2.0
"""The answers of relays to a requester, checked: a relay may be of another version, at fault, or mean harm.

What is read here goes into a set that the requester may sign, and decides on what the other hosts are asked. So every part
has its type and bounds, and a relay's word about time counts as far as the requester's own clock bears it out.
"""

from typing import Any, Final, NamedTuple

from agent.fleet.clocks import Offset
from agent.fleet.manifest import HASH, HostContents, read_contents
from agent.fleet.messages import Message

MOST_IMAGE: Final = 256 << 20
_MOST_TEXT: Final = 4096  # characters
_MOST_REASONS: Final = 1000
_END: Final = 1 << 63
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
