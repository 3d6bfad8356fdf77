# SPDX-License-Identifier: Apache-2.0
"""The memory that the C library keeps for further use."""

import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_LARGE: Final = 1 << 24  # four images of 20,000 tasks
_LIBC: Final = ctypes.CDLL(None)


def share() -> None:
    """Have all threads allocate from one heap, also what is as large as an image, and keep that until `give_back`.

    Each thread's own heap would keep what it once took. And an image is made of megabytes that are taken and given back at
    once: where the kernel has to clear their pages each time, that takes half of the time of a snapshot of 5000 tasks. A C
    library other than glibc has no such call.
    """
    if hasattr(_LIBC, "mallopt"):
        for option, value in ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, _LARGE), (_M_TRIM_THRESHOLD, _LARGE)):
            _LIBC.mallopt(option, value)


def give_back() -> None:
    """Return to the kernel the whole pages that are free; it takes a millisecond or few.

    Without it the heap keeps nearly all that the largest snapshot took. The small objects of Python have arenas of their
    own, which go back by themselves, and as wholes alone.
    """
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)
