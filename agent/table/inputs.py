# SPDX-License-Identifier: Apache-2.0
"""The inputs of a stream and its table beside records: calls of the watch that change what later records do.

Stream and table are a pure function of their inputs. So whoever keeps the records, and these calls in their places among
them, can make the table of any moment again. A call that a record causes is no input.
"""

from collections.abc import Callable
from enum import IntEnum


class Input(IntEnum):
    """Kinds of calls. Each has one argument, 0 where nothing is said of it."""

    GIVE_UP = 1
    """`Stream.give_up`, of one number: that number."""
    GIVE_UP_BELOW = 2
    """`Stream.give_up_below`: its argument."""
    SUSPECT = 3
    """`Stream.suspect` becomes True."""
    TRUST = 4
    """`Stream.suspect` and `ProcessTable.astray` become False."""
    QUESTION = 5
    """`ProcessTable.question`: the task's number in the initial pid namespace."""
    TAKE = 6
    """`ProcessTable.take_questions`: its argument."""
    MISS_NONE = 7
    """`ProcessTable.miss`: it begins anew."""
    MISS = 8
    """`ProcessTable.miss`, of one task: its number in the initial pid namespace."""
    STRIKE_OFF = 9
    """`ProcessTable.strike_off`: its argument."""
    REUNITE = 10
    """`ProcessTable.reunite`."""
    SETTLE = 11
    """`ProcessTable.settle`."""


Note = Callable[[Input, int], None]
"""A function that takes note of an input, before it has its effect."""


def ignore(_kind: Input, _value: int) -> None:
    """Take no note of an input."""
