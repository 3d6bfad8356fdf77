# SPDX-License-Identifier: Apache-2.0
"""Snapshot <-> the checkpoint image of 2011, with the pids objects of its last form.

    image     = head PIDS pids TREE tasks {FOREIGN} [EXTENSION] TAIL            the head has a grammar of its own
    record    = u32 type, u32 len, body             len counts these 8 bytes; nothing is padded; little endian
    PIDS      = record 101: u32 nr_pids, u32 nr_vpids, u32 offset, 4 bytes
    pids      = record 4: nr_pids x (u32 depth, s32 numbers[depth + 1])       outermost first; nr_vpids = sum of depths
    TREE      = record 102: u32 nr_tasks, 4 bytes
    tasks     = record 4: nr_tasks x (s32 vpid, vppid, vtgid, vpgid, vsid; u32 depth)     five tags, and that of the pid
    EXTENSION = record 8101: u32 version, u32 CRC-32 of the payload, payload: the facts (exporters.content.facts) in
    msgpack
    TAIL      = record 9001: u64 magic

The n-th pid object (from 0) has the tag first + n. The first pid object is the root's: the first task's vpid is first.
There are two dialects. ``seed`` has ``offset = first - 1``, and -4097 for the session that the root inherited. ``v23``
has ``offset = first``, and 0 for that session. An image whose record 101 has length 16 is older than both and has no
pid objects.

The base (all but EXTENSION) stands alone: a reader that ignores EXTENSION gets a sound tree. EXTENSION repeats nothing
of the base, and one that contradicts the base is an error. FOREIGN is a record of any other type: readers skip and
report it.
"""

import struct
from collections.abc import Sequence
from itertools import starmap
from operator import itemgetter
from typing import NamedTuple

from agent.errors import FormatError
from agent.model import CKPT_PID_ROOT, Dialect, PidObject, Snapshot, Task
from exporters import gcpause
from exporters.content.facts import Document, facts, task_facts
from exporters.content.unknown import Unknown, put
from exporters.image.frame import Frame, unknown_below
from exporters.image.packed import pack
from exporters.image.packedrows import PackedRows, common_ends, pack_pid_facts
from exporters.image.reading import take
from exporters.image.records import Cursor


class Reading(NamedTuple):
    """Contents of an image.

    Attributes:
        snapshot: the tree.
        foreign: type and length of each unknown record between TREE and TAIL, in order; their bodies are left out.
        notes: oddities of the header that do not touch the tree, in sentences.
    """

    snapshot: Snapshot
    foreign: tuple[tuple[int, int], ...] = ()
    notes: tuple[str, ...] = ()


def dumps(snapshot: Snapshot, dialect: Dialect = "seed") -> bytes:
    """Return the image of a snapshot."""
    return Writer().dumps(snapshot, dialect)


def loads(data: bytes) -> Snapshot:
    """Return the snapshot of an image; FormatError for any other bytes."""
    return read(data).snapshot


def read(data: bytes) -> Reading:
    """Return the snapshot and the foreign records of an image; FormatError for any other bytes."""
    parts = take(Cursor(data))
    if parts.snapshot is None:  # unreachable: a plain cursor raises at the first error
        raise FormatError("file", "holds no tree", 0)
    return Reading(parts.snapshot, parts.foreign, parts.notes)


_TASK = struct.Struct("<6i")
_TASK_BYTES = _TASK.size
_BASE_OF = itemgetter(slice(6))  # of a task
_PID_BYTES = 8  # of one at one level


def _pack_pids(pids: Sequence[PidObject]) -> bytes:
    flat: list[int] = []
    for numbers, _ in pids:
        flat.append(len(numbers) - 1)
        flat += numbers
    return struct.Struct(f"<{len(flat)}i").pack(*flat)  # struct.pack() would keep the format for good


def _mended_pids(pids: Sequence[PidObject], earlier: Sequence[PidObject], packed: bytes) -> bytes:
    """Return packed pid objects; those at both ends of an earlier list, already packed, are copied out of it."""
    if len(packed) != _PID_BYTES * len(earlier):  # those of deeper namespaces are longer
        return _pack_pids(pids)
    begin, end = common_ends(earlier, pids)
    middle = _pack_pids(pids[begin : len(pids) - end])
    return packed[: _PID_BYTES * begin] + middle + packed[len(packed) - _PID_BYTES * end :]


