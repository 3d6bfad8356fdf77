# SPDX-License-Identifier: Apache-2.0
"""The program by which the tasks of a tree take their contents: operations, slots and data of each process.

    part of a program = START of a thread * | OPERATION of all its threads * | slot * | data, padded to a page

A task runs the operations of its own script. An argument is a number, the value of a slot, or the address of data.
Processes wait for each other by shared words. A program is written in parts with slots and data of their own, as tasks run.
"""

import bisect
import struct
from array import array
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Final, NamedTuple, TypeVar, cast

from agent.errors import CkptreeError
from agent.restart.contents import fillabi
from agent.restart.contents.fillabi import Demand, Special
from agent.restart.contents.passages import Passage, Passages
from agent.restart.contents.syscalls import CALLS
from agent.restart.rebuild.helperabi import next_page

TRACED: Final = 0
"""The word that the resumer posts once it traces all threads."""
ALIGNMENT: Final = 16


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
_Value = TypeVar("_Value")
_NOTHING: Final = About("task", "")
_NEVER: Final = About("", "")
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
        code: the operations of the part at hand as the restorer reads them, in the order in which the thread takes them.
        first: the number of operations in earlier parts.
        about: the object that the next operations restore.
    """

    def __init__(self, process: "ProcessProgram") -> None:
        self._process = process
        self.code = bytearray()
        self.first = 0
        self.about = self._last = _NOTHING
        self._calls = array("I")  # of all parts, for messages; _abouts, too
        self._abouts: list[tuple[int, About]] = []

    @property
    def operations(self) -> list[Operation]:
        """The operations of the part at hand."""
        found = []
        for at, (call, _, _, from_slots, from_data, count, *values, _) in enumerate(
            fillabi.OPERATION.iter_unpack(self.code)
        ):
            arguments = [
                Slot(value) if from_slots >> index & 1 else Data(value) if from_data >> index & 1 else value
                for index, value in enumerate(values[:count])
            ]
            found.append(Operation(fillabi.NAMES[call], tuple(arguments), self._about(self.first + at)))
        return found

    @property
    def count(self) -> int:
        """The number of operations of the part at hand."""
        return len(self.code) // fillabi.OPERATION.size

    def step(self, index: int) -> tuple[str, About] | None:
        """Return the name of an operation of any part, and what it restores; None if there is none."""
        return (fillabi.NAMES[self._calls[index]], self._about(index)) if 0 <= index < len(self._calls) else None

    def end_part(self) -> None:
        """Begin another part."""
        self.first += self.count
        self.code.clear()

    def alike(self, key: Hashable, add: Callable[[], _Value]) -> _Value:
        """Add the operations that `add` adds to this script; where an alike process has had them, copy those.

        Args:
            key: tells all that the operations depend on, beside the slots and data that the process has before them.
            add: adds operations, slots and data of this script alone, and names their objects.

        Returns:
            What `add` has returned, or has returned for the alike process.
        """
        process = self._process
        place, first = process.place(), len(self._calls)
        known = process.passages.find((key, place))
        if known is not None:
            self.code += known.code
            self._calls += known.calls
            self._abouts += [(first + at, about) for at, about in known.abouts]
            self.about = known.last
            self._last = known.abouts[-1][1] if known.abouts else self._last
            process.take(known.data, known.slots)
            return cast("_Value", known.value)
        begin, abouts = len(self.code), len(self._abouts)
        self.about, self._last = _NOTHING, _NEVER  # the first operation must be of no object of this process
        value = add()
        objects = [(at - first, about) for at, about in self._abouts[abouts:]]
        made = bytes(self.code[begin:]), self._calls[first:], objects, self.about
        process.passages.keep((key, place), Passage(*made, *process.since(place), value))
        return value

    def _about(self, index: int) -> About:
        place = bisect.bisect_right(self._abouts, index, key=lambda each: each[0])
        return self._abouts[place - 1][1] if place else _NOTHING

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

    def post(self, word: int, least: int = 0) -> None:
        """Add an operation that adds 1 to a shared word, and wakes the threads that wait for it.

        Args:
            word: the word.
            least: the value that all of them wait for: none is woken before.
        """
        self._add(Special.POST, (word,), fillabi.NO_SLOT, Demand.SUCCESS, least)

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

    def merge(self, file: Argument, spans: Sequence[tuple[int, int]], offset: int) -> None:
        """Add a read as that of `read`, of whole pages, which writes only the pages that differ."""
        self._special(Special.MERGE, file, self._spans(spans), len(spans), offset)

    def part(self, word: int, file: int, thread: int) -> None:
        """Add the entry into the next part, as the last operation of this one.

        Args:
            word: of `FillProgram.part`.
            file: the descriptor that the part is mapped from; -1: another thread has mapped it.
            thread: the place of this thread in its process.
        """
        self._special(Special.PART, word, file, thread)

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

    def ring(self, requests: int, address: int, size: int, nowhere: Argument) -> None:
        """Add the making of a ring of asynchronous I/O in place of memory with the content of one.

        Args:
            requests: that the ring is asked for.
            address, size: of the memory.
            nowhere: a descriptor of /dev/null.
        """
        self._special(Special.RING, requests, address, size, nowhere)

    def spent(self, poll: int, target: int, event: Data) -> None:
        """Add a target that has reported to an epoll file, with its struct epoll_event, so that it reports no more."""
        self._special(Special.SPENT, poll, target, event)

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
            self._abouts.append((len(self._calls), self.about))
            self._last = self.about
        self._calls.append(call)
        try:
            count = len(arguments)
            self.code += fillabi.PACK_SIGNED[count](call, keep, demand, 0, 0, count, *arguments, wanted)
        except struct.error:  # an argument is no number, or has the highest bit
            self._add_mixed(call, arguments, keep, demand, wanted)

    def _add_mixed(self, call: int, arguments: tuple[Argument, ...], keep: int, demand: Demand, wanted: int) -> None:
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
                self._process.check(argument)
                values.append(argument[0])
        count = len(values)
        values += [0] * (fillabi.ARGUMENTS - count)
        self.code += _PACK(call, keep, demand, from_slots, from_data, count, *values, wanted)


class ProcessProgram:
    """The scripts of a process.

    Args:
        actors: its threads, the leader first, as indices of the plan.
        passages: of the scripts of the tree.

    Attributes:
        scripts: of each thread.
        base: address of the region (fill.h), once it is placed.
    """

    def __init__(self, actors: tuple[int, ...], passages: Passages) -> None:
        self.actors = actors
        self.passages = passages
        self.scripts = [FillScript(self) for _ in actors]
        self.base = 0
        self._slots = self._first_slot = self._first_data = self._state = self._end = 0
        self._data = bytearray()

    def slot(self) -> Slot:
        """Return a new slot."""
        if self._slots == fillabi.NO_SLOT:
            raise CkptreeError("a process needs more than 65534 values while it is filled")
        self._slots += 1
        return Slot(self._slots - 1)

    def data(self, content: bytes) -> Data:
        """Put bytes into the data, aligned to 16; the place may be written while the process is filled."""
        self._data += bytes(-len(self._data) % ALIGNMENT)
        at = Data(self._first_data + len(self._data))
        self._data += content
        return at

    def place(self) -> tuple[int, ...]:
        """Return what the operations to come depend on of those before them: the numbers of slots and bytes of data."""
        self._data += bytes(-len(self._data) % ALIGNMENT)
        return self._slots, self._first_slot, len(self._data), self._first_data

    def since(self, place: Sequence[int]) -> tuple[bytes, int]:
        """Return the data and the number of the slots that it has beside those of an earlier `place`."""
        return bytes(self._data[place[2] :]), self._slots - place[0]

    def take(self, data: bytes, slots: int) -> None:
        """Add data and slots of an alike process, which began them at the same `place`."""
        self._data += data
        self._slots += slots

    def check(self, place: Slot | Data) -> None:
        """Hold that a slot or data is of the part at hand."""
        first = self._first_slot if isinstance(place, Slot) else self._first_data
        if place[0] < first:
            raise ValueError(f"{place} is of an earlier part of the program")

    @property
    def size(self) -> int:
        """Bytes of the part at hand, whole pages."""
        return next_page(self._data_at + len(self._data))

    @property
    def _slots_at(self) -> int:
        operations = sum(len(script.code) for script in self.scripts)
        return fillabi.START.size * len(self.scripts) + operations

    @property
    def _data_at(self) -> int:
        end = self._slots_at + fillabi.SLOT * (self._slots - self._first_slot)
        return end + -end % ALIGNMENT

    @property
    def region_size(self) -> int:
        """The size of the region (fill.h) with all parts that are encoded, bytes."""
        return self._end - self.base

    def encode(self, code_size: int, state_size: int) -> bytes:
        """Return the first part of the program, for a region that begins at `base`, and begin the next part."""
        self._state = self.base + code_size
        made = self._encoded(self._state + state_size)
        self._end = self._state + state_size + len(made) + fillabi.STACK * len(self.scripts)
        return made

    def part(self) -> tuple[int, bytes]:
        """Return a later part with its address, and begin the next one."""
        at = self._end
        made = self._encoded(at)
        self._end += len(made)
        return at, made

    def _encoded(self, at: int) -> bytes:
        slots, data = at + self._slots_at, at + self._data_at
        starts, operations = bytearray(), bytearray()
        first = at + fillabi.START.size * len(self.scripts)
        for actor, script in zip(self.actors, self.scripts, strict=True):
            places = slots - fillabi.SLOT * self._first_slot, data - self._first_data
            starts += fillabi.START.pack(
                self._state, first + len(operations), *places, script.count, actor, script.first, 0
            )
            operations += script.code
        parts = starts, operations, bytes(data - slots), self._data
        made = b"".join((*parts, bytes(self.size - sum(map(len, parts)))))
        for script in self.scripts:
            script.end_part()
        self._first_slot = self._slots
        self._first_data += len(self._data) + -len(self._data) % ALIGNMENT
        self._data = bytearray()
        return made

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
