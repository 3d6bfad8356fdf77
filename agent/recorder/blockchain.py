# SPDX-License-Identifier: Apache-2.0
"""The numbers of the blocks of a segment, which tell if one is missing, doubled, or not in its place. Pure."""

from agent.recorder import segment


class BlockChain:
    """The numbers that tell that blocks follow each other.

    Args:
        first: the number of the record expected before the first block.
        begin_ns: CLOCK_BOOTTIME at the beginning of the segment, ns.
    """

    def __init__(self, first: int, begin_ns: int) -> None:
        self._begin = first, begin_ns
        self._record = first
        self._number = 0

    def joins(self, block: segment.Block) -> bool:
        """Return True if a block may follow the last one that was taken; one of an older program has no number."""
        if block.number and block.number != segment.number_behind(self._number):
            return False
        if block.kind == segment.KEYFRAME:
            return (block.first, block.first_ns) == self._begin
        if block.kind == segment.INDEX:
            return block.next == self._record
        return block.kind != segment.TAPE or block.first == self._record

    def take(self, block: segment.Block) -> None:
        """Take the next block."""
        self._number = block.number or self._number
        if block.kind == segment.TAPE:
            self._record = block.next
