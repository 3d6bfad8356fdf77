# SPDX-License-Identifier: Apache-2.0
"""One line in the daemon's log for each snapshot: who asked, for what, and what became of it.

    line  = "ckptree: snapshot" { " " key "=" value } newline
    value = number | word | quoted

What a client or a task chooses, its name or the ROOT it asks for, is quoted: printable ASCII as it is, any other byte,
the quote and the backslash as ``\\xNN``. So a line is one line, and what stands between quotes cannot end them.
"""

import os
import select
from typing import Final

_LONGEST_BYTES: Final = 200  # of a quoted value
_PRINTABLE: Final = frozenset(range(0x20, 0x7F)) - frozenset(b'"\\')

Value = int | float | str | bytes


def quoted(value: str | bytes) -> str:
    """Hostile text, or bytes, as a word that cannot be mistaken for anything else."""
    data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    cut = data[:_LONGEST_BYTES]
    text = "".join(chr(byte) if byte in _PRINTABLE else f"\\x{byte:02x}" for byte in cut)
    return f'"{text}"' + ("..." if len(cut) < len(data) else "")


def line(what: str, **fields: Value) -> str:
    """A line without its end. Text is quoted, numbers are not."""
    said = [f"{key}={quoted(value) if isinstance(value, (str, bytes)) else value}" for key, value in fields.items()]
    return " ".join(("ckptree:", what, *said))


class Log:
    """Lines to a descriptor that whoever reads it may have stopped reading: a line that finds no room is counted.

    Args:
        fd: of the log; stays the caller's.

    Attributes:
        dropped: lines that found no room.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self.dropped = 0

    def write(self, text: str) -> None:
        """One line. A pipe that polls as writable has room for PIPE_BUF bytes, and no line is longer."""
        try:
            if self._poll.poll(0) == [(self._fd, select.POLLOUT)]:
                os.write(self._fd, text.encode("ascii", "backslashreplace") + b"\n")
                return
        except OSError:
            pass
        self.dropped += 1
