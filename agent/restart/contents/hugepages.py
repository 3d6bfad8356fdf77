# SPDX-License-Identifier: Apache-2.0
"""Huge pages: the number that a tree needs, and the number that the host has."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

HUGE: Final = 2 << 20
"""Bytes of a huge page whose size is not named."""
_SIZE_AT: Final = 26
_POOLS: Final = Path("/sys/kernel/mm/hugepages")


def page_size(flags: int) -> int:
    """Return the size of the huge pages that flags of mmap() or memfd_create() name; without a name the usual one."""
    exponent = flags >> _SIZE_AT & 0x3F
    return 1 << exponent if exponent else HUGE


def size_flags(flags: int) -> int:
    """Return the part of flags of mmap() that names the size of huge pages; memfd_create() has the same."""
    return flags & 0x3F << _SIZE_AT


def free(size: int, pools: Path = _POOLS) -> int:
    """Return the number of huge pages of a size that the host can still give away."""
    pool = pools / f"hugepages-{size >> 10}kB"
    if not pool.is_dir():
        return 0
    count = {name: int((pool / name).read_text()) for name in _COUNTS}
    more = max(count["nr_overcommit_hugepages"] - count["surplus_hugepages"], 0)
    return count["free_hugepages"] - count["resv_hugepages"] + more


_COUNTS: Final = ("free_hugepages", "resv_hugepages", "nr_overcommit_hugepages", "surplus_hugepages")


def lacking(needed: Counter[int], available: Callable[[int], int] = free) -> list[tuple[int, str]]:
    """Return each size of huge pages of which the host has too few, with a text.

    Args:
        needed: bytes by size of page.
        available: returns the number of pages of a size that are free.
    """
    found = []
    for size, need in needed.items():
        count, have = -(-need // size), available(size)
        if count > have:
            found.append((size, f"{count} huge pages are needed, and {have} are free: raise nr_hugepages of that size"))
    return found
