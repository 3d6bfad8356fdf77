# SPDX-License-Identifier: Apache-2.0
"""Recordings in memory, of which a fuzzer reads again only the segments that an input has changed.

What a reader makes of a segment depends on its bytes alone. So heads, blocks and contents of unchanged segments are kept.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from agent.recorder import filebytes, folder, segment, tapesegment
from agent.recorder.filebytes import FileBytes
from agent.recorder.folder import SegmentFile
from agent.recorder.tapesegment import TapeSegment

Head = tuple[segment.SegmentFacts, int]
_STORED: Final = folder.stored
_HEAD_OF: Final = tapesegment.head_of
_OPENED: Final = TapeSegment._bytes
_CONTENT: Final = TapeSegment.content
_HEAD_BYTES: Final = 1 << 12


class _Given(FileBytes):
    """Bytes that are in no file."""

    def __init__(self, data: bytes) -> None:
        self._file = -1
        self._size, self._behind, self._given = len(data), b"", memoryview(data)

    def __getitem__(self, part: slice) -> bytes:
        return self._given[part]  # type: ignore[return-value]  # it need not be copied

    def data_from(self, at: int) -> int:
        return min(at, self._size)


class KeptSegments:
    """The segments of a recording.

    Args:
        place: its folder, which may be empty.
        data: of each segment, by name.
    """

    def __init__(self, place: Path, data: Mapping[str, bytes]) -> None:
        self.place = place
        self.data = data
        self._changed: Mapping[str, bytes | None] = {}
        self._heads: dict[str, Head] = {}
        self._contents: dict[tuple[str, segment.Block], bytes | None] = {}

    @contextmanager
    def changed(self, changed: Mapping[str, bytes | None]) -> Iterator[None]:
        """Have readers find some segments changed, or gone, and take the others as they are kept."""
        self._changed = changed
        folder.stored, tapesegment.head_of = self._stored, self._head_of  # type: ignore[assignment]
        filebytes.FileBytes = self._file_of  # type: ignore[assignment, misc]
        TapeSegment._bytes = lambda each: self._bytes_of(each)  # type: ignore[method-assign, assignment]
        TapeSegment.content = lambda each, block: self._content(each, block)  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            folder.stored, tapesegment.head_of = _STORED, _HEAD_OF
            filebytes.FileBytes = FileBytes  # type: ignore[misc]
            TapeSegment._bytes, TapeSegment.content = _OPENED, _CONTENT  # type: ignore[method-assign]

    def _bytes(self, name: str) -> bytes | None:
        return self._changed[name] if name in self._changed else self.data.get(name)

    def _stored(self, place: Path) -> list[SegmentFile]:
        names = [name for name in self.data.keys() | self._changed.keys() if self._bytes(name) is not None]
        found = [(match, name) for name in names if (match := folder._NAME.fullmatch(name))]
        return sorted(SegmentFile(int(match[1]), int(match[2], 16), place / name) for match, name in found)

    def _head_of(self, path: Path) -> Head:
        name = path.name
        if name in self._changed:
            return self._read_head(name)
        if name not in self._heads:
            self._heads[name] = self._read_head(name)
        return self._heads[name]

    def _read_head(self, name: str) -> Head:
        data = self._bytes(name)
        if data is None:
            raise FileNotFoundError(name)
        begun = data[:_HEAD_BYTES]
        return segment.read_head(data[: max(_HEAD_BYTES, segment.most_of_head(begun))])

    def _file_of(self, path: Path) -> FileBytes:
        return _Given(self._bytes(path.name) or b"")

    def _bytes_of(self, each: TapeSegment) -> FileBytes:
        if each._data is None:
            each._data = _Given(self._bytes(each.path.name) or b"")
        return each._data

    def _content(self, each: TapeSegment, block: segment.Block) -> bytes | None:
        name = each.path.name
        if name in self._changed:
            return _CONTENT(each, block)
        if (name, block) not in self._contents:
            self._contents[name, block] = _CONTENT(each, block)
        return self._contents[name, block]
