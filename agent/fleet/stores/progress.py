# SPDX-License-Identifier: Apache-2.0
"""Progress of what takes long, on standard error."""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

_REPORT_S: Final = 2.0


def reporting(what: str, done: str) -> Callable[[int, int], None]:
    """Return a function that tells on standard error, every two seconds, how much has come.

    Args:
        what: is fetched.
        done: the word for what has come, as ``fetched``.
    """
    said_s = time.monotonic()

    def report(come: int, size: int) -> None:
        nonlocal said_s
        if come < size and time.monotonic() - said_s >= _REPORT_S:
            said_s = time.monotonic()
            with suppress(OSError):
                print(f"ckptree: {what}: {come >> 20} of {size >> 20} MiB {done}", file=sys.stderr, flush=True)

    return report
