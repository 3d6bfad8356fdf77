# SPDX-License-Identifier: Apache-2.0
"""Ranges of a process's addresses: its areas, the holes among them, and the special areas of the kernel."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from agent.restart.contents.refusals import Refused

TASK_END: Final = 0x7FFFFFFFF000
_HOLES_FROM: Final = 0x100000000000
_ROOM: Final = 1 << 36
"""Bytes of a room, at most, unless more are asked for: more than any program needs."""


class AddressRange(NamedTuple):
    """A range of addresses: from `start` up to `end`."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start


class Specials(NamedTuple):
    """The kernel's special areas of a process, by name, in order of address, and the code of its vdso."""

    areas: dict[str, AddressRange]
    vdso: bytes


def special_areas(maps: str, vdso: bytes) -> Specials:
    """Return the special areas of a process, from its /proc/PID/maps."""
    found = {}
    for line in maps.splitlines():
        name = line.rpartition(" ")[2]
        if name.startswith(("[vvar", "[vdso")):
            start, end = (int(each, 16) for each in line.split(" ", 1)[0].split("-"))
            found[name] = AddressRange(start, end)
    return Specials(found, vdso)


def mapped(maps: str) -> list[AddressRange]:
    """Return all areas of a process, from its /proc/PID/maps."""
    found = []
    for line in maps.splitlines():
        start, end = (int(each, 16) for each in line.split(" ", 1)[0].split("-"))
        if end <= TASK_END:
            found.append(AddressRange(start, end))
    return found


def hole(least: int, areas: Iterable[AddressRange]) -> AddressRange:
    """Return a range of at least so many bytes beside all areas, the highest addresses left out.

    Raises:
        Refused: there is none.
    """
    at = _HOLES_FROM
    for area in [*sorted(areas), AddressRange(TASK_END, TASK_END)]:
        if area.start - at >= least:
            return AddressRange(at, min(area.start, at + max(least, _ROOM)))
        at = max(at, area.end)
    raise Refused("memory", "", "no-room", f"no {least} bytes of its addresses are free for the time of the restart")
