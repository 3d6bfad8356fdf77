# SPDX-License-Identifier: Apache-2.0
"""Pages that processes share since a fork: the tree is forked from a process that has them already.

A forked process shares its parent's private pages until one of them writes. Only a fork makes such pages, so they must be
there before the tree is built. Processes of one family, which descend from one program by forks alone, have the same areas
at the same addresses. Of each family the first process is the base: its pages are read into a stage before the first
fork. Later each process of the family moves the areas of the stage to their places, and writes the pages that differ. An
area that maps a file is in the stage as a map of that file, too.

No image tells which pages are shared, so equal ones are. An area of many pages is left out where a sample has none that is
equal: to write a page that is shared costs more than to read it into an area of one's own.
"""

import os
import struct
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from typing import Final

from agent.record import NamedTuple
from agent.restart.contents.addresses import AddressRange, hole
from agent.restart.contents.memory import AddressSpace
from agent.restart.contents.openfiles import open_flags
from agent.restart.contents.pagereads import reads
from agent.restart.contents.pageruns import PAGE, PageRun
from agent.restart.contents.privateareas import Inherited, PrivateArea
from agent.restart.contents.refusals import Refused

_SAMPLED: Final = 1 << 20
"""Bytes of the pages of an area, at least, for a sample to be worth the time."""
_SAMPLES: Final = 8
"""Pages of such an area that are compared, up to the first that is equal."""
HEAD: Final = struct.Struct("=QQQII")
READ: Final = struct.Struct("=QQQII")
_O_NOFOLLOW: Final = 0o400000

Read = Callable[[PageRun], bytes]
Path = Callable[[int, int], bytes | None]


class _Chosen(NamedTuple):
    """An area of a base that is put into the stage.

    Attributes:
        base: the process.
        area: the area there.
        path: of the file that it maps; empty: none.
        members: what each process that takes it must do, the base among them.
    """

    base: int
    area: PrivateArea
    path: bytes
    members: dict[int, Inherited]

    @property
    def size(self) -> int:
        """Bytes of addresses."""
        return max(each.end for each in self.members.values()) - self.area.range.start


