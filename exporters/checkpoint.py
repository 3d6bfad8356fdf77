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
from itertools import accumulate, chain
from typing import NamedTuple

import msgpack

from agent.errors import FormatError
from agent.model import CKPT_PID_ROOT, Dialect, Header, PidObject, Snapshot, Task
from exporters import collector
from exporters.document import header_fields, read_header
from exporters.facts import Base, Document, assemble, facts, task_facts, wrongs
from exporters.fields import U32_MAX, Fields
from exporters.findings import Finding
from exporters.head import NS_PER_S, Head, as_said, read_head, write_head
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
from exporters.soundness import DEPTH_MAX, Fault, TaskIds, faults

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
    parts = take(Cursor(data))
    if parts.snapshot is None:  # a plain cursor has stopped before
        raise FormatError("file", "holds no tree", 0)
    return Reading(parts.snapshot, parts.foreign, parts.notes)


class Places(NamedTuple):
    """Where in the file the rows of the base are, and the facts about them.

    Attributes:
        pids: byte offset of each pid object; those that did not fit into their buffer have none.
        tasks: of the first task.
        extension: of our own record's payload, or of TAIL.
    """

    pids: Sequence[int]
    tasks: int
    extension: int

    def locate(self, fault: Fault) -> Finding | None:
        """The finding that a fault is in this file; None for one about a pid object that could not be read."""
        path, at = f"EXTENSION.{fault.array}[{fault.index}].{fault.field}", self.extension
        if fault.array == "pids" and fault.field != "namespaces":
            path = f"PIDS[{fault.index}].{fault.field}" if fault.field else "PIDS"
            if fault.index >= len(self.pids):
                return None
            at = self.pids[fault.index]
        elif fault.array == "tasks":
            field, within = _TASK_FIELDS[fault.field]
            path, at = f"TREE[{fault.index}].{field}", self.tasks + _TASK.size * fault.index + within
        return Finding(fault.rule, path, fault.text, at, fault.tags)


class Parts(NamedTuple):
    """What one pass over an image has found.

    Attributes:
        base: the base, as far as there is one.
        snapshot: base and facts; None where the facts, or their absence, could not be made one with the base.
        foreign, notes: as in Reading.
        places: where all that is.
    """

    base: Base
    snapshot: Snapshot | None
    foreign: tuple[tuple[int, int], ...]
    notes: tuple[str, ...]
    places: Places


def take(cursor: Cursor) -> Parts:
    """Read an image. What is wrong goes to the cursor's `report`, which says whether that is the end of it."""
    with collector.paused():
        head = read_head(cursor)
        base, places = _read_base(cursor, head)
        foreign, extension = _read_rest(cursor)
        if extension is None:
            snapshot: Snapshot | None = _bare(base, head.seconds)
        else:
            places = places._replace(extension=extension[0] + HEAD_BYTES + _EXTENSION.size)
            snapshot = _join(cursor, base, head.seconds, *extension)
        return Parts(base, snapshot, foreign, head.notes, places)


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
            _pack(facts(snapshot)["pids"]),
            _pack(_task_rows(snapshot, dialect)),
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
    parts: list[bytes] = [msgpack.Packer().pack_map_header(len(known))]
    for key in sorted(known):
        parts += (_pack(key), packed[key] if key in packed else _pack(known[key]))
    return b"".join(parts)


def _pack(known: object) -> bytes:
    packed: bytes
    try:
        packed = msgpack.packb(known)
    except UnicodeEncodeError:
        # Python's stand-in for a foreign byte. An error handler that was always there would slow down every string.
        packed = msgpack.packb(known, unicode_errors="backslashreplace")
    return packed


class _Pids(NamedTuple):
    offset: int | None
    offset_at: int
    numbers: list[tuple[int, ...]]
    places: Sequence[int]


