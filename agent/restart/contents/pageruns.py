# SPDX-License-Identifier: Apache-2.0
"""Runs of pages, and many of them in little memory: a memory may have as many as it has pages."""

import bisect
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, overload

from agent.record import NamedTuple
from agent.restart.contents.addresses import AddressRange

PAGE: Final = 4096


class PageRun(NamedTuple):
    """Consecutive pages whose bytes are consecutive in a file.

    Attributes:
        address: of the first page.
        size: bytes.
        file: path of the file.
        offset: of the first byte in it.
    """

    address: int
    size: int
    file: Path
    offset: int


class PageRuns(Sequence[PageRun]):
    """Runs in order, each in some 30 bytes.

    Args:
        runs: the runs.

    Attributes:
        addresses: their addresses.
        files: the files that the runs are in.
    """

    def __init__(self, runs: Iterable[PageRun] = ()) -> None:
        self.addresses = array("Q")
        self._sizes = array("Q")
        self._offsets = array("Q")
        self._places = array("I")
        self.files: list[Path] = []
        self._numbers: dict[Path, int] = {}
        self._last: Path | None = None
        self._place = 0
        for run in runs:
            self.append(run)

    def append(self, run: PageRun) -> None:
        """Add a run behind all others."""
        self.add(*run)

    def add(self, address: int, size: int, file: Path, offset: int) -> None:
        """Add a run behind all others, by its fields."""
        self.addresses.append(address)
        self._sizes.append(size)
        self._offsets.append(offset)
        if file is not self._last:
            self._last = file
            self._place = self._numbers.setdefault(file, len(self.files))
            if self._place == len(self.files):
                self.files.append(file)
        self._places.append(self._place)

    def moved(self, file: Path) -> "PageRuns":
        """Return runs of one file as they are in another one; they share their places, so none can be added."""
        made = PageRuns.__new__(PageRuns)
        made.__dict__.update(self.__dict__)
        made.files = [file] if self.files else []
        return made

    @property
    def size(self) -> int:
        """Bytes of all runs."""
        return sum(self._sizes)

    def between(self, first: int, last: int) -> Iterator[PageRun]:
        """Yield the runs of some places."""
        files = self.files
        for place in range(first, last):
            file = files[self._places[place]]
            yield PageRun(self.addresses[place], self._sizes[place], file, self._offsets[place])

    def __len__(self) -> int:
        return len(self.addresses)

    def __iter__(self) -> Iterator[PageRun]:
        return self.between(0, len(self))

    @overload
    def __getitem__(self, place: int) -> PageRun: ...

    @overload
    def __getitem__(self, place: slice) -> list[PageRun]: ...

    def __getitem__(self, place: int | slice) -> PageRun | list[PageRun]:
        if isinstance(place, slice):
            first, last, _ = place.indices(len(self))
            return list(self.between(first, last))
        file = self.files[self._places[place]]
        return PageRun(self.addresses[place], self._sizes[place], file, self._offsets[place])

    def page(self, address: int) -> PageRun:
        """Return the page at an address that a run has."""
        place = bisect.bisect_right(self.addresses, address) - 1
        offset = self._offsets[place] + address - self.addresses[place]
        return PageRun(address, PAGE, self.files[self._places[place]], offset)


def cut(runs: Sequence[PageRun], ranges: Iterable[AddressRange]) -> list[PageRun]:
    """Return the parts of runs that are within ranges; both are in order."""
    found = []
    at = 0
    for area in ranges:
        while at < len(runs) and runs[at].address + runs[at].size <= area.start:
            at += 1
        here = at
        while here < len(runs) and runs[here].address < area.end:
            run = runs[here]
            start, end = max(run.address, area.start), min(run.address + run.size, area.end)
            found.append(PageRun(start, end - start, run.file, run.offset + start - run.address))
            here += 1
    return found
