# SPDX-License-Identifier: Apache-2.0
"""The snapshots that a relay has been asked for, by the id of the request, with bounds. It takes the time as an argument.

The same id is the same work: however often its request comes, by whatever path, the relay takes one snapshot and has
one answer. An id is kept for a while after its deadline, for requests that come late, and is then forgotten.
"""

from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from agent.errors import BusyError, UsageError

MOST_IDS: Final = 256
MOST_BYTES: Final = 256 << 20
_KEPT_NS: Final = 30_000_000_000

T = TypeVar("T")


@dataclass(slots=True)
class Entry(Generic[T]):
    """The work of an id.

    Attributes:
        asked: the object of the request; another request of the same id must have the same one.
        until_ns: when it is forgotten.
        work: the task that does it; None: it has not begun.
        data: the image, once it is there.
    """

    asked: tuple[object, ...]
    until_ns: int
    work: T | None = None
    data: bytes = field(default=b"")


class Cuts(Generic[T]):
    """The entries of a relay.

    Args:
        most_ids, most_bytes: bounds of entries and of their images.
    """

    def __init__(self, most_ids: int = MOST_IDS, most_bytes: int = MOST_BYTES) -> None:
        self._entries: dict[str, Entry[T]] = {}
        self._most_ids = most_ids
        self._most_bytes = most_bytes

    def entered(self, key: str, asked: tuple[object, ...], left_ns: int, now_ns: int) -> Entry[T]:
        """Return the entry of an id, a new one where there is none.

        Args:
            key: the id.
            asked: the object of the request.
            left_ns: until its deadline.
            now_ns: the time.

        Raises:
            UsageError: the id has asked for something else before.
            BusyError: there are as many entries as there may be.
        """
        self.forget(now_ns)
        until_ns = now_ns + left_ns + _KEPT_NS
        entry = self._entries.get(key)
        if entry is None:
            if len(self._entries) >= self._most_ids:
                raise BusyError(
                    f"this relay has {self._most_ids} requests already, which are done or will expire: ask later"
                )
            entry = self._entries[key] = Entry(asked, until_ns)
        elif entry.asked != asked:
            raise UsageError(f"the id {key} has asked for something else before: take another id")
        entry.until_ns = max(entry.until_ns, until_ns)
        return entry

    def found(self, key: str) -> Entry[T] | None:
        """Return the entry of an id; None where there is none."""
        return self._entries.get(key)

    def keep(self, entry: Entry[T], data: bytes) -> None:
        """Keep an image until its entry is forgotten.

        Raises:
            BusyError: all images together would have more bytes than there may be.
        """
        if sum(len(each.data) for each in self._entries.values()) + len(data) > self._most_bytes:
            raise BusyError(f"this relay holds {self._most_bytes >> 20} MiB of images already: ask later")
        entry.data = data

    def forget(self, now_ns: int) -> None:
        """Forget the entries whose time is over."""
        for key in [key for key, entry in self._entries.items() if now_ns >= entry.until_ns]:
            del self._entries[key]

    def drop(self, key: str) -> None:
        """Forget the image of an id whose requester has it, or needs it no more. The id is kept, and its answer."""
        if (entry := self._entries.get(key)) is not None:
            entry.data = b""
