# SPDX-License-Identifier: Apache-2.0
"""A filter of inputs that were there before, in little memory for tens of millions: a new one is seldom taken for an old
one, and an old one never for a new one (Bloom, Space/Time Trade-offs in Hash Coding, 1970).
"""

import hashlib
import struct
from collections.abc import Iterable
from typing import Final

_BITS: Final = 28
_PLACES: Final = struct.Struct("<4I")


class Distinct:
    """The filter: 32 MiB, with which one new input of 2,000 is lost among ten million."""

    def __init__(self) -> None:
        self._seen = bytearray(1 << _BITS - 3)

    def is_new(self, parts: Iterable[bytes]) -> bool:
        """Return True for an input that has not been asked for before, and note it."""
        digest = hashlib.blake2b(digest_size=_PLACES.size)
        for part in parts:
            digest.update(len(part).to_bytes(4, "little"))
            digest.update(part)
        seen, new = self._seen, False
        for place in _PLACES.unpack(digest.digest()):
            at, bit = place >> 32 - _BITS + 3, 1 << (place & 7)
            if not seen[at] & bit:
                seen[at] |= bit
                new = True
        return new
