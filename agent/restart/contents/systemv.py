# SPDX-License-Identifier: Apache-2.0
"""System V objects: segments of shared memory, sets of semaphores, queues of messages, with their numbers.

They belong to an IPC namespace, and CRIU dumps them with one that is the tree's own. The tree gets a new one, in which the
first process makes all objects before any process attaches a segment. A segment that was removed while it was
attached is removed again once all have attached it. No image tells which process made or last used an object, nor what
semaphores take back when a process ends (SEM_UNDO).
"""

import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from agent.restart.contents.addresses import AddressRange
from agent.restart.contents.areas import MemoryArea, place
from agent.restart.contents.fillprogram import About, FillScript
from agent.restart.contents.fillsection import FillProgram
from agent.restart.contents.holder import Holder, open_high, write_file
from agent.restart.contents.hostfacts import CAP_SYS_ADMIN, HostFacts
from agent.restart.contents.hugepages import page_size, size_flags
from agent.restart.contents.images import Images
from agent.restart.contents.memory import MREMAP_MOVE, PROT_EXEC, PROT_READ, PROT_WRITE, AddressSpace
from agent.restart.contents.pagereads import read_pages
from agent.restart.contents.pageruns import PAGE, PageRun
from agent.restart.contents.refusals import Refused

IPC_CREAT, IPC_EXCL = 0o1000, 0o2000
IPC_RMID, IPC_SET, SHM_LOCK, SETALL = 0, 1, 11, 17
SHM_DEST, SHM_LOCKED = 0o1000, 0o2000
"""Bits of a segment's mode: it is removed when nobody has it attached; it is locked in memory."""
SHM_HUGETLB: Final = 0o4000
SHM_RDONLY, SHM_EXEC = 0o10000, 0o100000
IPC_NOWAIT: Final = 0o4000
_PERMISSIONS: Final = 0o777
_SIZES: Final = {"shmctl": 112, "semctl": 104, "msgctl": 120}
"""Bytes of struct shmid64_ds, semid64_ds and msqid64_ds."""
_QUEUE_BYTES_AT: Final = 88
_O_RDONLY: Final = 0
_ALIGNED: Final = 1 << 30
"""Bytes that the address of a segment is aligned to while it is filled: the largest of huge pages."""
_MOST: Final = 1 << 46
_ALL_MEMORY: Final = (1 << 64) - 1 - (1 << 24)
# Each variable by its path in /proc/sys: its field of the ipc_var_entry, and its values in a new namespace.
_VARIABLES: Final = {
    "kernel/sem": ("sem_ctls", [32000, 1024000000, 500, 32000]),
    "kernel/msgmax": ("msg_ctlmax", [8192]),
    "kernel/msgmnb": ("msg_ctlmnb", [16384]),
    "kernel/msgmni": ("msg_ctlmni", [32000]),
    "kernel/shmmax": ("shm_ctlmax", [_ALL_MEMORY]),
    "kernel/shmall": ("shm_ctlall", [_ALL_MEMORY]),
    "kernel/shmmni": ("shm_ctlmni", [4096]),
    "kernel/shm_rmid_forced": ("shm_rmid_forced", [0]),
    "fs/mqueue/queues_max": ("mq_queues_max", [256]),
    "fs/mqueue/msg_max": ("mq_msg_max", [10]),
    "fs/mqueue/msgsize_max": ("mq_msgsize_max", [8192]),
    "fs/mqueue/msg_default": ("mq_msg_default", [10]),
    "fs/mqueue/msgsize_default": ("mq_msgsize_default", [8192]),
}


