# SPDX-License-Identifier: Apache-2.0
"""The exchange of a process's memory: first it makes what it shares with others, then it unmaps all and maps its own."""

import os
import resource
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from agent.restart.contents import aiorings, openfiles, pathaccess
from agent.restart.contents.addresses import AddressRange, Specials
from agent.restart.contents.fillprogram import TRACED, About, Argument
from agent.restart.contents.fillsection import FillProgram
from agent.restart.contents.holder import O_CLOEXEC, Holder, open_high
from agent.restart.contents.images import Images
from agent.restart.contents.memory import AddressSpace
from agent.restart.contents.sharedmemory import SharedFiles
from agent.restart.contents.staging import Stage
from agent.restart.contents.systemv import SystemV
from agent.restart.rebuild.helperabi import FD_PROGRAM

if TYPE_CHECKING:
    from agent.restart.contents.areas import FileKey

LEAST_ROOM: Final = 4 << 30
"""Bytes of a room, at least: the program, the kernel's areas on their way, and a page of 1 GiB at a place that fits it."""
_O_NOFOLLOW: Final = 0o400000


class Room(NamedTuple):
    """A process, and the addresses that are free in it while its memory is exchanged.

    Attributes:
        holder: the process.
        memory: its memory.
        free: addresses that neither its helper nor its image uses.
    """

    holder: Holder
    memory: AddressSpace
    free: AddressRange


class Exchange:
    """The operations that exchange the memory of a process.

    Args:
        images: the folder.
        fill: the program.
        room: the process, and its free addresses.
        shared: the objects that processes share.
        systemv: the segments that processes attach.
        specials: the kernel's areas in the helper's processes.
        ways: processors that may read its pages at once.
        stage: the pages that it shares with others since a fork.

    Attributes:
        holder: the process.
        ready: the word that tells its threads that its memory is there.
        memory_part, rest_part: the words that tell of the second and the third part of its program.
    """

    def __init__(
        self,
        images: Images,
        fill: FillProgram,
        room: Room,
        shared: SharedFiles,
        systemv: SystemV,
        specials: Specials,
        ways: int,
        stage: Stage,
    ) -> None:
        self.holder, self._memory, self._free = room
        self._images = images
        self._entered, self._mapped, self.ready = fill.word(), fill.word(), fill.word()
        self.memory_part, self.rest_part = fill.part(), fill.part()
        self._shared = shared
        self._systemv = systemv
        self._specials = specials
        self._ways = ways
        self._stage = stage
        self._program = -1
        self._pages: dict[str, Argument] = {}
        self._files: dict[FileKey, Argument] = {}

    def await_memory(self) -> None:
        """Have the process wait until it is traced. Its first thread then takes the second part, the others the third."""
        first, *others = self.holder.program.scripts
        turns = self.holder.turns
        for thread in (first, *others):
            thread.wait(TRACED, 1)
            thread.post(self._entered, len(others) + 1)
            if turns is not None and thread is not first:
                thread.post(turns.entered)
        first.wait(self._entered, len(others) + 1)
        first.part(self.memory_part, FD_PROGRAM, 0)
        for place, thread in enumerate(others, start=1):
            thread.wait(self._mapped, 1)
            thread.part(self.rest_part, -1, place)

    def await_rest(self) -> None:
        """Have the first thread go on with the third part."""
        self.holder.leader.part(self.rest_part, self._program, 0)

    def begin_rest(self) -> None:
        """Tell the other threads that the third part is there."""
        self.holder.leader.post(self._mapped)

    def begin(self) -> None:
        """Open all files that the memory needs, and make what it shares with others."""
        script, program = self.holder.leader, self.holder.program
        script.about = About("descriptors", "")
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # the numbers above those of the image may need it
        script.call("prlimit64", 0, resource.RLIMIT_NOFILE, program.data(struct.pack("<2q", most, most)), 0)
        self._program = self.holder.number()
        script.call("dup3", FD_PROGRAM, self._program, O_CLOEXEC)
        if self.holder.turns is not None:
            script.post(self.holder.turns.entered)
        self.holder.clear()
        script.about = About("pages", "")
        for path in dict.fromkeys((*self._memory.page_files(), *self._shared.page_files(self.holder))):
            self._pages[path] = open_high(self.holder, os.fsencode(path), os.O_RDONLY | _O_NOFOLLOW)
        self._open_mapped()
        self._shared.make(self.holder, self._free, self._pages, self._ways)

    def run(self) -> None:
        """Exchange the memory, once all that it shares is there."""
        script, memory = self.holder.leader, self._memory
        exe = self._opened(int(self.holder.image.mm.exe_file_id), os.O_RDONLY)
        inherited = self._stage.inherited(self.holder.image.pid)
        place = self._stage.place
        kept = [place] if place is not None and inherited else []
        memory.clear(script, self._free, self._specials, kept)
        self._files |= self._shared.fetch(self.holder, memory.files())
        self._systemv.attach(self.holder, memory, self._free)
        memory.restore(script, self._files, self._pages, self._ways, inherited)
        aiorings.restore(self.holder, memory, self._pages)
        for area in kept:
            script.about = About("memory", "stage")
            script.call("munmap", area.start, area.size)
        memory.marks(script, self.holder.program, exe)
        self._shared.seal(self.holder)
        self._systemv.finish(self.holder)

    def _open_mapped(self) -> None:
        """Open the files that the memory maps."""
        holder, files = self.holder, self._images.files
        wanted = [(key, bytes(files[key[1]].reg.name)) for key in self._memory.files() if key[0] == "file"]
        own = holder.image.pid if any(pathaccess.process_of(path) for _, path in wanted) else 0
        alike = "mapped files", *wanted, holder.next_number, own, pathaccess.user_of(holder.image)
        numbers, following = holder.leader.alike(alike, lambda: self._all_opened([key for key, _ in wanted]))
        holder.pass_over(following)
        self._files.update(zip([key for key, _ in wanted], numbers, strict=True))

    def _all_opened(self, keys: "list[FileKey]") -> tuple[list[int], int]:
        """Return the numbers of files, and the next one, which is free."""
        numbers = [self._opened(identity, openfiles.open_flags(flags)) for _, identity, flags in keys]
        return numbers, self.holder.next_number

    def _opened(self, identity: int, flags: int) -> int:
        self.holder.leader.about = About("file", str(identity))
        return pathaccess.open_path(self.holder, bytes(self._images.files[identity].reg.name), flags)
