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

import struct
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, compress, count, groupby, pairwise, repeat
from operator import is_not, itemgetter
from typing import Final, NamedTuple, cast

import msgpack

from agent.model import Birth, Creator, PidObject, Task, TaskState
from exporters.content.facts import Document, creator_facts, task_facts
from exporters.image.packed import pack, pack_map_head, pack_pairs

_START, _REST, _BIRTH = [Task._fields.index(name) for name in ("start_ns", "exit_code", "birth")]
_CREATOR, _ORDER = [Birth._fields.index(name) for name in ("creator", "order")]  # the first field, and the last
_RUNNING: Final = (
    TaskState.RUNNING
)  # other states are rare; the hash of one, which is an Enum, takes longer than the rest
_REST_OF: Final = itemgetter(slice(_REST, _BIRTH))  # of a task
_ORIGIN_OF: Final = itemgetter(slice(_CREATOR + 1, _ORDER))  # of a birth
_FEW: Final = 8  # rows for which the columns take longer than the rows
_WIDER: Final = (1 << 8, 1 << 16, 1 << 32)  # msgpack has these numbers in more bytes than those below


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
        pieces: Sequence[memoryview | bytes]
        if earlier is None:
            pieces, lengths = _Packer().pack_all(tasks)
        else:
            pieces, lengths = _mended(tasks, earlier, _Packer().pack)
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
        if birth.creator is last[2] and _ORIGIN_OF(birth) == last[1] and _REST_OF(task) == last[0]:
            around = last
        else:
            around = self._last = self._around(task, birth)
        return _joined(around, self._number(birth.order), self._number(task.start_ns))

    def pack_all(self, tasks: Sequence[Task]) -> tuple[list[bytes], list[int]]:
        """Return the facts of tasks, packed, runs of neighbours in one piece, and the length of each row."""
        pieces: list[bytes] = []
        lengths: list[int] = []
        orders: list[int | None] = []  # of the run so far
        starts: list[int | None] = []
        last = self._last
        for task in tasks:
            birth = task.birth
            if (
                birth is None
                or birth.creator is not last[2]
                or task.state is not _RUNNING
                or _ORIGIN_OF(birth) != last[1]
                or _REST_OF(task) != last[0]
            ):
                self._finish(last, orders, starts, pieces, lengths)
                orders, starts = [], []
                if birth is None or task.state is not _RUNNING:
                    pieces.append(pack(task_facts([task])[0]))
                    lengths.append(len(pieces[-1]))
                    continue
                last = self._last = self._around(task, birth)
            orders.append(birth.order)
            starts.append(task.start_ns)
        self._finish(last, orders, starts, pieces, lengths)
        return pieces, lengths

    def _finish(
        self,
        around: "_Around",
        orders: list[int | None],
        starts: list[int | None],
        pieces: list[bytes],
        lengths: list[int],
    ) -> None:
        """Put the rows of a run, which have all but their numbers in common."""
        packed = _columns(around, orders, starts) if len(orders) >= _FEW else None
        if packed is None and len(orders) >= _FEW and None not in orders and None not in starts:
            ends = [
                *accumulate([len([*run]) for _, run in groupby(zip(_widths(orders), _widths(starts), strict=True))])
            ]
            if len(ends) > 1:
                for begin, end in pairwise([0, *ends]):
                    self._finish(around, orders[begin:end], starts[begin:end], pieces, lengths)
                return
        if packed is None:
            number = self._number
            rows = [_joined(around, number(order), number(start)) for order, start in zip(orders, starts, strict=True)]
            pieces += rows
            lengths += map(len, rows)
        else:
            pieces.append(packed)
            lengths += [len(packed) // len(orders)] * len(orders)

    def _around(self, task: Task, birth: Birth) -> _Around:
        origin: tuple[object, ...] = _ORIGIN_OF(birth)
        rest: tuple[object, ...] = _REST_OF(task)
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


def _joined(around: _Around, order: bytes, start: bytes) -> bytes:
    return b"".join((around[3], order, around[4], start, around[5]))


def _widths(numbers: Sequence[int | None]) -> Iterable[int]:
    """Return for each number a value that tells how many bytes it takes."""
    return map(bisect_right, repeat(_WIDER), cast("Sequence[int]", numbers))


def _columns(around: _Around, orders: Sequence[int | None], starts: Sequence[int | None]) -> bytes | None:
    """Return the rows of a run, packed column by column; None: their numbers take different numbers of bytes."""
    order, start = _column(orders), _column(starts)
    if order is None or start is None:
        return None
    row = _joined(around, order.blank, start.blank)
    packed = bytearray(row * len(orders))
    at_start = len(around.to_order) + len(order.blank) + len(around.to_start)
    for column, at in ((order, len(around.to_order)), (start, at_start)):
        width = len(column.blank) - 1
        for byte in range(width):
            packed[at + 1 + byte :: len(row)] = column.digits[byte::width]
    return bytes(packed)


class _Column(NamedTuple):
    """Numbers in msgpack: all of one type, and so of one width.

    Attributes:
        blank: the type, and as many zeros as a number has bytes.
        digits: the bytes of all numbers without their types.
    """

    blank: bytes
    digits: bytes


def _column(numbers: Sequence[int | None]) -> _Column | None:
    """Return numbers in msgpack; None where they differ in type, or are smaller than numbers of records or times are."""
    if None in numbers:
        return _Column(b"\xc0", b"") if not any(number is not None for number in numbers) else None
    known = cast("Sequence[int]", numbers)
    least, most = min(known), max(known)
    if least >= 1 << 8 and most < 1 << 16:
        return _Column(b"\xcd" + bytes(2), struct.Struct(f">{len(known)}H").pack(*known))
    if least >= 1 << 16 and most < 1 << 32:
        return _Column(b"\xce" + bytes(4), struct.Struct(f">{len(known)}I").pack(*known))
    if least >= 1 << 32 and most < 1 << 64:
        return _Column(b"\xcf" + bytes(8), struct.Struct(f">{len(known)}Q").pack(*known))
    return None


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
