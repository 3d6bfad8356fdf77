# SPDX-License-Identifier: Apache-2.0
"""CRC-32 of bytes whose long parts were summed before: as zlib's crc32_combine(), which Python's zlib does not show.

A CRC is a remainder of polynomials over two elements. The CRC of `a + b` is that of `a`, moved up by the length of `b`,
plus that of `b`. To move is to multiply by a power of x, which depends on the length alone.
"""

import zlib
from typing import Final

_POLYNOMIAL: Final = 0xEDB88320  # that of CRC-32, lowest power first, as are all here
_ONE: Final = 1 << 31
_X_TO_THE_EIGHTH: Final = 1 << 23
_LONG: Final = 1 << 15  # zlib takes longer for so many bytes than a product does


def _product(one: int, other: int) -> int:
    """Return the product of two remainders."""
    made = 0
    while one:
        if one & _ONE:
            made ^= other
        one = one << 1 & 0xFFFFFFFF
        other = other >> 1 ^ (_POLYNOMIAL if other & 1 else 0)
    return made


def _shift(length: int) -> int:
    """Return the remainder of x to the power of the bits of so many bytes."""
    power, square = _ONE, _X_TO_THE_EIGHTH
    while length:
        if length & 1:
            power = _product(power, square)
        square = _product(square, square)
        length >>= 1
    return power


class Summed:
    """Bytes that come into one checksum after another. What can be known ahead is found at the second time.

    Args:
        data: the bytes.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._used = False
        self._known: tuple[int, int] | None = None

    def added(self, checksum: int) -> int:
        """Return what zlib.crc32(data, checksum) does."""
        if self._known is None:
            if not self._used or len(self._data) < _LONG:
                self._used = True
                return zlib.crc32(self._data, checksum)
            self._known = zlib.crc32(self._data), _shift(len(self._data))
        own, shift = self._known
        return _product(checksum, shift) ^ own
