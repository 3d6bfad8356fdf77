# SPDX-License-Identifier: Apache-2.0
"""Snapshot <-> the checkpoint image of 2011, with the pids objects of its last form.

    image     = head PIDS pids TREE tasks {FOREIGN} [EXTENSION] TAIL            exporters.head has the head
    record    = u32 type, u32 len, body             len counts these 8 bytes; nothing is padded; little endian
    PIDS      = record 101: u32 nr_pids, u32 nr_vpids, u32 offset, 4 bytes
    pids      = record 4: nr_pids x (u32 depth, s32 numbers[depth + 1])       outermost first; nr_vpids = sum of depths
    TREE      = record 102: u32 nr_tasks, 4 bytes
    tasks     = record 4: nr_tasks x (s32 vpid, vppid, vtgid, vpgid, vsid; u32 depth)     five tags, and that of the pid
    EXTENSION = record 8101: u32 version, u32 CRC-32 of the payload, payload: the facts (exporters.facts) in msgpack
    TAIL      = record 9001: u64 magic

The n-th pid object (from 0) has the tag first + n, and the root's, which is the first, is also the first task's vpid.
There are two dialects: ``seed`` has ``offset = first - 1`` and -4097 for the session that the root inherited; ``v23``
has ``offset = first`` and 0 for it. An image whose record 101 has length 16 is older than both and has no pids objects.

The base stands alone: a reader that knows no EXTENSION has a sound tree. So the extension repeats nothing of it, and
one that does not fit it is an error. FOREIGN is any other type; it is skipped and reported.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

from agent.errors import FormatError
from agent.model import CKPT_PID_ROOT, Dialect, Header, PidObject, Snapshot, Task
from exporters.document import header_fields, read_header
from exporters.facts import Base, Document, assemble, facts, task_facts
from exporters.fields import Fields
from exporters.head import NS_PER_S, Head, as_said, read_head, write_head
from exporters.packed import pack, pack_map_head, unpack
from exporters.records import (
    BUFFER,
    ERROR,
    EXTENSION,
    HEAD_BYTES,
    PIDS,
    TAIL,
    TREE,
    Cursor,
    record,
)
from exporters.soundness import DEPTH_MAX, TaskIds, first_fault

TAIL_MAGIC = 0x002D2A0CC0DEEF00
EXTENSION_VERSION = 1

_PIDS = struct.Struct("<IIII")
_TREE = struct.Struct("<II")
_EXTENSION = struct.Struct("<II")
_TAIL = struct.Struct("<Q")
_TASK = struct.Struct("<5iI")

# What a fault calls a task's field, what the image calls it, and where in the record it is.
_TASK_FIELDS = {
    "pid": ("vpid", 0),
    "ppid": ("vppid", 4),
    "tgid": ("vtgid", 8),
    "pgid": ("vpgid", 12),
    "sid": ("vsid", 16),
    "depth": ("depth", 20),
}


@dataclass(frozen=True, slots=True)
class Reading:
    """All that an image says.

    Attributes:
        snapshot: the tree.
        foreign: type and length of each record between TREE and TAIL that is none of ours, in order; left out.
        notes: oddities of the header that do not touch the tree, for people.
    """

    snapshot: Snapshot
    foreign: tuple[tuple[int, int], ...] = ()
    notes: tuple[str, ...] = ()


def dumps(snapshot: Snapshot, dialect: Dialect = "seed") -> bytes:
    """The image of a snapshot."""
    body = _pack_body(snapshot, dialect)
    pids = body.pids
    count = len(snapshot.pids)
    nested = (len(pids) - 8 * count) // 4
    first = snapshot.first_tag
    payload = _pack_extension(snapshot, body)
    return b"".join(
        [
            *write_head(snapshot),
            record(PIDS, _PIDS.pack(count, nested, first if dialect == "v23" else first - 1, 0)),
            record(BUFFER, pids),
            record(TREE, _TREE.pack(len(snapshot.tasks), 0)),
            record(BUFFER, body.tasks),
            record(EXTENSION, _EXTENSION.pack(EXTENSION_VERSION, zlib.crc32(payload)) + payload),
            record(TAIL, _TAIL.pack(TAIL_MAGIC)),
        ]
    )


def loads(data: bytes) -> Snapshot:
    """The snapshot of an image; FormatError for anything else."""
    return read(data).snapshot


def read(data: bytes) -> Reading:
    """The snapshot of an image, and what else is in it; FormatError for anything else."""
    cursor = Cursor(data)
    head = read_head(cursor)
    base = _read_base(cursor, head)
    foreign, extension = _read_rest(cursor)
    snapshot = _join(base, head.seconds, *extension) if extension else _bare(base, head.seconds)
    return Reading(snapshot, foreign, head.notes)


def _pack_pids(pids: Sequence[PidObject]) -> bytes:
    flat: list[int] = []
    for numbers, _ in pids:
        flat.append(len(numbers) - 1)
        flat += numbers
    return struct.pack(f"<{len(flat)}i", *flat)


def _pack_tasks(tasks: Sequence[Task], dialect: Dialect) -> bytes:
    # The first six fields of a task are those of the record, in its order.
    flat = list(chain.from_iterable([task[:6] for task in tasks]))
    if dialect == "v23":
        flat = [0 if value == CKPT_PID_ROOT else value for value in flat]
    return struct.pack(f"<{len(flat)}i", *flat)


class _Body(NamedTuple):
    """What there is much of, packed: the arrays of the base, and their counterparts of the extension.

    Attributes:
        of, dialect: what it was made of.
        pids, tasks: the base's.
        pid_facts, task_facts: the extension's, as msgpack.
    """

    of: tuple[Sequence[PidObject], Sequence[Task]]
    dialect: Dialect
    pids: bytes
    tasks: bytes
    pid_facts: bytes
    task_facts: bytes


_last: _Body | None = None


def _pack_body(snapshot: Snapshot, dialect: Dialect) -> _Body:
    """Pack the rows. Those of the snapshot before are at hand: a tree captured again may have the very same ones."""
    global _last
    of = (snapshot.pids, snapshot.tasks)
    if _last is None or _last.dialect != dialect or any(old is not new for old, new in zip(_last.of, of, strict=True)):
        _last = _Body(
            of,
            dialect,
            _pack_pids(snapshot.pids),
            _pack_tasks(snapshot.tasks, dialect),
            pack(facts(snapshot)["pids"]),
            pack(_task_rows(snapshot, dialect)),
        )
    return _last


def _task_rows(snapshot: Snapshot, dialect: Dialect) -> list[Document]:
    rows = task_facts(snapshot.tasks)
    if dialect == "v23":
        # Its base has no word for the root's inherited session: the extension keeps it.
        for index, task in enumerate(snapshot.tasks):
            lost = {field: CKPT_PID_ROOT for field in ("pgid", "sid") if getattr(task, field) == CKPT_PID_ROOT}
            if lost:
                rows[index] = dict(sorted((rows[index] | lost).items()))
    return rows


def _pack_extension(snapshot: Snapshot, body: _Body) -> bytes:
    """The map of all facts, keys sorted; the two long values come packed."""
    fields = header_fields(snapshot.header)
    said = header_fields(as_said(snapshot.header))
    known = facts(replace(snapshot, pids=(), tasks=())) | {
        "header": {key: value for key, value in fields.items() if value != said[key]},
        "tasks": (),
    }
    packed = {"pids": body.pid_facts, "tasks": body.task_facts}
    parts: list[bytes] = [pack_map_head(len(known))]
    for key in sorted(known):
        parts += (pack(key), packed[key] if key in packed else pack(known[key]))
    return b"".join(parts)


class _Pids(NamedTuple):
    offset: int
    offset_at: int
    numbers: list[tuple[int, ...]]
    at: int


def _read_pids(cursor: Cursor) -> _Pids:
    head_at, body = cursor.record(PIDS, _PIDS.size)
    count, nested, offset, _ = _PIDS.unpack(body)
    if count == 0:
        raise FormatError("PIDS.nr_pids", "is 0; a tree has at least its root's", head_at + 8)
    start, raw = cursor.record(BUFFER)
    if len(raw) != 8 * count + 4 * nested:
        text = f"{count} pid objects with {nested} nested numbers take {8 * count + 4 * nested} bytes, not {len(raw)}"
        raise FormatError("PIDS.BUFFER.len", text, start + 4)
    at = start + HEAD_BYTES
    words = struct.unpack(f"<{len(raw) // 4}i", raw)
    numbers: list[tuple[int, ...]] = []
    place, end = 0, len(words)
    while place < end:
        following = place + 2 + words[place]
        if not 0 <= words[place] <= DEPTH_MAX or following > end:
            text = f"is {words[place] & 0xFFFFFFFF}, but namespaces nest {DEPTH_MAX} deep at most"
            if following > end:
                text = f"is {words[place] & 0xFFFFFFFF}, and its numbers would run past the end of the buffer"
            raise FormatError(f"PIDS[{len(numbers)}].depth", text, at + 4 * place)
        numbers.append(words[place + 1 : following])
        place = following
    if len(numbers) != count:
        raise FormatError("PIDS.nr_pids", f"is {count}, but the buffer holds {len(numbers)} pid objects", head_at + 8)
    return _Pids(offset, head_at + 16, numbers, at)


def _read_tasks(cursor: Cursor) -> tuple[list[TaskIds], int]:
    head_at, body = cursor.record(TREE, _TREE.size)
    count, _ = _TREE.unpack(body)
    if count == 0:
        raise FormatError("TREE.nr_tasks", "is 0; a tree has at least its root", head_at + 8)
    start, raw = cursor.record(BUFFER)
    if len(raw) != _TASK.size * count:
        text = f"{count} tasks take {_TASK.size * count} bytes, not {len(raw)}"
        raise FormatError("TREE.BUFFER.len", text, start + 4)
    return [TaskIds(*row) for row in _TASK.iter_unpack(raw)], start + HEAD_BYTES


def _read_base(cursor: Cursor, head: Head) -> Base:
    pids = _read_pids(cursor)
    tasks, tasks_at = _read_tasks(cursor)
    first = tasks[0].pid
    dialect: Dialect = "v23" if pids.offset == first else "seed"
    if first < 1:
        raise FormatError("TREE[0].vpid", f"the root's tag must be positive, not {first}", tasks_at)
    if pids.offset not in (first, first - 1):
        text = f"is {pids.offset}; with {first} as the root's tag it must be {first - 1} (seed) or {first} (v23)"
        raise FormatError("PIDS.offset", text, pids.offset_at)
    fault = first_fault(first, pids.numbers, tasks)
    if fault and fault.array == "pids":
        at = pids.at + sum([4 + 4 * len(numbers) for numbers in pids.numbers[: fault.index]])
        raise FormatError(f"PIDS[{fault.index}].{fault.field}" if fault.field else "PIDS", fault.text, at)
    if fault:
        field, within = _TASK_FIELDS[fault.field]
        raise FormatError(f"TREE[{fault.index}].{field}", fault.text, tasks_at + _TASK.size * fault.index + within)
    return Base(head.mode, dialect, first, head.header, pids.numbers, tasks)


def _read_rest(cursor: Cursor) -> tuple[tuple[tuple[int, int], ...], tuple[int, bytes] | None]:
    """What follows the tree, to the end of the file: the foreign records, and where our own is and what is in it."""
    foreign: list[tuple[int, int]] = []
    extension: tuple[int, bytes] | None = None
    while (kind := cursor.next()) != TAIL:
        if kind == ERROR:
            raise cursor.gave_up()
        at, body = cursor.record(kind)
        if kind != EXTENSION:
            foreign.append((kind, HEAD_BYTES + len(body)))
        elif extension is None:
            extension = at, body
        else:
            raise FormatError("EXTENSION", f"is the second one; the first is at byte {extension[0]}", at)
    at, body = cursor.record(TAIL, _TAIL.size)
    magic = _TAIL.unpack(body)[0]
    if magic != TAIL_MAGIC:
        raise FormatError("TAIL.magic", f"is 0x{magic:016x}, not 0x{TAIL_MAGIC:016x}", at + HEAD_BYTES)
    if cursor.left:
        raise FormatError("file", f"{cursor.left} bytes follow TAIL; nothing may", cursor.at)
    return tuple(foreign), extension


def _bare(base: Base, seconds: int) -> Snapshot:
    """The snapshot of an image without our record: the tree, and nothing about it."""
    return Snapshot(
        mode=base.mode,
        time_ns=seconds * NS_PER_S,
        pids=tuple([PidObject(numbers, ()) for numbers in base.numbers]),
        tasks=tuple([Task(*ids) for ids in base.tasks]),
        header=base.header,
        first_tag=base.first_tag,
        dialect=base.dialect,
    )


def _join(base: Base, seconds: int, at: int, body: bytes) -> Snapshot:
    """The snapshot of an image with our record, which must fit the base."""
    if len(body) < _EXTENSION.size:
        raise FormatError("EXTENSION.len", f"is {HEAD_BYTES + len(body)}: no room for version and checksum", at + 4)
    version, checksum = _EXTENSION.unpack_from(body)
    payload = body[_EXTENSION.size :]
    if version != EXTENSION_VERSION:
        text = f"is {version}, known is {EXTENSION_VERSION}: written by another ckptree, read it with that one"
        raise FormatError("EXTENSION.version", text, at + HEAD_BYTES)
    if zlib.crc32(payload) != checksum:
        text = f"is 0x{checksum:08x}, that of the payload is 0x{zlib.crc32(payload):08x}: the file is damaged"
        raise FormatError("EXTENSION.crc", text, at + HEAD_BYTES + 4)
    at += HEAD_BYTES + _EXTENSION.size
    try:
        known = Fields(unpack(payload, "payload"))
        header = _whole_header(base.header, known)
        base = base._replace(header=header)
        if base.dialect == "v23":
            base = base._replace(tasks=_whole_ids(base.tasks, known))
        # The base has whole seconds of it.
        known.integer("time_ns", NS_PER_S * seconds, NS_PER_S * (seconds + 1) - 1)
        return assemble(base, known)
    except FormatError as error:
        raise FormatError(f"EXTENSION.{error.path}", error.message, at) from error


def _whole_header(said: Header, known: Fields) -> Header:
    """The header with what did not fit the base's fixed fields."""
    if not known.has("header"):
        return said
    whole = read_header(known.map("header"), said)
    if as_said(whole) != said:
        raise FormatError("header", "is not that of the base")
    return whole


def _whole_ids(tasks: Sequence[TaskIds], known: Fields) -> list[TaskIds]:
    """The ids with the root's inherited session, for which the dialect v23 has no word."""
    whole = list(tasks)
    for index, fields in zip(range(len(whole)), known.maps("tasks"), strict=False):
        for field in ("pgid", "sid"):
            if not fields.has(field):
                continue
            tag = fields.integer(field, CKPT_PID_ROOT, CKPT_PID_ROOT)
            if getattr(tasks[index], field) not in (0, tag):
                raise FormatError(fields.at(field), f"is {tag}, but that of the base is {getattr(tasks[index], field)}")
            whole[index] = whole[index]._replace(**{field: tag})
    return whole
