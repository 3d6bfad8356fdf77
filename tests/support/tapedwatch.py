# SPDX-License-Identifier: Apache-2.0
"""A real watch over a simulated kernel, under the real tap: all that it does, in any order, with keyframes and tapes."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from unittest.mock import patch

from agent.capture.snapshots import Snapshots
from agent.capture.watch import Watch
from agent.errors import CkptreeError
from agent.recorder import tape
from agent.recorder.replay import Replayer
from agent.recorder.tap import Tap
from tests.support.kernelsim import Kernel
from tests.support.programs import NAMES, make
from tests.support.recorded import ALL
from tests.support.simwatch import SimProbes, a_plain_host

_MOST_LATE = 4


class Segment(NamedTuple):
    """A keyframe, and the tape behind it."""

    keyframe: bytes
    tape: bytes


class _Entries:
    """A channel that has room for everything."""

    def __init__(self) -> None:
        self.written = bytearray()

    def put(self, kind: int, value: int, ns: int = 0, payload: memoryview | bytes = b"") -> bool:
        """Append an entry, as agent.recorder.channel does."""
        self.written += tape.pack(kind, value, ns, payload)
        return True

    def take(self) -> bytes:
        """Return what has been written since the last call."""
        taken = bytes(self.written)
        self.written.clear()
        return taken


class _Clock:
    """A clock that moves on by one second each time that it is read: the same program comes to the same end."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def monotonic(self) -> float:
        """Return the time, s."""
        self._now_s += 1.0
        return self._now_s

    thread_time = monotonic

    def sleep(self, _seconds: float) -> None:
        """Return at once."""


class TapedWatch:
    """A simulated kernel, and a watch over it that is taped; records come late, and are lost.

    Args:
        seed: of everything random.

    Attributes:
        segments: those that have ended.
        kernel: the kernel.
        watch: the present one.
        done: the names of what the watch has done, for a failure to tell.
    """

    def __init__(self, seed: int) -> None:
        self.segments: list[Segment] = []
        self.done: list[str] = []
        self._chance = random.Random(seed)
        self.kernel = Kernel(lambda _: None, pid_max=60, lingers=self._chance.random() < 0.5)
        self._probes = SimProbes(self.kernel)
        self._late: list[bytes] = []
        self.kernel.emit = self._probes.ring.records.append
        self._entries = _Entries()
        self.watch = Watch.begin(self._probes)  # type: ignore[arg-type]  # it has the interface
        self._tap(self.watch)
        self._keyframe = self.watch.memory()
        with a_plain_host():
            self._snapshots = Snapshots(self.watch)

    def _tap(self, watch: Watch) -> None:
        Tap(watch, self._entries).whole = True  # type: ignore[arg-type]  # it has the method that is called

    # ---- segments --------------------------------------------------------------------------------------------------

    def mark(self) -> None:
        """End a segment, and begin another one, as a fork of the daemon does."""
        self._end(self.watch.memory())

    def _end(self, memory: bytes) -> None:
        self.segments.append(Segment(self._keyframe, self._entries.take()))
        self._keyframe = memory
        self.done.append("mark")

    def hand_over(self) -> None:
        """Have another watch go on with the memory of this one, as the next daemon does."""
        memory = self.watch.memory()

        def begun(watch: Watch) -> None:
            self._end(memory)
            self._tap(watch)

        self.done.append("hand over")
        with self._all_in_time():
            self.watch = Watch.resume(self._probes, memory, begun)  # type: ignore[arg-type]
        with a_plain_host():
            self._snapshots = Snapshots(self.watch)

    # ---- what happens ----------------------------------------------------------------------------------------------

    def _emit(self, record: bytes) -> None:
        """Write a record: at once, or some records later, or nowhere."""
        chance, ring = self._chance, self._probes.ring
        what = chance.random()
        if what < 0.02:
            self._probes.page.lose(record, told=chance.random() < 0.7)
        elif what < 0.08 and len(self._late) < _MOST_LATE:
            self._late.append(record)
        else:
            ring.records.append(record)
            if self._late and chance.random() < 0.3:
                ring.records.append(self._late.pop(chance.randrange(len(self._late))))

    @contextmanager
    def losing(self) -> Iterator[None]:
        """Lose all records that are emitted in the block, and tell their numbers."""
        self.kernel.emit = lambda record: self._probes.page.lose(record, told=True)
        yield
        self.kernel.emit = self._probes.ring.records.append

    @contextmanager
    def _all_in_time(self) -> Iterator[None]:
        """Let every record come at once, so that nothing waits for one."""
        self._probes.ring.records.extend(self._late)
        self._late.clear()
        self.kernel.emit = self._probes.ring.records.append
        yield

    def _calls(self) -> None:
        """Let processes make some calls."""
        chance, kernel = self._chance, self.kernel
        kernel.emit = self._emit
        for _ in range(chance.randint(1, 12)):
            make(kernel, (chance.choice(NAMES), chance.randrange(1 << 16), chance.randrange(1 << 16)))
            if chance.random() < 0.1:
                chance.choice(list(kernel.threads)).ties = chance.choice([0, 0, 1, 3])
        self.done.append("calls")

    def happens(self) -> None:
        """Let something happen."""
        what = self._chance.random()
        if what < 0.4:
            self._calls()
        elif what < 0.8:
            self._act()
        elif what < 0.95:
            self.mark()
        else:
            self.hand_over()

    def _act(self) -> None:
        """Let the watch do something."""
        rare = [self._hurried_sweep, self._sweep, self._rest, self._mend, self._snapshot]
        act = self._chance.choice([self._tend, self._tend, self._drain, self._drain, self._drain, *rare[:1], *rare])
        self.done.append(act.__name__.strip("_"))
        act()

    def _tend(self) -> None:
        self.watch.tend()

    def _drain(self) -> None:
        self.watch.drain(self._chance.randint(1, 3000))

    def _hurried_sweep(self) -> None:
        clock = _Clock()
        with patch.multiple("time", monotonic=clock.monotonic, thread_time=clock.thread_time, sleep=clock.sleep):
            self.watch.sweep("due", self._chance.randint(0, 20))

    def _sweep(self) -> None:
        with self._all_in_time():
            self.watch.sweep(self._chance.choice(["due", "large-tree", "no-hook", "loss"]))

    def _rest(self) -> None:
        with self._all_in_time():
            self.watch.rest([task for task in self.watch.table.tasks() if self._chance.random() < 0.5])

    def _mend(self) -> None:
        with self._all_in_time():
            self.watch.mend()

    def _snapshot(self) -> None:
        with self._all_in_time():
            root = self._chance.choice(self.watch.table.tasks()).leader
            try:
                self._snapshots.take(root)
            except CkptreeError:  # its root is gone meanwhile, or its container leaks
                self.done.append("refused")


def end_of(segment: Segment) -> Replayer:
    """Return a replayer behind all entries of a segment."""
    replayer = Replayer(segment.keyframe, [segment.tape], 0, 0)
    replayer.table.keeps_text = False
    replayer.advance(ALL)
    return replayer
