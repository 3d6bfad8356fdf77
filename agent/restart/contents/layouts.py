# SPDX-License-Identifier: Apache-2.0
"""The layouts of memories: their areas, and where the pages of these are.

Processes that descend from one by forks alone, and have mapped and written nothing else since, have one layout in common:
all but the file that their pages are in.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from agent.record import NamedTuple
from agent.restart.contents.areas import MemoryAreas
from agent.restart.contents.images import Images, ProcessImage
from agent.restart.contents.pageruns import PageRun, PageRuns
from agent.restart.contents.refusals import Refused
from exporters.criu.memorymessages import AREA_AIORING, AREA_REGULAR, AREA_VDSO, AREA_VVAR

_SORTED = AREA_VDSO | AREA_VVAR | AREA_AIORING


class MemoryLayout(NamedTuple):
    """The layout of a memory.

    Attributes:
        areas: its areas.
        runs: the pages of its private areas.
        rings: the pages of rings of asynchronous I/O.
        vdso: the pages of the vdso.
        written: the starts of the regular areas that have pages.
        bytes: of all pages.
    """

    areas: MemoryAreas
    runs: PageRuns
    rings: list[PageRun]
    vdso: list[PageRun]
    written: frozenset[int]
    bytes: int

    def moved(self, file: Path) -> "MemoryLayout":
        """Return the layout of pages that are at the same places of another file."""
        return self._replace(
            runs=self.runs.moved(file),
            rings=[run._replace(file=file) for run in self.rings],
            vdso=[run._replace(file=file) for run in self.vdso],
        )


class Layouts:
    """The layouts of the memories of a folder.

    Args:
        images: the folder.
        lowest: the lowest address that the kernel lets a process map.
    """

    def __init__(self, images: Images, lowest: int) -> None:
        self._images = images
        self._lowest = lowest
        self._areas: dict[int, tuple[Any, MemoryAreas]] = {}  # with the message, whose id no other one can then have
        self._known: dict[tuple[int, bytes], MemoryLayout] = {}

    def of(self, process: ProcessImage) -> MemoryLayout:
        """Return the layout of the memory of a process.

        Raises:
            Refused: an area cannot be restored, or pages are in none.
            FormatError: the images contradict themselves.
        """
        mm = process.mm
        if id(mm) not in self._areas:
            self._areas[id(mm)] = mm, MemoryAreas(mm, self._lowest)
        areas = self._areas[id(mm)][1]
        name = f"pagemap-{process.pid}.img"
        described = self._images.undecoded_map(name)
        if described is None:
            return sorted_pages(areas, self._images.page_runs(name))
        entries, file = described
        known = self._known.get((id(mm), entries))
        if known is not None:
            if known.bytes:
                self._images.check_pages(file, known.bytes)
            return known.moved(file)
        found = sorted_pages(areas, self._images.page_runs(name))
        if {file} == {*found.runs.files, *(run.file for run in (*found.rings, *found.vdso))}:
            self._known[id(mm), entries] = found
        return found


def sorted_pages(areas: MemoryAreas, runs: Iterable[PageRun]) -> MemoryLayout:
    """Return the layout of areas that have some pages, which are in order.

    Raises:
        Refused: pages are in no area.
    """
    found = MemoryLayout(areas, PageRuns(), [], [], frozenset(), 0)
    written: set[int] = set()
    total = 0
    backed = areas.backed
    place, count = 0, len(backed)
    for run in runs:
        address, left, file, offset = run
        total += left
        while left:
            while place < count and backed[place].end <= address:
                place += 1
            if place == count or backed[place].start > address:
                raise Refused("pages", f"{address:#x}", "pages", "the image has pages where it has no area")
            area = backed[place]
            taken = min(left, area.end - address)
            if not area.status & _SORTED:
                found.runs.add(address, taken, file, offset)
                if area.status & AREA_REGULAR:
                    written.add(area.start)
            elif not area.status & AREA_VVAR:
                some = found.vdso if area.status & AREA_VDSO else found.rings
                some.append(PageRun(address, taken, file, offset))
            address, left, offset = address + taken, left - taken, offset + taken
    return found._replace(written=frozenset(written), bytes=total)
