# SPDX-License-Identifier: Apache-2.0
"""The memory of a process: areas, pages, the special areas of the kernel, and the marks of mm_struct.

A process first unmaps all but its region and the kernel's special areas ([vvar], [vdso]), which it moves to where the
image has them. Then it maps each area, and reads the pages of the image straight into place. An area that is not
writable becomes so only afterwards.
"""

import bisect
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Final

from agent.restart.contents.addresses import TASK_END, AddressRange, Specials
from agent.restart.contents.areas import (
    MAP_DROPPABLE,
    MAP_GROWSDOWN,
    MAP_HUGETLB,
    MAP_NORESERVE,
    FileKey,
    MemoryArea,
)
from agent.restart.contents.fillabi import Demand
from agent.restart.contents.fillprogram import About, Argument, FillScript, ProcessProgram
from agent.restart.contents.hostfacts import MADV_GUARD_INSTALL
from agent.restart.contents.hugepages import page_size
from agent.restart.contents.images import Images, ProcessImage
from agent.restart.contents.kernelareas import KernelAreas
from agent.restart.contents.layouts import MemoryLayout
from agent.restart.contents.pagereads import merge_pages, read_pages
from agent.restart.contents.pageruns import PageRun, cut
from agent.restart.contents.privateareas import Inherited, PrivateArea
from exporters.criu.memorymessages import (
    ANON_PRIVATE,
    AREA_GUARD,
    AREA_SYSVIPC,
)

PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS = 1, 2, 0x10, 0x20
MAP_LOCKED: Final = 0x2000
MAP_FLAGS: Final = 0x3 | MAP_DROPPABLE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_NORESERVE | MAP_HUGETLB | 0x3F << 26
"""The flags of an area that are given to mmap() again: sharing, anonymity, growth, reserve, size of pages."""
MREMAP_MOVE: Final = 1 | 2
MLOCK_ONFAULT: Final = 1
MADV_DONTNEED, MADV_HUGEPAGE, MADV_NOHUGEPAGE = 4, 14, 15
_WORD: Final = 8
_MOST_AUXV: Final = 50
PR_SET_MM, PR_SET_MM_MAP, PR_SET_THP_DISABLE = 35, 14, 41
_MM_MAP: Final = struct.Struct("<12QII")
_AUXV_AT: Final = 11 * 8
_EXE_AT: Final = 12 * 8 + 4


