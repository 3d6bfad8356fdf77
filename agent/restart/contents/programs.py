# SPDX-License-Identifier: Apache-2.0
"""The programs by which the processes of a tree take their contents, in three parts, each written while tasks take another.

The first part waits for the second one, which exchanges the memory; the third one has all the rest. So most of a program
is in Python's memory only until it is written, and the first processes read their pages while programs of others are made.
"""

from collections.abc import Iterator, Mapping, Sequence

from agent.model import Snapshot
from agent.record import NamedTuple
from agent.restart.contents import filters, issuedcall, pathaccess, registers, taskstate
from agent.restart.contents.addresses import AddressRange, Specials, hole
from agent.restart.contents.descriptors import Descriptors, FileKind
from agent.restart.contents.exchange import Exchange, Room
from agent.restart.contents.filelocks import FileLocks
from agent.restart.contents.fillprogram import About, ProcessProgram
from agent.restart.contents.fillsection import FillProgram
from agent.restart.contents.holder import Holder
from agent.restart.contents.hostfacts import HostFacts
from agent.restart.contents.images import Images, Message
from agent.restart.contents.memory import AddressSpace
from agent.restart.contents.pagereads import processors
from agent.restart.contents.refusals import Refused
from agent.restart.contents.registers import Registers
from agent.restart.contents.resumer import ThreadState
from agent.restart.contents.sharedmemory import MemfdFiles, SharedFiles, SharedMemory
from agent.restart.contents.sharedtables import SharedTables
from agent.restart.contents.staging import Stage
from agent.restart.contents.systemv import SystemV
from agent.restart.planning.plan import Plan
from exporters.criu.criuschema import STOPPED

_WORDS_OF_PROCESS = 32
"""Words that a process needs at most."""
_WORDS_OF_OBJECT = 2
_WORDS_OF_TREE = 64


class TreeContents(NamedTuple):
    """All that the programs are made from.

    Attributes:
        images: the folder.
        snapshot: the tree.
        plan: of the same tree.
        memories: of each process, by its pid in the images.
        leaders: the first thread of each process, as an index of the plan.
        objects: the memory that processes share.
        memfds: the descriptors of memfds.
        systemv: the objects of System V.
        tables: the tables of descriptors that processes share.
        kinds: the kinds of open files.
        locks: on files.
        filters: the seccomp filters of the images.
        host: this host.
        stage: the pages that processes share since a fork.
        room: bytes of addresses that each process needs while its memory is exchanged.
    """

    images: Images
    snapshot: Snapshot
    plan: Plan
    memories: Mapping[int, AddressSpace]
    leaders: Mapping[int, int]
    objects: SharedMemory
    memfds: MemfdFiles
    systemv: SystemV
    tables: SharedTables
    kinds: Mapping[int, FileKind]
    locks: FileLocks
    filters: filters.Filters
    host: HostFacts
    stage: Stage
    room: int


