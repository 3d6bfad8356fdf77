# SPDX-License-Identifier: Apache-2.0
"""The reads of a process's pages: few large ones, of consecutive bytes of a file, which several processors share."""

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, Self

from agent.record import NamedTuple
from agent.restart.contents.fillabi import MOST_HELPERS
from agent.restart.contents.fillprogram import Argument, FillScript
from agent.restart.contents.pageruns import PAGE, PageRun

if TYPE_CHECKING:
    from pathlib import Path

_LEAST: Final = 16 << 20
"""Bytes of a part that is worth a helper process."""

_MOST_SPANS: Final = 1 << 14
Span = tuple[int, int]
"""An address and a number of bytes."""


class PageRead(NamedTuple):
    """A read of consecutive bytes of a file.

    Attributes:
        path: of the file.
        offset: of the first byte in it.
        spans: the memory that the bytes go to.
    """

    path: str
    offset: int
    spans: list[Span]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(size for _, size in self.spans)


class PageFiles:
    """The files of pages, each opened once; use it as a context."""

    def __init__(self) -> None:
        self._open: dict[Path, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for number in self._open.values():
            os.close(number)

    def read(self, run: PageRun) -> bytes:
        """Return the bytes of a run."""
        number = self._open.get(run.file)
        if number is None:
            number = self._open[run.file] = os.open(run.file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        return os.pread(number, run.size, run.offset)


def reads(runs: Iterable[PageRun], shift: int = 0) -> Iterator[PageRead]:
    """Yield the reads of pages, each of as many as are consecutive in a file, up to a number that takes little memory.

    Args:
        runs: the pages.
        shift: added to their addresses.
    """
    spans: list[Span] = []
    path, first, end = "", 0, 0
    for run in runs:
        if run.offset != end or len(spans) == _MOST_SPANS or str(run.file) != path:
            if spans:
                yield PageRead(path, first, spans)
            spans, path, first, end = [], str(run.file), run.offset, run.offset
        address = run.address + shift
        if spans and spans[-1][0] + spans[-1][1] == address:
            spans[-1] = spans[-1][0], spans[-1][1] + run.size
        else:
            spans.append((address, run.size))
        end += run.size
    if spans:
        yield PageRead(path, first, spans)


def parts(whole: PageRead, ways: int) -> list[PageRead]:
    """Divide a read into parts of about equal size, whole pages, in order."""
    size = -(-whole.size // max(ways, 1) // PAGE) * PAGE
    found: list[PageRead] = []
    offset, free = whole.offset, 0
    for address, bytes_ in whole.spans:
        at, left = address, bytes_
        while left:
            if not free:
                found.append(PageRead(whole.path, offset, []))
                free = size
            taken = min(left, free)
            found[-1].spans.append((at, taken))
            at, left, free, offset = at + taken, left - taken, free - taken, offset + taken
    return found


def processors(processes: int) -> int:
    """Return the number of processors that each of so many processes may use for its pages."""
    return max(1, min(MOST_HELPERS + 1, len(os.sched_getaffinity(0)) // max(processes, 1)))


def read_pages(
    script: FillScript, runs: Iterable[PageRun], files: Mapping[str, Argument], ways: int, shift: int = 0
) -> None:
    """Read all pages to their addresses.

    Args:
        script: of the thread that reads.
        runs: the pages.
        files: the open descriptor of each file, by its path.
        ways: processors that may read at once.
        shift: added to the addresses.
    """
    for whole in reads(runs, shift):
        first, *others = parts(whole, min(ways, whole.size // _LEAST))
        helpers = [
            script.read_aside(files[one.path], one.spans, one.offset, number)
            for number, one in enumerate(others, start=1)
        ]
        script.read(files[first.path], first.spans, first.offset)
        for helper in helpers:
            script.join(helper)


def merge_pages(script: FillScript, runs: Iterable[PageRun], files: Mapping[str, Argument]) -> None:
    """Write those of the pages that differ from what is at their addresses."""
    for one in reads(runs):
        script.merge(files[one.path], one.spans, one.offset)
