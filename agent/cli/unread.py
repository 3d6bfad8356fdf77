# SPDX-License-Identifier: Apache-2.0
"""The end of a verb whose standard output nobody reads any more, as of ``ckptree events | head``, or takes nothing.

Python ignores SIGPIPE, for a connection that breaks off must not end the process. So a write to standard output fails
instead, and the verb first undoes what it has begun. Then it ends by the signal.
"""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Iterator

from agent.cli import terminal
from agent.errors import SIGNALLED


class UnreadError(Exception):
    """The reader of standard output has left. It is no OSError, which click would make an exit code of."""


@contextlib.contextmanager
def noticed() -> Iterator[None]:
    """Run a verb in the block.

    Raises:
        UnreadError: it could not write, because the reader of standard output has left.
    """
    try:
        yield
    except BrokenPipeError as error:
        if sys.stdout is None or not terminal.is_unread():
            raise
        raise UnreadError from error


def unwritable(error: OSError) -> str:
    """Return the message about standard output that takes nothing; empty for another error."""
    if sys.stdout is None or error.errno not in (errno.ENOSPC, errno.EIO):
        return ""
    return f"cannot write to standard output, which is full or closed: {error.strerror}"


def end() -> int:
    """End this process by SIGPIPE; return the exit code of that where it does not come.

    It comes of one more write, for a verb that has given up its rights may send no signal (agent.cli.confinement).
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    with contextlib.suppress(OSError):
        os.write(sys.stdout.fileno(), b"\n")
    return SIGNALLED + signal.SIGPIPE
