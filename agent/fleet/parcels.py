# SPDX-License-Identifier: Apache-2.0
"""The parts of restarts, which a relay is sent piece by piece, with bounds. It takes the time as an argument.

A parcel is of one requester and one id. It has a manifest, the signature of the manifest, and an image. A piece that
comes twice changes nothing.
"""

from typing import Final

from agent.errors import BusyError, UsageError

KINDS: Final = ("manifest", "signature", "image")
MOST_PARCELS: Final = 8
MOST_BYTES: Final = 256 << 20


class Parcel:
    """The parts of a restart that have come.

    Args:
        until_ns: when it is forgotten.

    Attributes:
        parts: bytes by kind.
    """

    def __init__(self, until_ns: int) -> None:
        self.until_ns = until_ns
        self.parts = {kind: bytearray() for kind in KINDS}

    @property
    def size(self) -> int:
        """Count of bytes."""
        return sum(map(len, self.parts.values()))


class Parcels:
    """The parcels of a relay.

    Args:
        most, most_bytes: bounds of parcels and of the bytes in all of them.
    """

    def __init__(self, most: int = MOST_PARCELS, most_bytes: int = MOST_BYTES) -> None:
        self._parcels: dict[tuple[str, str], Parcel] = {}
        self._most = most
        self._most_bytes = most_bytes

    def add(self, of: tuple[str, str], kind: str, offset: int, data: bytes, until_ns: int, now_ns: int) -> int:
        """Add a piece; return how much of its part is there.

        Args:
            of: requester and id.
            kind: of `KINDS`.
            offset: of the piece in its part.
            data: the piece.
            until_ns: when the parcel may be forgotten.
            now_ns: the time.

        Raises:
            UsageError: there is no such kind, or the piece before this one has not come.
            BusyError: a bound is reached.
        """
        self.forget(now_ns)
        if kind not in KINDS:
            raise UsageError(f"part {kind[:20]!r}: expected {', '.join(KINDS)}")
        parcel = self._parcels.get(of)
        if parcel is None:
            if len(self._parcels) >= self._most:
                raise BusyError(f"this relay is sent {self._most} restarts already: ask later")
            parcel = self._parcels[of] = Parcel(until_ns)
        parcel.until_ns = max(parcel.until_ns, until_ns)
        part = parcel.parts[kind]
        if offset == len(part):
            if sum(each.size for each in self._parcels.values()) + len(data) > self._most_bytes:
                raise BusyError(f"this relay holds {self._most_bytes >> 20} MiB for restarts already: ask later")
            part += data
        elif offset > len(part):
            raise UsageError(f"{kind}: the piece at {offset} came before that at {len(part)}")
        return len(part)

    def taken(self, of: tuple[str, str]) -> Parcel:
        """Return a parcel, and forget it.

        Raises:
            UsageError: nothing of it has come.
        """
        parcel = self._parcels.pop(of, None)
        if parcel is None:
            raise UsageError("nothing has been sent for this restart, or its time is over")
        return parcel

    def forget(self, now_ns: int) -> None:
        """Forget the parcels whose time is over."""
        for of in [of for of, parcel in self._parcels.items() if now_ns >= parcel.until_ns]:
            del self._parcels[of]
