# SPDX-License-Identifier: Apache-2.0
"""The table at the end of a recording that grows, held ready.

It begins at the newest keyframe and goes on with each block that has come, over segments that join. In front of a gap it
stands still until a keyframe behind the gap has come, or what is missing, and says so. It reads a folder that a writer, or
a copy, appends to.
"""

import contextlib
from pathlib import Path
from typing import Final

from agent.capture import memoryreader
from agent.capture.memoryreader import UnusableMemoryError
from agent.errors import NoSuchTimeError
from agent.model import Snapshot
from agent.recorder import folder, lostsegment, past, segment, storedsegments, tape, tapesegment
from agent.recorder.blockchain import BlockChain
from agent.recorder.facts import Instant, Replayed
from agent.recorder.filebytes import DroppedError
from agent.recorder.lostsegment import LostSegment
from agent.recorder.past import Enquirer, WantedTree
from agent.recorder.recording import DAMAGED
from agent.recorder.replay import Replayer
from agent.recorder.tapesegment import TapeSegment
from agent.table import wire

_ALL: Final = 2**65
"""A number that no record has."""


class NothingHeldError(NoSuchTimeError):
    """A recording without a keyframe that can be read (exit code 4)."""


class HeldTable:
    """The table at the end of a recording.

    Args:
        place: the folder.

    Attributes:
        gap: a sentence where the recording goes on behind a gap that this table has not got over yet; else empty.
        lacks_from: offset in the present segment from which on its bytes are damaged, or some are missing; negative: none.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._replayer: Replayer | None = None
        self._segment: TapeSegment | None = None
        self._sequence = -1  # of the segment's file
        self._at = 0  # offset in it
        self._chain = BlockChain(0, 0)
        self.gap = ""
        self.lacks_from = -1

    @property
    def is_there(self) -> bool:
        """True once there is a table."""
        return self._replayer is not None

    @property
    def order(self) -> int:
        """Number of the first record that the table does not have."""
        return self.standing.order

    @property
    def time_ns(self) -> int:
        """CLOCK_REALTIME of the last record that the table has, ns, by the clock of its host."""
        return self.standing.time_ns

    @property
    def facts(self) -> segment.SegmentFacts:
        """Facts of the segment in which the table stands.

        Raises:
            NothingHeldError: there is no table.
        """
        if self._segment is None:
            raise NothingHeldError(f"{self._place}: there is no recording with a whole keyframe in it")
        return self._segment.facts

    @property
    def name(self) -> str:
        """Name of the file of that segment."""
        return "" if self._segment is None else self._segment.path.name

    @property
    def standing(self) -> Replayer:
        """The replayer that has the table, at its point.

        Raises:
            NothingHeldError: there is no table.
        """
        if self._replayer is None:
            raise NothingHeldError(f"{self._place}: there is no recording with a whole keyframe in it")
        return self._replayer

    def refresh(self) -> None:
        """Take whatever has come.

        Raises:
            HostError: the folder cannot be read.
        """
        if (self._replayer is None or self.gap) and not self._begin():
            if self.lacks_from < 0:
                return
            self.gap, self.lacks_from = "", -1  # what is missing may have come
        while True:
            self._extend()
            if not self.gap and self._go_on():
                continue
            if not self.gap or not self._begin():
                return

    def snapshot(self, wanted: WantedTree) -> Snapshot:
        """Return the tree as it is held.

        Raises:
            NothingHeldError: there is no table.
            errors of agent.recorder.past.snapshot
        """
        stands = self.standing
        instant = Instant(0, stands.order, stands.time_ns, stands.boottime_ns, stands.uncertain_ns)
        reasons = ([self.gap] if self.gap else []) + stands.doubts()
        replayed = Replayed(instant, stands.table, stands.stream, stands.is_in_doubt, tuple(reasons))
        made, _ = past.cut(replayed, self.facts.boot_id, past.header(self.facts.host), wanted, Enquirer())
        return made

    # ---- the recording ---------------------------------------------------------------------------------------------

    def _begin(self) -> bool:
        """Begin at the newest whole keyframe behind the present segment; return False if there is none."""
        stored = [each for each in folder.stored(self._place) if each.sequence > self._sequence]
        placed = {each.path for each in storedsegments.opened(self._place).whole} if stored else set()
        for each in reversed(stored):
            found = _opened(each.path)
            if (
                not isinstance(found, TapeSegment)
                or each.path not in placed
                or found.facts.head_bytes != wire.HEAD.size
                or found.facts.memory not in memoryreader.READS
            ):
                continue
            keyframe = found.keyframe()
            if keyframe is None:
                continue
            try:
                replayer = Replayer(keyframe, (), found.facts.boottime_ns, found.ahead_ns)
            except UnusableMemoryError:
                continue
            self._replayer = replayer
            self._enter(found, each.sequence)
            self.gap, self.lacks_from = "", -1
            return True
        return False

    def _enter(self, found: TapeSegment, sequence: int) -> None:
        """Stand at the beginning of a segment."""
        self._segment, self._sequence, self._at = found, sequence, 0
        self._chain = BlockChain(found.facts.first, found.facts.boottime_ns)

    def _extend(self) -> None:
        """Take the blocks of the present segment that have come."""
        stands, before = self.standing, self._segment
        found = None if before is None else _opened(before.path)
        if isinstance(found, LostSegment):
            self._lack(0, str(found))
        if not isinstance(found, TapeSegment):
            return
        self._segment = found
        for block in found.blocks_from(self._at):
            content = found.content(block) if block.kind == segment.TAPE else b""
            if content is None or not self._chain.joins(block):
                self._lack(self._at, "a block is damaged" if content is None else "blocks are missing")
                return
            self._chain.take(block)
            self._at = block.end
            if block.kind != segment.TAPE:
                continue
            try:
                stands.extend([content])
                stands.advance(_ALL)
            except tape.TornError as error:
                self._stop(str(error))
                return
        if found.is_damaged_at(self._at):
            self._lack(self._at, "a block is damaged")

    def _go_on(self) -> bool:
        """Turn to the next segment; return False where there is none yet."""
        later = [each for each in folder.stored(self._place) if each.sequence > self._sequence]
        if not later:
            return False
        self._extend()  # the writer may have been at work; now it is at the next segment
        before, behind = self._segment, _opened(later[0].path)
        if self.gap or behind is None or before is None:
            return False
        if isinstance(behind, LostSegment):
            self._stop(str(behind))
            return False
        same = (behind.facts.boot_id, behind.facts.ring) == (before.facts.boot_id, before.facts.ring)
        if not same or not behind.joins(before):
            self._stop(behind.facts.why or DAMAGED)
            return False
        self._enter(behind, later[0].sequence)
        return True

    def _lack(self, at: int, why: str) -> None:
        """Stop in front of bytes that may come yet."""
        self._stop(why)
        self.lacks_from = at

    def _stop(self, why: str) -> None:
        self.gap = f"the recording has a gap from #{self.order} on ({why}): this is the state before"


def _opened(path: Path) -> TapeSegment | LostSegment | None:
    """Open a segment; return None where it is gone, or has just begun."""
    try:
        facts, begin = tapesegment.head_of(path)
    except FileNotFoundError:
        return None
    except (OSError, segment.DamagedError) as error:
        with contextlib.suppress(DroppedError):
            return lostsegment.lost(path, str(error.strerror) if isinstance(error, OSError) else str(error))
        return None
    return TapeSegment(path, facts, begin, 0)


def open_held(place: Path) -> HeldTable:
    """Return the table at the present end of a recording.

    Raises:
        NothingHeldError: there is no keyframe that can be read.
        HostError: the folder cannot be read.
    """
    found = HeldTable(place)
    found.refresh()
    if not found.is_there:
        raise NothingHeldError(f"{place}: there is no recording with a whole keyframe in it")
    return found
