# SPDX-License-Identifier: Apache-2.0
"""The tap on a watch: it puts every input of stream and table into a channel, and tells when one did not fit."""

import time
from typing import Final

from agent.capture.watch import Watch
from agent.recorder import tape
from agent.recorder.channel import Channel
from agent.table.inputs import Input, ignore

_STATE_EVERY_NS: Final = 500_000_000
_LOOK_EVERY_NS: Final = 1_000_000_000
_MOVED_NS: Final = 100_000  # a clock that is slewed, at 500 ppm at most, moves by five times that in a second


class Tap:
    """A tap on one watch.

    Args:
        watch: its inputs are taken from now on; nothing may be consumed meanwhile.
        channel: takes them.

    Attributes:
        whole: True while every input since `begin` has found room.
        parts, part_bytes: counts.
    """

    def __init__(self, watch: Watch, channel: Channel) -> None:
        self._watch = watch
        self._stream = watch.stream
        self._put = channel.put
        self._channel = channel
        self.whole = False
        self.parts = self.part_bytes = 0
        self._looked_ns = self._told_ns = 0
        self._asked_ns = self._issued = self._stated_ns = 0
        self._ahead_ns = self._asleep_ns = 0
        watch.probes.ring.tap = self._part
        watch.stream.note = watch.table.note = self._note

    def close(self) -> None:
        """Take no more."""
        self._watch.probes.ring.tap = None
        self._watch.stream.note = self._watch.table.note = ignore
        self.whole = False

    def begin(self, mark: int, said: bytes) -> bool:
        """Begin a segment: all inputs so far are before it; return False if there is no room.

        Args:
            mark: the kind of the entry.
            said: facts for the writer.
        """
        self.whole = self._put(mark, self._stream.next, time.clock_gettime_ns(time.CLOCK_BOOTTIME), said)
        if self.whole:
            self._told_ns = self._asked_ns = self._ahead_ns = 0
            self.look()
            if not self._told_ns:
                self._tell_clocks(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        return self.whole

    def end(self, *, goes_on: bool) -> None:
        """Note the end of the watch.

        Args:
            goes_on: True where the next daemon goes on with its memory.
        """
        if self.whole:
            self._told_ns = self._asked_ns = 0
            self.look()
            self._put(tape.END, self._stream.next, time.clock_gettime_ns(time.CLOCK_BOOTTIME), bytes([goes_on]))
        self.close()

    def look(self) -> None:
        """State from time to time up to when the tape has all records, and note the clocks where they have moved.

        All records of before a time are there once every number that had been issued by then is handled: the kernel side
        takes a record's number before its time.
        """
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if not self._asked_ns and now_ns - self._told_ns >= _STATE_EVERY_NS:
            self._asked_ns, self._issued = now_ns, self._watch.probes.page.issued
        if self._asked_ns and self._stream.next >= self._issued:
            self._stated_ns, self._asked_ns = self._asked_ns, 0
            self._tell_clocks(now_ns)
        elif now_ns - self._looked_ns >= _LOOK_EVERY_NS:
            self._tell_clocks(now_ns, only_moved=True)

    def _tell_clocks(self, boottime_ns: int, *, only_moved: bool = False) -> None:
        self._looked_ns = boottime_ns
        realtime_ns = time.clock_gettime_ns(time.CLOCK_REALTIME)
        monotonic_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        ahead_ns, asleep_ns = realtime_ns - boottime_ns, boottime_ns - monotonic_ns
        moved = max(abs(ahead_ns - self._ahead_ns), abs(asleep_ns - self._asleep_ns)) > _MOVED_NS
        if not self.whole or (only_moved and not moved):
            return
        self._told_ns = boottime_ns
        if moved:
            self._ahead_ns, self._asleep_ns = ahead_ns, asleep_ns
        else:
            realtime_ns, monotonic_ns = boottime_ns + self._ahead_ns, boottime_ns - self._asleep_ns
        said = tape.CLOCKS.pack(monotonic_ns, self._stated_ns)
        self.whole = self._put(tape.CLOCK, realtime_ns, boottime_ns, said)

    def _part(self, part: memoryview) -> None:
        if self.whole:
            now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            self.whole = self._put(tape.PART, self._stream.next, now_ns, part)
            self.parts += 1
            self.part_bytes += len(part)

    def _note(self, kind: Input, value: int) -> None:
        if self.whole:
            self.whole = self._put(kind, value)
