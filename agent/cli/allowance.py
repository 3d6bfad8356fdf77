# SPDX-License-Identifier: Apache-2.0
"""The memory that the reading of a file may take: so much for each of its bytes.

A few bytes of a JSON or msgpack document can become an object of a hundred bytes: a file of 12 MiB that holds nothing
but empty maps takes 620 MiB. Sound snapshots take 8 to 16 times their size, and 30 times where nearly all is pids
without a task. 100,000 tasks are 17 to 50 MiB, and take 220 to 350 MiB. What is made of a file afterwards, such as a
plan, has bounds of its own.
"""

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agent.errors import FormatError

LEAST: Final = 128 << 20
"""Allowance for an empty file, bytes: modules are imported, too."""
TIMES: Final = 36
"""Further allowance for each byte of a file, bytes."""
RECORDING: Final = (256 << 20, 256)
"""The bytes of a recording: a task whose state is compressed to five bytes takes a kilobyte in a table."""

_NO_FRAME: Final = "error return without exception set"
"""SystemError of Python 3.11 where a function's frame finds no memory."""
_STATM: Final = Path("/proc/self/statm")


@contextlib.contextmanager
def bounded(name: str, size: int, of: tuple[int, int] = (LEAST, TIMES), kind: str = "snapshot") -> Iterator[None]:
    """Let this process take a bounded amount of further memory within the context.

    Args:
        name: of the file that is read.
        size: of that file, bytes.
        of: the allowance for an empty one, and for each byte.
        kind: what it should be.

    Raises:
        FormatError: the bound was reached.
        MemoryError: a limit that is lower, and not of this module, was reached.
    """
    allowed = of[0] + of[1] * size
    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    lowered = _lower(allowed, before, most)
    try:
        yield
    except (MemoryError, SystemError) as error:
        if not lowered or (isinstance(error, SystemError) and str(error) != _NO_FRAME):
            raise
        resource.setrlimit(resource.RLIMIT_DATA, (before, most))  # the message takes memory, too
        text = f"{size} bytes that take more than {allowed >> 20} MiB of memory to read, which no sound {kind} does"
        raise FormatError(name, text) from None
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, most))


def _lower(allowed: int, before: int, most: int) -> bool:
    """Lower the limit to what the process has and is allowed; return False if it is lower, or the size is not known."""
    try:
        pages = int(_STATM.read_text().split()[5])  # data and stack
    except (OSError, ValueError, IndexError):
        return False
    limit = pages * resource.getpagesize() + allowed
    if before != resource.RLIM_INFINITY and before <= limit:
        return False
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
    return True
