# SPDX-License-Identifier: Apache-2.0
"""A gauge of a daemon's ring, read by another process: its room, its losses, and the births that both leave no doubt of.

Theory
------
A birth's record is tried within clone(): after the start of the task, and before the task or its creator runs on. It is
written unless the ring lacks room for it (kernel/bpf/ringbuf.c), and then the kernel side counts the loss before clone()
goes on. So two rules are exact, and neither asks the daemon or allows for any delay:

* Of births between two readings with the same count of losses, each was written. Such a birth is told as seen, unless its
  creator had gone before anything told of it: a birth without a creator counts as lost.
* While the reader stands still, the room never grows. Of births after a reading that had no room for the smallest birth's
  record, each was lost, until the reader may go on.

A birth that begins or ends outside of such a span, or whose end nobody lived to log, is not judged.
"""

import ctypes
import os
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from agent.capture.ring import Page, Ring
from agent.table import wire
from bpf.syscall import MAP_RINGBUF, map_shape

_PIDFD_GETFD = 438  # on every architecture
_PAGE_BYTES = wire.reader(wire.PAGE).size
_HEADER_BYTES = 8  # of a record in the ring: BPF_RINGBUF_HDR_SZ
LEAST_BYTES = _HEADER_BYTES + wire.reader(wire.RECORD_TASK).size + wire.reader(wire.PID_NUMBER).size
"""The room that the smallest record of a birth takes: that of a task with one pid object on one level."""


class Span(NamedTuple):
    """A time from `since` to `until`: CLOCK_BOOTTIME, ns."""

    since: int
    until: int

    def holds(self, other: "Span") -> bool:
        """Return True if all of the other span is within this one."""
        return self.since <= other.since and other.until <= self.until


class Reading(NamedTuple):
    """One look at a ring.

    Attributes:
        span: the time in which it was made.
        room: bytes of the ring that were free.
        lost: count of the records that had not been written by then.
    """

    span: Span
    room: int
    lost: int


class ToldBirth(NamedTuple):
    """A birth as a snapshot tells it.

    Attributes:
        span: from the start of the task until its creator, or itself, ran on.
        observed: True where the snapshot tells it as seen, False where as lost.
        creator: the span of its creator's birth; None where the creator outlived the snapshot, so that a sweep found it.
    """

    span: Span
    observed: bool
    creator: Span | None = None


def now() -> int:
    """Return CLOCK_BOOTTIME in ns."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def without_loss(readings: Sequence[Reading]) -> Iterator[Span]:
    """Yield the spans in which the kernel side counted no loss, from earlier to later."""
    first = 0
    for n in range(1, len(readings) + 1):
        if n == len(readings) or readings[n].lost != readings[first].lost:
            if n - first > 1:
                yield Span(readings[first].span.until, readings[n - 1].span.since)
            first = n


def without_room(readings: Iterable[Reading], stills: Sequence[Span]) -> Iterator[Span]:
    """Yield the spans in which no birth's record had room.

    Args:
        readings: from earlier to later.
        stills: the times in which the ring's reader stood still.
    """
    full = [reading.span for reading in readings if reading.room <= LEAST_BYTES]
    for still in stills:
        first = next((span for span in full if still.holds(span)), None)
        if first is not None:
            yield Span(first.until, still.until)


def _around(span: Span, spans: Sequence[Span]) -> Span | None:
    """Return that of the spans, which are sorted, that holds a span."""
    at = bisect_right(spans, span.since, key=lambda one: one.since) - 1
    return spans[at] if at >= 0 and spans[at].holds(span) else None


def misjudged(births: Iterable[ToldBirth], written: Sequence[Span], full: Sequence[Span]) -> Iterator[str]:
    """Yield a line for each birth that is told as lost and was written, or is told as seen and found no room.

    Args:
        births: in any order.
        written: spans without a loss, from earlier to later.
        full: spans without room, from earlier to later.
    """
    for birth in births:
        said = f"a birth from {birth.span.since} to {birth.span.until} is told as"
        if birth.observed:
            if (within := _around(birth.span, full)) is not None:
                yield f"{said} seen, when the ring had no room from {within.since} to {within.until}"
        elif (within := _around(birth.span, written)) is not None and (
            birth.creator is None or _around(birth.creator, written) is not None
        ):
            yield f"{said} lost, when the kernel side lost nothing from {within.since} to {within.until}"


class RingGauge:
    """The ring and the counters of a running daemon, mapped into this process, which only reads them.

    Args:
        pid: the daemon.

    Raises:
        OSError: the caller may not take the daemon's descriptors (ptrace(2), PTRACE_MODE_ATTACH_REALCREDS).
    """

    def __init__(self, pid: int) -> None:
        with ExitStack() as stack:
            maps = [(map_shape(fd), fd) for fd in _maps(pid, stack)]
            ring, size = next((fd, shape.entries) for shape, fd in maps if shape.map_type == MAP_RINGBUF)
            page = next(fd for shape, fd in maps if shape.value_bytes == _PAGE_BYTES)
            self._ring = Ring(ring, size)
            self._page = Page(page)

    def read(self) -> Reading:
        """Take one reading."""
        since = now()
        room, lost = self._ring.size - self._ring.pending, self._page.lost + self._page.nested
        return Reading(Span(since, now()), room, lost)

    def close(self) -> None:
        """Unmap."""
        self._ring.close()
        self._page.close()


def _maps(pid: int, stack: ExitStack) -> Iterator[int]:
    """Yield a descriptor of each BPF map that a process has open; the stack closes it."""
    getfd = ctypes.CDLL(None, use_errno=True).syscall
    pidfd = os.pidfd_open(pid)
    stack.callback(os.close, pidfd)
    for link in Path(f"/proc/{pid}/fd").iterdir():
        if "bpf-map" not in os.readlink(link):
            continue
        fd = getfd(_PIDFD_GETFD, pidfd, int(link.name), 0)
        if fd < 0:
            raise OSError(ctypes.get_errno(), f"pidfd_getfd of {link}")
        stack.callback(os.close, fd)
        yield fd
