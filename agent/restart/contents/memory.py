# SPDX-License-Identifier: Apache-2.0
"""The memory of a process: areas, pages, the special areas of the kernel, and the marks of mm_struct.

A process first unmaps all but its region and the kernel's special areas ([vvar], [vdso]), which it moves to where the
image has them. Then it maps each area, and reads the pages of the image straight into place. An area that is not
writable becomes so only afterwards.
"""

import bisect
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from typing import Any, Final

from agent.restart.contents.addresses import TASK_END, AddressRange, Specials
from agent.restart.contents.fillabi import Demand
from agent.restart.contents.fillprogram import About, Argument, Data, FillScript, ProcessProgram
from agent.restart.contents.hostfacts import MADV_GUARD_INSTALL
from agent.restart.contents.hugepages import page_size
from agent.restart.contents.images import Images, ProcessImage
from agent.restart.contents.kernelareas import KernelAreas
from agent.restart.contents.pagereads import merge_pages, read_pages
from agent.restart.contents.pageruns import PAGE, PageRun, PageRuns
from agent.restart.contents.privateareas import Inherited, PrivateArea
from agent.restart.contents.refusals import Refused
from exporters.criu.memorymessages import (
    ANON_PRIVATE,
    ANON_SHARED,
    AREA_AIORING,
    AREA_GUARD,
    AREA_MEMFD,
    AREA_PLUGIN,
    AREA_REGULAR,
    AREA_SHADOW_STACK,
    AREA_SOCKET,
    AREA_SYSVIPC,
    AREA_UPROBES,
    AREA_VDSO,
    AREA_VSYSCALL,
    AREA_VVAR,
    FILE_PRIVATE,
    FILE_SHARED,
)

SPECIAL: Final = AREA_VDSO | AREA_VVAR | AREA_VSYSCALL | AREA_UPROBES

PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS = 1, 2, 0x10, 0x20
MAP_LOCKED: Final = 0x2000
MAP_HUGETLB: Final = 0x40000
MAP_DROPPABLE: Final = 0x8
MAP_GROWSDOWN, MAP_NORESERVE = 0x100, 0x4000
MAP_FLAGS: Final = 0x3 | MAP_DROPPABLE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_NORESERVE | MAP_HUGETLB | 0x3F << 26
"""The flags of an area that are given to mmap() again: sharing, anonymity, growth, reserve, size of pages."""
MREMAP_MOVE: Final = 1 | 2
MADV_DONTNEED, MADV_HUGEPAGE, MADV_NOHUGEPAGE = 4, 14, 15
O_RDWR: Final = 2
_WORD: Final = 8
_MOST_AUXV: Final = 50
PR_SET_MM, PR_SET_MM_MAP, PR_SET_THP_DISABLE = 35, 14, 41
_MM_MAP: Final = struct.Struct("<12QII")
_AUXV_AT: Final = 11 * 8
_EXE_AT: Final = 12 * 8 + 4


FileKey = tuple[str, int, int]
"""A mapped file: its kind (file, memfd, shmem), its number, and the flags that it is opened with."""


