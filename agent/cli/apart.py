# SPDX-License-Identifier: Apache-2.0
"""Work on an untrusted file in a confined child, which can do nothing but send its result through a pipe.

A verb that writes cannot give up the right to write. So the part that parses runs in a child that gives up the rights
that agent.cli.confinement names. The parent does not read the file. It writes the child's result: bytes, or the files
of a folder, whose names it checks. The child prints its messages and errors itself.
"""

import contextlib
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Final

import msgpack

from agent import bounded
from agent.cli.confinement import confine_root
from agent.errors import INTERRUPTED, SIGNALLED, CkptreeError, RefusedError

Made = bytes | dict[str, bytes]
"""A file, or the files of a folder by their names."""

MOST_BYTES: Final = 1 << 30
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}")


class EndedError(Exception):
    """The end of the child without a result; the child has printed the reason.

    Attributes:
        code: its exit code.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def made(work: Callable[[], Made], say: Callable[[str], None]) -> Made:
    """Do some work in a confined child.

    Args:
        work: reads, computes and returns the result to be written.
        say: prints a message.

    Returns:
        The result of the work.

    Raises:
        EndedError: the child failed.
        CkptreeError: the result is larger than MOST_BYTES, or no file or folder of files.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()  # else both processes would write the buffered text
    # SIGINT is blocked until the parent knows its child: an interrupt between the two would leave the child behind.
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    child = code = 0
    try:
        child = os.fork()
        if not child:
            os.close(reader)
            _be_child(work, say, writer, held)
        os.close(writer)
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        with open(reader, "rb") as pipe:
            data = bounded.read(pipe, MOST_BYTES)
    except bounded.TooLargeError as error:
        raise CkptreeError(f"what was made of the file {error}") from None
    except BaseException:
        if child:
            os.kill(child, signal.SIGKILL)  # it may have heard of no interrupt, and wait for its input
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        if child:
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise EndedError(code if code > 0 else SIGNALLED - code)
    return _checked(data)


def _be_child(work: Callable[[], Made], say: Callable[[str], None], writer: int, mask: set[int]) -> None:
    code = 1
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        confine_root()
        data = msgpack.packb(work())
        with contextlib.suppress(BrokenPipeError), open(writer, "wb") as pipe:  # the parent closes it above MOST_BYTES
            pipe.write(data)
        code = 0
    except CkptreeError as error:
        say(str(error))
        for line in error.leaks if isinstance(error, RefusedError) else ():
            say(f"  {line}")
        code = error.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BaseException:  # noqa: BLE001 - it is printed, and the child must run nothing of the parent's behind it
        say(f"internal error\n{traceback.format_exc().rstrip()}")
    finally:
        os._exit(code)


def _checked(data: bytes) -> Made:
    try:
        found = msgpack.unpackb(data, max_bin_len=MOST_BYTES)
    except Exception:  # noqa: BLE001 - msgpack raises exceptions of many kinds
        found = None
    if isinstance(found, bytes):
        return found
    if isinstance(found, dict) and all(
        isinstance(name, str) and _NAME.fullmatch(name) and isinstance(content, bytes)
        for name, content in found.items()
    ):
        return found
    raise CkptreeError("what was made of the file is neither a file nor a folder of files: it is not written")
