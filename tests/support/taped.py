# SPDX-License-Identifier: Apache-2.0
"""A recording of a simulated kernel, made by the real tap and the real writer, with the truth at every point of it."""

import contextlib
import json
import os
import random
import socket
from pathlib import Path
from typing import Any, NamedTuple

from agent.capture import memorywriter
from agent.capture.memorywriter import Memory, Place
from agent.capture.watch import Watch
from agent.recorder import tape
from agent.recorder.channel import Channel
from agent.recorder.facts import Instant, Replayed
from agent.recorder.marks import MARK
from agent.recorder.recording import Recording
from agent.recorder.tap import Tap
from agent.recorder.writer import TapeWriter
from agent.table import wire
from agent.table.processtable import ProcessTable
from agent.table.stream import Stream
from tests.support.kernelsim import Kernel
from tests.support.programs import NAMES, make
from tests.support.simwatch import SimProbes, part_of

_PLACE = Place("ring", 0, (0, (0,) * wire.LOST_NUMBERS), ())
_TOTALS = (0,) * memorywriter.TOTALS
_A_RUN_NS = 3_600_000_000_000
_LOOK_NS = 500_000_000  # between two looks at the clocks, at least
BOOT_NS = 1_000_000_000_000
AHEAD_NS = 1_700_000_000_000_000_000


class Truth(NamedTuple):
    """The state at a point.

    Attributes:
        run: index of the run.
        order: the number of the next record.
        time_ns: CLOCK_REALTIME, ns.
        state: the table, as bytes.
        lost: True where a number has been given up in the step before.
    """

    run: int
    order: int
    time_ns: int
    state: bytes
    lost: bool = False


def last_at_each(truths: list[Truth]) -> list[Truth]:
    """Return the last truth of each number: what the watch did before the next record counts."""
    return list({(each.run, each.order): each for each in truths}.values())


def state_of(table: ProcessTable, stream: Stream) -> bytes:
    """Return a table and its stream as bytes, without what no record tells."""
    noted, table.noted = table.noted, {}
    bare = Stream({})  # a record that has come too early is no part of the state
    bare.resume(stream.next)
    bare.kinds, bare.lost, bare.suspect = stream.kinds, stream.lost, stream.suspect
    data = memorywriter.dump(Memory(_PLACE, _TOTALS, table, bare))
    table.noted = noted
    return data


def replayed(recording: Recording, truth: Truth) -> Replayed | None:
    """Return the state that a recording gives at a point; None where it has nothing of its run."""
    for index, run in enumerate(recording.runs):
        if run.ring == f"ring {truth.run}":
            return recording.table_at(Instant(index, truth.order, 0, 0, 0))
    return None