class Segment:
    """A segment of shared memory.

    Args:
        entry: its ipc_shm_entry.
        runs: its pages, by offset.

    Attributes:
        users: the actors that have it attached.
    """

    def __init__(self, entry: Any, runs: list[PageRun]) -> None:
        self.entry = entry
        self.runs = runs
        self.users: list[int] = []

    @property
    def huge(self) -> int:
        """Flags of shmget() for huge pages; 0 for others."""
        flags = int(self.entry.hugetlb_flag)
        return SHM_HUGETLB | size_flags(flags) if flags else 0

    @property
    def span(self) -> int:
        """Bytes of the whole segment where it is attached."""
        unit = page_size(self.huge) if self.huge else PAGE
        return -(-int(self.entry.size) // unit) * unit

    @property
    def leaves(self) -> bool:
        """True if it was removed while it was attached."""
        return bool(self.entry.desc.mode & SHM_DEST)


class SystemV:
    """The System V objects of a tree, and the operations that make them.

    Args:
        images: the folder.

    Attributes:
        namespace: the number of the tree's IPC namespace in the images; 0 if it had none of its own.
        segments: by number.
    """

    def __init__(self, images: Images) -> None:
        self.namespace = _own_namespace(images)
        self.segments: dict[int, Segment] = {}
        self._sets: list[tuple[Any, bytes]] = []
        self._queues: list[tuple[Any, list[tuple[Any, bytes]]]] = []
        self._variables: Any = None
        self._old: list[Refused] = []
        if self.namespace:
            self._read(images)
        self._made = self._attached = 0
        self._maker = -1

    @property
    def span(self) -> int:
        """Bytes of the largest segment."""
        return max((each.span for each in self.segments.values()), default=0)

    @property
    def page_bytes(self) -> int:
        """Bytes of pages that are read."""
        return sum(run.size for each in self.segments.values() for run in each.runs)

    @property
    def huge_pages(self) -> Counter[int]:
        """Bytes in huge pages, by the size of the page."""
        found: Counter[int] = Counter()
        for each in self.segments.values():
            if each.huge:
                found[page_size(each.huge)] += each.span
        return found

    def needed(self, host: HostFacts) -> bool:
        """Return True if the tree gets an IPC namespace: a caller in one of its own can stand for one without objects."""
        objects = self.segments or self._sets or self._queues
        return bool(self.namespace and (objects or "ipc" in host.initial))

    def faults(self, host: HostFacts) -> Iterator[Refused]:
        """Yield what of the objects cannot be made, or not here."""
        if self.needed(host) and not host.granted >> CAP_SYS_ADMIN & 1:
            text = "the tree had an IPC namespace of its own, and to make one takes CAP_SYS_ADMIN"
            yield Refused("namespace", f"ipc {self.namespace}", "namespace", text)
        yield from self._old
        entries = [
            *(each.entry for each in self.segments.values()),
            *(each for each, _ in (*self._sets, *self._queues)),
        ]
        for entry in entries:
            desc = entry.desc
            for what, identity, there in (("user", desc.uid, host.uids), ("group", desc.gid, host.gids)):
                if not any(identity in ids for ids in there):
                    yield Refused("sysv", str(desc.id), what, f"it belongs to {what} {identity}, which is not here")
        for number, each in self.segments.items():
            if each.span > _MOST or not each.entry.size:
                yield Refused(*_segment(number), "size", f"no segment can have {each.entry.size} bytes")
            elif any(run.address + run.size > each.span for run in each.runs):
                yield Refused(*_segment(number), "pages", "the image has pages behind its end")

    def add(self, actor: int, memory: AddressSpace) -> None:
        """Note the segments that a process has attached.

        Raises:
            Refused: the images have no such segment, or it is smaller.
        """
        for area in memory.attached():
            segment = self.segments.get(area.shmid)
            if segment is None:
                text = f"the images do not have the System V shared memory {area.shmid} that it attaches"
                raise Refused(*place(area), "missing", text)
            if area.pgoff + area.size > segment.span or area.pgoff > area.start:
                raise Refused(*place(area), "area", f"it is larger than the System V shared memory {area.shmid}")
            if actor not in segment.users:
                segment.users.append(actor)

    def make(self, fill: FillProgram, holder: Holder, room: AddressRange, ways: int) -> None:
        """Make all objects in one process, and read the pages of segments.

        Args:
            fill: the program.
            holder: the process.
            room: free addresses in it.
            ways: processors that may read pages at once.
        """
        self._made, self._attached, self._maker = fill.word(), fill.word(), holder.actor
        script = holder.leader
        there = self._raise_limits(holder)
        for number, segment in self.segments.items():
            self._make_segment(holder, number, segment, room, ways)
        for entry, counts in self._sets:
            script.about = About("semaphores", str(entry.desc.id))
            _create(holder, "sem", entry.desc, int(entry.nsems))
            script.call("semctl", int(entry.desc.id), 0, SETALL, holder.program.data(counts))
        for entry, messages in self._queues:
            script.about = About("message-queue", str(entry.desc.id))
            _create(holder, "msg", entry.desc, queue_bytes=max(int(entry.qbytes), _filled(messages)))
            for message, content in messages:
                data = holder.program.data(struct.pack("<Q", message.mtype) + content)
                script.call("msgsnd", int(entry.desc.id), data, int(message.msize), IPC_NOWAIT)
            if entry.qbytes < _filled(messages):
                _own(holder, "msg", entry.desc, int(entry.qbytes))
        self._set_variables(holder, there)
        script.post(self._made)

    def attach(self, holder: Holder, memory: AddressSpace, room: AddressRange) -> None:
        """Attach the segments of a process, once they are made, and give their areas the places that they had.

        A segment is attached as a whole, and its areas are moved from there: a program may have divided it, and have
        unmapped parts of it.
        """
        script = holder.leader
        scratch = _scratch(room)
        for number, read_only, areas in _attachments(memory.attached()):
            script.about = About(*_segment(number))
            script.wait(self._made, 1)
            executable = any(area.prot & PROT_EXEC for area in areas)
            flags = (SHM_RDONLY if read_only else 0) | (SHM_EXEC if executable else 0)
            script.exact("shmat", number, scratch, flags, wanted=scratch)
            given = PROT_READ | (0 if read_only else PROT_WRITE) | (PROT_EXEC if executable else 0)
            at = 0
            for area in areas:
                offset, size, start = area.pgoff, area.size, area.start
                _unmap(script, scratch + at, offset - at)
                script.exact("mremap", scratch + offset, size, size, MREMAP_MOVE, start, wanted=start)
                if area.prot != given:
                    script.call("mprotect", start, size, area.prot)
                at = offset + size
            _unmap(script, scratch + at, self.segments[number].span - at)

    def finish(self, holder: Holder) -> None:
        """Post that a process has attached its segments; the one that made them then removes those that were removed."""
        leaving = {number: each for number, each in self.segments.items() if each.leaves}
        script = holder.leader
        users = {actor for each in leaving.values() for actor in each.users}
        if holder.actor in users:
            script.post(self._attached)
        if holder.actor == self._maker and leaving:
            script.wait(self._attached, len(users))
            for number in leaving:
                script.about = About(*_segment(number))
                script.call("shmctl", number, IPC_RMID, 0)

    def _raise_limits(self, holder: Holder) -> dict[str, list[int]]:
        """Have the namespace take all objects; return its variables. A limit may have been lowered below what was there."""
        sizes = [int(entry.nsems) for entry, _ in self._sets]
        messages = [int(message.msize) for _, each in self._queues for message, _ in each]
        rooms = [max(int(entry.qbytes), _filled(each)) for entry, each in self._queues]
        needed = {
            "kernel/sem": [max(sizes, default=0), sum(sizes), 0, len(sizes)],
            "kernel/msgmax": [max(messages, default=0)],
            "kernel/msgmnb": [max(rooms, default=0)],
            "kernel/msgmni": [len(self._queues)],
            "kernel/shmmni": [len(self.segments)],
        }
        there = {path: usual for path, (_, usual) in _VARIABLES.items()}
        for path, least in needed.items():
            raised = list(map(max, least, there[path]))
            if raised != there[path]:
                there[path] = raised
                holder.leader.about = About("ipc", path)
                _set(holder, path, raised)
        return there

    def _set_variables(self, holder: Holder, there: Mapping[str, list[int]]) -> None:
        """Set the variables of the namespace, which has others, once all objects are there.

        With kernel.shm_rmid_forced the kernel removes a segment as soon as nobody has it attached any more.
        """
        if self._variables is None:
            return
        for path, (name, usual) in _VARIABLES.items():
            values = getattr(self._variables, name)
            if len(usual) == 1:
                values = [values] if self._variables.HasField(name) else usual
            if values != there[path]:
                holder.leader.about = About("ipc", path)
                _set(holder, path, values)

    def _read(self, images: Images) -> None:
        for entry in images.all(f"ipcns-shm-{self.namespace}.img"):
            number = int(entry.desc.id)
            if entry.in_pagemaps:
                self.segments[number] = Segment(entry, images.pages(f"pagemap-shmem-{number}.img"))
            else:
                text = "its content is where a CRIU before 3.0 has put it: dump with a newer one"
                self._old.append(Refused(*_segment(number), "version", text))
        for read, content in images.payloads(f"ipcns-sem-{self.namespace}.img"):
            self._sets.append((read.message, content))
        for read, content in images.payloads(f"ipcns-msg-{self.namespace}.img"):
            if read.message.DESCRIPTOR.name == "ipc_msg_entry":
                self._queues.append((read.message, []))
            else:
                self._queues[-1][1].append((read.message, content))
        self._variables = next(iter(images.all(f"ipcns-var-{self.namespace}.img")), None)

    def _make_segment(self, holder: Holder, number: int, segment: Segment, room: AddressRange, ways: int) -> None:
        script, desc = holder.leader, segment.entry.desc
        script.about = About(*_segment(number))
        _create(holder, "shm", desc, int(segment.entry.size), huge=segment.huge)
        if desc.mode & SHM_LOCKED:
            script.call("shmctl", number, SHM_LOCK, 0)
        if segment.runs:
            scratch = _scratch(room)
            paths = dict.fromkeys(str(run.file) for run in segment.runs)
            files = {path: open_high(holder, path.encode(), _O_RDONLY) for path in paths}
            script.exact("shmat", number, scratch, 0, wanted=scratch)
            read_pages(script, segment.runs, files, ways, scratch)
            script.call("shmdt", scratch)
            for each in files.values():
                script.call("close", each)


def _own_namespace(images: Images) -> int:
    """Return the number of the IPC namespace of a tree; 0 if it is that of CRIU."""
    identity = next((int(each.ids.ipc_ns_id) for each in images.processes.values() if each.lives), 0)
    of_criu = images.inventory.root_ids
    return identity if of_criu.HasField("ipc_ns_id") and identity != of_criu.ipc_ns_id else 0


def _attachments(attached: Iterable[MemoryArea]) -> Iterator[tuple[int, bool, list[MemoryArea]]]:
    """Yield each attachment: the segment's number, True if it is for reading only, and its areas by offset."""
    found: dict[tuple[int, bool, int], list[MemoryArea]] = {}
    for area in attached:
        found.setdefault((area.shmid, area.fdflags == _O_RDONLY, area.start - area.pgoff), []).append(area)
    for (number, read_only, _), areas in found.items():
        yield number, read_only, sorted(areas, key=lambda area: area.pgoff)


def _create(holder: Holder, kind: str, desc: Any, *size: int, huge: int = 0, queue_bytes: int = 0) -> None:
    """Create an object of a kind, ``shm``, ``sem`` or ``msg``, with its number, owner and permissions."""
    script, number = holder.leader, int(desc.id)
    _set(holder, f"kernel/{kind}_next_id", [number])
    mode = int(desc.mode) & _PERMISSIONS
    script.exact(f"{kind}get", int(desc.key), *size, huge | IPC_CREAT | IPC_EXCL | mode, wanted=number)
    _own(holder, kind, desc, queue_bytes)


def _own(holder: Holder, kind: str, desc: Any, queue_bytes: int = 0) -> None:
    """Set owner and permissions of an object, and the bytes that a queue takes."""
    number, control = int(desc.id), f"{kind}ctl"
    content = bytearray(_SIZES[control])
    struct.pack_into("<6I", content, 0, 0, desc.uid, desc.gid, 0, 0, int(desc.mode) & _PERMISSIONS)
    if queue_bytes:
        struct.pack_into("<Q", content, _QUEUE_BYTES_AT, queue_bytes)
    place = (number, 0, IPC_SET) if kind == "sem" else (number, IPC_SET)
    holder.leader.call(control, *place, holder.program.data(bytes(content)))


def _filled(messages: Sequence[tuple[Any, bytes]]) -> int:
    """Return the bytes that a queue must take for its messages; empty ones count, too (the kernel's do_msgsnd)."""
    return max(sum(int(message.msize) for message, _ in messages), len(messages))


def _set(holder: Holder, path: str, values: Iterable[int]) -> None:
    """Set a variable of the IPC namespace."""
    text = " ".join(map(str, values))
    write_file(holder.leader, holder.program, f"/proc/sys/{path}".encode(), text.encode())


def _unmap(script: FillScript, at: int, size: int) -> None:
    if size:
        script.call("munmap", at, size)


def _scratch(room: AddressRange) -> int:
    """Return a free address for a whole segment."""
    return -(-(room.start + room.size // 4) // _ALIGNED) * _ALIGNED


def _segment(number: int) -> tuple[str, str]:
    return "sysv-memory", str(number)
