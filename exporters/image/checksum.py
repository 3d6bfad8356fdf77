# SPDX-License-Identifier: Apache-2.0
"""CRC-32 of bytes whose long parts were summed before: as zlib's crc32_combine(), which Python's zlib does not show.

A CRC is a remainder of polynomials over two elements. The CRC of `a + b` is that of `a`, moved up by the length of `b`,
plus that of `b`. To move is to multiply by a power of x, which depends on the length alone.
"""

import zlib
from array import array
from collections.abc import Iterable, Sequence
from typing import Final

_POLYNOMIAL: Final = 0xEDB88320  # that of CRC-32, lowest power first, as are all here
_ONE: Final = 1 << 31
_X_TO_THE_EIGHTH: Final = 1 << 23
_BITS: Final = 32
_DIGITS: Final = _BITS // 4
_LONG: Final = 1 << 12  # zlib takes as long for so many bytes as the lookups do


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


def _moves(length: int) -> Sequence[int]:
    """Return the products of `_shift` and each value of each four bits of a checksum: eight lookups move one."""
    power = _shift(length)
    of_bit = [0] * _BITS
    for bit in reversed(range(_BITS)):  # the highest bit is the lowest power
        of_bit[bit] = power
        power = power >> 1 ^ (_POLYNOMIAL if power & 1 else 0)
    moved = array("I", bytes(4 * _DIGITS * 16))
    for place in range(_DIGITS):
        for value in range(1, 16):
            rest = value & value - 1
            moved[place * 16 + value] = moved[place * 16 + rest] ^ of_bit[place * 4 + (value ^ rest).bit_length() - 1]
    return moved


class Summed:
    """Bytes that come into one checksum after another. What can be known ahead is found at the second time.

    Args:
        pieces: the bytes, one behind the other.
    """

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self._used = False
        self._known: tuple[int, Sequence[int]] | None = None

    def added(self, checksum: int) -> int:
        """Return the checksum of the bytes behind those with this checksum, as zlib.crc32() does piece by piece."""
        if self._known is None:
            length = sum(map(len, self._pieces))
            if not self._used or length < _LONG:
                self._used = True
                return _crc(self._pieces, checksum)
            self._known = _crc(self._pieces, 0), _moves(length)
        own, moved = self._known
        return (
            own
            ^ moved[checksum & 15]
            ^ moved[16 | checksum >> 4 & 15]
            ^ moved[32 | checksum >> 8 & 15]
            ^ moved[48 | checksum >> 12 & 15]
            ^ moved[64 | checksum >> 16 & 15]
            ^ moved[80 | checksum >> 20 & 15]
            ^ moved[96 | checksum >> 24 & 15]
            ^ moved[112 | checksum >> 28]
        )


def _crc(pieces: Iterable[bytes], checksum: int) -> int:
    for piece in pieces:
        checksum = zlib.crc32(piece, checksum)
    return checksum
