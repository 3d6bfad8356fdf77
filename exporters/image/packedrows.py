# SPDX-License-Identifier: Apache-2.0
"""The facts of tasks as msgpack, row by row: a row that an earlier image has is copied out of that.

Theory
------
A row's facts are all of its fields but the ids and the depth, which the base has (exporters.content.facts). So a row
whose tags alone have changed has the bytes that it had.

The tasks of a tree have most of their facts in common. So a new row is joined from a few pieces of bytes, each made
once for all rows with these values; only the number and the time of its birth are a row's own. The pieces are cut out of
the document of exporters.content.facts, which alone knows the keys.
"""

from array import array
from collections.abc import Callable, Sequence
from itertools import accumulate, compress, count
from operator import is_not
from typing import cast

import msgpack

from agent.model import Birth, Creator, PidObject, Task, TaskState
from agent.record import NamedTuple
from exporters.content.facts import Document, creator_facts, task_facts
from exporters.image.packed import pack, pack_map_head, pack_pairs

_START, _REST, _BIRTH = (Task._fields.index(name) for name in ("start_ns", "exit_code", "birth"))
_CREATOR, _ORDER = (Birth._fields.index(name) for name in ("creator", "order"))  # the first field, and the last
_RUNNING = TaskState.RUNNING  # other states are rare; the hash of one, which is an Enum, takes longer than the rest


class PackedRows:
    """The facts of some tasks, as msgpack.

    Args:
        tasks: the rows.
        earlier: those of an earlier image; None: there is none.

    Attributes:
        tasks: the rows.
        data: the list of all rows, packed.
        ends: the offsets in `data` behind the head of the list, and behind each row.
    """

    def __init__(self, tasks: Sequence[Task], earlier: "PackedRows | None" = None) -> None:
        self.tasks = tasks
        head: bytes = msgpack.Packer().pack_array_header(len(tasks))
        pack_new = _Packer().pack
        pieces: Sequence[memoryview | bytes]
        if earlier is None:
            pieces = list(map(pack_new, tasks))
            lengths = list(map(len, pieces))
        else:
            pieces, lengths = _mended(tasks, earlier, pack_new)
        self.data = b"".join([head, *pieces])
        self.ends = array("I", accumulate(lengths, initial=len(head)))


def common_ends(one: Sequence[object], other: Sequence[object]) -> tuple[int, int]:
    """Return how many objects two sequences have in common at their begin, and how many of the others at their end."""
    most = min(len(one), len(other))
    begin = next(compress(count(), map(is_not, one, other)), most)
    end = next(compress(count(), map(is_not, reversed(one), reversed(other))), most)
    return begin, min(end, most - begin)


def _mended(
    tasks: Sequence[Task], earlier: PackedRows, pack_new: Callable[[Task], bytes]
) -> tuple[list[memoryview | bytes], list[int]]:
    """Return packed rows, neighbours in one piece where an earlier image has them so, and the length of each row."""
    before, ends, data = earlier.tasks, earlier.ends, memoryview(earlier.data)
    begin, end = common_ends(before, tasks)
    last = len(before) - end
    place_of = {before[place].start_ns: place for place in range(begin, last)}.get
    lengths = [ends[place + 1] - ends[place] for place in range(begin)]
    pieces: list[memoryview | bytes] = []
    first, next_ = 0, begin  # the run of rows to copy
    for task in tasks[begin : len(tasks) - end]:
        place = place_of(task.start_ns)
        if place is not None and (before[place] is task or before[place][_START:] == task[_START:]):
            if place != next_:
                pieces.append(data[ends[first] : ends[next_]])
                first = place
            next_ = place + 1
            lengths.append(ends[next_] - ends[place])
        else:
            packed = pack_new(task)
            pieces += (data[ends[first] : ends[next_]], packed)
            lengths.append(len(packed))
            first = next_ = 0
    pieces += (data[ends[first] : ends[next_]], data[ends[last] :])
    lengths += [ends[place + 1] - ends[place] for place in range(last, len(before))]
    return pieces, lengths


class _Around(NamedTuple):
    """The bytes of a row around the two numbers that are its own.

    Attributes:
        rest, origin, creator: the values of the row that these bytes have.
        to_order: up to the number of the birth.
        to_start: from there to the time of the birth.
        behind: the end of the row.
    """

    rest: tuple[object, ...]
    origin: tuple[object, ...]
    creator: Creator | None
    to_order: bytes
    to_start: bytes
    behind: bytes


class _Packer:
    """The packer of rows of one image. It keeps the pieces that it has made."""

    def __init__(self) -> None:
        self._creators: dict[Creator | None, bytes] = {}
        self._births: dict[tuple[object, ...], tuple[bytes, bytes, bytes]] = {}
        self._rests: dict[tuple[object, ...], tuple[bytes, bytes, bytes]] = {}
        self._number = msgpack.Packer().pack
        self._last = _Around((), (), None, b"", b"", b"")

    def pack(self, task: Task) -> bytes:
        """Return the facts of a task, packed."""
        birth = task.birth
        if task.state is not _RUNNING or birth is None:
            return pack(task_facts([task])[0])
        last = self._last
        # Neighbours mostly have these values in common, and to compare them is cheaper than to look them up.
        if birth.creator is last[2] and birth[_CREATOR + 1 : _ORDER] == last[1] and task[_REST:_BIRTH] == last[0]:
            around = last
        else:
            around = self._last = self._around(task, birth)
        number = self._number
        return b"".join((around[3], number(birth.order), around[4], number(task.start_ns), around[5]))

    def _around(self, task: Task, birth: Birth) -> _Around:
        origin: tuple[object, ...] = birth[_CREATOR + 1 : _ORDER]
        rest: tuple[object, ...] = task[_REST:_BIRTH]
        creator = self._creators.get(birth.creator)
        if creator is None:
            creator = self._creators[birth.creator] = pack(creator_facts(birth.creator))
        if origin not in self._births or rest not in self._rests:
            document = task_facts([task])[0]
            self._births[origin] = _cut(cast("Document", document["birth"]), "creator", "order")
            self._rests[rest] = _cut(document, "birth", "start_ns")
        to_creator, to_order, from_order = self._births[origin]
        to_birth, to_start, from_start = self._rests[rest]
        return _Around(
            rest, origin, birth.creator, to_birth + to_creator + creator + to_order, from_order + to_start, from_start
        )


def _cut(document: Document, first: str, second: str) -> tuple[bytes, bytes, bytes]:
    """Return a packed document up to the value of a key, from there to the value of a later key, and the rest."""
    keys, pairs = list(document), list(document.items())
    one, other = keys.index(first), keys.index(second)
    return (
        pack_map_head(len(pairs)) + pack_pairs(pairs[:one]) + pack(first),
        pack_pairs(pairs[one + 1 : other]) + pack(second),
        pack_pairs(pairs[other + 1 :]),
    )


def pack_pid_facts(pids: Sequence[PidObject]) -> bytes:
    """Return the facts of pid objects, packed. Few of them differ in the namespaces, which are all that there is."""
    chains = [namespaces for _, namespaces in pids]
    packed = {chain: pack({"namespaces": chain}) for chain in set(chains)}
    head: bytes = msgpack.Packer().pack_array_header(len(chains))
    return b"".join([head, *[packed[chain] for chain in chains]])