def _read_pids(cursor: Cursor) -> _Pids:
    head_at, body = cursor.record(PIDS, _PIDS.size)
    whole = len(body) == _PIDS.size
    count, nested, offset, _ = _PIDS.unpack(body) if whole else (None, 0, None, 0)
    if count == 0:
        cursor.report(Finding("no-pids", "PIDS.nr_pids", "is 0; a tree has at least its root's", head_at + 8))
    start, raw = cursor.record(BUFFER)
    if cursor.whole and count is not None and len(raw) != 8 * count + 4 * nested:
        text = f"{count} pid objects with {nested} nested numbers take {8 * count + 4 * nested} bytes, not {len(raw)}"
        cursor.report(Finding("pids-buffer-length", "PIDS.BUFFER.len", text, start + 4))
    at = start + HEAD_BYTES
    # Behind a head that is none, nobody knows whose buffer this is.
    words = struct.unpack_from(f"<{len(raw) // 4}i", raw) if whole else ()
    numbers: list[tuple[int, ...]] = []
    place, end = 0, len(words)
    while place < end:
        following = place + 2 + words[place]
        if not 0 <= words[place] <= DEPTH_MAX or following > end:
            name, text = "pid-depth", f"is {words[place] & U32_MAX}, but namespaces nest {DEPTH_MAX} deep at most"
            if following > end:
                name = "pid-past-end"
                text = f"is {words[place] & U32_MAX}, and its numbers would run past the end of the buffer"
            if cursor.whole:
                cursor.report(Finding(name, f"PIDS[{len(numbers)}].depth", text, at + 4 * place))
            break
        numbers.append(words[place + 1 : following])
        place = following
    places = list(accumulate([4 + 4 * len(pid) for pid in numbers], initial=at))[:-1]
    if count is not None and len(numbers) != count:
        if place == end and cursor.whole:
            text = f"is {count}, but the buffer holds {len(numbers)} pid objects"
            cursor.report(Finding("pids-count", "PIDS.nr_pids", text, head_at + 8))
        if 8 * count <= len(raw):
            # Who goes on knows nothing of the others, but that the tasks may name them.
            numbers += [()] * (count - len(numbers))
    return _Pids(offset, head_at + 16, numbers, places)


