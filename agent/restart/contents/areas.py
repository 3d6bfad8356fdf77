# SPDX-License-Identifier: Apache-2.0
"""The areas of a memory, as its image has them, in order and checked.

Processes that descend from one by forks alone have the same areas until they map others, so their images have equal
messages, of which the areas are made once (`Images.areas`).
"""

import os
from collections.abc import Mapping
from typing import Any, Final

from agent.record import NamedTuple
from agent.restart.contents.addresses import TASK_END, AddressRange
from agent.restart.contents.fileowners import O_PATH, VALID_FLAGS
from agent.restart.contents.pageruns import PAGE
from agent.restart.contents.privateareas import PrivateArea
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

MAP_DROPPABLE: Final = 0x8
MAP_GROWSDOWN, MAP_NORESERVE, MAP_HUGETLB = 0x100, 0x4000, 0x40000
O_RDWR: Final = 2
_MAP_TYPE: Final = 0xF
_PRIVATE, _SHARED = (2, MAP_DROPPABLE), (1, 3)
"""The types of mappings: MAP_PRIVATE, MAP_DROPPABLE; MAP_SHARED, MAP_SHARED_VALIDATE."""
_PROTECTIONS, _PROT_WRITE = 7, 2
_MOST_OFFSET: Final = 1 << 63
_ORDERED: Final = tuple(
    (f"mm_{first}", f"mm_{last}")
    for first, last in (
        *(("start_code", "end_code"), ("start_data", "end_data"), ("start_brk", "brk")),
        *(("arg_start", "arg_end"), ("env_start", "env_end")),
    )
)
"""Pairs of marks, each with its first one first; of the first pair both may not be equal."""
_MARKS: Final = (*(name for pair in _ORDERED for name in pair), "mm_start_stack")
SPECIAL: Final = AREA_VDSO | AREA_VVAR | AREA_VSYSCALL | AREA_UPROBES
_KERNEL_MADE: Final = AREA_VSYSCALL | AREA_UPROBES
_KNOWN: Final = SPECIAL | AREA_AIORING | FILE_PRIVATE | FILE_SHARED | ANON_PRIVATE | ANON_SHARED
_ODD: Final = MAP_HUGETLB | MAP_GROWSDOWN | MAP_DROPPABLE | MAP_NORESERVE
_NOT_YET: Final = {
    AREA_SOCKET: "memory of a packet socket is not restored",
    AREA_SHADOW_STACK: "a shadow stack is not restored",
    AREA_PLUGIN: "a plugin of CRIU has dumped it, and alone can restore it",
}

FileKey = tuple[str, int, int]
"""A mapped file: its kind (file, memfd, shmem), its number, and the flags that it is opened with."""


class MemoryArea(NamedTuple):
    """An area: the fields of its vma_entry.

    Attributes:
        start, end: its addresses.
        pgoff: offset of its begin in the file that it maps, bytes.
        shmid: the number of that file, or of the memory that it shares.
        prot, flags, madv: as mmap(2) and madvise(2) have them; of madv a bit for each advice.
        status: CRIU's bits for its kind.
        fdflags: the flags that the file was opened with; None: the image does not tell.
    """

    start: int
    end: int
    pgoff: int
    shmid: int
    prot: int
    flags: int
    status: int
    madv: int
    fdflags: int | None

    @property
    def size(self) -> int:
        """Bytes of addresses."""
        return self.end - self.start


