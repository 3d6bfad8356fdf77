# SPDX-License-Identifier: Apache-2.0
"""Memory that processes share: anonymous shared memory and memfds, each made once, by one of its processes.

The maker creates the object and posts its word. From then on the others fetch a descriptor of it with pidfd_getfd(2),
and map it. The maker meanwhile reads the pages straight into the object. A seal against future writes comes last, when
all have mapped it.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from agent.restart.contents.addresses import AddressRange
from agent.restart.contents.areas import MAP_HUGETLB, FileKey
from agent.restart.contents.descriptors import FileKind, OpenFile
from agent.restart.contents.fileowners import F_SETFL
from agent.restart.contents.fillprogram import About, Argument
from agent.restart.contents.fillsection import FillProgram
from agent.restart.contents.holder import Holder, keep_high, open_high
from agent.restart.contents.hugepages import page_size, size_flags
from agent.restart.contents.images import Images
from agent.restart.contents.memory import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_SHARED,
    PROT_READ,
    PROT_WRITE,
    AddressSpace,
)
from agent.restart.contents.openfiles import open_flags
from agent.restart.contents.pagereads import read_pages
from agent.restart.contents.pageruns import PAGE, PageRun
from agent.restart.contents.refusals import Refused

MEMFD_DESCRIPTOR: Final = 18
"""CRIU's number of the kind of a descriptor of a memfd."""
MFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_HUGETLB = 1, 2, 4
F_ADD_SEALS: Final = 1033
F_SEAL_SEAL, F_SEAL_WRITE = 1, 8
_SEALS: Final = 0x3F
"""All seals, F_SEAL_EXEC of Linux 6.3 the last one."""
_ALIGNED: Final = 1 << 30
"""Bytes that the scratch mapping of an object is aligned to: the largest of huge pages."""
_ANONYMOUS: Final = b"/dev/zero"
"""The kernel's name of anonymous shared memory."""
_MOST: Final = 1 << 46

ObjectKey = tuple[str, int]
"""The kind and number of an object: ("memfd", inode_id) or ("shmem", shmid)."""


