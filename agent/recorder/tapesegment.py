# SPDX-License-Identifier: Apache-2.0
"""A segment's file as a reader has it: opened when it is first read, its blocks decompressed one by one."""

import contextlib
from collections.abc import Iterator, Sequence
from itertools import pairwise, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.record import NamedTuple
from agent.recorder import blockindex, compression, segment, tape
from agent.recorder.blockchain import BlockChain
from agent.recorder.filebytes import FileBytes
from agent.recorder.replay import times

if TYPE_CHECKING:
    from agent.recorder.idleblock import IdleBlock

_HEAD_BYTES: Final = 1 << 12


def head_of(path: Path) -> tuple[segment.SegmentFacts, int]:
    """Read the head of a segment's file; errors as of segment.read_head, and OSError."""
    with path.open("rb", buffering=0) as file:
        begun = file.read(_HEAD_BYTES)
        return segment.read_head(begun + file.read(max(0, segment.most_of_head(begun) - len(begun))))


class Hole(NamedTuple):
    """A part of a segment's tape that cannot be read.

    Attributes:
        first, next: the first number that is missing, and the one behind the last.
        first_ns, last_ns: CLOCK_BOOTTIME between which its records are, ns.
        ahead_ns: by how much CLOCK_REALTIME was ahead of that before it, ns.
    """

    first: int
    next: int
    first_ns: int
    last_ns: int
    ahead_ns: int


