# SPDX-License-Identifier: Apache-2.0
"""Long recordings of a busy host that has never been: as many records as wanted, by the daemon's own writer.

``python -m tests.bench.longrecording DIR [--records 10000000] [--boots 10]`` from the repository's root. Lives beside
10,000 tasks that stay (lives.c) go through the stream and table of a daemon, whose keyframes are made by forks at its
interval, and through a writer of its own. A boot has no loss and no gap, so each instant of it is complete. Further boots
repeat the first one at later times: they cost the time of a copy, and are read like others.
"""

import argparse
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import UUID

from agent.capture import memorywriter
from agent.capture.memorywriter import Memory, Place
from agent.daemon.recording import CHANNEL_BYTES, keyframe_interval
from agent.recorder import blockindex, folder, segment, tape
from agent.recorder.channel import Channel
from agent.recorder.marks import MARK
from agent.recorder.recording import Recording
from agent.recorder.tapesegment import TapeSegment
from agent.recorder.writer import TapeWriter
from agent.table import wire
from agent.table.handlers import Handlers
from agent.table.processtable import ProcessTable
from agent.table.stream import Stream
from tests.bench.compiled import compiled
from tests.bench.options import natural, parsed, positive

AHEAD_NS: Final = 1_700_000_000_000_000_000
_HEAD: Final = struct.Struct("<QQQ")
_PLACE: Final = Place("a ring", 0, (0, (0,) * wire.LOST_NUMBERS), ())
_CLOCK_EVERY_NS: Final = 60_000_000_000
_DISCARD: Final = 1 << 30
_LENGTH: Final = _DISCARD - 1
_BETWEEN_NS: Final = 60_000_000_000  # two boots
_REPORT_EVERY: Final = 10_000_000
_EVER: Final = 1 << 50
_WAIT_S: Final = 0.002
_PATIENCE_S: Final = 60.0


class Part(NamedTuple):
    """A part of the ring.

    Attributes:
        next: the number that follows it.
        time_ns: CLOCK_BOOTTIME at its end, ns.
        data: its bytes; empty behind the tasks that stay.
    """

    next: int
    time_ns: int
    data: bytes