class AddressSpace:
    """The memory of one process, and the operations that restore it.

    Args:
        images: the folder.
        process: its messages.
        lowest: the lowest address that the kernel lets a process map.

    Attributes:
        areas: its areas, the kernel's special ones among them.
        runs: the pages of its private areas.
        rings: the areas of rings of asynchronous I/O.
        ring_runs: the pages of those.

    Raises:
        Refused: an area cannot be restored.
        FormatError: the images contradict themselves.
    """

    def __init__(self, images: Images, process: ProcessImage, lowest: int) -> None:
        self._lowest = lowest
        self._mm = process.mm
        self._files = images.files
        self._vmas: list[Any] = sorted(
            (vma for vma in process.mm.vmas if not vma.status & (AREA_VSYSCALL | AREA_UPROBES)),
            key=lambda vma: int(vma.start),
        )
        self.areas = [AddressRange(int(vma.start), int(vma.end)) for vma in self._vmas]
        self._regular = [
            vma for vma in self._vmas if vma.status & AREA_REGULAR and not vma.status & (SPECIAL | AREA_GUARD)
        ]
        self._check()
        pages = images.page_runs(f"pagemap-{process.pid}.img")
        vdso_pages, self.ring_runs, self.runs = self._sorted(pages)
        self.rings = [vma for vma in self._vmas if vma.status & AREA_AIORING]
        special = [vma for vma in self._vmas if vma.status & (AREA_VDSO | AREA_VVAR)]
        self._kernel = KernelAreas(special, vdso_pages)
        self._cores = process.cores

    def files(self) -> list[FileKey]:
        """Return each mapped file with the flags that it must be opened with."""
        keys = (self._key(vma) for vma in self._regular)
        return list(dict.fromkeys(key for key in keys if key is not None))

    def attached(self) -> list[Any]:
        """Return the areas of System V shared memory."""
        return [vma for vma in self._regular if vma.status & AREA_SYSVIPC]

    def shared(self) -> list[tuple[tuple[str, int], Any]]:
        """Return the areas of memory that is shared without a file in a folder: the object's key, and the area."""
        keys = [(self._key(vma), vma) for vma in self._regular]
        return [(key[:2], vma) for key, vma in keys if key is not None and key[0] != "file"]

    def _key(self, vma: Any) -> "FileKey | None":
        """Return the file that an area maps; None for private anonymous memory, and System V shared memory."""
        if vma.status & AREA_SYSVIPC:
            return None
        if vma.status & AREA_MEMFD:
            entry = self._files.get(int(vma.shmid))
            if entry is None or not entry.HasField("memfd"):
                raise Refused(*_place(vma), "missing", f"the images do not describe the memfd {vma.shmid} that it maps")
            return "memfd", int(entry.memfd.inode_id), int(vma.fdflags)
        if vma.status & (FILE_PRIVATE | FILE_SHARED):
            return "file", int(vma.shmid), int(vma.fdflags)
        if vma.status & ANON_SHARED:
            return "shmem", int(vma.shmid), O_RDWR
        return None

    @property
    def huge_pages(self) -> Counter[int]:
        """Bytes of its private memory in huge pages that the kernel reserves, by the size of the page."""
        found: Counter[int] = Counter()
        for vma in self._regular:
            if vma.status & ANON_PRIVATE and vma.flags & MAP_HUGETLB and not vma.flags & MAP_NORESERVE:
                found[page_size(int(vma.flags))] += int(vma.end - vma.start)
        return found

    @property
    def family(self) -> tuple[int, ...]:
        """Marks of memory that a process and its forks have in common, until one of them executes another program."""
        mm = self._mm
        return mm.mm_start_code, mm.mm_end_code, mm.mm_start_brk, mm.mm_start_stack, mm.mm_arg_start

    def private_areas(self) -> list[PrivateArea]:
        """Return the areas of ordinary private memory that have pages."""
        odd = MAP_HUGETLB | MAP_GROWSDOWN | MAP_DROPPABLE | MAP_NORESERVE
        return [
            PrivateArea(
                AddressRange(int(vma.start), int(vma.end)),
                (int(vma.shmid), int(vma.fdflags)) if vma.status & FILE_PRIVATE else None,
                int(vma.pgoff),
            )
            for vma in self._regular
            if vma.status & (ANON_PRIVATE | FILE_PRIVATE) and not vma.flags & odd and vma.start in self._written
        ]

    def pages_of(self, area: AddressRange) -> list[PageRun]:
        """Return the pages of an area."""
        first = bisect.bisect_left(self.runs.addresses, area.start)
        return self.runs[first : bisect.bisect_left(self.runs.addresses, area.end, first)]

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
        buffer: Data,
    ) -> None:
        """Map all areas and read their pages.

        Args:
            script: the leader's.
            files: the open descriptor of each mapped file.
            pages: the open descriptor of each file of pages, by path.
            ways: processors that may read pages at once.
            inherited: what it has from the stage, by the start of the area.
            buffer: data of MERGE_BUFFER bytes.
        """
        written = self._written
        for vma in self._regular:
            if vma.status & AREA_SYSVIPC:
                continue  # it is there; see systemv.py
            script.about = _about(vma)
            size, start = int(vma.end - vma.start), int(vma.start)
            if start in inherited:
                script.exact("mremap", inherited[start].at, size, size, MREMAP_MOVE, start, wanted=start)
                self._advise(script, vma, _BEFORE_PAGES)
                continue
            protection = int(vma.prot) | (PROT_WRITE if start in written else 0)
            file: Argument = -1
            flags = int(vma.flags) & MAP_FLAGS | MAP_FIXED
            key = self._key(vma)
            if key is not None:
                file = files[key]
                flags &= ~MAP_ANONYMOUS
            script.exact("mmap", start, size, protection, flags, file, int(vma.pgoff), wanted=start)
            self._advise(script, vma, _BEFORE_PAGES)
        script.about = About("pages", "")
        if inherited:
            merged: list[PageRun] = []
            read: list[PageRun] = []
            at = 0
            for start, each in sorted(inherited.items()):
                for gap in each.dropped:
                    script.call("madvise", gap.start, gap.size, MADV_DONTNEED)
                merged += each.merged
                read += (*self.pages_of(AddressRange(at, start)), *each.read)
                at = each.end
            read += self.pages_of(AddressRange(at, TASK_END))
            merge_pages(script, merged, pages, buffer)
            read_pages(script, read, pages, ways)
        else:
            read_pages(script, self.runs, pages, ways)
        for vma in self._vmas:
            script.about = _about(vma)
            start, size = int(vma.start), int(vma.end - vma.start)
            if vma.status & AREA_GUARD:
                script.call("madvise", start, size, MADV_GUARD_INSTALL)
            elif (vma.start in written and not vma.prot & PROT_WRITE) or (
                vma.start in inherited and vma.prot != PROT_READ | PROT_WRITE
            ):
                script.call("mprotect", start, size, int(vma.prot))
        for vma in self._regular:
            script.about = _about(vma)
            self._advise(script, vma, ~_BEFORE_PAGES)
            if vma.flags & MAP_LOCKED:
                # The kernel locks an area without access, too, and then says that it has no pages.
                demand = Demand.SUCCESS if vma.prot else Demand.ANY
                script.call("mlock", int(vma.start), int(vma.end - vma.start), demand=demand)

    def _advise(self, script: FillScript, vma: Any, which: int) -> None:
        """Give those of an area's advices that are among `which`, as bits."""
        advices = int(vma.madv) & which
        for advice in range(64) if advices else ():
            if advices >> advice & 1:
                script.call("madvise", int(vma.start), int(vma.end - vma.start), advice)

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

    @cached_property
    def _written(self) -> set[int]:
        """The starts of the areas that pages are read into."""
        starts = [int(vma.start) for vma in self._regular]
        found = set()
        for run in self.runs:
            at = max(bisect.bisect_right(starts, run.address) - 1, 0)
            while at < len(starts) and starts[at] < run.address + run.size:
                found.add(starts[at])
                at += 1
        return found

    def _check(self) -> None:
        last = 0
        for vma in self._vmas:
            if vma.status & AREA_GUARD:
                continue
            if vma.end > TASK_END:
                raise Refused(*_place(vma), "area", "it is above 47 bits of address, which needs tables of five levels")
            if vma.start < self._lowest:
                text = f"this host lets no process map what is below {self._lowest:#x}: lower vm.mmap_min_addr"
                raise Refused(*_place(vma), "area", text)
            if vma.start % PAGE or vma.end % PAGE or not last <= vma.start < vma.end:
                raise Refused(*_place(vma), "area", "its addresses overlap another area, or are no whole pages")
            last = int(vma.end)
            for bit, reason in _NOT_YET.items():
                if vma.status & bit:
                    raise Refused(*_place(vma), "area", reason)
            if not vma.status & (SPECIAL | AREA_AIORING | FILE_PRIVATE | FILE_SHARED | ANON_PRIVATE | ANON_SHARED):
                raise Refused(*_place(vma), "area", f"its status {vma.status:#x} has no meaning here")

    def _sorted(self, runs: Iterable[PageRun]) -> tuple[list[PageRun], list[PageRun], PageRuns]:
        """Return the pages of the vdso, of rings, and those of the regular areas; areas must cover all."""
        vdso: list[PageRun] = []
        rings: list[PageRun] = []
        mine = PageRuns()
        at = 0
        vmas = [vma for vma in self._vmas if not vma.status & AREA_GUARD]
        for run in runs:
            here = run
            while True:
                while at < len(vmas) and vmas[at].end <= here.address:
                    at += 1
                if at == len(vmas) or vmas[at].start > here.address:
                    raise Refused("pages", f"{here.address:#x}", "pages", "the image has pages where it has no area")
                vma = vmas[at]
                taken = min(here.size, int(vma.end) - here.address)
                if not vma.status & AREA_VVAR:
                    (vdso if vma.status & AREA_VDSO else rings if vma.status & AREA_AIORING else mine).append(
                        here if taken == here.size else PageRun(here.address, taken, here.file, here.offset)
                    )
                if taken == here.size:
                    break
                here = PageRun(here.address + taken, here.size - taken, here.file, here.offset + taken)
        return vdso, rings, mine


_BEFORE_PAGES: Final = 1 << MADV_HUGEPAGE | 1 << MADV_NOHUGEPAGE
"""Advices that count when a page is read."""
_NOT_YET: Final = {
    AREA_SOCKET: "memory of a packet socket is not restored",
    AREA_SHADOW_STACK: "a shadow stack is not restored",
    AREA_PLUGIN: "a plugin of CRIU has dumped it, and alone can restore it",
}


def _place(vma: Any) -> tuple[str, str]:
    return "memory", f"{vma.start:#x}-{vma.end:#x}"


def _about(vma: Any) -> About:
    return _about_area(int(vma.start), int(vma.end))


@cache
def _about_area(start: int, end: int) -> About:
    return About("memory", f"{start:#x}-{end:#x}")
