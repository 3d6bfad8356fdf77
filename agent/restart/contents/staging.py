# SPDX-License-Identifier: Apache-2.0
"""Pages that processes share since a fork: the tree is forked from a process that has them already.

A forked process shares its parent's private pages until one of them writes. Only a fork makes such pages, so they must be
there before the tree is built. Processes of one family, which descend from one program by forks alone, have the same areas
at the same addresses. Of each family the first process is the base: its pages are read into a stage before the first
fork. Later each process of the family moves the areas of the stage to their places, and writes the pages that differ.
"""

import struct
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Final, NamedTuple

from agent.restart.contents.addresses import AddressRange, hole
from agent.restart.contents.images import PAGE, PageRun
from agent.restart.contents.memory import AddressSpace, Inherited
from agent.restart.contents.pagereads import reads
from agent.restart.contents.refusals import Refused

_WORTH: Final = 4 << 20
"""Bytes that a stage must save, at least."""
_LEAST: Final = 64 << 10
"""Bytes of the pages of an area, at least, for it to be considered."""
_SAMPLES: Final = 16
"""Pages of an area that are compared, to know if most are shared."""
HEAD: Final = struct.Struct("=QQQII")
READ: Final = struct.Struct("=QQQQ")

Read = Callable[[PageRun], bytes]


class _Staged(NamedTuple):
    """An area of a base in the stage: its process, and its place there."""

    pid: int
    area: AddressRange
    at: int


class Stage:
    """The stage of a tree.

    Args:
        memories: of its processes, parents first.
        read: reads the bytes of a run.

    Attributes:
        place: the addresses of the stage; None where nothing is worth it.
    """

    def __init__(self, memories: Mapping[int, AddressSpace], read: Read) -> None:
        self._memories = memories
        self._inherited: dict[int, dict[int, Inherited]] = {}
        self._staged: list[_Staged] = []
        self.place: AddressRange | None = None
        chosen = [each for family in self._families() for each in self._chosen(family, read)]
        size = sum(max(area.size for area in members.values()) for _, members in chosen)
        with suppress(Refused):  # no room: each gets its own copy
            start = hole(size, [area for memory in memories.values() for area in memory.areas]).start
            self.place = AddressRange(start, start + size) if size else None
            for base, members in chosen:
                self._take(base, members, start)
                start += max(area.size for area in members.values())

    def inherited(self, pid: int) -> dict[int, Inherited]:
        """Return what a process takes from the stage, by the start of the area."""
        return self._inherited.get(pid, {})

    def section(self) -> bytes:
        """Return the stage as the helper reads it; empty where there is none."""
        if self.place is None:
            return b""
        entries, paths = [], b""
        places: dict[str, int] = {}
        for pid, area, at in self._staged:
            for path, offset, spans in reads(self._memories[pid].pages_of(area), at - area.start):
                if path not in places:
                    places[path] = len(paths)
                    paths += path.encode() + b"\0"
                for address, size in spans:
                    entries.append((address, size, offset, places[path]))
                    offset += size
        first = HEAD.size + READ.size * len(entries)
        packed = b"".join(READ.pack(*entry[:3], first + entry[3]) for entry in entries)
        return HEAD.pack(first + len(paths), self.place.start, self.place.size, len(entries), 0) + packed + paths

    def _families(self) -> Iterable[list[int]]:
        families: dict[object, list[int]] = {}
        for pid, memory in self._memories.items():
            families.setdefault(memory.family, []).append(pid)
        return [pids for pids in families.values() if len(pids) > 1]

    def _take(self, base: int, members: Mapping[int, AddressRange], at: int) -> None:
        """Put an area of a base into the stage, and note what each process that takes it must do."""
        self._staged.append(_Staged(base, members[base], at))
        for pid, area in members.items():
            mine, theirs = self._memories[pid].pages_of(area), self._common(base, members[base], area)
            found = Inherited(at, [], [], []) if pid == base else _difference(at, mine, theirs)
            self._inherited.setdefault(pid, {})[area.start] = found

    def _common(self, base: int, whole: AddressRange, area: AddressRange) -> list[PageRun]:
        """Return the pages of a base's area that are within that of another process, which begins there, too."""
        return _cut(self._memories[base].pages_of(whole), [area])

    def _chosen(self, pids: list[int], read: Read) -> list[tuple[int, dict[int, AddressRange]]]:
        """Return the areas of a family that are worth a stage: the base, and the area of each process that takes it.

        The areas begin at one address. They may end at others: each process has a heap of its own size.
        """
        base, *others = pids
        plain = {pid: {area.start: area for area in self._memories[pid].plain_areas()} for pid in others}
        found = []
        saved = 0
        for area in self._memories[base].plain_areas():
            theirs = self._memories[base].pages_of(area)
            if sum(run.size for run in theirs) < _LEAST:
                continue
            members = {base: area}
            for pid in others:
                mine = plain[pid].get(area.start)
                if mine is not None and _alike(self._memories[pid].pages_of(mine), theirs, read):
                    members[pid] = mine
                    saved += sum(run.size for run in self._common(base, area, mine))
            if len(members) > 1:
                found.append((base, members))
        return found if saved >= _WORTH else []


def _alike(mine: list[PageRun], theirs: list[PageRun], read: Read) -> bool:
    """Return True if at least half of some pages of an area are the same in both processes."""
    both = _difference(0, mine, theirs).merged
    sample = []
    for number in range(_SAMPLES if both else 0):
        run = both[number * len(both) // _SAMPLES]
        skip = number * (run.size // PAGE) // _SAMPLES * PAGE
        sample.append(PageRun(run.address + skip, PAGE, run.file, run.offset + skip))
    if not sample:
        return False
    other = _cut(theirs, [AddressRange(run.address, run.address + PAGE) for run in sample])
    return 2 * sum(read(one) == read(two) for one, two in zip(sample, other, strict=True)) >= len(sample)


def _difference(at: int, mine: list[PageRun], theirs: list[PageRun]) -> Inherited:
    """Return what a process must do with an area of the base's pages to have its own."""
    own, others = _ranges(mine), _ranges(theirs)
    missing = _without(own, others)
    return Inherited(at, _cut(mine, _without(own, missing)), _cut(mine, missing), _without(others, own))


def _ranges(runs: Iterable[PageRun]) -> list[AddressRange]:
    found: list[AddressRange] = []
    for run in runs:
        if found and found[-1].end == run.address:
            found[-1] = AddressRange(found[-1].start, run.address + run.size)
        else:
            found.append(AddressRange(run.address, run.address + run.size))
    return found


def _without(ranges: list[AddressRange], others: list[AddressRange]) -> list[AddressRange]:
    """Return the parts of ranges that are in none of the others; both are in order."""
    found = []
    at = 0
    for start, end in ranges:
        while at < len(others) and others[at].end <= start:
            at += 1
        here = at
        while start < end:
            stop = min(others[here].start, end) if here < len(others) else end
            if start < stop:
                found.append(AddressRange(start, stop))
            start = others[here].end if here < len(others) else end
            here += 1
    return found


def _cut(runs: list[PageRun], ranges: list[AddressRange]) -> list[PageRun]:
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