class Stage:
    """The stage of a tree.

    Args:
        memories: of its processes, parents first.
        read: reads the bytes of a run.
        path_of: returns the path of a file by its number, and the flags that it is opened with; None of one that cannot or
            must not be opened before the tree is built.

    Attributes:
        place: the addresses of the stage; None where nothing is worth it.
    """

    def __init__(self, memories: Mapping[int, AddressSpace], read: Read, path_of: Path) -> None:
        self._memories = memories
        self._read = read
        self._path_of = cache(path_of)
        self._samples: dict[int, bytes] = {}
        self._inherited: dict[int, dict[int, Inherited]] = {}
        self._staged: list[tuple[_Chosen, int]] = []
        self.place: AddressRange | None = None
        chosen = [each for family in self._families() for each in self._chosen(family)]
        size = sum(each.size for each in chosen)
        with suppress(Refused):  # no room: each gets its own copy
            start = hole(size, [area for memory in memories.values() for area in memory.areas]).start
            self.place = AddressRange(start, start + size) if size else None
            for each in chosen:
                self._take(each, start)
                start += each.size

    def inherited(self, pid: int) -> dict[int, Inherited]:
        """Return what a process takes from the stage, by the start of the area."""
        return self._inherited.get(pid, {})

    def section(self) -> bytes:
        """Return the stage as the helper reads it; empty where there is none."""
        if self.place is None:
            return b""
        maps, entries, paths = [], [], b""
        places: dict[bytes, int] = {}

        def place(path: bytes) -> int:
            nonlocal paths
            if path not in places:
                places[path] = len(paths)
                paths += path + b"\0"
            return places[path]

        for chosen, at in self._staged:
            area = chosen.area
            if area.file is not None:
                maps.append((at, chosen.size, area.offset, place(chosen.path), open_flags(area.file[1])))
            runs = self._memories[chosen.base].pages_of(area.range)
            for path, offset, spans in reads(runs, at - area.range.start):
                for address, size in spans:
                    entries.append((address, size, offset, place(os.fsencode(path)), os.O_RDONLY | _O_NOFOLLOW))
                    offset += size
        first = HEAD.size + READ.size * (len(maps) + len(entries))
        packed = b"".join(READ.pack(*each[:3], first + each[3], each[4]) for each in (*maps, *entries))
        head = HEAD.pack(first + len(paths), self.place.start, self.place.size, len(entries), len(maps))
        return head + packed + paths

    def _families(self) -> Iterable[list[int]]:
        families: dict[object, list[int]] = {}
        for pid, memory in self._memories.items():
            families.setdefault(memory.family, []).append(pid)
        return [pids for pids in families.values() if len(pids) > 1]

    def _take(self, chosen: _Chosen, at: int) -> None:
        """Put an area of a base into the stage, and note what each process that takes it must do."""
        self._staged.append((chosen, at))
        placed: dict[int, Inherited] = {}
        for pid, found in chosen.members.items():
            if id(found) not in placed:
                placed[id(found)] = found._replace(at=at)
            self._inherited.setdefault(pid, {})[chosen.area.range.start] = placed[id(found)]

    def _chosen(self, pids: list[int]) -> list[_Chosen]:
        """Return the areas of a family that several processes have.

        The areas begin at one address. They may end at others, but for maps of files: each process has a heap of its own
        size.
        """
        base, *others = (self._memories[pid] for pid in pids)
        areas = [{each.range.start: each for each in memory.private_areas()} for memory in others]
        chosen = []
        for area in base.private_areas():
            path = b"" if area.file is None else self._path_of(*area.file)
            if path is None:
                continue
            theirs = _ranges(base.pages_of(area.range))
            known: dict[tuple[int, int], Inherited] = {}
            many: dict[tuple[int, int], bool] = {}
            members = {pids[0]: Inherited(0, area.range.end, [], [], [])}
            self._samples.clear()
            for pid, memory, of_memory in zip(pids[1:], others, areas, strict=True):
                mine = of_memory.get(area.range.start)
                if mine is None or not self._maps_same(mine, area):
                    continue
                lies = memory.lies, mine.range.end
                found = known.get(lies)
                if found is None:
                    common = theirs if mine.range.end >= area.range.end else _within(theirs, mine.range.end)
                    own = Inherited(0, mine.range.end, [], [], [])
                    found = known[lies] = _difference(own, _ranges(memory.pages_of(mine.range)), common)
                    many[lies] = sum([each.size for each in found.merged]) >= _SAMPLED
                if found.merged and (not many[lies] or self._alike(memory, base, found.merged)):
                    members[pid] = found
            if len(members) > 1:
                chosen.append(_Chosen(pids[0], area, path, members))
        return chosen

    def _maps_same(self, one: PrivateArea, other: PrivateArea) -> bool:
        """Return True if two areas map one file in one way, or none. An image may have a number for each map of a file."""
        if one.file is None or other.file is None:
            return one.file is other.file
        alike = one.range == other.range and one.offset == other.offset and one.file[1] == other.file[1]
        return alike and self._path_of(*one.file) == self._path_of(*other.file)

    def _alike(self, memory: AddressSpace, base: AddressSpace, both: list[AddressRange]) -> bool:
        """Return True if one page is equal, of a sample of many that the base has, too."""
        for number in range(_SAMPLES):
            one = both[number * len(both) // _SAMPLES]
            address = one.start + number * (one.size // PAGE) // _SAMPLES * PAGE
            if address not in self._samples:
                self._samples[address] = self._read(base.page(address))
            if self._read(memory.page(address)) == self._samples[address]:
                return True
        return False


def _difference(known: Inherited, mine: list[AddressRange], theirs: list[AddressRange]) -> Inherited:
    """Return what a process must do with an area of the base's pages to have its own."""
    if mine == theirs:
        return known._replace(merged=mine)
    missing = _without(mine, theirs)
    return known._replace(merged=_without(mine, missing), read=missing, dropped=_without(theirs, mine))


def _within(ranges: list[AddressRange], end: int) -> list[AddressRange]:
    """Return the parts of ranges below an address."""
    return [AddressRange(each.start, min(each.end, end)) for each in ranges if each.start < end]


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
