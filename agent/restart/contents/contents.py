# SPDX-License-Identifier: Apache-2.0
"""The contents of a tree: read from the images, checked, and written as the programs by which its tasks take them."""

import os
import stat
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property

from agent.model import Snapshot, Tag
from agent.restart.contents import (
    clocks,
    filekinds,
    fileowners,
    filters,
    hugepages,
    openfiles,
    pathaccess,
    taskchecks,
    treechecks,
    zombieusers,
)
from agent.restart.contents.addresses import AddressRange, Specials, hole
from agent.restart.contents.descriptors import KINDS, groups
from agent.restart.contents.exchange import LEAST_ROOM
from agent.restart.contents.external import NOTHING, External
from agent.restart.contents.filelocks import FileLocks
from agent.restart.contents.filters import Filters
from agent.restart.contents.ghostfiles import GhostFiles
from agent.restart.contents.hostfacts import HostFacts, lowest_address
from agent.restart.contents.images import Images, Message, ProcessImage
from agent.restart.contents.layouts import Layouts
from agent.restart.contents.memory import AddressSpace
from agent.restart.contents.pagereads import PageFiles
from agent.restart.contents.programs import Programs, TreeContents
from agent.restart.contents.refusals import ContentRefusal, Refused
from agent.restart.contents.sharedmemory import MEMFD_DESCRIPTOR, MemfdFiles, SharedMemory
from agent.restart.contents.sharedtables import SharedTables
from agent.restart.contents.staging import Stage
from agent.restart.contents.systemv import SystemV
from agent.restart.planning.plan import Plan, Role
from agent.restart.rebuild.timenamespace import MadeNamespaces


