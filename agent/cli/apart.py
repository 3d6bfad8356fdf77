# SPDX-License-Identifier: Apache-2.0
"""Work on somebody's file in a process apart, which can do nothing but hand over what it has made.

A verb that writes cannot give up writing. So the part that parses runs in a child that has given up what
agent.cli.confinement names, and the parent, which has not looked at the file, writes what comes out of a pipe: bytes,
or the files of a folder, of which it believes neither number nor names. Messages and errors the child prints itself.
"""

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Final

import msgpack

from agent import bounded
from agent.cli.confinement import confine_root
from agent.errors import CkptreeError

Made = bytes | dict[str, bytes]
"""A file, or the files of a folder by their names."""

MOST_BYTES: Final = 1 << 30
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}")


class EndedError(Exception):
    """The child has ended without a result, and has said why.

    Attributes:
        code: its exit code.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def made(work: Callable[[], Made], say: Callable[[str], None]) -> Made:
    """Do some work in a confined child.

    Args:
        work: reads, computes and returns what is to be written.
        say: prints a message.

    Returns:
        What the child made.

    Raises:
        EndedError: it could not.
        CkptreeError: what came out of it is nothing that it may make.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()  # else both would write what waits in it
    child = os.fork()
    if not child:
        os.close(reader)
        _be_child(work, say, writer)
    os.close(writer)
    try:
        with open(reader, "rb") as pipe:
            data = bounded.read(pipe, MOST_BYTES)
    except bounded.TooLargeError as error:
        raise CkptreeError(f"what was made of the file {error}") from None
    finally:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise EndedError(code if code > 0 else 128 - code)
    return _checked(data)


def _be_child(work: Callable[[], Made], say: Callable[[str], None], writer: int) -> None:
    code = 1
    try:
        confine_root()
        data = msgpack.packb(work())
        with contextlib.suppress(BrokenPipeError), open(writer, "wb") as pipe:  # it was more than the parent takes
            pipe.write(data)
        code = 0
    except CkptreeError as error:
        say(str(error))
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except BaseException:  # noqa: BLE001 - it is printed, and nothing may run behind it
        traceback.print_exc()
    finally:
        os._exit(code)


def _checked(data: bytes) -> Made:
    try:
        found = msgpack.unpackb(data, max_bin_len=MOST_BYTES)
    except Exception:  # noqa: BLE001 - as msgpack has it: any
        found = None
    if isinstance(found, bytes):
        return found
    if isinstance(found, dict) and all(
        isinstance(name, str) and _NAME.fullmatch(name) and isinstance(content, bytes)
        for name, content in found.items()
    ):
        return found
    raise CkptreeError("what was made of the file is neither a file nor a folder of files: it is not written")
