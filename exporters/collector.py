# SPDX-License-Identifier: Apache-2.0
"""Python's collector of circles, and how to spare readers and writers from it.

They make millions of small tuples and maps, none of which can be part of a circle, and each some thousands of them have
the collector walk over all that there is. For an image of 100,000 tasks that was half of the time.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """No collection in here, unless there was none before. Memory is freed as ever; only circles wait."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
