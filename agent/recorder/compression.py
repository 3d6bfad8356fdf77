# SPDX-License-Identifier: Apache-2.0
"""The compression of a recording's blocks: fast where much comes, thorough where there is time.

A reader needs not know which it was. Both make one frame of Zstandard.
"""

import time
from typing import Final

import zstandard

from agent.recorder import segment
from agent.recorder.tape import Data

BLOCK_BYTES: Final = 1 << 20
"""Bytes of tape after which a block is written at once."""
OPEN_S: Final = 0.45
"""The longest time that a block of tape stays open, s."""
_FAST: Final = -1  # a sixth less time than the library's own level, 3, and a fifteenth more on disk
_THOROUGH: Final = 6  # takes four times as long, and a seventh less on disk
_BEHIND: Final = 1 << 18  # bytes that wait behind a block: the writer may have got no processor for a while
_LEISURE: Final = 1 << 20  # bytes of tape a second: up to so many, the thorough level takes 1.2 % of a processor


class Compression:
    """The compression of the blocks of one writer, which chooses by the pace at which its tape comes."""

    def __init__(self) -> None:
        self._fast = fast()
        self._thorough = zstandard.ZstdCompressor(level=_THOROUGH, write_content_size=True)
        self._before = 0, 0.0  # bytes of the block before, and when it was begun
        self.hurries = False

    def note(self, size: int, since_s: float, waiting: int) -> None:
        """Note the next block of tape, by which it is chosen how thorough the blocks from there on are.

        Args:
            size: its bytes.
            since_s: time.monotonic() when it was begun.
            waiting: bytes that have come behind it.
        """
        now_s, (before, before_s) = time.monotonic(), self._before
        self._before = size, since_s
        self.hurries = (
            waiting > _BEHIND
            or _is_fast(size, now_s - since_s)
            or (before > 0 and _is_fast(before + size, now_s - before_s))  # a mark may end a block early
        )

    def stored(self, kind: int, data: Data) -> Data:
        """Return a block of a kind (agent.recorder.segment) as it is stored."""
        hurries = self.hurries and kind != segment.KEYFRAME  # it is read for each instant of its segment
        compressed: bytes = (self._fast if hurries else self._thorough).compress(data)
        return compressed


def fast() -> zstandard.ZstdCompressor:
    """Return the compressor for blocks that come fast: it has one table of 32 KB, and leaves literals as they are."""
    parameters = zstandard.ZstdCompressionParameters.from_level(_FAST, source_size=BLOCK_BYTES)
    return zstandard.ZstdCompressor(compression_params=parameters)


def content(stored: Data, of: segment.Block) -> bytes | None:
    """Return the content of a block; None where its stored bytes are not those that were written, or no such content."""
    if not segment.is_whole(stored, of):
        return None
    if of.codec == segment.PLAIN:
        return bytes(stored)
    try:
        found: bytes = zstandard.ZstdDecompressor().decompress(stored, max_output_size=of.size)
    except zstandard.ZstdError:
        return None
    return found if len(found) == of.size else None


def _is_fast(size: int, elapsed_s: float) -> bool:
    return size > _LEISURE * max(OPEN_S, elapsed_s)
