# SPDX-License-Identifier: Apache-2.0
"""The daemon's log: lines on standard error, with priorities where that is connected to systemd's journal.

    line = [ "<" priority ">" ] text newline              sd-daemon(3); 3 error, 4 warning, 5 notice, 6 info

Where standard error is connected to the journal, ``JOURNAL_STREAM`` has its device and inode number. Only there the
prefix is written; elsewhere it would be part of the text. A text of several lines has the prefix on each.

A warning that comes again within a minute is counted and not written. The next one that is written has the count of
those that were not; where there is no next one, `Journal.tend` writes the count. The minute becomes two, four, at most 64,
while the warning goes on to come. The daemon never waits for the reader
of the log: a line that finds no room in the pipe is dropped and counted.
"""

import os
import select
import time
from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from agent.record import NamedTuple
from exporters.content.wording import plain

_LONGEST_BYTES: Final = select.PIPE_BUF  # a pipe that polls as writable takes so many bytes at once
_INTERVAL_S: Final = 60.0
_MOST_INTERVALS: Final = 64
_REMEMBERED: Final = 100  # different warnings; a new one displaces the one that was written longest ago


class Priority(IntEnum):
    """Priorities of syslog(3)."""

    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6


def lines(priority: Priority, text: str, *, prefixed: bool) -> list[bytes]:
    """Return a text as lines, each cut to the bytes that a pipe takes at once.

    Args:
        priority: of all lines.
        text: without a newline at its end.
        prefixed: add the prefix for the journal.
    """
    head = b"<%d>" % priority if prefixed else b""
    return [head + plain(line).encode()[: _LONGEST_BYTES - len(head) - 1] + b"\n" for line in text.split("\n")]


class _Seen(NamedTuple):
    """A message that was written.

    Attributes:
        since_s: when that was.
        held: how often it has come since then.
        interval_s: it is not written again before that time is over.
    """

    since_s: float
    held: int
    interval_s: float


class Limiter:
    """A filter that admits equal messages once in an interval, and counts the others. It takes the time as an argument.

    Args:
        interval_s: the same message is written once in that time. It doubles while the message goes on to come.
    """

    def __init__(self, interval_s: float = _INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._seen: dict[str, _Seen] = {}  # by message

    def admit(self, text: str, now_s: float) -> str | None:
        """Return the message as it is to be written now; None: it is only counted."""
        seen = self._seen.get(text)
        if seen is not None and now_s - seen.since_s < seen.interval_s:
            self._seen[text] = seen._replace(held=seen.held + 1)
            return None
        held = seen.held if seen is not None else 0
        self._seen.pop(text, None)  # entered again below, behind all others
        if len(self._seen) >= _REMEMBERED:
            del self._seen[next(iter(self._seen))]
        interval_s = self._longer(seen) if seen is not None and held else self._interval_s
        self._seen[text] = _Seen(now_s, 0, interval_s)
        return _with_count(text, held) if held else text

    def due(self, now_s: float) -> list[str]:
        """Return messages with the counts of unwritten ones, for those that have not come again within the interval."""
        over = [(text, seen) for text, seen in self._seen.items() if now_s - seen.since_s >= seen.interval_s]
        for text, seen in over:
            if seen.held:
                self._seen[text] = _Seen(now_s, 0, self._longer(seen))
            else:
                del self._seen[text]
        return [_with_count(text, seen.held) for text, seen in over if seen.held]

    def _longer(self, seen: _Seen) -> float:
        return min(2 * seen.interval_s, _MOST_INTERVALS * self._interval_s)


def _with_count(text: str, held: int) -> str:
    return f"{text} (and {held} more like it since)"


def is_journal(fd: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Return True if a descriptor is the one that the journal has given this process."""
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class Journal:
    """The log on a descriptor.

    Args:
        fd: of the log; the caller closes it.

    Attributes:
        dropped: count of lines that found no room.
    """

    def __init__(self, fd: int = 2) -> None:
        self._fd = fd
        self._prefixed = is_journal(fd)
        self._limiter = Limiter()
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self.dropped = 0

    def error(self, text: str) -> None:
        """Write that an operation failed."""
        self._write(Priority.ERROR, text)

    def warning(self, text: str) -> None:
        """Write of an irregularity; repetitions are limited."""
        admitted = self._limiter.admit(text, time.monotonic())
        if admitted is not None:
            self._write(Priority.WARNING, admitted)

    def notice(self, text: str) -> None:
        """Write a fact that an administrator wants to know."""
        self._write(Priority.NOTICE, text)

    def info(self, text: str) -> None:
        """Write of a normal event."""
        self._write(Priority.INFO, text)

    def tend(self) -> None:
        """Write the counts of warnings that were not written; called from time to time."""
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
