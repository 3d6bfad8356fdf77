# SPDX-License-Identifier: Apache-2.0
"""A line on the terminal that tells how far a long answer has come, where standard output is a file, or nothing yet.

It is on standard error, only where that is a terminal, and gone once the answer is there.
"""

import sys
import time
from typing import TYPE_CHECKING, Final

from agent.cli import message

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from agent.protocol.replies import Event

_EVERY_S: Final = 1.0
_LOOK: Final = 256  # events between two looks at the clock


def told(events: "Iterable[Event]", *, shown: bool) -> "Iterator[Event]":
    """Yield events, and tell each second how many there were and how far they have come.

    Args:
        events: the events.
        shown: True where nothing else is written to the terminal meanwhile.
    """
    if not shown or not sys.stderr.isatty():
        yield from events
        return
    due_s, is_told = time.monotonic() + _EVERY_S, False
    try:
        for count, event in enumerate(events, 1):
            if not count % _LOOK and time.monotonic() >= due_s:
                due_s, is_told = time.monotonic() + _EVERY_S, True
                message.say_over(f"{count} events{_up_to(event.time_ns)}")
            yield event
    finally:
        if is_told:
            message.say_over("")


def _up_to(time_ns: int | None) -> str:
    return "" if time_ns is None else f", up to {time.strftime('%F %T', time.localtime(time_ns // 1_000_000_000))}"
