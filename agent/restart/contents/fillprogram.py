# SPDX-License-Identifier: Apache-2.0
"""The program by which the tasks of a tree take their contents: operations, slots and data of each process.

    program of a process = START of a thread * | OPERATION of all its threads * | slot * | data, padded to a page

A task runs the operations of its own script. An argument is a number, the value of a slot, or the address of data.
Processes wait for each other by words that all share.
"""

import bisect
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from agent.errors import CkptreeError
from agent.restart.contents import fillabi
from agent.restart.contents.fillabi import Demand, Special
from agent.restart.contents.syscalls import CALLS
from agent.restart.rebuild.helperabi import next_page

TRACED: Final = 0
"""The word that the resumer posts once it traces all threads."""
_CREDITED: Final = 1
ALIGNMENT: Final = 16
MERGE_BUFFER: Final = fillabi.MERGE_BUFFER
MOST_HELPERS: Final = fillabi.STACK // fillabi.ASIDE_STACK - 2
"""Helper processes of a thread: its own part of the stack, and a spare one, remain."""


class Slot(NamedTuple):
    """A value that one operation keeps for a later one."""

    place: int


class Data(NamedTuple):
    """Bytes in the data of a process: their offset from its start."""

    offset: int


class About(NamedTuple):
    """The object that an operation restores, for messages: its kind and identity, as in ``file 7``."""

    kind: str
    identity: str


Argument = int | Slot | Data
_NOTHING: Final = About("task", "")
_PADS: Final = tuple((0,) * (fillabi.ARGUMENTS - count) for count in range(fillabi.ARGUMENTS + 1))
_NAMES: Final[Mapping[int, str]] = {
    **{number: name for name, number in CALLS.items()},
    **{each: each.name.lower() for each in Special},
    Special.ASIDE: "read",
    Special.TERMINAL: "open",
}
_PACK: Final = fillabi.OPERATION.pack
_U64: Final = (1 << 64) - 1


class Operation(NamedTuple):
    """One step of a script, for messages and tests; see struct fill_operation. A negative argument has 64 bits."""

    name: str
    arguments: tuple[Argument, ...]
    about: About


