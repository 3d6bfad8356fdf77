# SPDX-License-Identifier: Apache-2.0
"""The writer of a recording: a process beside the daemon that compresses the tape and writes it.

It takes entries from where the loop has put them (agent.recorder.channel), compresses up to a megabyte at once, and
appends it to the present segment. A mark among the entries begins the next one. Its keyframe comes through a pipe from a
fork of the daemon, a moment later, and becomes a block like others.

Where a write fails, a full disk for example, the writer says so and passes over all entries until a mark that continues
nothing. It ends when the daemon's end of the socket is closed: then it first writes all that the loop has put, so a daemon
that is killed loses nothing of it.
"""

import contextlib
import json
import os
import select
import selectors
import signal
import socket
import sys
import time
from array import array
from pathlib import Path
from typing import Any, Final

from agent.errors import CkptreeError
from agent.recorder import blockindex, folder, folderlock, folderrights, idleblock, segment, tape
from agent.recorder.channel import Channel
from agent.recorder.compression import BLOCK_BYTES, OPEN_S, Compression
from agent.recorder.idleblock import IdleFile
from agent.recorder.marks import MARK
from agent.recorder.openblock import OpenBlock
from agent.recorder.overlap import last_number, recorded_ns
from agent.recorder.retention import Clocks, Retention
from agent.recorder.segmentoutput import RemovedError, SegmentOutput
from agent.recorder.tape import Data

_NAP_S: Final = 0.1  # a wake-up costs as much as some twenty records, and finds nothing in the caches
_SYNC_S: Final = 1.0
_REPORT_S: Final = 0.5
_PIPE_BYTES: Final = 1 << 20
_ROOM: Final = BLOCK_BYTES + (1 << 16)  # a block ends behind a part of the ring (agent.capture.intake)
_CLOCK_BYTES: Final = tape.ENTRY.size + tape.CLOCKS.size