class MemoryAreas:
    """The areas of a memory.

    Args:
        mm: its mm_entry.
        lowest: the lowest address that the kernel lets a process map.

    Attributes:
        all: but those that the kernel makes for itself, in order.
        ranges: the addresses of each.
        backed: all but guard regions: those that can have pages.
        regular: those that mmap() makes.
        guards: guard regions, each within areas that can have pages.
        rings: of asynchronous I/O.
        kernel: [vdso] and [vvar].
        private: those of ordinary private memory.

    Raises:
        Refused: an area cannot be restored.
    """

    def __init__(self, mm: Any, lowest: int) -> None:
        found = [
            MemoryArea(
                *(vma.start, vma.end, vma.pgoff, vma.shmid, vma.prot, vma.flags, vma.status, vma.madv),
                vma.fdflags if vma.HasField("fdflags") else None,
            )
            for vma in mm.vmas
        ]
        self.all = sorted([area for area in found if not area.status & _KERNEL_MADE], key=lambda area: area.start)
        self.ranges = [AddressRange(area.start, area.end) for area in self.all]
        self.backed = [area for area in self.all if not area.status & AREA_GUARD]
        self.regular = [area for area in self.backed if area.status & AREA_REGULAR and not area.status & SPECIAL]
        self.guards = [area for area in found if area.status & AREA_GUARD]
        self.rings = [area for area in self.all if area.status & AREA_AIORING]
        self.kernel = [area for area in self.all if area.status & (AREA_VDSO | AREA_VVAR)]
        self.private = [
            PrivateArea(
                AddressRange(area.start, area.end),
                (area.shmid, area.fdflags or 0) if area.status & FILE_PRIVATE else None,
                area.pgoff,
            )
            for area in self.regular
            if area.status & (ANON_PRIVATE | FILE_PRIVATE) and not area.flags & _ODD
        ]
        self._keys: list[FileKey | None] | None = None
        self._mapped: list[FileKey] | None = None
        self._check(lowest)
        _check_marks(mm, lowest)

    def keys(self, files: Mapping[int, Any]) -> list[FileKey | None]:
        """Return the file that each regular area maps; None for private anonymous memory, and System V shared memory.

        Args:
            files: the file_entry of each open file, the same ones at each call.

        Raises:
            Refused: the images do not describe a file.
        """
        if self._keys is None:
            self._keys = [_key(area, files) for area in self.regular]
        return self._keys

    def mapped(self, files: Mapping[int, Any]) -> list[FileKey]:
        """Return each file of `keys` once."""
        if self._mapped is None:
            self._mapped = list(dict.fromkeys(key for key in self.keys(files) if key is not None))
        return self._mapped

    def _check(self, lowest: int) -> None:
        last = 0
        for area in self.backed:
            if area.end > TASK_END:
                text = "it is above 47 bits of address, which needs tables of five levels"
                raise Refused(*place(area), "area", text)
            if area.start < lowest:
                text = f"this host lets no process map what is below {lowest:#x}: lower vm.mmap_min_addr"
                raise Refused(*place(area), "area", text)
            if area.start % PAGE or area.end % PAGE or not last <= area.start < area.end:
                raise Refused(*place(area), "area", "its addresses overlap another area, or are no whole pages")
            last = area.end
            for bit, reason in _NOT_YET.items():
                if area.status & bit:
                    raise Refused(*place(area), "area", reason)
            if not area.status & _KNOWN or not area.status & (AREA_REGULAR | SPECIAL | AREA_AIORING):
                raise Refused(*place(area), "area", f"its status {area.status:#x} has no meaning here")
        for area in self.regular:
            if text := _contradiction(area):
                raise Refused(*place(area), "area", f"{text}: dump it again")
        for guard in self.guards:
            if guard.start % PAGE or guard.end % PAGE or guard.start >= guard.end:
                raise Refused(*place(guard), "area", "its addresses are no range of whole pages")
            if not self._have(guard):
                raise Refused(*place(guard), "area", "it is a guard region, and parts of it are in no area")

    def _have(self, guard: MemoryArea) -> bool:
        """Return True if each page of a guard region is in an area; one that crosses areas is told as one by the kernel."""
        at = guard.start
        for area in self.backed:
            if area.start <= at < area.end:
                at = area.end
        return at >= guard.end


def _check_marks(mm: Any, lowest: int) -> None:
    """Refuse marks that the kernel does not set: validate_prctl_map_addr() in its kernel/sys.c."""
    for name in _MARKS:
        if not lowest <= getattr(mm, name) < TASK_END:
            raise Refused("memory", name, "marks", f"{getattr(mm, name):#x} is no address of a process: dump it again")
    for first, last in _ORDERED:
        begin, end = getattr(mm, first), getattr(mm, last)
        if begin > end or (begin == end and first == _MARKS[0]):
            raise Refused("memory", first, "marks", f"{begin:#x} is not before {last}, {end:#x}: dump it again")


def _contradiction(area: MemoryArea) -> str:
    """Return the reason why the kernel would map no such area; empty: there is none."""
    kind, opened = area.flags & _MAP_TYPE, area.fdflags or 0
    if kind not in (_SHARED if area.status & (FILE_SHARED | ANON_SHARED) else _PRIVATE):
        return f"its flags {area.flags:#x} are not those of an area of status {area.status:#x}"
    if area.prot & ~_PROTECTIONS:
        return f"its protection {area.prot:#x} is none"
    if area.pgoff % PAGE or area.pgoff + area.size > _MOST_OFFSET:
        return f"it begins at byte {area.pgoff} of its file, which no area does"
    writes = kind in _SHARED and area.prot & _PROT_WRITE
    if area.status & (FILE_PRIVATE | FILE_SHARED) and (
        opened & ~VALID_FLAGS or opened & O_PATH or opened & os.O_ACCMODE not in ((O_RDWR,) if writes else (0, O_RDWR))
    ):
        return f"its file was open with the flags {opened:#o}, and those map no such area"
    return ""


def _key(area: MemoryArea, files: Mapping[int, Any]) -> FileKey | None:
    if area.status & AREA_SYSVIPC:
        return None
    if area.status & AREA_MEMFD:
        entry = files.get(area.shmid)
        if entry is None or not entry.HasField("memfd"):
            text = f"the images do not describe the memfd {area.shmid} that it maps"
            raise Refused(*place(area), "missing", text)
        return "memfd", int(entry.memfd.inode_id), area.fdflags or 0
    if area.status & (FILE_PRIVATE | FILE_SHARED):
        return "file", area.shmid, area.fdflags or 0
    if area.status & ANON_SHARED:
        return "shmem", area.shmid, O_RDWR
    return None


def place(area: MemoryArea) -> tuple[str, str]:
    """Return the words for an area in a refusal."""
    return "memory", f"{area.start:#x}-{area.end:#x}"
