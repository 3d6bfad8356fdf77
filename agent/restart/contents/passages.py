# SPDX-License-Identifier: Apache-2.0
"""Passages of scripts that processes have in common; see `FillScript.alike`.

Processes that descend from one by forks alone need equal operations for most of their memory and state. To copy these
takes a tenth of the time that it takes to make them.
"""

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from array import array

    from agent.restart.contents.fillprogram import About

_MOST: Final = 64
"""Passages that are kept; each takes as much memory as its operations do."""


class Passage(NamedTuple):
    """Consecutive operations of a script, which scripts of alike processes have, too.

    Attributes:
        code: the operations as the restorer reads them.
        calls: of each, for messages.
        abouts: the objects that they restore, each with the number of operations before it.
        last: the object of operations behind them.
        data: bytes that they need.
        slots: the number of slots that they need.
        value: the answer of their maker.
    """

    code: bytes
    calls: "array[int]"
    abouts: list[tuple[int, "About"]]
    last: "About"
    data: bytes
    slots: int
    value: Any


class Passages:
    """The passages of the scripts of a tree, as many as were used last."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Passage] = {}

    def find(self, key: Hashable) -> Passage | None:
        """Return the passage of a key, if it is known."""
        found = self._known.pop(key, None)
        if found is not None:
            self._known[key] = found
        return found

    def keep(self, key: Hashable, passage: Passage) -> None:
        """Keep a passage for others."""
        if len(self._known) == _MOST:
            del self._known[next(iter(self._known))]
        self._known[key] = passage
