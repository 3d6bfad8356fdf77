# SPDX-License-Identifier: Apache-2.0
"""A life of a span: a task from its birth to its end, with the changes of its facts."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

NONE: Final = -1
"""No life, or no text."""

UNKNOWN: Final = -2
"""The wait status of a task that has ended, nobody knows how."""


class Fact(IntEnum):
    """The facts of a life that change, and marks on it."""

    PARENT = 0
    GROUP = 1
    SESSION = 2
    NAME = 3
    """Index of a text; `NONE`: not known, as all texts."""
    ARGUMENTS = 4
    ENDED = 5
    """The raw wait status, or `UNKNOWN`; `NONE` while it has not exited."""
    STOPPED = 6
    EXIT_SIGNAL = 7
    UID = 8
    GID = 9
    SUBREAPER = 10
    PROGRAM = 11
    """A mark: an exec; the value is the index of its arguments."""


ASSUMED: Final = 16
"""Added to a fact where no record told the moment of the change."""

FACTS: Final = Fact.PROGRAM
"""The number of facts that a life has from its birth on."""


@dataclass(slots=True)
class TaskLife:
    """A task.

    Attributes:
        numbers: from the namespace of whoever asked inward.
        start_ns: CLOCK_BOOTTIME at birth.
        leader, parent, creator: indices of lives, as of the birth; `NONE`: that life is not among them, or it leads itself.
        creator_number: of the task that created it; 0: outside, or not known.
        born, gone: the stops at which it comes and goes; `gone` is None while it is there.
        left: True where it has not ended, but left the tree.
        assumed, entered, present: how it came: no record told its birth; from outside the tree; it was there
            at the beginning.
        flags: of its clone().
        first, now: the facts at birth and after the last event, in the order of `Fact`.
        changes: stop, fact and value of each change, one after the other.
    """

    numbers: tuple[int, ...]
    start_ns: int
    leader: int
    creator_number: int
    born: int
    assumed: bool
    entered: bool
    present: bool
    flags: str
    first: list[int | None]
    now: list[int | None]
    parent: int = NONE
    creator: int = NONE
    gone: int | None = None
    left: bool = False
    changes: list[int | None] = field(default_factory=list)


@dataclass(slots=True)
class Trouble:
    """A time about which the recording does not know all, or at which a clock was set.

    Attributes:
        kind: of the event: gap, loss, clock, suspend.
        from_ns, until_ns: on the axis; None: it goes on.
        details: of the event.
    """

    kind: str
    from_ns: int
    until_ns: int | None
    details: dict[str, Any]


class Texts:
    """Texts, each with an index, and once.

    Attributes:
        all: by index.
        size: characters in all.
    """

    def __init__(self) -> None:
        self.all: list[str] = []
        self.size = 0
        self._places: dict[str, int] = {}

    def place(self, text: str) -> int:
        """Return the index of a text."""
        place = self._places.setdefault(text, len(self.all))
        if place == len(self.all):
            self.all.append(text)
            self.size += len(text)
        return place