class TapeWriter:
    """The state of the writer.

    Args:
        place: the folder.
        channel: the tape.
        control: the socket to the daemon, of kind SOCK_SEQPACKET.
        max_bytes, max_age_s: as in Retention.
        group, lock: as in SegmentOutput.
    """

    def __init__(
        self,
        place: Path,
        channel: Channel,
        control: socket.socket,
        max_bytes: int,
        max_age_s: int,
        group: int | None = None,
        lock: int = -1,
    ) -> None:
        self._channel, self._control = channel, control
        self._kept = Retention(place, max_bytes, max_age_s)
        self._output = SegmentOutput(place, self._kept, group, lock)
        self._idle = IdleFile(place, group)
        self._place = place
        known = folder.stored(place)
        self._sequence = known[-1].sequence if known else 0
        self._compression = Compression()
        self._facts: dict[str, Any] = {}
        self._error = ""
        self._overlaps = False
        self._open = OpenBlock(_ROOM)
        self._ahead_before_ns = 0
        self._rung_s = 0.0  # when the bell rang for what is taken now; 0: it did not
        self._rows: list[blockindex.BlockNumbers] | None = []
        self._facts_check = 0
        self._number = 0  # of the last block of the segment
        self._synced = self._reported = 0.0
        self._keyframes: dict[int, tuple[int, bytearray]] = {}
        self._pipes: list[int] = []
        self._raw_bytes = self._marks = 0
        self._selector = selectors.DefaultSelector()
        self._selector.register(channel.bell, selectors.EVENT_READ, self._heed_bell)
        self._selector.register(control, selectors.EVENT_READ, self._heed_control)
        self._running = True

    def run(self) -> None:
        """Write until the daemon closes its end.

        Raises:
            RemovedError: what is written was removed.
        """
        while self._running:
            for key, _ in self._selector.select(self._wait_s()):
                key.data()
            self._take()
            self._rung_s = 0.0
            now = time.monotonic()
            if self._open.size and now - self._open.since_s >= OPEN_S:
                self._flush()
            if self._output.unsynced and now - self._synced >= _SYNC_S:
                self._sync(now)
            if now - self._reported >= _REPORT_S:
                self._report(now)
        self._take()
        self._flush()
        while self._pipes:  # a keyframe may be on its way still
            for key, _ in self._selector.select():
                key.data()
        self._seal()
        self._selector.close()
        self._control.close()

    def _wait_s(self) -> float | None:
        now = time.monotonic()
        due = []
        if self._open.size:
            due.append(self._open.since_s + OPEN_S)
        if self._output.unsynced:
            due.append(self._synced + _SYNC_S)
        return max(0.0, min(due) - now) if due else None

    # ---- what comes ------------------------------------------------------------------------------------------------

    def _heed_bell(self) -> None:
        """Let more entries come, for the channel has room, unless a block is due or the daemon has a message."""
        self._rung_s = time.monotonic()
        if not self._pipes:
            due_s = self._open.since_s + OPEN_S - self._rung_s if self._open.size else _NAP_S
            select.select([self._control], [], [], max(0.0, min(_NAP_S, due_s)))
        self._channel.hush()

    def _heed_control(self) -> None:
        try:
            message, descriptors, _, _ = socket.recv_fds(self._control, 1 << 12, 8)
        except OSError:  # the daemon has closed its end before it has heard everything
            message, descriptors = b"", []
        if not message:
            self._running = False
            self._selector.unregister(self._control)
            self._selector.unregister(self._channel.bell)
            return
        self._pipes += descriptors
        for pipe in descriptors:
            data = bytearray()
            self._selector.register(
                pipe, selectors.EVENT_READ, lambda pipe=pipe, data=data: self._heed_pipe(pipe, data)
            )

    def _heed_pipe(self, pipe: int, data: bytearray) -> None:
        chunk = os.read(pipe, _PIPE_BYTES)
        if chunk:
            data += chunk
            return
        self._selector.unregister(pipe)
        os.close(pipe)
        self._pipes.remove(pipe)
        number = int.from_bytes(data[:8], "little")
        if number != self._facts.get("keyframe"):
            self._take()  # the fork may be faster than this process: its segment's mark may be in the channel still
        if number == self._facts.get("keyframe") and self._output.is_open and len(data) > 8:
            first = int(self._facts["first"])
            body = memoryview(data)[8:]
            begin_ns = int(self._facts["boottime_ns"])
            self._append(segment.KEYFRAME, body, (first, first), (begin_ns, begin_ns))

    # ---- the tape --------------------------------------------------------------------------------------------------

    def _take(self) -> None:
        """Take all waiting entries: whole blocks are written, the rest stays open."""
        channel, block = self._channel, self._open
        while waiting := channel.waiting():
            if tape.ENTRY.unpack_from(waiting)[0] == MARK:
                self._take_mark(waiting)
                continue
            if not block.size:
                block.since_s = self._rung_s or time.monotonic()
            channel.took(block.take(waiting, BLOCK_BYTES))
            channel.free()
            if block.size >= BLOCK_BYTES:
                self._flush()

    def _take_mark(self, waiting: memoryview) -> None:
        _, length, order, _ = tape.ENTRY.unpack_from(waiting)
        said = json.loads(bytes(waiting[tape.ENTRY.size : tape.ENTRY.size + length]))
        if said["continues"]:
            self._flush_up_to(order)
        else:
            self._flush()  # records up to there are missing
        self._channel.took(tape.ENTRY.size + tape.padded(length))
        self._channel.free()
        self._begin(said)

    def _flush_up_to(self, order: int) -> None:
        """Write the open entries, and note the number behind them: records that had come early may have followed."""
        block = self._open
        block.next = max(block.next, order)
        if not block.size and block.next > block.first and self._output.is_open:
            self._append(segment.TAPE, block.entries, (block.first, block.next), (0, 0))
        self._flush()

    def _flush(self) -> None:
        """Write the open entries as a block."""
        block = self._open
        if block.size and self._output.is_open and not self._waits():
            self._compression.note(block.size, block.since_s, self._channel.unread)
            unsynced, is_idle = self._output.unsynced, self._idle.is_idle(block.entries)
            times_ns = block.first_ns, block.last_ns
            self._append(segment.TAPE, block.entries, (block.first, block.next), times_ns)
            if is_idle:  # a power cut may take it: a disk that has nothing else to do may rest
                self._output.unsynced = unsynced
            if block.size == _CLOCK_BYTES:
                self._idle.appended(block.entries)
        block.clear()

    def _waits(self) -> bool:
        """Return True if the open entries wait beside the segment: they are but a look at clocks that have not moved."""
        block = self._open
        if block.size != _CLOCK_BYTES or block.next > block.first:
            return False
        times_ns, number = (block.first_ns, block.last_ns), segment.number_behind(self._number)
        made = self._block(segment.TAPE, block.entries, (block.first, block.next), times_ns, number)
        return self._idle.keep(block.entries, self._output.size, b"".join(made))

    # ---- files -----------------------------------------------------------------------------------------------------

    def _begin(self, said: dict[str, Any]) -> None:
        """Begin a segment, unless what it continues could not be written, or another daemon has recorded the time."""
        if (self._error or self._overlaps) and said["continues"]:
            return
        is_first = not self._marks and not said["continues"]
        self._overlaps = is_first and recorded_ns(self._place, said["boot_id"]) > said["boottime_ns"]
        if self._overlaps:
            self._tell({"overlaps": True})
            return
        self._seal()
        self._sequence += 1
        self._marks += 1
        self._facts = said
        self._open.next = self._open.first = int(said["first"])
        self._open.ahead_ns = self._ahead_before_ns = int(said["realtime_ns"]) - int(said["boottime_ns"])
        self._rows = []
        facts = segment.SegmentFacts(sequence=self._sequence, **{key: said[key] for key in said if key != "keyframe"})
        before = self._number if self._marks > 1 else last_number(self._place)  # of the daemon that was before
        begun = segment.head(facts, before if facts.continues else 0)
        self._number = 0
        self._facts_check = segment.facts_check(begun)
        try:
            self._output.begin(folder.name_of(self._sequence, self._open.next), begun)
            self._idle.begin(self._facts_check)
            self._error = ""
        except OSError as error:
            self._fail(error)
        self._trim()

    def _append(self, kind: int, data: Data, numbers: tuple[int, int], times_ns: tuple[int, int]) -> None:
        self._append_waiting()
        if not self._output.is_open:
            return
        self._number = segment.number_behind(self._number)
        head, stored = self._block(kind, data, numbers, times_ns, self._number)
        self._raw_bytes += len(data)
        if kind == segment.TAPE:
            self._note_numbers(head)
        try:
            self._output.write(head, stored)
        except OSError as error:
            self._fail(error)
        self._trim()

    def _append_waiting(self) -> None:
        """Append the block that waits."""
        waiting = self._idle.take()
        block = segment.block_at(waiting, 0)
        if block is None or not self._output.is_open:
            return
        self._number = block.number
        if self._rows is not None:
            row = blockindex.BlockNumbers(self._output.size, self._ahead_before_ns, block.check, array("I"))
            self._rows.append(row)
        self._raw_bytes += _CLOCK_BYTES
        try:
            self._output.write(waiting)
        except OSError as error:
            self._fail(error)

    def _trim(self) -> None:
        with contextlib.suppress(OSError):  # of a file system that can only be read now: a write tells that, too
            self._kept.trim(Clocks.now())

    def _block(
        self, kind: int, data: Data, numbers: tuple[int, int], times_ns: tuple[int, int] = (0, 0), number: int = 0
    ) -> tuple[bytes, Data]:
        codec = segment.PLAIN if kind == segment.PLACE else segment.ZSTD
        stored = self._compression.stored(kind, data) if codec == segment.ZSTD else data
        return segment.block(kind, stored, len(data), numbers, (*times_ns, self._open.ahead_ns), codec, number)

    def _note_numbers(self, head: bytes) -> None:
        """Note the numbers of the open block, which is written next."""
        count = self._open.size // self._open.words.itemsize
        found = blockindex.numbers_of(self._open.words, count) if self._rows is not None else None
        block = segment.block_at(head, 0)
        if found is None or self._rows is None or block is None:
            self._rows = None
        else:
            self._rows.append(blockindex.BlockNumbers(self._output.size, self._ahead_before_ns, block.check, found))
        self._ahead_before_ns = self._open.ahead_ns

    def _seal(self) -> None:
        """End the present segment, with its index; it is whole without one, where the disk is full."""
        self._append_waiting()
        if self._output.is_open and self._rows is not None:
            numbers = int(self._facts["first"]), self._open.next
            place = blockindex.PLACE.pack(self._output.size)
            index = blockindex.pack(self._rows, self._facts_check)
            behind = segment.number_behind(self._number)
            with contextlib.suppress(OSError):
                self._output.write(*self._block(segment.INDEX, index, numbers, number=behind))
                self._output.write(*self._block(segment.PLACE, place, numbers))
        self._output.close()
        self._idle.close()

    def _fail(self, error: OSError) -> None:
        self._error = error.strerror or str(error)
        self._output.close()
        self._idle.close()
        self._report(time.monotonic())

    def _sync(self, now: float) -> None:
        self._synced = now
        try:
            self._output.sync()
        except RemovedError:
            self._flush()
            self._seal()  # it may be renamed alone
            raise
        except OSError as error:
            self._fail(error)

    def _report(self, now: float) -> None:
        """Tell the daemon of the folder."""
        self._reported = now
        said = {
            "bytes": self._kept.bytes,
            "segments": self._kept.count,
            "dropped": self._kept.dropped,
            "segment_bytes": self._output.size,
            "written_bytes": self._output.written_bytes,
            "tape_bytes": self._raw_bytes,
            "error": self._error,
        }
        self._tell(said)

    def _tell(self, said: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self._control.send(json.dumps(said).encode(), socket.MSG_DONTWAIT)


def main(arguments: list[str]) -> int:
    """Write a recording; the daemon starts this (agent.recorder.recorder).

    Args:
        arguments: the folder, the descriptors of memory, counter and socket, the bounds, and the number of the group that
            may read; empty: none may.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the daemon's end is the signal
    where, memory, bell, control, max_bytes, max_age_s, readers = arguments
    link = socket.socket(fileno=int(control))
    place = Path(where)
    try:
        folder.make(place)
        folderrights.refuse_writers(place)
        lock = folderlock.lock(place)
        folderlock.await_lock(place, lock, link)
        os.set_blocking(int(bell), False)
        group = int(readers) if readers else None
        folderrights.admit(place, group)
        idleblock.adopt(place)
        channel = Channel(int(memory), int(bell))
        TapeWriter(place, channel, link, int(max_bytes), int(max_age_s), group, lock).run()
    except CkptreeError as error:
        with contextlib.suppress(OSError):
            link.send(json.dumps({"fatal": str(error)}).encode())
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
