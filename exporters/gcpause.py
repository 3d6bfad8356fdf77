# SPDX-License-Identifier: Apache-2.0
"""Pause of Python's cyclic garbage collector while images are read and written.

Readers and writers make millions of small tuples and maps, none of them part of a cycle. Every few thousand of them
trigger a collection that walks over all objects. For an image of 100,000 tasks that took half of the time.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_RARE: Final = 2_000_000


def make_rare() -> None:
    """Have the collector search after millions of new objects alone, until the process ends.

    A tree waits while its restart searches: 12 ms where a hundred processes get their contents.
    """
    gc.set_threshold(_RARE)


@contextmanager
def paused() -> Iterator[None]:
    """Disable the cyclic collector for the block, if it was enabled. Reference counting still frees memory."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
