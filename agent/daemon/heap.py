# SPDX-License-Identifier: Apache-2.0
"""The memory that the C library keeps for further use."""

import ctypes
from typing import Final

_M_ARENA_MAX: Final = -8
_LIBC: Final = ctypes.CDLL(None)


def share() -> None:
    """Have all threads allocate from one heap: each thread's own one would keep what it once took.

    A C library other than glibc has one heap, and no such call.
    """
    if hasattr(_LIBC, "mallopt"):
        _LIBC.mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Return to the kernel the whole pages that are free; it takes a millisecond or few.

    Without it the heap keeps nearly all that the largest snapshot took. The small objects of Python have arenas of their
    own, which go back by themselves, and as wholes alone.
    """
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)
