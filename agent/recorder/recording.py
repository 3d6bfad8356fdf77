# SPDX-License-Identifier: Apache-2.0
"""A recording as it lies in a folder: its runs, its gaps, and the table at any instant of it.

Opening reads the head of each segment, and no more. A daemon may write to the folder meanwhile.
"""

import mmap
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard

from agent.capture.memoryreader import UnusableMemoryError
from agent.errors import NoSuchRootError
from agent.recorder import folder, segment, tape
from agent.recorder.facts import Instant, NumberRun, Replayed
from agent.recorder.replay import Replayer


class NoRecordingError(NoSuchRootError):
    """A folder without a recording that can be read (exit code 4)."""


class NoSuchInstantError(NoSuchRootError):
    """An instant that the recording does not have; the text says which it has (exit code 4)."""


class TapeSegment:
    """A segment's file, mapped when it is first read.

    Args:
        path: of the file.
        facts: of its head.
        begin: length of its head, bytes.
        run: index of its run.
    """

    def __init__(self, path: Path, facts: segment.SegmentFacts, begin: int, run: int) -> None:
        self.path, self.facts, self.run = path, facts, run
        self._begin = begin
        self._data: memoryview | None = None
        self._blocks: list[segment.Block | None] = []

    @property
    def ahead_ns(self) -> int:
        """By how much CLOCK_REALTIME was ahead of CLOCK_BOOTTIME at its beginning, ns."""
        return self.facts.realtime_ns - self.facts.boottime_ns

    @property
    def blocks(self) -> list[segment.Block | None]:
        """Its blocks, and None for each damaged span, as of the first look."""
        if self._data is None:
            with self.path.open("rb") as file:
                self._data = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
            self._blocks = list(segment.blocks(self._data, self._begin))
        return self._blocks

    def content(self, block: segment.Block) -> bytes | None:
        """Return the content of a block; None where it is damaged."""
        if self._data is None:
            return None
        stored = self._data[block.at : block.end]
        if not segment.is_whole(stored, block):
            return None
        if block.codec == segment.PLAIN:
            return bytes(stored)
        try:
            content: bytes = zstandard.ZstdDecompressor().decompress(stored, max_output_size=block.size)
        except zstandard.ZstdError:
            return None
        return content

    def keyframe(self) -> bytes | None:
        """Return its keyframe; None where there is none, or it is damaged."""
        for block in self.blocks:
            if block is not None and block.kind == segment.KEYFRAME:
                return self.content(block)
        return None


class Recording:
    """A recording.

    Args:
        place: its folder.

    Attributes:
        segments: oldest first.
        runs: by time.

    Raises:
        NoRecordingError: there is no segment in it.
        HostError: it cannot be read.
    """

    def __init__(self, place: Path) -> None:
        self.folder = place
        self.segments: list[TapeSegment] = []
        for each in folder.stored(place):
            try:
                with each.path.open("rb") as file:
                    facts, begin = segment.read_head(file.read(1 << 17))
            except (OSError, segment.DamagedError):
                continue  # dropped meanwhile, or its head is damaged: the one behind it continues nothing then
            last = self.segments[-1] if self.segments else None
            new = last is None or (last.facts.boot_id, last.facts.ring) != (facts.boot_id, facts.ring)
            self.segments.append(TapeSegment(each.path, facts, begin, (last.run + new) if last else 0))
        if not self.segments:
            raise NoRecordingError(f"{place}: there is no recording in it")
        self.runs = tuple(self._run(index) for index in range(self.segments[-1].run + 1))

    @property
    def host(self) -> dict[str, Any]:
        """The fields of agent.model.Header of the host, as of the newest segment."""
        return self.segments[-1].facts.host

    def _of_run(self, run: int) -> list[TapeSegment]:
        return [each for each in self.segments if each.run == run]

    def _run(self, index: int) -> NumberRun:
        mine = self._of_run(index)
        first, last = mine[0], mine[-1]
        begin = Instant(index, first.facts.first, first.facts.realtime_ns, first.facts.boottime_ns, 0)
        tapes = [block for block in last.blocks if block is not None and block.kind == segment.TAPE]
        if tapes and tapes[-1].last_ns:
            end = Instant(index, tapes[-1].next, tapes[-1].last_ns + last.ahead_ns, tapes[-1].last_ns, 0)
        else:
            end = Instant(index, last.facts.first, last.facts.realtime_ns, last.facts.boottime_ns, 0)
        content = last.content(tapes[-1]) if tapes else None
        ended = content is not None and any(entry.kind == tape.END for entry in tape.entries(content))
        return NumberRun(first.facts.boot_id, first.facts.ring, begin, end, ended)

    # ---- instants --------------------------------------------------------------------------------------------------

    def at_order(self, order: int) -> Instant:
        """Return the instant before the record of a number, in the last run that has it.

        Raises:
            NoSuchInstantError: no run has it.
        """
        for index in reversed(range(len(self.runs))):
            run = self.runs[index]
            if run.first.order <= order <= run.last.order:
                stands = self.replayer(Instant(index, order, 0, 0, 0))
                return Instant(index, order, stands.time_ns, stands.boottime_ns, stands.uncertain_ns)
        raise NoSuchInstantError(f"#{order}: the recording has no such number; it has {self._said()}")

    def _said(self) -> str:
        return ", ".join(f"#{run.first.order} to #{run.last.order}" for run in self.runs)

    # ---- replays ---------------------------------------------------------------------------------------------------

    def replayer(self, instant: Instant) -> Replayer:
        """Return a replayer that stands at an instant, or, where the recording has a gap before it, in front of the gap.

        Raises:
            NoSuchInstantError: there is no whole keyframe before it.
        """
        mine = self._of_run(instant.run)
        begin = bisect_right([each.facts.first for each in mine], instant.order) - 1
        for index in range(begin, -1, -1):
            keyframe = mine[index].keyframe()
            if keyframe is not None:
                try:
                    facts = mine[index].facts
                    found = Replayer(keyframe, _tapes(mine[index:]), facts.boottime_ns, mine[index].ahead_ns)
                except UnusableMemoryError:
                    continue
                found.advance(instant.order)
                return found
            if not mine[index].facts.continues:
                break
        raise NoSuchInstantError(f"#{instant.order}: no keyframe before it is whole; the recording has {self._said()}")

    def table_at(self, instant: Instant) -> Replayed:
        """Return the state at an instant.

        Raises:
            NoSuchInstantError: there is no whole keyframe before it.
        """
        found = self.replayer(instant)
        reasons = []
        if found.order < instant.order:
            reasons.append(f"the recording is missing #{found.order} to #{instant.order - 1}: this is the state before")
        if found.stream.suspect or found.table.astray:
            reasons.append("events were lost before this instant, and no comparison with the kernel had followed yet")
        return Replayed(instant, found.table, found.stream, tuple(reasons))


def _tapes(segments: list[TapeSegment]) -> Iterator[bytes]:
    """Yield the tapes of segments, up to the first gap."""
    for index, each in enumerate(segments):
        if index and not each.facts.continues:
            return
        if index and each.facts.sequence != segments[index - 1].facts.sequence + 1:
            return
        for block in each.blocks:
            if block is None:
                return
            if block.kind == segment.TAPE:
                content = each.content(block)
                if content is None:
                    return
                yield content