class Programs:
    """The programs of all processes of a tree that stands.

    Args:
        source: what they are made from.
        numbers: of each actor, from the root's namespace inward.
        mapped: the areas of the helper's processes, all alike.
        specials: the kernel's areas among them.

    Attributes:
        fill: the programs; each has its first part, which waits for the second one.
    """

    def __init__(
        self,
        source: TreeContents,
        numbers: Sequence[tuple[int, ...]],
        mapped: Sequence[AddressRange],
        specials: Specials,
    ) -> None:
        self._source = source
        self._numbers = numbers
        self._known: dict[tuple[int, int | None], Registers] = {}
        objects = len(source.objects.objects)
        self.fill = FillProgram(_WORDS_OF_TREE + _WORDS_OF_PROCESS * len(source.memories) + _WORDS_OF_OBJECT * objects)
        self._bound, self._created, self._fetched = (self.fill.word() for _ in range(3))
        self._actors = {
            (actor.leader, source.snapshot.number(actor.tag)): index
            for index, actor in enumerate(source.plan.actors)
            if actor.tag
        }
        rooms = [self._room(pid, memory, mapped) for pid, memory in source.memories.items()]
        source.tables.share(self.fill, {each.holder.actor: each.holder for each in rooms})
        seen = {source.snapshot.number(each.tag): numbers[at] for at, each in enumerate(source.plan.actors) if each.tag}
        self._descriptors = Descriptors(
            [each.holder for each in rooms], source.images.files, source.kinds, seen, source.locks.restore
        )
        self._shared = SharedFiles(source.objects, self.fill, self._descriptors.holders)
        self._rooms = rooms
        self._ways = processors(len(rooms))
        self._exchanges = [
            Exchange(source.images, self.fill, each, self._shared, source.systemv, specials, self._ways, source.stage)
            for each in rooms
        ]
        for each in self._exchanges:
            each.await_memory()

    def memories(self) -> Iterator[tuple[ProcessProgram, int]]:
        """Yield each process once it has its second part, and the word that tells its tasks of that."""
        for each in self._exchanges:
            taskstate.raise_limits(each.holder.leader, each.holder.program, self._source.host)
            each.begin()
        self._source.systemv.make(self.fill, self._rooms[0].holder, self._rooms[0].free, self._ways)
        for each in self._exchanges:
            each.run()
            each.await_rest()
            yield each.holder.program, each.memory_part

    def rest(self) -> Iterator[tuple[ProcessProgram, int]]:
        """Yield each process once it has its third part, and the word that tells its tasks of that."""
        for each in self._exchanges:
            each.begin_rest()
        self._source.memfds.shared = self._shared
        self._descriptors.create(self._bound)
        self._descriptors.hand_over(self._created, self._fetched)
        for each in self._exchanges:
            self._finish(each.holder, each.ready)
            yield each.holder.program, each.rest_part

    def threads(self) -> list[ThreadState]:
        """Return all threads, in the order of their states, without these."""
        return [
            ThreadState(actor, Registers(b"", b"", 0, 0), 0, 0, (program.base, 0) if not place else (0, 0))
            for program in self.fill.processes
            for place, actor in enumerate(program.actors)
        ]

    def states(self) -> list[ThreadState]:
        """Return what the resumer sets in all threads, once the programs are whole."""
        return [state for each in self._exchanges for state in self._states(each.holder)]

    def credentials(self) -> list[tuple[int, Message]]:
        """Return the actor and the creds_entry of each thread."""
        return [
            (actor, image.cores[tid].thread_core.creds)
            for image, program in ((each.holder.image, each.holder.program) for each in self._exchanges)
            for actor, tid in zip(program.actors, image.threads, strict=True)
        ]

    def _room(self, pid: int, memory: AddressSpace, mapped: Sequence[AddressRange]) -> Room:
        """Return a process with its free addresses, and begin its program."""
        leader = self._source.leaders[pid]
        process = self._source.images.processes[pid]
        program = self.fill.process(tuple([self._thread(leader, tid) for tid in process.threads]))
        free = hole(self._source.room, [*mapped, *memory.areas])
        program.base = free.start
        depth = len(self._numbers[leader]) - 1
        return Room(Holder(leader, depth, self._numbers[leader], process, program), memory, free)

    def _finish(self, holder: Holder, ready: int) -> None:
        """Restore the rest of a process once its descriptors are there, and then each of its threads."""
        script, program, image = holder.leader, holder.program, holder.image
        files = self._source.images.files
        taskstate.restore_process(script, program, image, self._source.host)
        script.about = About("folder", str(image.fs.cwd_id))
        root = bytes(files[int(image.fs.root_id)].reg.name)
        cwd = bytes(files[int(image.fs.cwd_id)].reg.name)
        pathaccess.enter(holder, root, cwd)
        script.call("umask", int(image.fs.umask))
        own = {tid: self._numbers[actor][-1] for tid, actor in zip(image.threads, program.actors, strict=True)}
        taskstate.restore_threads(self.fill, program, image, own, ready, self._source.filters, self._source.host)

    def _states(self, holder: Holder) -> Iterator[ThreadState]:
        image, program = holder.image, holder.program
        signal = taskstate.stop_signal(image.core) if image.core.tc.task_state == STOPPED else 0
        files = self._source.images.files
        for actor, tid in zip(program.actors, image.threads, strict=True):
            first = tid == image.pid
            yield ThreadState(
                actor,
                self._registers(image.cores[tid], issuedcall.number(image, tid, files)),
                taskstate.blocked(image, tid),
                signal if first else 0,
                (program.base, program.region_size) if first else (0, 0),
            )

    def _thread(self, leader: int, tid: int) -> int:
        """Return the actor of a thread by its number in the root's namespace."""
        index = self._actors.get((leader, tid))
        if index is None:
            raise Refused("task", str(tid), "tree", "the images have this thread, and the tree has not")
        return index

    def _registers(self, core: Message, call: int | None) -> Registers:
        """Return the registers of a thread; those of equal messages are made once."""
        key = id(core), call
        if key not in self._known:
            self._known[key] = registers.registers(core.thread_info, call)
        return self._known[key]