class TapeSegment:
    """A segment's file.

    Args:
        path: of the file.
        facts: of its head.
        begin: length of its head, bytes.
        run: index of its run.

    Attributes:
        idle: a block that may wait for it: to be set before anything is read.
    """

    def __init__(self, path: Path, facts: segment.SegmentFacts, begin: int, run: int) -> None:
        self.path, self.facts, self.run = path, facts, run
        self._begin = begin
        self._data: FileBytes | None = None
        self._blocks: list[segment.Block | None] | None = None
        self._end = begin  # offset behind the last whole block
        self._known_ns: int | None = None
        self._last_number: int | None = None
        self.idle: IdleBlock | None = None

    @property
    def ahead_ns(self) -> int:
        """By how much CLOCK_REALTIME was ahead of CLOCK_BOOTTIME at its beginning, ns."""
        return self.facts.realtime_ns - self.facts.boottime_ns

    @property
    def blocks(self) -> list[segment.Block | None]:
        """Its blocks, and None for each damaged span, as of the first look; none where the file has gone meanwhile.

        None, too, is in front of a block that has not the number behind that of the one before it, and in front of one of
        the tape that does not go on where the one before it has ended: whole blocks are missing, or are not in the place
        where they were written.
        """
        if self._blocks is None:
            self._blocks = list(self._chained(segment.blocks(self._bytes(), self._begin, self._bytes().data_from)))
        return self._blocks

    def _chained(self, found: Iterator[segment.Block | None]) -> Iterator[segment.Block | None]:
        chain, last, end = BlockChain(self.facts.first, self.facts.boottime_ns), True, self._begin
        index_at = self._index_at()
        for block in found:
            if block is None and end == index_at:
                continue  # the index is damaged, and what it helps to find is whole
            if block is not None and not chain.joins(block) and last:
                yield None
            if block is not None:
                chain.take(block)
                end = self._end = block.end
            last = block is not None
            yield block

    @property
    def holes(self) -> list[Hole]:
        """The parts of its tape that cannot be read, but for those in blocks whose heads are whole."""
        found = []
        number, ns, ahead_ns, broken = self.facts.first, self.facts.boottime_ns, self.ahead_ns, False
        for block in self.blocks:
            broken |= block is None
            if block is None or block.kind != segment.TAPE:
                continue
            if broken:
                first, behind = sorted((number, block.first))
                found.append(Hole(first, behind, ns, max(ns, block.first_ns), ahead_ns))
            number, ns, ahead_ns, broken = block.next, max(ns, block.last_ns), block.ahead_ns, False
        if (self.sealed_next or 0) > number or (broken and self.sealed_next is not None):
            found.append(Hole(number, max(number, self.sealed_next or 0), ns, ns, ahead_ns))
        return found

    def blocks_from(self, at: int) -> Iterator[segment.Block]:
        """Yield the blocks from an offset on, up to what is damaged, or not all there yet, as of the first look.

        Args:
            at: the end of another block; 0: from the first one on.
        """
        data, at = self._bytes(), max(at, self._begin)
        while (found := segment.block_at(data, at)) is not None and found.end <= len(data):
            yield found
            at = found.end

    def is_damaged_at(self, at: int) -> bool:
        """Return True if a block begins at an offset whose head is all there and is none.

        Args:
            at: the end of another block; 0: the first one's.
        """
        data, at = self._bytes(), max(at, self._begin)
        return len(data) - at >= segment.BLOCK_HEAD and segment.block_at(data, at) is None

    def _bytes(self) -> FileBytes:
        if self._data is None:
            self._data = FileBytes(self.path)
            if self.idle is not None and segment.facts_check(self._data) == self.idle.facts_check:
                self._data.extend(self.idle.offset, self.idle.data)
        return self._data

    @property
    def tapes(self) -> list[segment.Block]:
        """The blocks of its tape, up to the first damaged span."""
        whole = takewhile(lambda block: block is not None, self.blocks)
        return [block for block in whole if block is not None and block.kind == segment.TAPE]

    @property
    def all_tapes(self) -> list[segment.Block]:
        """The blocks of its tape, those behind damaged spans, too."""
        return [block for block in self.blocks if block is not None and block.kind == segment.TAPE]

    @property
    def next(self) -> int:
        """The least that `Stream.next` can be at the end of its tape, as far as that is known without a damaged span."""
        tapes = self.tapes
        return tapes[-1].next if tapes else self.facts.first

    @property
    def end_next(self) -> int:
        """The least that `Stream.next` can be at its end."""
        return max(self.sealed_next or 0, self.facts.first, *(block.next for block in self.all_tapes))

    @property
    def end_ahead_ns(self) -> int:
        """By how much CLOCK_REALTIME was ahead of CLOCK_BOOTTIME at the end of its tape, ns."""
        tapes = self.all_tapes
        return tapes[-1].ahead_ns if tapes else self.ahead_ns

    @property
    def sealed_ahead_ns(self) -> int:
        """The same as its own end tells it, also where the last blocks of the tape are missing; ns."""
        place = self._place()
        return self.end_ahead_ns if place is None else place.ahead_ns

    @property
    def known_ns(self) -> int:
        """CLOCK_BOOTTIME up to which all records are there that it can have, but for damaged ones, ns.

        The tape states it. What a daemon has left behind its last statement is known up to its last record. A segment of
        an older program states nothing: there it is the time of the last part.
        """
        if self._known_ns is None:
            tapes = self.all_tapes
            self._known_ns = max((block.last_ns for block in tapes), default=self.facts.boottime_ns)
            if self._states():
                told = (self._stated(block) for block in reversed(tapes))
                self._known_ns = max(next(filter(None, told), 0), self.facts.boottime_ns)
        return self._known_ns

    def _states(self) -> bool:
        """Return True if its tape states up to when all records are there, as each one does that has the clocks so."""
        for entry in self._entries_of(self.all_tapes[0]) if self.all_tapes else ():
            if entry.kind == tape.CLOCK:
                return tape.stated(entry) is not None
        return False

    def _stated(self, block: segment.Block) -> int:
        """Return the latest time of which a block tells that all records of before it are there, ns; 0: of none."""
        found = 0
        for entry in self._entries_of(block):
            if entry.kind == tape.CLOCK:
                found = max(found, tape.stated(entry) or 0)
            elif entry.kind == tape.PART:
                with contextlib.suppress(tape.TornError):
                    found = max(found, *(ns for number, ns in times(entry.payload) if number < entry.value), 0)
        return found

    def _entries_of(self, block: segment.Block) -> Iterator[tape.TapeEntry]:
        """Yield the entries of a block, as far as they are whole."""
        content = self.content(block)
        with contextlib.suppress(tape.TornError):
            yield from tape.entries(content or b"")

    @property
    def ended(self) -> bool:
        """True where the daemon ended in order at its end."""
        tapes = self.all_tapes
        content = self.content(tapes[-1]) if tapes else None
        try:
            return content is not None and any(entry.kind == tape.END for entry in tape.entries(content))
        except tape.TornError:
            return False

    def joins(self, before: "TapeSegment | None", following: int | None = None) -> bool:
        """Return True if it goes on from the end of another one, without an input between.

        Args:
            before: the other one.
            following: its `next`, where that is known already.
        """
        return (
            before is not None
            and self.facts.continues
            and self.run == before.run
            and self.facts.sequence == before.facts.sequence + 1
            and self.facts.first == (before.next if following is None else following)
            and segment.blocks_before(self._bytes()) in (0, before.last_number)
            and not before.breaks_off
        )

    @property
    def breaks_off(self) -> bool:
        """True where its end is damaged, or not all there: a tape that goes on in another segment has no such end."""
        if self.sealed_next is not None:
            return False
        last = self.blocks[-2:]
        return last[-1:] == [None] and not any(block and block.kind == segment.INDEX for block in last)

    @property
    def last_number(self) -> int:
        """The number of its last block in front of the index; 0: it has none, as of an older program."""
        if self._last_number is None:
            index = self._index_block()
            if index is not None and index.number > 1:
                self._last_number = index.number - 1
            else:
                own = (block for block in reversed(self.blocks) if block is not None and block.kind != segment.INDEX)
                self._last_number = next((block.number for block in own if block.number), 0)
        return self._last_number

    @property
    def is_cut_short(self) -> bool:
        """True where its index tells that blocks are missing, or damaged, in front of it."""
        pairs = pairwise(self.blocks)
        return any(one is None and other is not None and other.kind == segment.INDEX for one, other in pairs)

    @property
    def _is_unfinished(self) -> bool:
        """True where it ends within a block, as its writer is at work, or was broken off; or behind the index."""
        last = self.blocks[-2:]
        is_behind = any(block is not None and block.kind == segment.INDEX for block in last)
        return last[-1:] == [None] and (is_behind or not self.is_damaged_at(self._end))

    @property
    def _is_shorter(self) -> bool:
        """True where it ends in front of the place at which the block that waits for it was to be appended."""
        is_mine = self.idle is not None and segment.facts_check(self._bytes()) == self.idle.facts_check
        return is_mine and self.idle is not None and len(self._bytes()) < self.idle.offset

    @property
    def is_sound(self) -> bool:
        """True where no block of its tape is damaged; what a writer that was broken off left of a last one is none."""
        blocks = self.blocks[:-1] if self._is_unfinished else self.blocks
        return all(block is not None and (block.kind != segment.TAPE or self.is_whole(block)) for block in blocks)

    @property
    def ends_whole(self) -> bool:
        """True where no block of its tape is missing, and none behind the last record is damaged."""
        blocks = self.blocks[:-1] if self._is_unfinished else self.blocks
        if None in blocks or self._is_shorter:
            return False
        behind = takewhile(lambda block: block.next == block.first, reversed(self.all_tapes))
        return all(self.is_whole(block) for block in behind)

    def stored(self, block: segment.Block) -> bytes:
        """Return the stored bytes of a block."""
        return self._bytes()[block.at : block.end]

    def is_whole(self, block: segment.Block) -> bool:
        """Return True if the stored bytes of a block are those that were written."""
        return segment.is_whole(self.stored(block), block)

    def content(self, block: segment.Block) -> bytes | None:
        """Return the content of a block; None where it is damaged."""
        return compression.content(self.stored(block), block)

    def keyframe(self) -> bytes | None:
        """Return its keyframe; None where there is none, or it is damaged."""
        begin = segment.KEYFRAME, self.facts.first, self.facts.boottime_ns
        for block in self.blocks:
            if block is not None and (block.kind, block.first, block.first_ns) == begin:
                return self.content(block)
        return None

    # ---- the index -------------------------------------------------------------------------------------------------

    @property
    def sealed_next(self) -> int | None:
        """The least that `Stream.next` can be at the end of its tape, as its own end tells; None: it has no index."""
        place = self._place()
        return place.next if place is not None else None

    def _place(self) -> segment.Block | None:
        data = self._bytes()
        place = segment.block_at(data, segment.begin_of_last(data, blockindex.PLACE.size))
        sealed = place is not None and (place.kind, place.stored) == (segment.PLACE, blockindex.PLACE.size)
        return place if sealed else None

    def _index_at(self) -> int:
        """Return the offset of its index; negative: it has no whole place of one."""
        place = self._place()
        content = self.content(place) if place is not None else None
        return int(blockindex.PLACE.unpack(content)[0]) if content is not None else -1

    def _index_block(self) -> segment.Block | None:
        block = segment.block_at(self._bytes(), self._index_at())
        return block if block is not None and block.kind == segment.INDEX else None

    def index(self) -> list[blockindex.BlockNumbers] | None:
        """Return its index; None where it has none, or a damaged one."""
        block = self._index_block()
        content = self.content(block) if block is not None else None
        return blockindex.unpack(content, segment.facts_check(self._bytes())) if content is not None else None

    def about(self, number: int) -> list[tuple[segment.Block | Hole, int]]:
        """Return the blocks of its tape that may have records about a number (agent.recorder.blockindex).

        Returns:
            Each block, or hole that may have been one, and by how much CLOCK_REALTIME was ahead of CLOCK_BOOTTIME before
            it, ns.
        """
        rows = self.index()
        found: list[tuple[segment.Block | Hole, int]] = []
        for row in blockindex.about(rows or [], number):
            block = segment.block_at(self._bytes(), row.at)
            if block is None or block.kind != segment.TAPE or block.check != row.check:
                found = [*self._tape_blocks(rows), *((hole, hole.ahead_ns) for hole in self.holes)]
                break
            found.append((block, row.ahead_ns))
        if rows is None:
            found = [*self._tape_blocks(), *((hole, hole.ahead_ns) for hole in self.holes)]
        return sorted(found, key=lambda each: each[0].first)

    def _tape_blocks(
        self, rows: Sequence[blockindex.BlockNumbers] | None = None
    ) -> Iterator[tuple[segment.Block, int]]:
        """Yield the blocks of the tape, and by how much CLOCK_REALTIME was ahead before each.

        The clock may have been set within what is damaged: the index tells of it, and else the end of the block behind.
        """
        told = {(row.at, row.check): row.ahead_ns for row in rows or ()}
        ahead_ns, last = self.ahead_ns, True
        for block in self.blocks:
            if block is not None and block.kind == segment.TAPE:
                yield block, told.get((block.begin, block.check), ahead_ns if last else block.ahead_ns)
                ahead_ns = block.ahead_ns
            last = block is not None