def _read_tasks(cursor: Cursor) -> tuple[list[TaskIds], int]:
    head_at, body = cursor.record(TREE, _TREE.size)
    count, _ = _TREE.unpack(body) if len(body) == _TREE.size else (None, 0)
    if count == 0:
        cursor.report(Finding("no-tasks", "TREE.nr_tasks", "is 0; a tree has at least its root", head_at + 8))
    start, raw = cursor.record(BUFFER)
    if cursor.whole and count is not None and len(raw) != _TASK.size * count:
        text = f"{count} tasks take {_TASK.size * count} bytes, not {len(raw)}"
        cursor.report(Finding("tasks-buffer-length", "TREE.BUFFER.len", text, start + 4))
    rows = raw[: len(raw) // _TASK.size * _TASK.size] if count is not None else b""
    return [TaskIds(*row) for row in _TASK.iter_unpack(rows)], start + HEAD_BYTES


def _read_base(cursor: Cursor, head: Head) -> tuple[Base, Places]:
    pids = _read_pids(cursor)
    tasks, tasks_at = _read_tasks(cursor)
    places = Places(pids.places, tasks_at, cursor.at)
    offset = -1 if pids.offset is None else pids.offset
    first = tasks[0].pid if tasks else offset + 1
    if first < 1 and pids.numbers:
        text = f"the root's tag must be positive, not {first}"
        cursor.report(Finding("root-tag", "TREE[0].vpid", text, tasks_at, (first,)))
        first = offset + 1
    elif pids.numbers and offset not in (first, first - 1):
        text = f"is {offset}; with {first} as the root's tag it must be {first - 1} (seed) or {first} (v23)"
        cursor.report(Finding("offset", "PIDS.offset", text, pids.offset_at, (first,)))
        # Who goes on believes the one that fits more tasks.
        end = len(pids.numbers)
        first = max((first, offset + 1), key=lambda tag: sum([tag <= task.pid < tag + end for task in tasks]))
    dialect: Dialect = "v23" if offset == first else "seed"
    for fault in faults(first, pids.numbers, tasks) if pids.numbers else ():
        # That there is no task was said where it should have been.
        found = places.locate(fault) if fault.rule != "no-tasks" else None
        if found:
            cursor.report(found)
    return Base(head.mode, dialect, first, head.header, pids.numbers, tasks), places


def _read_rest(cursor: Cursor) -> tuple[tuple[tuple[int, int], ...], tuple[int, bytes] | None]:
    """What follows the tree, to the end of the file: the foreign records, and where our own is and what is in it."""
    foreign: list[tuple[int, int]] = []
    extension: tuple[int, bytes] | None = None
    foreign_at = 0
    while (kind := cursor.next()) != TAIL:
        if kind == ERROR:
            cursor.record(TAIL)
            continue
        at, body = cursor.record(kind)
        if kind != EXTENSION:
            foreign_at = foreign_at or at
            foreign.append((kind, HEAD_BYTES + len(body)))
        elif extension is None:
            extension = at, body
        else:
            text = f"is the second one; the first is at byte {extension[0]}"
            cursor.report(Finding("second-extension", "EXTENSION", text, at))
    at, body = cursor.record(TAIL, _TAIL.size)
    if len(body) == _TAIL.size and (magic := _TAIL.unpack(body)[0]) != TAIL_MAGIC:
        text = f"is 0x{magic:016x}, not 0x{TAIL_MAGIC:016x}"
        cursor.report(Finding("tail-magic", "TAIL.magic", text, at + HEAD_BYTES))
    if cursor.left:
        text = f"{cursor.left} bytes follow TAIL; nothing may"
        cursor.report(Finding("bytes-after-tail", "file", text, cursor.at))
    if foreign:
        kinds = ", ".join(map(str, sorted({kind for kind, _ in foreign})))
        text = f"{len(foreign)} that nobody here knows, of type {kinds}; a conversion drops them"
        cursor.report(Finding("foreign-records", "records", text, foreign_at))
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


def _join(cursor: Cursor, base: Base, seconds: int, at: int, body: bytes) -> Snapshot | None:
    """The snapshot of an image with our record, which must fit the base; None where that was reported not to."""
    if len(body) < _EXTENSION.size:
        text = f"is {HEAD_BYTES + len(body)}: no room for version and checksum"
        cursor.report(Finding("extension-length", "EXTENSION.len", text, at + 4))
        return None
    version, checksum = _EXTENSION.unpack_from(body)
    payload = body[_EXTENSION.size :]
    if version != EXTENSION_VERSION:
        text = f"is {version}, known is {EXTENSION_VERSION}: written by another ckptree, read it with that one"
        cursor.report(Finding("extension-version", "EXTENSION.version", text, at + HEAD_BYTES))
        return None
    if zlib.crc32(payload) != checksum:
        text = f"is 0x{checksum:08x}, that of the payload is 0x{zlib.crc32(payload):08x}: the file is damaged"
        cursor.report(Finding("extension-checksum", "EXTENSION.crc", text, at + HEAD_BYTES + 4))
        return None

    def wrong(name: str, error: FormatError) -> None:
        cursor.report(Finding(name, f"EXTENSION.{error.path}", error.message, at + HEAD_BYTES + _EXTENSION.size))

    try:
        known = Fields(_unpack(payload))
    except FormatError as error:
        wrong("extension-payload", error)
        return None
    try:
        base = base._replace(header=_whole_header(base.header, known))
    except FormatError as error:
        wrong("extension-base", error)
    try:
        if base.dialect == "v23":
            base = base._replace(tasks=_whole_ids(base.tasks, known))
    except FormatError as error:
        wrong("extension-base", error)
    try:
        # The base has whole seconds of it.
        known.integer("time_ns", NS_PER_S * seconds, NS_PER_S * (seconds + 1) - 1)
    except FormatError as error:
        wrong("extension-base", error)
    if () in base.numbers:
        return None  # pid objects that could not be read; the facts about them can't be judged
    try:
        return assemble(base, known)
    except FormatError:
        for each in wrongs(base, known):
            # That a list does not go with the base is named by the list.
            if each.path != "time_ns":  # the base knows more closely what that may be
                wrong("extension-base" if each.path in ("pids", "tasks") else "extension-field", each)
    return None


def _unpack(payload: bytes) -> object:
    try:
        # Lists are allocated for the length they claim. Skipping first allocates nothing and fails on a claim that the
        # payload does not keep, so that what is built afterwards is no larger than what is there.
        walker = msgpack.Unpacker(max_buffer_size=max(len(payload), 1))
        walker.feed(payload)
        walker.skip()
        value: object = msgpack.unpackb(payload)
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise FormatError("payload", f"is no msgpack ({type(error).__name__} {error})") from error
    return value


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