class FillScript:
    """The operations of one thread.

    Attributes:
        code: its operations as the restorer reads them, in the order in which the thread takes them.
        about: the object that the next operations restore.
    """

    def __init__(self, process: "ProcessProgram") -> None:
        self._process = process
        self.code = bytearray()
        self.about = self._last = _NOTHING
        self._abouts: list[tuple[int, About]] = []

    @property
    def operations(self) -> list[Operation]:
        """The operations in order."""
        return [self.operation(index) for index in range(self.count)]

    @property
    def count(self) -> int:
        """The number of operations."""
        return len(self.code) // fillabi.OPERATION.size

    def operation(self, index: int) -> Operation:
        """Return an operation by its place."""
        call, _, _, from_slots, from_data, count, *arguments, _ = fillabi.OPERATION.unpack_from(
            self.code, index * fillabi.OPERATION.size
        )
        place = bisect.bisect_right(self._abouts, index, key=lambda each: each[0])
        found = [
            Slot(value) if from_slots >> at & 1 else Data(value) if from_data >> at & 1 else value
            for at, value in enumerate(arguments[:count])
        ]
        return Operation(_NAMES[call], tuple(found), self._abouts[place - 1][1] if place else _NOTHING)

    def call(self, name: str, *arguments: Argument, demand: Demand = Demand.SUCCESS, wanted: int = 0) -> None:
        """Add a system call whose answer is not needed."""
        self._add(CALLS[name], arguments, fillabi.NO_SLOT, demand, wanted)

    def kept(self, name: str, *arguments: Argument) -> Slot:
        """Add a system call, and return the slot of its answer."""
        slot = self._process.slot()
        self._add(CALLS[name], arguments, slot.place, Demand.SUCCESS, 0)
        return slot

    def exact(self, name: str, *arguments: Argument, wanted: int) -> None:
        """Add a system call that must give the answer `wanted`."""
        self._add(CALLS[name], arguments, fillabi.NO_SLOT, Demand.EXACT, wanted)

    def wait(self, word: int, least: int) -> None:
        """Add a wait until a shared word is at least `least`."""
        self._special(Special.WAIT, word, least)

    def post(self, word: int) -> None:
        """Add an operation that adds 1 to a shared word, and wakes the threads that wait for it."""
        self._special(Special.POST, word)

    def read(self, file: Argument, spans: Sequence[tuple[int, int]], offset: int) -> None:
        """Add a read of consecutive bytes of a file, from an offset on, into spans of memory: address and size of each."""
        self._special(Special.READ, file, self._spans(spans), len(spans), offset)

    def read_aside(self, file: Argument, spans: Sequence[tuple[int, int]], offset: int, helper: int) -> Slot:
        """Add a read by a helper process; return the slot that names it to `join`.

        Args:
            file, spans, offset: as of `read`.
            helper: from 1 to MOST_HELPERS; each can have one at a time.
        """
        slot = self._process.slot()
        arguments = file, self._spans(spans), len(spans), offset, helper
        self._add(Special.ASIDE, arguments, slot.place, Demand.SUCCESS, 0)
        return slot

    def merge(self, file: Argument, spans: Sequence[tuple[int, int]], offset: int, buffer: Data) -> None:
        """Add a read as that of `read`, of whole pages, by way of a buffer, which writes only the pages that differ."""
        self._special(Special.MERGE, file, self._spans(spans), len(spans), offset, buffer)

    def join(self, helper: Slot) -> None:
        """Add a wait until a helper process has read all."""
        self._special(Special.JOIN, helper)

    def store(self, at: Data, offset: int, value: Argument) -> None:
        """Add the writing of a value into data, four bytes."""
        self._special(Special.STORE, Data(at.offset + offset), value)

    def poke(self, address: int, value: int) -> None:
        """Add the writing of a value to an address, four bytes."""
        self._special(Special.STORE, address, value)

    def loaded(self, at: Data, offset: int) -> Slot:
        """Add the loading of a signed number of four bytes that an earlier operation leaves in data; return its slot."""
        slot = self._process.slot()
        arguments = (Data(at.offset + offset),)
        self._add(Special.LOAD, arguments, slot.place, Demand.ANY, 0)
        return slot

    def address(self, at: Data, offset: int, of: Data) -> None:
        """Add the writing of the address of other data into data, eight bytes."""
        self._special(Special.ADDRESS, Data(at.offset + offset), of)

    def timer(self, clock: int, event: Data, number: int) -> None:
        """Add the creation of the POSIX timer of a number."""
        self._special(Special.TIMER, clock, event, number)

    def terminal(self, path: Data, flags: int, number: int) -> Slot:
        """Add the opening of the master of the pseudo-terminal of a number; return the slot of its descriptor."""
        slot = self._process.slot()
        self._add(Special.TERMINAL, (path, flags, number), slot.place, Demand.SUCCESS, 0)
        return slot

    def _spans(self, spans: Sequence[tuple[int, int]]) -> Data:
        flat = [value for span in spans for value in span]
        return self._process.data(struct.pack(f"<{len(flat)}Q", *flat))

    def _special(self, what: Special, *arguments: Argument) -> None:
        self._add(what, arguments, fillabi.NO_SLOT, Demand.SUCCESS, 0)

    def _add(self, call: int, arguments: tuple[Argument, ...], keep: int, demand: Demand, wanted: int) -> None:
        if self.about is not self._last:
            self._abouts.append((self.count, self.about))
            self._last = self.about
        values = []
        from_slots = from_data = 0
        for argument in arguments:
            if isinstance(argument, int):
                values.append(argument & _U64)
            else:
                if isinstance(argument, Slot):
                    from_slots |= 1 << len(values)
                else:
                    from_data |= 1 << len(values)
                values.append(argument[0])
        count = len(values)
        self.code += _PACK(call, keep, demand, from_slots, from_data, count, *values, *_PADS[count], wanted)


