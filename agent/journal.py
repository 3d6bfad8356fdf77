# SPDX-License-Identifier: Apache-2.0
"""The daemon's log: lines on standard error, with priorities where it is the journal's.

    line = [ "<" priority ">" ] text newline              sd-daemon(3); 3 error, 4 warning, 5 notice, 6 info

Where standard error is connected to the journal, ``JOURNAL_STREAM`` is its device and inode number, and only there a
prefix is understood: elsewhere people would read it. A text of several lines has the prefix on each.

A warning that comes again within a minute is counted and not written; the next one that is written says how many were
not, and so does `Journal.tend` where there is no next one. Nobody waits: a line that finds no room (whoever reads the pipe
has stopped) is counted too.
"""

import os
import select
import time
from collections.abc import Mapping
from enum import IntEnum
from typing import Final

_LONGEST_BYTES: Final = select.PIPE_BUF  # what a pipe that polls as writable takes at once
_INTERVAL_S: Final = 60.0
_REMEMBERED: Final = 100  # different warnings; the one that was written longest ago is forgotten for another


class Priority(IntEnum):
    """Of syslog(3)."""

    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6


def lines(priority: Priority, text: str, *, prefixed: bool) -> list[bytes]:
    """A text as it is written; no line is longer than a pipe takes at once.

    Args:
        priority: of all of it.
        text: without a newline at its end.
        prefixed: for the journal.
    """
    head = b"<%d>" % priority if prefixed else b""
    return [
        head + line.encode("utf-8", "backslashreplace")[: _LONGEST_BYTES - len(head) - 1] + b"\n"
        for line in text.split("\n")
    ]


class Limiter:
    """Which messages are written, and how many were not. No clock in here.

    Args:
        interval_s: the same message is written once in that time.
    """

    def __init__(self, interval_s: float = _INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._seen: dict[str, tuple[float, int]] = {}  # when it was written, and how often not since then

    def admit(self, text: str, now_s: float) -> str | None:
        """The message as it is to be written now; None: not now."""
        since, held = self._seen.get(text, (None, 0))
        if since is not None and now_s - since < self._interval_s:
            self._seen[text] = since, held + 1
            return None
        self._seen.pop(text, None)  # the newest stand last
        if len(self._seen) >= _REMEMBERED:
            del self._seen[next(iter(self._seen))]
        self._seen[text] = now_s, 0
        return _with_count(text, held) if held else text

    def due(self, now_s: float) -> list[str]:
        """What is to be said of messages that have not come again: how many were not written."""
        over = [text for text, (since, _) in self._seen.items() if now_s - since >= self._interval_s]
        return [_with_count(text, held) for text in over if (held := self._seen.pop(text)[1])]


def _with_count(text: str, held: int) -> str:
    return f"{text} (and {held} more like it since)"


def is_journal(fd: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a descriptor is the one that the journal has given this process."""
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class Journal:
    """Lines to a descriptor.

    Args:
        fd: of the log; stays the caller's.

    Attributes:
        dropped: lines that found no room.
    """

    def __init__(self, fd: int = 2) -> None:
        self._fd = fd
        self._prefixed = is_journal(fd)
        self._limiter = Limiter()
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self.dropped = 0

    def error(self, text: str) -> None:
        """Something failed."""
        self._write(Priority.ERROR, text)

    def warning(self, text: str) -> None:
        """Something is not as it should be; it may come again and again."""
        admitted = self._limiter.admit(text, time.monotonic())
        if admitted is not None:
            self._write(Priority.WARNING, admitted)

    def notice(self, text: str) -> None:
        """What whoever runs the service wants to know."""
        self._write(Priority.NOTICE, text)

    def info(self, text: str) -> None:
        """What happened."""
        self._write(Priority.INFO, text)

    def tend(self) -> None:
        """Now and then: say how many warnings were not written."""
        for text in self._limiter.due(time.monotonic()):
            self._write(Priority.WARNING, text)

    def _write(self, priority: Priority, text: str) -> None:
        for line in lines(priority, f"ckptree: {text}", prefixed=self._prefixed):
            try:
                if self._poll.poll(0) == [(self._fd, select.POLLOUT)]:
                    os.write(self._fd, line)
                    continue
            except OSError:
                pass
            self.dropped += 1