class SharedObject:
    """An object that areas or descriptors of several processes refer to.

    Args:
        key: its kind and number.
        runs: its pages, by offset.
        size: bytes.
        huge: flags of memfd_create() for huge pages; 0 for others.
        entry: the memfd_inode_entry; None where there is none.

    Attributes:
        users: indices of the actors that refer to it.
        described: True if a descriptor refers to it.
    """

    def __init__(
        self, key: ObjectKey, runs: Sequence[PageRun], size: int = 0, huge: int = 0, entry: Any = None
    ) -> None:
        self.key = key
        self.runs = runs
        self.size = size
        self.huge = huge
        self.entry = entry
        self.users: list[int] = []
        self.described = False

    @property
    def about(self) -> About:
        """The object, for messages."""
        return About("memfd" if self.entry is not None else "shared-memory", str(self.key[1]))

    @property
    def span(self) -> int:
        """Bytes of a mapping of the whole object."""
        unit = page_size(self.huge) if self.huge else PAGE
        return -(-self.size // unit) * unit

    @property
    def anonymous(self) -> bool:
        """True if it was made by mmap() without a file, so that no program can tell its memfd."""
        return not self.huge and (self.entry is None or (bytes(self.entry.name) == _ANONYMOUS and not self.described))

    @property
    def seals(self) -> int:
        """Its seals; an object that cannot be sealed has the one that says so."""
        return int(self.entry.seals) if self.entry is not None else F_SEAL_SEAL


class SharedMemory:
    """The shared memory of a tree.

    Args:
        images: the folder.
    """

    def __init__(self, images: Images) -> None:
        self._images = images
        self._inodes = {int(each.inode_id): each for each in images.all("memfd.img")}
        self.objects: dict[ObjectKey, SharedObject] = {}

    def add(self, actor: int, memory: AddressSpace, fds: Iterable[Any]) -> None:
        """Note the objects that a process maps or has open.

        Raises:
            Refused: an object cannot be restored.
        """
        for key, area in memory.shared():
            one = self._object(key, actor)
            if one.entry is None:
                one.size = max(one.size, area.pgoff + area.size)
                one.huge = MFD_HUGETLB | size_flags(area.flags) if area.flags & MAP_HUGETLB else 0
        for info in fds:
            entry = self._images.files.get(int(info.id))
            if entry is not None and entry.HasField("memfd"):
                self.describe(actor, entry.memfd)
        for one in self.objects.values():
            self._check(one)

    def describe(self, actor: int, memfd: Any) -> None:
        """Note a memfd that a process opens.

        Raises:
            Refused: it cannot be restored.
        """
        one = self._object(("memfd", int(memfd.inode_id)), actor)
        one.described = True
        self._check(one)

    @property
    def largest(self) -> int:
        """Bytes of the largest object."""
        return max((one.span for one in self.objects.values()), default=0)

    @property
    def huge_pages(self) -> Counter[int]:
        """Bytes in huge pages, by the size of the page."""
        found: Counter[int] = Counter()
        for one in self.objects.values():
            if one.huge:
                found[page_size(one.huge)] += one.span
        return found

    @property
    def page_bytes(self) -> int:
        """Bytes of pages that are read."""
        return sum(run.size for one in self.objects.values() for run in one.runs)

    def _object(self, key: ObjectKey, actor: int) -> SharedObject:
        one = self.objects.get(key)
        if one is None:
            one = self.objects[key] = self._read(key)
        if actor not in one.users:
            one.users.append(actor)
        return one

    def _read(self, key: ObjectKey) -> SharedObject:
        kind, number = key
        if kind == "shmem":
            return SharedObject(key, self._images.pages(f"pagemap-shmem-{number}.img"))
        entry = self._inodes.get(number)
        if entry is None:
            raise Refused("memfd", str(number), "missing", "the images do not describe it")
        runs = self._images.pages(f"pagemap-shmem-{entry.shmid}.img")
        huge = int(entry.hugetlb_flag) if entry.HasField("hugetlb_flag") else 0
        return SharedObject(key, runs, int(entry.size), huge, entry)

    def _check(self, one: SharedObject) -> None:
        if max(one.size, one.span) > _MOST:
            raise Refused(*one.about, "size", f"{one.size} bytes are more than a process can map")
        if any(run.address + run.size > one.span for run in one.runs):
            raise Refused(*one.about, "pages", "the image has pages behind its end")
        if one.seals & ~_SEALS:
            raise Refused(*one.about, "seals", f"its seals {one.seals:#x} are not known here: use a newer ckptree")


class SharedFiles:
    """The operations by which the processes of a tree make and fetch their shared objects.

    Args:
        memory: the objects.
        fill: the program.
        holders: the processes.
    """

    def __init__(self, memory: SharedMemory, fill: FillProgram, holders: Iterable[Holder]) -> None:
        self._objects = memory.objects
        self._holders = {holder.actor: holder for holder in holders}
        self._exist = {key: fill.word() for key in self._objects}
        self._mapped = {key: fill.word() for key in self._objects}
        self._places: dict[tuple[int, ObjectKey], int] = {}
        self._taken: set[ObjectKey] = set()
        self._by_map_files = may_open_map_files()

    def page_files(self, holder: Holder) -> list[str]:
        """Return the paths of the files whose pages a process reads into objects."""
        return list(dict.fromkeys(str(run.file) for one in self._made_by(holder) for run in one.runs))

    def make(self, holder: Holder, room: AddressRange, pages: Mapping[str, Argument], ways: int) -> None:
        """Make the objects of a process, and read their pages.

        Args:
            holder: the process.
            room: free addresses.
            pages: the open descriptor of each file of pages.
            ways: processors that may read pages at once.
        """
        script = holder.leader
        scratch = -(-(room.start + room.size // 4) // _ALIGNED) * _ALIGNED
        for one in self._made_by(holder):
            script.about = one.about
            early = one.seals & F_SEAL_WRITE
            number = self._made(holder, one, scratch)
            self._places[holder.actor, one.key] = number
            if not early:
                script.post(self._exist[one.key])
            if one.size:
                read_pages(script, one.runs, pages, ways, scratch)
                script.call("munmap", scratch, one.span)
            if one.entry is not None and not one.anonymous:
                script.call("fchown", number, int(one.entry.uid), int(one.entry.gid))
                if one.entry.HasField("mode"):
                    script.call("fchmod", number, int(one.entry.mode) & 0o7777)
            if early:
                script.call("fcntl", number, F_ADD_SEALS, one.seals)
                script.post(self._exist[one.key])

    def fetch(self, holder: Holder, wanted: Iterable[FileKey]) -> dict[FileKey, Argument]:
        """Return the descriptor of each object that a process maps, open with the flags of the area."""
        found: dict[FileKey, Argument] = {}
        for kind, number, flags in wanted:
            key = kind, number
            if key not in self._objects:
                continue
            holder.leader.about = self._objects[key].about
            place = self._place(holder, key)
            if flags & os.O_ACCMODE != os.O_RDWR:
                place = open_high(holder, f"/proc/self/fd/{place}".encode(), flags & os.O_ACCMODE)
            found[kind, number, flags] = place
        return found

    def seal(self, holder: Holder) -> None:
        """Post that a process has mapped its objects, and seal those that it has made once all users have mapped them."""
        for one in self._objects.values():
            late = one.seals & ~F_SEAL_SEAL and not one.seals & F_SEAL_WRITE
            if not late or holder.actor not in one.users:
                continue
            script = holder.leader
            script.about = one.about
            script.post(self._mapped[one.key])
            if one.users[0] == holder.actor:
                script.wait(self._mapped[one.key], len(one.users))
                script.call("fcntl", self._places[holder.actor, one.key], F_ADD_SEALS, one.seals)

    def opened(self, holder: Holder, memfd: Any) -> int:
        """Open a memfd with the flags and the position of an open file.

        The first that may write gets the open file of memfd_create() itself: only that one can be executed by execveat().
        """
        key = "memfd", int(memfd.inode_id)
        number = self._place(holder, key)
        flags = int(memfd.flags)
        mine = (
            key not in self._taken and flags & os.O_ACCMODE == os.O_RDWR and self._objects[key].users[0] == holder.actor
        )
        if mine:
            self._taken.add(key)
            holder.leader.call("fcntl", number, F_SETFL, flags)
        else:
            number = open_high(holder, f"/proc/self/fd/{number}".encode(), open_flags(flags))
        if memfd.pos:
            holder.leader.call("lseek", number, int(memfd.pos), os.SEEK_SET)
        return number

    def _made_by(self, holder: Holder) -> list[SharedObject]:
        return [one for one in self._objects.values() if one.users and self._maker(one) is holder]

    def _maker(self, one: SharedObject) -> Holder:
        """Return the process that makes an object: the deepest, as the others see it; it becomes the first user."""
        users = [self._holders[actor] for actor in one.users]
        maker = max(users, key=lambda each: each.depth)
        one.users.remove(maker.actor)
        one.users.insert(0, maker.actor)
        return maker

    def _place(self, holder: Holder, key: ObjectKey) -> int:
        """Return the number at which a process has an object, which it fetches if it has not yet."""
        place = holder.actor, key
        if place not in self._places:
            maker = self._holders[self._objects[key].users[0]]
            script = holder.leader
            script.wait(self._exist[key], 1)
            pidfd = keep_high(holder, script.kept("pidfd_open", maker.numbers[holder.depth], 0))
            there = self._places[maker.actor, key]
            self._places[place] = keep_high(holder, script.kept("pidfd_getfd", pidfd, there, 0))
        return self._places[place]

    def _made(self, holder: Holder, one: SharedObject, scratch: int) -> int:
        """Create an object, map it for its pages, and return its number."""
        script = holder.leader
        protection = PROT_READ | PROT_WRITE
        if one.anonymous and one.size and self._by_map_files:
            flags = MAP_SHARED | MAP_FIXED | MAP_ANONYMOUS
            script.exact("mmap", scratch, one.span, protection, flags, -1, 0, wanted=scratch)
            path = f"/proc/self/map_files/{scratch:x}-{scratch + one.span:x}"
            return open_high(holder, path.encode(), os.O_RDWR)
        sealed = MFD_ALLOW_SEALING if one.seals != F_SEAL_SEAL else 0
        name = holder.program.data((bytes(one.entry.name) if one.entry is not None else _ANONYMOUS) + b"\0")
        number = keep_high(holder, script.kept("memfd_create", name, MFD_CLOEXEC | sealed | one.huge))
        script.call("ftruncate", number, one.size)
        if one.size:
            flags = MAP_SHARED | MAP_FIXED
            script.exact("mmap", scratch, one.span, protection, flags, number, 0, wanted=scratch)
        return number


class MemfdFiles(FileKind):
    """Descriptors of memfds.

    Attributes:
        shared: the operations that make the memfds, once there is a program.
    """

    shared: SharedFiles

    def create(self, file: OpenFile) -> int:
        """Open a memfd that its maker has made."""
        return self.shared.opened(file.holder, file.entry.memfd)


@cache
def may_open_map_files() -> bool:
    """Return True if the kernel lets this process open areas by /proc/PID/map_files; the first answer is kept."""
    area = Path("/proc/self/maps").read_text().split(" ", 1)[0]
    start, end = (int(each, 16) for each in area.split("-"))
    try:
        os.stat(f"/proc/self/map_files/{start:x}-{end:x}")
    except OSError:
        return False
    return True