@dataclass(slots=True)
class ProcessProgram:
    """The scripts of a process.

    Attributes:
        actors: its threads, the leader first, as indices of the plan.
        scripts: of each thread.
        base: address of the region (fill.h), once it is placed.
    """

    actors: tuple[int, ...]
    scripts: list[FillScript] = field(default_factory=list)
    base: int = 0
    _slots: int = 0
    _data: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self.scripts = [FillScript(self) for _ in self.actors]

    def slot(self) -> Slot:
        """Return a new slot."""
        if self._slots == fillabi.NO_SLOT:
            raise CkptreeError("a process needs more than 65534 values while it is filled")
        self._slots += 1
        return Slot(self._slots - 1)

    def data(self, content: bytes) -> Data:
        """Put bytes into the data, aligned to 16; the place may be written while the process is filled."""
        self._data += bytes(-len(self._data) % ALIGNMENT)
        at = Data(len(self._data))
        self._data += content
        return at

    @property
    def size(self) -> int:
        """Bytes of the program, whole pages."""
        return next_page(self._data_at + len(self._data))

    @property
    def _slots_at(self) -> int:
        operations = sum(len(script.code) for script in self.scripts)
        return fillabi.START.size * len(self.scripts) + operations

    @property
    def _data_at(self) -> int:
        end = self._slots_at + fillabi.SLOT * self._slots
        return end + -end % ALIGNMENT

    def region_size(self, code_size: int, state_size: int) -> int:
        """Return the size of the region (fill.h), bytes."""
        return code_size + state_size + self.size + fillabi.STACK * len(self.scripts)

    def encode(self, code_size: int, state_size: int) -> bytes:
        """Return the program, for a region that begins at `base`."""
        state = self.base + code_size
        mine = state + state_size
        slots, data = mine + self._slots_at, mine + self._data_at
        starts, operations = bytearray(), bytearray()
        first = mine + fillabi.START.size * len(self.scripts)
        for actor, script in zip(self.actors, self.scripts, strict=True):
            starts += fillabi.START.pack(state, first + len(operations), slots, data, script.count, actor)
            operations += script.code
        whole = starts + operations + bytes(data - slots) + self._data
        return bytes(whole + bytes(self.size - len(whole)))

    def entries(self, code_size: int, state_size: int, offset: int) -> "Iterable[tuple[int, bytes]]":
        """Yield each actor with its entry of the section, for a program at this offset of the section."""
        mine = self.base + code_size + state_size
        stacks = mine + self.size
        for index, actor in enumerate(self.actors):
            yield (
                actor,
                fillabi.ENTRY.pack(
                    *(self.base, offset, self.size, mine + fillabi.START.size * index),
                    *(stacks + fillabi.STACK * (index + 1), len(self.scripts), 0),
                ),
            )


class FillProgram:
    """The programs of all processes of a tree, and the words that they share.

    Attributes:
        credited: the word that each process posts once all its threads have their own credentials.
    """

    credited: Final = _CREDITED

    def __init__(self) -> None:
        self.processes: list[ProcessProgram] = []
        self.words = _CREDITED + 1

    def process(self, actors: tuple[int, ...]) -> ProcessProgram:
        """Add a process, its leader first."""
        made = ProcessProgram(actors)
        self.processes.append(made)
        return made

    def word(self) -> int:
        """Return a new shared word, which begins at 0."""
        self.words += 1
        return self.words - 1

    @property
    def state_size(self) -> int:
        """Bytes of state and words, whole pages."""
        return next_page(fillabi.STATE.size + fillabi.WORD * self.words)

    def section(self, code: bytes, actors: int) -> bytes:
        """Encode the fill section.

        Args:
            code: the restorer's.
            actors: their number in the plan.
        """
        code_size = next_page(len(code))
        code_at = next_page(fillabi.HEAD.size + fillabi.ENTRY.size * actors)
        state_at = self.state_offset(code, actors)
        offset = state_at + self.state_size
        entries = [bytes(fillabi.ENTRY.size)] * actors
        programs = []
        for process in self.processes:
            for actor, entry in process.entries(code_size, self.state_size, offset):
                entries[actor] = entry
            programs.append(process.encode(code_size, self.state_size))
            offset += process.size
        head = fillabi.HEAD.pack(code_at, code_size, state_at, self.state_size) + b"".join(entries)
        state = bytes(self.state_size)
        return b"".join([head.ljust(code_at, b"\0"), code.ljust(code_size, b"\0"), state, *programs])

    def state_offset(self, code: bytes, actors: int) -> int:
        """Return the offset of the state in the section, for a restorer and a number of actors."""
        return next_page(fillabi.HEAD.size + fillabi.ENTRY.size * actors) + next_page(len(code))

    def operation(self, actor: int, index: int) -> Operation | None:
        """Return an operation by the actor that takes it and its place in that script; None if there is none."""
        for process in self.processes:
            if actor in process.actors:
                script = process.scripts[process.actors.index(actor)]
                return script.operation(index) if index < script.count else None
        return None