class Taped:
    """A simulated kernel, a watch over it, and the recording.

    Args:
        folder: of the recording.
        seed: of everything random.
        run: index of the run.
        states: False for a tape as of an older program, which does not state up to when all records are there.
        ahead_ns: by how much CLOCK_REALTIME is ahead of CLOCK_BOOTTIME.

    Attributes:
        truths: of the points between two parts.
        ahead_ns: by how much CLOCK_REALTIME is ahead now.
    """

    def __init__(self, folder: Path, seed: int, run: int = 0, *, states: bool = True, ahead_ns: int = AHEAD_NS) -> None:
        self.folder = folder
        self.truths: list[Truth] = []
        self._run, self._states = run, states
        self._chance, self._clocks = random.Random(seed), random.Random(seed)
        self._now_ns = BOOT_NS + run * _A_RUN_NS
        self._kernel = Kernel(lambda _: None, pid_max=60)
        self._probes = SimProbes(self._kernel)
        self._watch = Watch.begin(self._probes)  # type: ignore[arg-type]  # it has the interface
        self._watch.table.keeps_text = True
        self._channel = Channel.create(1 << 22)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control = ours
        self.ahead_ns, self._asleep_ns = ahead_ns, 1
        self._writer = TapeWriter(folder, self._channel, theirs, 1 << 40, 0)
        self._tap = Tap(self._watch, self._channel)
        self._marks = 0

    def mark(self, *, continues: bool, why: str = "", keyframe: bool = True) -> None:
        """Begin a segment."""
        self._marks += 1
        said = {
            "keyframe": self._marks,
            "first": self._watch.stream.next,
            "continues": continues,
            "why": why,
            "boot_id": "00000000-0000-0000-0000-000000000000",
            "ring": f"ring {self._run}",
            "boottime_ns": self._now_ns,
            "realtime_ns": self._now_ns + self.ahead_ns,
            "monotonic_ns": self._now_ns,
            "head_bytes": wire.HEAD.size,
            "memory": memorywriter.VERSION,
            "by": "a test",
            "host": {},
        }
        self._tap.whole = self._channel.put(MARK, self._watch.stream.next, self._now_ns, json.dumps(said).encode())
        self.clock()
        if keyframe:
            reader, writer = os.pipe()
            os.write(writer, self._marks.to_bytes(8, "little") + self._watch.memory())
            os.close(writer)
            socket.send_fds(self._control, [b"keyframe"], [reader])
            os.close(reader)
            self._writer._heed_control()
            self._writer._take()
            while self._writer._pipes:
                for key, _ in self._writer._selector.select(0):
                    if key.fileobj in self._writer._pipes:
                        key.data()
        self._remember()

    def _remember(self, *, lost: bool = False) -> None:
        state = state_of(self._watch.table, self._watch.stream)
        self.truths.append(Truth(self._run, self._watch.stream.next, self._now_ns + self.ahead_ns, state, lost))

    def clock(self, *, by_ns: int = 0, slept_ns: int = 0) -> None:
        """Set CLOCK_REALTIME forward after a suspend, and have the tape note the clocks, and that it has all records."""
        self.ahead_ns += by_ns
        self._asleep_ns += slept_ns
        said = tape.CLOCKS.pack(self._now_ns - self._asleep_ns, self._now_ns)
        if self._tap.whole:
            said = said if self._states else said[: tape.MONOTONIC.size]
            self._channel.put(tape.CLOCK, self._now_ns + self.ahead_ns, self._now_ns, said)

    def rest(self, rest_ns: int) -> None:
        """Let time go by in which nothing happens."""
        self._now_ns += rest_ns
        self._kernel.writer.time_ns = self._now_ns

    @property
    def time_ns(self) -> int:
        """CLOCK_REALTIME, ns."""
        return self._now_ns + self.ahead_ns

    def step(self, *, lost: bool = False, heard: bool = True) -> None:
        """Let the kernel make some calls, and the watch read what the ring has; `heard`: the tape gets it."""
        kernel, ring, chance = self._kernel, self._probes.ring, self._chance
        self._tap.whole = heard
        for _ in range(chance.randint(1, 12)):
            self._now_ns += chance.randint(1_000, 5_000_000)
            kernel.writer.time_ns = self._now_ns
            make(kernel, (chance.choice(NAMES), chance.randrange(1 << 16), chance.randrange(1 << 16)))
        records = list(ring.records)
        ring.records.clear()
        if lost and records:
            records.pop(chance.randrange(len(records)))
        if len(records) > 3 and chance.random() < 0.3:  # a neighbour comes too early
            at = chance.randrange(len(records) - 1)
            records[at], records[at + 1] = records[at + 1], records[at]
        for each in records:
            self._watch.stream.feed(each, 0)
        self._now_ns += 1000
        if heard and records:
            self._channel.put(tape.PART, self._watch.stream.next, self._now_ns, part_of(records))
        if lost:
            self._watch.stream.give_up_below(kernel.writer.seq)
        kernel.writer.time_ns = self._now_ns + 1
        if chance.random() < 0.5:
            for address, start_ns in self._watch.table.take_questions():
                kernel.answer(address, start_ns)
        if heard:
            if not lost and self._watch.is_in_doubt:
                self._watch._trust()  # as a sweep does, which finds nothing
                self._watch.table.strike_off(self._watch.stream.next)
            self._remember(lost=lost)
            if self._clocks.random() < 0.3:
                self.clock()
        if chance.random() < 0.3:
            self.flush()

    @property
    def next(self) -> int:
        """Number of the next record."""
        return self._watch.stream.next

    @property
    def in_doubt(self) -> bool:
        """True where records were lost, and no sweep has followed."""
        return self._watch.is_in_doubt

    @property
    def kernel(self) -> Kernel:
        """The simulated kernel; `hear` has the watch read what it has announced."""
        return self._kernel

    def hear(self) -> None:
        """Have the watch read what the ring has, and the tape get it."""
        self._now_ns += 1000
        records = list(self._probes.ring.records)
        self._probes.ring.records.clear()
        for each in records:
            self._watch.stream.feed(each, 0)
        if records:
            self._channel.put(tape.PART, self._watch.stream.next, self._now_ns, part_of(records))
        self._kernel.writer.time_ns = self._now_ns + 1

    def wait(self, ns: int) -> None:
        """Let time pass in which nothing happens."""
        self._now_ns += ns

    def told(self) -> list[dict[str, Any]]:
        """Return what the writer has told the daemon since the last call."""
        self._writer._take()
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(json.loads(self._control.recv(1 << 12, socket.MSG_DONTWAIT)))
        return found

    def flush(self) -> None:
        """Have the writer write a block."""
        self._writer._take()
        self._writer._flush()

    def end(self, *, orderly: bool = True) -> None:
        """End the recording."""
        if orderly:
            self._tap.whole = True
            self.clock()
            self._channel.put(tape.END, self._watch.stream.next, self._now_ns, b"\0")
        self._tap.close()
        self._control.close()
        self._writer.run()
        self._channel.close()


def a_recording(
    folder: Path,
    seed: int = 1,
    *,
    runs: int = 2,
    steps: int = 60,
    marks: float = 0.08,
    states: bool = True,
    losses: float = 0.1,
    clocks: float = 0.0,
) -> list[Truth]:
    """Make a recording with segments, gaps, losses and a missing keyframe; return the truth.

    Args:
        folder: of the recording.
        seed: of everything random.
        runs: their number.
        steps: of each run.
        marks: part of the steps that begin a segment.
        states: see Taped.
        losses, clocks: parts of the steps in which a record is lost, and before which CLOCK_REALTIME is set, within one
            segment always in the same direction: docs/recording.md has the exception.
    """
    truths: list[Truth] = []
    chance = random.Random(seed)
    ahead_ns = AHEAD_NS
    for run in range(runs):
        taped = Taped(folder, chance.randrange(1 << 30), run, states=states, ahead_ns=ahead_ns)
        taped.mark(continues=False, why="the daemon began")
        sign = 1
        for _ in range(steps):
            if clocks and chance.random() < clocks:
                taped.hear()
                taped.rest(_LOOK_NS)
                taped.clock(by_ns=sign * chance.randrange(3 * _LOOK_NS))
                taped._remember(lost=taped.truths[-1].lost)
            what = chance.random()
            if clocks and what < marks + 0.02:
                sign = chance.choice((-1, 1))
            if what < marks:
                taped.mark(continues=True, keyframe=chance.random() < 0.8)
            elif what < marks + 0.02:
                taped.step(heard=False)
                taped.mark(continues=False, why="the writer fell behind")
            else:
                taped.step(lost=chance.random() < losses)
        taped.end(orderly=chance.random() < 0.5)
        truths += taped.truths
        ahead_ns = taped.ahead_ns
    return truths