def parts(records: int, live: int, pid_max: int, seed: int) -> Iterator[Part]:
    """Yield the parts of the ring that lives.c makes."""
    command = [str(compiled("lives")), str(records), str(live), str(pid_max), str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while head := process.stdout.read(_HEAD.size):
            length, following, time_ns = _HEAD.unpack(head)
            yield Part(following, time_ns, process.stdout.read(length))
    if process.returncode:
        raise SystemExit(f"lives ended with {process.returncode}")


class LongRecording:
    """A recording in the making.

    Args:
        place: its folder.
        interval: records between two keyframes.
    """

    def __init__(self, place: Path, interval: int) -> None:
        folder.make(place)
        self._place = place
        self._interval = interval
        self._table = ProcessTable()
        self._table.keeps_text = False
        self._stream = Stream(Handlers(self._table).by_kind)
        self._channel = Channel.create(CHANNEL_BYTES)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._writer = os.fork()
        if not self._writer:
            self._control.close()
            TapeWriter(place, self._channel, theirs, _EVER, 0).run()
            os._exit(0)
        theirs.close()
        self._marks = self._first = self._told_ns = self._child = 0
        self._begun = False

    def take(self, part: Part) -> None:
        """Take a part: what is before the first empty one is applied and not recorded."""
        if not part.data:
            self._begun = True
            self._mark(part.time_ns)
            return
        self._feed(part.data)
        if not self._begun:
            return
        self._put(tape.PART, self._stream.next, part.time_ns, part.data)
        if part.time_ns - self._told_ns > _CLOCK_EVERY_NS:
            self._told_ns = part.time_ns
            self._put(tape.CLOCK, part.time_ns + AHEAD_NS, part.time_ns, tape.MONOTONIC.pack(part.time_ns))
        if self._stream.next - self._first >= self._interval:
            self._mark(part.time_ns)
        self._table.changes.gather().clear()

    def end(self, time_ns: int) -> None:
        """End the recording in order; return once all is written."""
        self._await_keyframe()
        self._put(tape.END, self._stream.next, time_ns, b"\0")
        self._control.close()
        os.waitpid(self._writer, 0)

    def _feed(self, data: bytes) -> None:
        feed, words, at, end = self._stream.feed, memoryview(data).cast("I"), 0, len(data)
        while at < end:
            feed(data, at + 8)
            at += (words[at >> 2] & _LENGTH) + 15 & ~7

    def _put(self, kind: int, value: int, ns: int, payload: bytes) -> None:
        while not self._channel.put(kind, value, ns, payload):
            self._channel.ring()
            time.sleep(_WAIT_S)

    def _await_keyframe(self) -> None:
        """Wait until the present segment has its keyframe: the next one must not begin before."""
        if not self._child:
            return
        os.waitpid(self._child, 0)
        end = time.monotonic() + _PATIENCE_S
        while time.monotonic() < end:
            present = folder.stored(self._place)
            if len(present) == self._marks and _has_keyframe(present[-1].path):
                return
            self._channel.ring()
            time.sleep(_WAIT_S)
        raise SystemExit("the writer does not write the keyframe")

    def _mark(self, time_ns: int) -> None:
        self._await_keyframe()
        self._marks += 1
        self._first = self._stream.next
        said: dict[str, Any] = {
            "keyframe": self._marks,
            "first": self._stream.next,
            "continues": self._marks > 1,
            "why": "" if self._marks > 1 else "the daemon began",
            "boot_id": "00000000-0000-0000-0000-000000000000",
            "ring": "a ring",
            "boottime_ns": time_ns,
            "realtime_ns": time_ns + AHEAD_NS,
            "monotonic_ns": time_ns,
            "head_bytes": wire.HEAD.size,
            "memory": memorywriter.VERSION,
            "by": "a measurement",
            "host": {},
        }
        self._put(MARK, self._stream.next, time_ns, json.dumps(said).encode())
        self._channel.ring()
        reader, writer = os.pipe()
        socket.send_fds(self._control, [b"keyframe"], [reader])
        os.close(reader)
        self._child = os.fork()
        if not self._child:
            try:
                totals = (0,) * memorywriter.TOTALS
                memory = memorywriter.dump(Memory(_PLACE, totals, self._table, self._stream))
                with os.fdopen(writer, "wb") as pipe:
                    pipe.write(self._marks.to_bytes(8, "little") + memory)
            finally:
                os._exit(0)
        os.close(writer)


def _has_keyframe(path: Path) -> bool:
    """Return True if a segment that is being written has its keyframe."""
    try:
        facts, begin = segment.read_head(path.read_bytes())
    except segment.DamagedError:
        return False
    return TapeSegment(path, facts, begin, 0).keyframe() is not None


def make(place: Path, records: int, live: int = 10_000, pid_max: int = 1 << 22, interval: int = 0) -> None:
    """Make a recording in a folder; 0: at the daemon's interval."""
    made = LongRecording(place, interval or keyframe_interval(live))
    begun, last_ns = time.monotonic(), 0
    due = _REPORT_EVERY
    for part in parts(records, live, pid_max, 1):
        made.take(part)
        last_ns = part.time_ns
        if part.next >= due:
            due += _REPORT_EVERY
            print(f"longrecording: {part.next:,} records in {time.monotonic() - begun:.0f} s", file=sys.stderr)
    made.end(last_ns)


def repeat(place: Path, boots: int) -> None:
    """Add boots to a recording of one, each with the records of the first one and times of its own."""
    first = Recording(place)
    (run,) = first.runs
    period_ns = run.last.time_ns - run.first.time_ns + _BETWEEN_NS
    count = len(first.segments)
    for each in first.segments:
        clocks = {block for block in each.tapes if _has_clocks(each.content(block) or b"")}
        for boot in range(1, boots):
            facts = replace(
                each.facts,
                sequence=each.facts.sequence + boot * count,
                boot_id=str(UUID(int=boot)),
                realtime_ns=each.facts.realtime_ns + boot * period_ns,
            )
            path = place / folder.name_of(facts.sequence, facts.first)
            path.write_bytes(_moved(each, facts, clocks, boot * period_ns))


def _has_clocks(content: bytes) -> bool:
    return any(entry.kind == tape.CLOCK for entry in tape.entries(content))


def _moved(of: TapeSegment, facts: segment.SegmentFacts, clocks: set[segment.Block], by_ns: int) -> bytes:
    """Return a segment under other facts, CLOCK_REALTIME being ahead by more."""
    out = bytearray(segment.head(facts, segment.blocks_before(of.path.read_bytes())))
    check = segment.facts_check(bytes(out))
    rows: list[blockindex.BlockNumbers] = []
    numbers = iter(of.index() or ())
    for block in of.blocks:
        assert block is not None
        content: tape.Data = of.stored(block)
        codec = block.codec
        size = block.size
        if block.kind == segment.INDEX:
            index_at = len(out)
            content, codec = blockindex.pack(rows, check), segment.PLAIN
            size = len(content)
        elif block.kind == segment.PLACE:
            content = blockindex.PLACE.pack(index_at)
        elif block in clocks:
            content, codec = _later(of.content(block) or b"", by_ns), segment.PLAIN
        times_ns = (block.first_ns, block.last_ns, block.ahead_ns + by_ns)
        head, kept = segment.block(block.kind, content, size, (block.first, block.next), times_ns, codec, block.number)
        if block.kind == segment.TAPE:
            row, new = next(numbers), segment.block_at(head, 0)
            assert new is not None
            rows.append(row._replace(at=len(out), ahead_ns=row.ahead_ns + by_ns, check=new.check))
        out += head
        out += kept
    return bytes(out)


def _later(content: bytes, by_ns: int) -> bytes:
    """Return a tape whose looks at the clocks show a later CLOCK_REALTIME."""
    return b"".join(
        tape.pack(kind, value + by_ns if kind == tape.CLOCK else value, ns, payload)
        for kind, value, ns, payload in tape.entries(content)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Make one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", type=Path, metavar="DIR")
    parser.add_argument("--records", type=positive, default=10_000_000, help="of each boot")
    parser.add_argument("--boots", type=positive, default=10)
    parser.add_argument("--live", type=positive, default=10_000, help="tasks that stay")
    parser.add_argument("--highest", type=positive, default=1 << 22, help="the number at which pids begin anew")
    parser.add_argument("--interval", type=natural, default=0, help="records between keyframes; 0: as the daemon")
    options = parsed(parser, arguments, root=False)
    make(options.place, options.records, options.live, options.highest, options.interval)
    repeat(options.place, options.boots)
    return 0


if __name__ == "__main__":
    sys.exit(main())