class AddressSpace:
    """The memory of one process, and the operations that restore it.

    Args:
        images: the folder.
        process: its messages.
        layout: its areas and pages.

    Attributes:
        areas: its areas, the kernel's special ones among them.
        runs: the pages of its private areas.
        rings: the areas of rings of asynchronous I/O.
        ring_runs: the pages of those.
    """

    def __init__(self, images: Images, process: ProcessImage, layout: MemoryLayout) -> None:
        self._mm = process.mm
        self._files = images.files
        self._areas, self.runs, self.ring_runs, vdso_pages, self._written, _ = layout
        self.areas = self._areas.ranges
        self.rings = self._areas.rings
        self._kernel = KernelAreas(self._areas.kernel, vdso_pages)
        self._cores = process.cores

    def files(self) -> Sequence[FileKey]:
        """Return each mapped file with the flags that it must be opened with."""
        return self._areas.mapped(self._files)

    def attached(self) -> list[MemoryArea]:
        """Return the areas of System V shared memory."""
        return [area for area in self._areas.regular if area.status & AREA_SYSVIPC]

    def shared(self) -> list[tuple[tuple[str, int], MemoryArea]]:
        """Return the areas of memory that is shared without a file in a folder: the object's key, and the area."""
        keys = zip(self._areas.keys(self._files), self._areas.regular, strict=True)
        return [(key[:2], area) for key, area in keys if key is not None and key[0] != "file"]

    @property
    def huge_pages(self) -> Counter[int]:
        """Bytes of its private memory in huge pages that the kernel reserves, by the size of the page."""
        found: Counter[int] = Counter()
        for area in self._areas.regular:
            if area.status & ANON_PRIVATE and area.flags & MAP_HUGETLB and not area.flags & MAP_NORESERVE:
                found[page_size(area.flags)] += area.size
        return found

    @property
    def family(self) -> tuple[int, ...]:
        """Marks of memory that a process and its forks have in common, until one of them executes another program."""
        mm = self._mm
        return mm.mm_start_code, mm.mm_end_code, mm.mm_start_brk, mm.mm_start_stack, mm.mm_arg_start

    def private_areas(self) -> list[PrivateArea]:
        """Return the areas of ordinary private memory that have pages."""
        return [area for area in self._areas.private if area.range.start in self._written]

    def pages_of(self, area: AddressRange) -> list[PageRun]:
        """Return the pages of an area."""
        first = bisect.bisect_left(self.runs.addresses, area.start)
        return self.runs[first : bisect.bisect_left(self.runs.addresses, area.end, first)]

    def page(self, address: int) -> PageRun:
        """Return a page that it has."""
        return self.runs.page(address)

    @property
    def lies(self) -> int:
        """A number that memories have in common only if their pages lie alike; see layouts.py."""
        return id(self.runs.addresses)

    def page_files(self) -> list[str]:
        """Return the paths of the files that its pages are in."""
        return list(dict.fromkeys(map(str, (*self.runs.files, *(run.file for run in self.ring_runs)))))

    def check_vdso(self, specials: Specials, read: "Callable[[PageRun], bytes]") -> None:
        """Compare the kernel's special areas with those of the image; see `KernelAreas.check`.

        Args:
            specials: the kernel's.
            read: reads the bytes of a run.

        Raises:
            Refused: the image is of a kernel with another vdso, and its calls cannot be redirected.
        """
        registers = {tid: core.thread_info.gpregs for tid, core in self._cores.items()}
        pointers = {tid: int(each.ip) for tid, each in registers.items()}
        self._kernel.check(
            specials, read, pointers, lambda: self._stacks([int(each.sp) for each in registers.values()], read)
        )

    def _stacks(self, pointers: Iterable[int], read: "Callable[[PageRun], bytes]") -> Iterator[bytes]:
        """Yield what is on stacks, from their pointers to the ends of their areas."""
        for pointer in pointers:
            end = next((area.end for area in self.areas if area.start <= pointer < area.end), pointer)
            for run in self.runs:
                if run.address < end and pointer < run.address + run.size:
                    skip = max(pointer - run.address, 0) & -_WORD
                    size = min(run.address + run.size, end) - run.address - skip
                    yield read(PageRun(run.address + skip, size, run.file, run.offset + skip))

    def clear(self, script: FillScript, room: AddressRange, specials: Specials, kept: Sequence[AddressRange]) -> None:
        """Unmap all but a room and what is kept, and move the special areas to where the image has them."""
        script.about = About("memory", "")
        at = 0
        for area in sorted([room, *kept, *self._kernel.kept(specials)]):
            if area.start > at:
                script.call("munmap", at, area.start - at)
            at = area.end
        script.call("munmap", at, TASK_END - at)
        self._kernel.move(script, room, specials)

    def restore(
        self,
        script: FillScript,
        files: Mapping[FileKey, Argument],
        pages: Mapping[str, Argument],
        ways: int,
        inherited: Mapping[int, Inherited],
    ) -> None:
        """Map all areas and read their pages.

        Args:
            script: the leader's.
            files: the open descriptor of each mapped file.
            pages: the open descriptor of each file of pages, by path.
            ways: processors that may read pages at once.
            inherited: what it has from the stage, by the start of the area.
        """
        # Memories with these in common have the same areas and runs, but for the paths of the files of pages.
        of_pages = tuple([pages[os.fspath(file)] for file in self.runs.files])
        taken = tuple([(start, id(each)) for start, each in inherited.items()])
        key = "memory", id(self._areas), self.lies, tuple(files.items()), of_pages, ways, taken
        script.alike(key, lambda: self._restore(script, files, pages, ways, inherited))

    def _restore(
        self,
        script: FillScript,
        files: Mapping[FileKey, Argument],
        pages: Mapping[str, Argument],
        ways: int,
        inherited: Mapping[int, Inherited],
    ) -> None:
        written, areas = self._written, self._areas
        for area, key in zip(areas.regular, areas.keys(self._files), strict=True):
            if area.status & AREA_SYSVIPC:
                continue  # it is there; see systemv.py
            script.about = _about(area)
            size, start = area.size, area.start
            if start in inherited:
                script.exact("mremap", inherited[start].at, size, size, MREMAP_MOVE, start, wanted=start)
            else:
                protection = area.prot | (PROT_WRITE if start in written else 0)
                file: Argument = -1
                flags = area.flags & MAP_FLAGS | MAP_FIXED
                if key is not None:
                    file = files[key]
                    flags &= ~MAP_ANONYMOUS
                script.exact("mmap", start, size, protection, flags, file, area.pgoff, wanted=start)
            if area.madv & _BEFORE_PAGES:
                self._advise(script, area, _BEFORE_PAGES)
        script.about = About("pages", "")
        if inherited:
            merged: list[PageRun] = []
            read: list[PageRun] = []
            at = 0
            for start, each in sorted(inherited.items()):
                for gap in each.dropped:
                    script.call("madvise", gap.start, gap.size, MADV_DONTNEED)
                mine = self.pages_of(AddressRange(start, each.end))
                merged += mine if each.merged and not each.read else cut(mine, each.merged)
                read += (*self.pages_of(AddressRange(at, start)), *cut(mine, each.read))
                at = each.end
            read += self.pages_of(AddressRange(at, TASK_END))
            merge_pages(script, merged, pages)
            read_pages(script, read, pages, ways)
        else:
            read_pages(script, self.runs, pages, ways)
        for area in areas.all:
            if area.status & AREA_GUARD:
                script.about = _about(area)
                script.call("madvise", area.start, area.size, MADV_GUARD_INSTALL)
            elif (area.start in written and not area.prot & PROT_WRITE) or (
                area.start in inherited and area.prot != PROT_READ | PROT_WRITE
            ):
                script.about = _about(area)
                script.call("mprotect", area.start, area.size, area.prot)
        for area in areas.regular:
            if area.madv & ~_BEFORE_PAGES:
                self._advise(script, area, ~_BEFORE_PAGES)
            if area.flags & MAP_LOCKED:
                script.about = _about(area)
                # The first call fails only where the area cannot be locked. The second one makes all of its pages. It fails
                # where there are none, as without access, and behind the end of a file, but has locked the area also then.
                script.call("mlock2", area.start, area.size, MLOCK_ONFAULT)
                if not self._has_locked_on_fault(area):
                    script.call("mlock", area.start, area.size, demand=Demand.ANY)

    def _has_locked_on_fault(self, area: MemoryArea) -> bool:
        """Return True for a locked area whose pages were locked as they came.

        The images do not tell it, but mlock() makes each page of private memory that can be written (see
        populate_vma_page_range() of the kernel), so it leaves none out. Of other memory the images have not all pages.
        """
        if not (area.status & ANON_PRIVATE and area.prot & PROT_WRITE):
            return False
        return sum(run.size for run in self.pages_of(AddressRange(area.start, area.end))) < area.size

    def _advise(self, script: FillScript, area: MemoryArea, which: int) -> None:
        """Give those of an area's advices that are among `which`, as bits."""
        script.about = _about(area)
        for advice in range(64):
            if area.madv & which & 1 << advice:
                script.call("madvise", area.start, area.size, advice)

    def marks(self, script: FillScript, program: ProcessProgram, exe: Argument) -> None:
        """Set the marks of mm_struct and the link to the program."""
        mm = self._mm
        script.about = About("memory", "marks")
        auxv = struct.pack(f"<{len(mm.mm_saved_auxv[:_MOST_AUXV])}Q", *mm.mm_saved_auxv[:_MOST_AUXV]) + bytes(16)
        marks = program.data(
            _MM_MAP.pack(
                *(mm.mm_start_code, mm.mm_end_code, mm.mm_start_data, mm.mm_end_data, mm.mm_start_brk, mm.mm_brk),
                *(mm.mm_start_stack, mm.mm_arg_start, mm.mm_arg_end, mm.mm_env_start, mm.mm_env_end, 0),
                *(len(auxv), 0),
            )
        )
        script.address(marks, _AUXV_AT, program.data(auxv))
        script.store(marks, _EXE_AT, exe)
        script.call("prctl", PR_SET_MM, PR_SET_MM_MAP, marks, _MM_MAP.size, 0)
        if mm.thp_disabled:
            script.call("prctl", PR_SET_THP_DISABLE, 1, 0, 0, 0)


_BEFORE_PAGES: Final = 1 << MADV_HUGEPAGE | 1 << MADV_NOHUGEPAGE
"""Advices that count when a page is read."""


def _about(area: MemoryArea) -> About:
    return _about_area(area.start, area.end)


@cache
def _about_area(start: int, end: int) -> About:
    return About("memory", f"{start:#x}-{end:#x}")
