# SPDX-License-Identifier: Apache-2.0
"""The special areas of the kernel in a process, [vvar] and [vdso]: they go where the image has them.

Where the image is of a kernel with another vdso, they go to a free place, and the image's vdso leads there; see vdso.py.
"""

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from agent.restart.contents import vdso
from agent.restart.contents.addresses import AddressRange, Specials
from agent.restart.contents.fillprogram import About, FillScript
from agent.restart.contents.pageruns import PageRun
from agent.restart.contents.refusals import Refused
from exporters.criu.memorymessages import AREA_VDSO

_MREMAP_MOVE: Final = 1 | 2
_PRIVATE: Final = 2 | 0x10 | 0x20
"""MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS."""
_WRITABLE, _EXECUTABLE = 3, 5
_MOST_VDSO: Final = 1 << 20


class KernelAreas:
    """The special areas that an image has.

    Args:
        areas: their vma_entries, in order.
        pages: the pages of the vdso.
    """

    def __init__(self, areas: Sequence[Any], pages: Sequence[PageRun]) -> None:
        self._areas = areas
        self._pages = pages
        self._old = b""
        self._redirects: dict[int, vdso.Lead] = {}

    @property
    def vdso(self) -> AddressRange | None:
        """The addresses of the vdso; None where there is none."""
        return next((AddressRange(int(vma.start), int(vma.end)) for vma in self._areas if vma.status & AREA_VDSO), None)

    def check(
        self,
        specials: Specials,
        read: Callable[[PageRun], bytes],
        threads: Mapping[int, int],
        stacks: Callable[[], Iterable[bytes]],
    ) -> None:
        """Compare the kernel's special areas with those of the image, and decide how calls of the vdso are to find it.

        Args:
            specials: the kernel's.
            read: reads the bytes of a run.
            threads: the instruction pointer of each thread, by its number.
            stacks: returns the stacks of the threads, from their pointers on.

        Raises:
            Refused: the image is of a kernel with another vdso, and its calls cannot be redirected.
        """
        area = self.vdso
        if area is None:
            if self._areas:
                raise Refused("vdso", "", "other-kernel", "it has a [vvar] and no [vdso]: no kernel has one alone")
            return
        if area.size > _MOST_VDSO:
            raise Refused("vdso", "", "other-kernel", f"it has {area.size} bytes: no kernel has such a vdso")
        old = bytearray(area.size)
        for run in self._pages:
            at = run.address - area.start
            old[at : at + run.size] = read(run)
        present = [(run.address - area.start, run.size) for run in self._pages]
        wanted = [(bool(vma.status & AREA_VDSO), AddressRange(int(vma.start), int(vma.end))) for vma in self._areas]
        have = [(name.startswith("[vdso"), each) for name, each in specials.areas.items()]
        if _layout(wanted) == _layout(have) and all(
            old[at : at + size] == specials.vdso[at : at + size] for at, size in present
        ):
            return
        self._old = bytes(old)
        self._redirects = vdso.redirects(self._old, specials.vdso)
        vdso.check_threads(self._old, area, threads, stacks())

    def kept(self, specials: Specials) -> list[AddressRange]:
        """Return the areas of the helper's processes that are needed."""
        return list(specials.areas.values()) if self._areas else []

    def move(self, script: FillScript, room: AddressRange, specials: Specials) -> None:
        """Move the special areas of the helper's processes to their places.

        Args:
            script: the leader's.
            room: free addresses; the areas stay at its end where the image is of another kernel.
            specials: the areas.
        """
        if not self._areas:
            return
        script.about = About("vdso", "")
        first = min(area.start for area in specials.areas.values())
        last = max(area.end for area in specials.areas.values())
        if self._old:
            target = room.end - (last - first)
            self._moved(script, specials, target - first)
            self._redirect(script, target + specials.areas["[vdso]"].start - first)
        elif move := int(self._areas[0].start) - first:
            aside = room.start + room.size // 2 - first
            self._moved(script, specials, aside)
            for area in specials.areas.values():
                _move(script, area.start + aside, area.start + move, area.size)

    def _moved(self, script: FillScript, specials: Specials, by: int) -> None:
        for area in specials.areas.values():
            _move(script, area.start, area.start + by, area.size)

    def _redirect(self, script: FillScript, new: int) -> None:
        """Map the image's vdso as ordinary memory, whose functions jump to those of the vdso at `new`."""
        area = self.vdso
        if area is None:
            return
        script.exact("mmap", area.start, area.size, _WRITABLE, _PRIVATE, -1, 0, wanted=area.start)
        code = bytearray(self._old)
        for old, lead in self._redirects.items():
            code[old : old + vdso.JUMP_BYTES] = lead.code(new)
        for (word,), at in zip(struct.iter_unpack("<I", code), range(0, len(code), 4), strict=True):
            if word:
                script.poke(area.start + at, word)
        script.call("mprotect", area.start, area.size, _EXECUTABLE)


def _move(script: FillScript, old: int, new: int, size: int) -> None:
    script.exact("mremap", old, size, size, _MREMAP_MOVE, new, wanted=new)


def _layout(parts: list[tuple[bool, AddressRange]]) -> list[tuple[bool, int, int]]:
    """Return areas as they lie to each other: kind, distance of the beginning from that of the first one, and bytes.

    Neighbours of one kind are joined: kernels divide [vvar] in different ways. All are moved by the same distance, so
    areas with other distances are those of another kernel.
    """
    found: list[tuple[bool, int, int]] = []
    for kind, area in parts:
        at = area.start - parts[0][1].start
        if found and (found[-1][0], sum(found[-1][1:])) == (kind, at):
            found[-1] = kind, found[-1][1], found[-1][2] + area.size
        else:
            found.append((kind, at, area.size))
    return found
