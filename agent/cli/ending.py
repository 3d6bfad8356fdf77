# SPDX-License-Identifier: Apache-2.0
"""Work that is left for the end of a verb, however the verb ends but by a signal that kills."""

from collections.abc import Callable

_left: list[Callable[[], None]] = []


def at_end(work: Callable[[], None]) -> None:
    """Have some work done when the verb has ended."""
    _left.append(work)


def end() -> None:
    """Do the work that is left, the last first."""
    while _left:
        _left.pop()()