class Contents:
    """The contents that images have for a planned tree.

    Args:
        images: the folder.
        snapshot: the tree.
        plan: of the same tree.
        allowed: the objects outside of it that it may have.

    Attributes:
        refusals: the objects that cannot be restored.
        plan: of the same tree, in which births share what processes share.
        namespaces: that the tree gets, once `check_host` knows them.
        ghosts: the deleted files.
        snapshot: the tree, whose zombies have the ids that they have in its user namespace.
        blocked: the rules that block connections; None where there are no such sockets.
    """

    def __init__(self, images: Images, snapshot: Snapshot, plan: Plan, allowed: External = NOTHING) -> None:
        self._images = images
        self.snapshot, strange = zombieusers.numbered(snapshot, images)
        self._plan = plan
        self.refusals: list[ContentRefusal] = []
        self._told: set[ContentRefusal] = set()
        self._elsewhere: set[ContentRefusal] = set()  # of files, which the mounts of the tree may have
        self._memories: dict[int, AddressSpace] = {}
        self._leaders = {
            snapshot.number(actor.tag): index
            for index, actor in enumerate(plan.actors)
            if actor.role is Role.TASK and actor.leader == index
        }
        self._memory_objects = SharedMemory(images)
        self._memfds = MemfdFiles()
        self._tables = SharedTables(images.processes, self._leaders, plan)
        self.plan = self._tables.plan()
        self._layouts = Layouts(images, lowest_address())
        self.blocked = filekinds.blocked(images)
        self.ghosts = GhostFiles(images)
        self._locks = FileLocks(images.all("filelocks.img"))
        self._systemv = SystemV(images)
        offsets, fault = clocks.lag(images)
        self.namespaces = MadeNamespaces(offsets)
        if fault is not None:
            self.refuse(0, fault)
        kinds = filekinds.kinds(images, allowed, self.blocked, offsets)
        self._kinds = {**kinds, MEMFD_DESCRIPTOR: self._memfds}
        self._sound: set[tuple[int, ...]] = set()  # messages of processes in which nothing is refused
        self._there: set[int] = set()  # files that are there
        self._built: set[int] = set()  # files whose builds have been compared
        self._checked: dict[int, int] = {}  # the process that was first seen to have it, by each open file
        self._filters = Filters(images.all("seccomp.img"))
        self._host = HostFacts("", frozenset())
        for found in (
            treechecks.inventory(images.inventory),
            treechecks.agreement(images.processes, snapshot),
            treechecks.sharing(images.processes),
            self._tables.faults(),
            treechecks.unknown(images.processes),
            strange,
        ):
            for pid, refused in found:
                self.refuse(pid, refused)
        for pid, process in images.processes.items():
            if process.lives:
                self._examine(pid, process)
        for identity, pid in list(self._checked.items()):
            self._examine_beside(pid, identity)
        if not self.refusals:  # else not all files are known
            self._check_owners()
            self._add_memfds_in_flight()
        self._check_huge_pages()
        self._check_rooms()

    @cached_property
    def stage(self) -> Stage:
        """The pages that processes share since a fork, which are there before the tree is built."""
        with PageFiles() as files:
            return Stage(self._memories, files.read, self._early_path)

    def _early_path(self, identity: int, flags: int) -> bytes | None:
        """Return the path of a mapped file; None of one that is made later, or that a user could lead elsewhere.

        Only regular files are opened here: to open a FIFO would wait, and a device may do something. A file that cannot be
        opened with these flags is left to its process, which names it when it fails.
        """
        entry = self._images.files.get(identity)
        if entry is None or not entry.HasField("reg") or self.ghosts.made_later(identity):
            return None
        path = bytes(entry.reg.name)
        if pathaccess.process_of(path) is not None or pathaccess.changeable_folder(path):
            return None
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                return None
            os.close(os.open(path, openfiles.open_flags(flags) | os.O_CLOEXEC | os.O_NONBLOCK))
        except OSError:
            return None
        return path

    @property
    def counts(self) -> tuple[int, int]:
        """The numbers of processes whose memory was read, and of open files that the images describe."""
        return len(self._memories), len(self._images.files)

    @property
    def page_bytes(self) -> int:
        """Bytes of pages that the tasks will read."""
        private = sum(memory.runs.size for memory in self._memories.values())
        return private + self._memory_objects.page_bytes + self._systemv.page_bytes

    def refuse(self, pid: int, refused: Refused) -> None:
        """Note an object that cannot be restored, once for each process."""
        refusal = self._refusal(pid, refused)
        if refusal not in self._told:
            self._told.add(refusal)
            self.refusals.append(refusal)

    def _refusal(self, pid: int, refused: Refused) -> ContentRefusal:
        actor = self._leaders.get(pid)
        tag = self._plan.actors[actor].tag if actor is not None else Tag(0)
        return ContentRefusal(tag, pid, *refused.refusal)

    def check_vdso(self, specials: Specials) -> None:
        """Refuse processes whose image has the vdso of another kernel, unless this kernel's can stand in for it."""
        with PageFiles() as files:
            for pid, memory in self._memories.items():
                try:
                    memory.check_vdso(specials, files.read)
                except Refused as refused:
                    self.refuse(pid, refused)

    def check_host(self, host: HostFacts) -> None:
        """Refuse what this host, or the caller, cannot give to processes."""
        self._host = host
        of_criu = self._images.inventory.root_ids
        spaces = [self._refusal(*found) for found in treechecks.namespaces(self._images.processes, of_criu, host)]
        if any(each.identity.startswith("mnt ") for each in spaces):  # its paths are those of other mounts
            self.refusals = [each for each in self.refusals if each not in self._elsewhere]
        self.refusals[:0] = spaces
        owners = treechecks.owners(self._images.files, self._checked, host)
        for pid, refused in (*treechecks.zombies(self.snapshot, host), *owners):
            self.refuse(pid, refused)
        self.namespaces = self.namespaces._replace(ipc=self._systemv.needed(host))
        fault = clocks.fault(self.namespaces.clocks, host)
        for refused in (*([fault] if fault is not None else []), *self._systemv.faults(host)):
            self.refuse(next(iter(self._memories), 0), refused)
        sound: set[tuple[int, ...] | None] = set()
        for pid in self._memories:
            process = self._images.processes[pid]
            alike = process.messages
            if alike is None or alike not in sound:
                faults = list(taskchecks.of_host(process, host))
                for refused in faults:
                    self.refuse(pid, refused)
                if not faults:
                    sound.add(alike)

    @property
    def is_filtered(self) -> bool:
        """True if a thread has seccomp filters or strict mode."""
        processes = (self._images.processes[pid] for pid in self._memories)
        return any(filters.mode(each, tid) for each in processes for tid in each.threads)

    def programs(
        self, numbers: Sequence[tuple[int, ...]], mapped: Sequence[AddressRange], specials: Specials
    ) -> Programs:
        """Begin the programs by which the tasks take their contents.

        Args:
            numbers: of each actor, from the root's namespace inward.
            mapped: the areas of the helper's processes, all alike.
            specials: the kernel's areas among them.
        """
        source = TreeContents(
            images=self._images,
            snapshot=self.snapshot,
            plan=self._plan,
            memories=self._memories,
            leaders=self._leaders,
            objects=self._memory_objects,
            memfds=self._memfds,
            systemv=self._systemv,
            tables=self._tables,
            kinds=self._kinds,
            locks=self._locks,
            filters=self._filters,
            host=self._host,
            stage=self.stage,
            room=self._room_bytes,
        )
        return Programs(source, numbers, mapped, specials)

    def _examine(self, pid: int, process: ProcessImage) -> None:
        """Read the memory of a process, and note what of it cannot be restored."""
        if pid not in self._leaders:
            return  # the tree has no such process, and that is noted
        alike = process.messages
        if alike is None or alike not in self._sound:
            faults = list(taskchecks.of_images(process, self._filters))
            for refused in faults:
                self.refuse(pid, refused)
            if alike is not None and not faults:
                self._sound.add(alike)
        for identity in (int(process.mm.exe_file_id), int(process.fs.cwd_id), int(process.fs.root_id)):
            self._check_path(pid, identity)
        try:
            memory = AddressSpace(self._images, process, self._layouts.of(process))
            self._memory_objects.add(self._leaders[pid], memory, process.fds)
            self._systemv.add(self._leaders[pid], memory)
        except Refused as refused:
            self.refuse(pid, refused)
        else:
            self._memories[pid] = memory
            for key in memory.files():
                if key[0] == "file":
                    self._check_path(pid, key[1])
        numbers = {int(info.fd) for info in process.fds}
        for other in pathaccess.ways_of_others(process, self._images.files):
            self.refuse(pid, other)
        for info in process.fds:
            self._check_open_file(pid, int(info.id), int(info.type), numbers)
        for fault in self._locks.faults(pid, numbers):
            self.refuse(pid, fault)

    def _examine_beside(self, pid: int, identity: int) -> None:
        """Check the files that must be made with another one, and that no descriptor has, as those in flight."""
        waiting = [identity]
        while waiting:
            entry = self._images.files.get(waiting.pop())
            if entry is None or entry.type not in self._kinds or not fileowners.is_described(entry):
                continue
            for other in self._kinds[entry.type].together(entry):
                if other not in self._checked and other in self._images.files:
                    self._check_open_file(pid, other, int(self._images.files[other].type), frozenset())
                    waiting.append(other)

    def _check_owners(self) -> None:
        """Refuse files that processes have in common, and of which none is seen by all others."""
        tags = {pid: self.snapshot.pid(self._plan.actors[self._leaders[pid]].tag) for pid in self._memories}
        spaces = {pid: known.namespaces if known else () for pid, known in tags.items()}
        for pid, refused in treechecks.reach(self._images, spaces, self._kinds):
            self.refuse(pid, refused)

    def _add_memfds_in_flight(self) -> None:
        """Note the memfds that messages alone have: the processes that could make the message have them, too."""
        having: dict[int, set[int]] = {}
        for pid in self._memories:
            for info in self._images.processes[pid].fds:
                having.setdefault(int(info.id), set()).add(pid)
        leaders = groups(having, self._images.files, self._kinds)
        for identity, leader in leaders.items():
            entry = self._images.files[identity]
            if identity in having or not entry.HasField("memfd"):
                continue
            for pid in sorted({pid for other, pids in having.items() if leaders[other] == leader for pid in pids}):
                try:
                    self._memory_objects.describe(self._leaders[pid], entry.memfd)
                except Refused as refused:
                    self.refuse(pid, refused)

    def _check_open_file(self, pid: int, identity: int, kind: int, numbers: AbstractSet[int]) -> None:
        """Refuse an open file that cannot be restored; `numbers` are the descriptors of a process that has it."""
        if identity in self._checked:
            return
        self._checked[identity] = pid
        entry = self._images.files.get(identity)
        name = KINDS.get(kind, f"kind {kind}")
        if kind not in self._kinds:
            self.refuse(pid, Refused(name, str(identity), "kind", "open files of this kind are not restored"))
            return
        if entry is None or int(entry.type) != kind or not fileowners.is_described(entry):
            self.refuse(pid, Refused(name, str(identity), "missing", "the images do not describe it"))
            return
        self._check_file(pid, identity)
        try:
            fileowners.check(entry, name)
            self._kinds[kind].check(entry, numbers)
        except Refused as refused:
            self.refuse(pid, refused)
        self._check_access(pid, entry)

    def _check_rooms(self) -> None:
        """Refuse processes whose addresses have no room for their restart; the helper's own areas are few and small."""
        for pid, memory in self._memories.items():
            try:
                hole(self._room_bytes, memory.areas)
            except Refused as refused:
                self.refuse(pid, refused)

    @property
    def _room_bytes(self) -> int:
        return LEAST_ROOM + 4 * max(self._memory_objects.largest, self._systemv.span)

    def _check_huge_pages(self) -> None:
        needed = sum((each.huge_pages for each in self._memories.values()), self._memory_objects.huge_pages)
        needed += self._systemv.huge_pages
        for size, text in hugepages.lacking(needed):
            users = (pid for pid, each in self._memories.items() if each.huge_pages[size])
            pid = next(users, next(iter(self._memories), 0))
            self.refuse(pid, Refused("huge-pages", f"{size >> 10}kB", "huge-pages", text))

    def _check_path(self, pid: int, identity: int) -> None:
        """Refuse a program or folder that the images do not describe, or that is not there."""
        entry = self._images.files.get(identity)
        if entry is not None and not entry.HasField("reg"):
            self.refuse(pid, Refused("file", str(identity), "missing", "the images do not describe it"))
        else:
            self._check_file(pid, identity)

    def _check_file(self, pid: int, identity: int) -> None:
        """Refuse a file that is not there, or is another one; one that is there is looked for once."""
        if identity not in self._there:
            faults = list(self._faults_of_file(identity))
            for refused in faults:
                self.refuse(pid, refused)
                self._elsewhere.add(self._refusal(pid, refused))
            if not faults:
                self._there.add(identity)

    def _faults_of_file(self, identity: int) -> Iterator[Refused]:
        """Yield the reasons to refuse a file that is not there, or is another one by its size or build."""
        entry = self._images.files.get(identity)
        if entry is None:
            yield Refused("file", str(identity), "missing", "the images do not describe it")
            return
        if not entry.HasField("reg"):
            return
        try:
            if self.ghosts.made_later(identity):
                return
        except Refused as refused:
            yield refused
            return
        path = bytes(entry.reg.name)
        if pathaccess.process_of(path) in self._images.processes:
            return  # the process is there when the file is opened
        yield from openfiles.differences(entry, build=identity not in self._built)
        self._built.add(identity)

    def _check_access(self, pid: int, entry: Message) -> None:
        """Refuse a file that is there before the tree is, and that the caller may not open."""
        try:
            is_later = pathaccess.process_of(bytes(entry.reg.name)) in self._images.processes
            if entry.HasField("reg") and not is_later and not self.ghosts.made_later(int(entry.id)):
                openfiles.check_access(entry)
        except Refused as refused:
            self.refuse(pid, refused)
            self._elsewhere.add(self._refusal(pid, refused))
