# SPDX-License-Identifier: Apache-2.0
"""Values kept for the trees that were asked for last, so that several clients with trees of their own do not displace
each other. Its size is bounded by the number of trees and by the number of their tasks.
"""

from collections.abc import Callable, Collection
from typing import Final, Generic, TypeVar

MOST_TREES: Final = 8
"""Trees that are kept."""

MOST_TASKS: Final = 10_000
"""Tasks of all kept trees but the newest. All that is kept of a task takes 1.1 kB, while somebody asks for its tree."""

_K = TypeVar("_K")
_V = TypeVar("_V")


class Recent(Generic[_K, _V]):
    """Values of the keys that were used last.

    Args:
        make: makes the value of a key that has none.
    """

    def __init__(self, make: Callable[[], _V]) -> None:
        self._make = make
        self._kept: dict[_K, tuple[_V, int]] = {}  # with the count of tasks, oldest first
        self._newest: _K | None = None

    def of(self, key: _K, tasks: int = 0) -> _V:
        """Return the value of a key, made where there is none, and forget the oldest ones beyond the bounds.

        Args:
            key: becomes the newest one.
            tasks: the tasks of its tree; 0: as the last call said.
        """
        if key is self._newest:  # nothing becomes older, and the newest one does not count
            value, before = self._kept[key]
            if tasks and tasks != before:
                self._kept[key] = value, tasks
            return value
        value, before = self._kept.pop(key) if key in self._kept else (self._make(), 0)
        self._newest = key
        self._kept[key] = value, tasks or before
        others = sum([count for _, count in self._kept.values()]) - (tasks or before)
        while len(self._kept) > 1 and (len(self._kept) > MOST_TREES or others > MOST_TASKS):
            oldest = next(iter(self._kept))
            others -= self._kept.pop(oldest)[1]
        return value

    def values(self) -> list[_V]:
        """Return all values, oldest first."""
        return [value for value, _ in self._kept.values()]

    def retain(self, keys: Collection[_K]) -> None:
        """Forget the values of all other keys."""
        for key in [key for key in self._kept if key not in keys]:
            del self._kept[key]
            if key is self._newest:
                self._newest = None

    def clear(self) -> None:
        """Forget all values."""
        self.retain(())
