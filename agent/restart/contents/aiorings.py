# SPDX-License-Identifier: Apache-2.0
"""Rings of asynchronous I/O (io_setup(2)): the kernel puts the answers to requests into them, and the program reads them.

CRIU dumps a ring only while no request is under way. The kernel gives a new ring the address that it likes, and follows it
when it is moved. Writes to /dev/null bring it to the place that the old one had reached.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Final

from agent.restart.contents.fillprogram import About, Argument
from agent.restart.contents.holder import Holder, open_high
from agent.restart.contents.images import ProcessImage
from agent.restart.contents.memory import MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, PROT_READ, PROT_WRITE, AddressSpace
from agent.restart.contents.pagereads import read_pages
from agent.restart.contents.refusals import Refused
from exporters.criu.memorymessages import AREA_AIORING

_MOST: Final = 1 << 24
"""Requests of a ring, as the kernel bounds them."""


def faults(process: ProcessImage) -> Iterator[Refused]:
    """Yield the rings that the images do not describe."""
    known = {int(ring.id): ring for ring in process.mm.aios}
    for vma in process.mm.vmas:
        if not vma.status & AREA_AIORING:
            continue
        ring = known.pop(int(vma.start), None)
        if ring is None or ring.ring_len != vma.end - vma.start or not 0 < ring.nr_req < _MOST:
            yield Refused("aio", f"{vma.start:#x}", "missing", "the images do not describe this ring: dump it again")
    for start in known:
        yield Refused("aio", f"{start:#x}", "missing", "the images do not have this ring's memory: dump it again")


def restore(holder: Holder, memory: AddressSpace, pages: Mapping[str, Argument]) -> None:
    """Make the rings of a process at their addresses, with the answers that it has not read.

    Args:
        holder: the process.
        memory: its memory.
        pages: the open descriptor of each file of pages, by path.
    """
    if not memory.rings:
        return
    script = holder.leader
    requests = {int(ring.id): int(ring.nr_req) for ring in holder.image.mm.aios}
    script.about = About("aio", "")
    nowhere = open_high(holder, os.devnull.encode(), os.O_WRONLY)
    for vma in memory.rings:
        start, size = int(vma.start), int(vma.end - vma.start)
        script.about = About("aio", f"{start:#x}")
        flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
        script.exact("mmap", start, size, PROT_READ | PROT_WRITE, flags, -1, 0, wanted=start)
        mine = [run for run in memory.ring_runs if start <= run.address < start + size]
        read_pages(script, mine, pages, 1)
        script.ring(requests[start], start, size, nowhere)
        if vma.prot != PROT_READ | PROT_WRITE:
            script.call("mprotect", start, size, int(vma.prot))
    script.call("close", nowhere)