def _mended_tasks(tasks: Sequence[Task], earlier: Sequence[Task], packed: bytes, dialect: Dialect) -> bytes:
    """Return packed tasks; those at both ends of an earlier list, already packed, are copied out of it."""
    begin, end = common_ends(earlier, tasks)
    middle = _pack_tasks(tasks[begin : len(tasks) - end], dialect)
    return packed[: _TASK_BYTES * begin] + middle + packed[len(packed) - _TASK_BYTES * end :]


def _pack_tasks(tasks: Sequence[Task], dialect: Dialect) -> bytes:
    # The first six fields of a task are those of its row in the record, in the same order.
    pack_row = _TASK.pack
    if dialect == "v23":
        return b"".join([pack_row(*[0 if value == CKPT_PID_ROOT else value for value in task[:6]]) for task in tasks])
    return b"".join(starmap(pack_row, map(_BASE_OF, tasks)))


class _Body(NamedTuple):
    """The packed rows of one snapshot: the arrays of the base, and their counterparts in the extension.

    Attributes:
        of, dialect: the snapshot's rows and the dialect that were packed.
        pids, tasks: buffers of the base.
        pid_facts, task_facts: lists of the extension, as msgpack.
        rows: those of `task_facts`, where another image can use them; None: it cannot, for they have more than the
            facts of their tasks.
    """

    of: tuple[Sequence[PidObject], Sequence[Task], Unknown]
    dialect: Dialect
    pids: bytes
    tasks: bytes
    pid_facts: bytes
    task_facts: bytes
    rows: PackedRows | None

    def holds(self, snapshot: Snapshot, dialect: Dialect) -> bool:
        """Return True if a snapshot has the objects that were packed, whose contents never change."""
        pids, tasks, unknown = self.of
        return (
            tasks is snapshot.tasks
            and pids is snapshot.pids
            and unknown is snapshot.unknown
            and self.dialect == dialect
        )


class Writer:
    """A writer of images. It keeps the rows that it packed last: a tree that is captured again has most of them again.

    The rows of 20,000 tasks take 14 MB.
    """

    def __init__(self) -> None:
        self._last: _Body | None = None
        self._frame: Frame | None = None  # of the last body

    def dumps(self, snapshot: Snapshot, dialect: Dialect = "seed") -> bytes:
        """Return the image of a snapshot."""
        last, frame = self._last, self._frame
        if last is None or frame is None or not last.holds(snapshot, dialect) or not frame.fits(snapshot):
            with gcpause.paused():
                last = self._body(snapshot, dialect)
                rows = {"pids": last.pid_facts, "tasks": last.task_facts}
                frame = self._frame = Frame(snapshot, dialect, (last.pids, last.tasks), rows)
        return frame.image(snapshot)

    def _body(self, snapshot: Snapshot, dialect: Dialect) -> _Body:
        last = self._last
        if last is None or not last.holds(snapshot, dialect):
            last = self._last = _pack_body(snapshot, dialect, last)
        return last


def _pack_body(snapshot: Snapshot, dialect: Dialect, last: _Body | None) -> _Body:
    if last is not None and last.dialect != dialect:
        last = None
    known = unknown_below(snapshot, "pids", "tasks")
    rows: PackedRows | None = None
    if known or dialect == "v23":
        document: Document = {"pids": facts(snapshot)["pids"], "tasks": _task_rows(snapshot, dialect)}
        put(document, known)
        pid_facts, task_facts = pack(document["pids"]), pack(document["tasks"])
    else:
        rows = PackedRows(snapshot.tasks, last.rows if last is not None else None)
        pid_facts, task_facts = pack_pid_facts(snapshot.pids), rows.data
    return _Body(
        (snapshot.pids, snapshot.tasks, snapshot.unknown),
        dialect,
        _pack_pids(snapshot.pids) if last is None else _mended_pids(snapshot.pids, last.of[0], last.pids),
        _pack_tasks(snapshot.tasks, dialect)
        if last is None
        else _mended_tasks(snapshot.tasks, last.of[1], last.tasks, dialect),
        pid_facts,
        task_facts,
        rows,
    )


def _task_rows(snapshot: Snapshot, dialect: Dialect) -> list[Document]:
    rows = task_facts(snapshot.tasks)
    if dialect == "v23":
        # The base of this dialect cannot tell the root's inherited session from 0, so the extension keeps it.
        for index, task in enumerate(snapshot.tasks):
            lost = {field: CKPT_PID_ROOT for field in ("pgid", "sid") if getattr(task, field) == CKPT_PID_ROOT}
            if lost:
                rows[index] = dict(sorted((rows[index] | lost).items()))
    return rows
