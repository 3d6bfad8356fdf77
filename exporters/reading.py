# SPDX-License-Identifier: Apache-2.0
"""What is in a checkpoint image; exporters.checkpoint has its grammar.

Everything that is wrong goes to the cursor: a plain one stops there, one that collects goes on. So this one reading is
both how an image is loaded and how all its faults are found, and what is done after a report is for the latter: as much
as can be known is read on, and what one fault makes of others is not told again. Places where that matters have a
comment; nothing behind a plain cursor ever sees a tree that is not sound.
"""

import struct
import zlib
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from agent.errors import FormatError
from agent.model import CKPT_PID_ROOT, Dialect, Header, PidObject, Snapshot, Task
from exporters import collector
from exporters.facts import Base, assemble, wrongs
from exporters.fields import U32_MAX, Fields
from exporters.findings import Finding
from exporters.head import NS_PER_S, Head, as_said, read_head
from exporters.hostmap import read_header
from exporters.packed import unpack
from exporters.records import BUFFER, ERROR, EXTENSION, HEAD_BYTES, PIDS, TAIL, TREE, Cursor
from exporters.soundness import DEPTH_MAX, Fault, TaskIds, faults

TAIL_MAGIC = 0x002D2A0CC0DEEF00
EXTENSION_VERSION = 1

PIDS_BODY = struct.Struct("<IIII")
TREE_BODY = struct.Struct("<II")
EXTENSION_HEAD = struct.Struct("<II")
TAIL_BODY = struct.Struct("<Q")
TASK_ROW = struct.Struct("<5iI")

# What a fault calls a task's field, what the image calls it, and where in the record it is.
_TASK_FIELDS = {
    "pid": ("vpid", 0),
    "ppid": ("vppid", 4),
    "tgid": ("vtgid", 8),
    "pgid": ("vpgid", 12),
    "sid": ("vsid", 16),
    "depth": ("depth", 20),
}
_NAMED_KINDS = 10  # of foreign records


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
        # Fields that the base does not have are our own record's.
        place = fault.array if fault.array == "completeness" else f"{fault.array}[{fault.index}]"
        path, at = f"EXTENSION.{place}.{fault.field}", self.extension
        if fault.array == "pids" and fault.field != "namespaces":
            path = f"PIDS[{fault.index}].{fault.field}" if fault.field else "PIDS"
            if fault.index >= len(self.pids):
                return None
            at = self.pids[fault.index]
        elif fault.array == "tasks" and fault.field in _TASK_FIELDS:
            field, within = _TASK_FIELDS[fault.field]
            path, at = f"TREE[{fault.index}].{field}", self.tasks + TASK_ROW.size * fault.index + within
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
            places = places._replace(extension=extension[0] + HEAD_BYTES + EXTENSION_HEAD.size)
            snapshot = _join(cursor, base, head.seconds, *extension)
        return Parts(base, snapshot, foreign, head.notes, places)


class _Pids(NamedTuple):
    offset: int | None
    offset_at: int
    numbers: list[tuple[int, ...]]
    places: Sequence[int]


def _read_pids(cursor: Cursor) -> _Pids:
    head_at, body = cursor.record(PIDS, PIDS_BODY.size)
    whole = len(body) == PIDS_BODY.size
    count, nested, offset, _ = PIDS_BODY.unpack(body) if whole else (None, 0, None, 0)
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
    head_at, body = cursor.record(TREE, TREE_BODY.size)
    count, _ = TREE_BODY.unpack(body) if len(body) == TREE_BODY.size else (None, 0)
    if count == 0:
        cursor.report(Finding("no-tasks", "TREE.nr_tasks", "is 0; a tree has at least its root", head_at + 8))
    start, raw = cursor.record(BUFFER)
    if cursor.whole and count is not None and len(raw) != TASK_ROW.size * count:
        text = f"{count} tasks take {TASK_ROW.size * count} bytes, not {len(raw)}"
        cursor.report(Finding("tasks-buffer-length", "TREE.BUFFER.len", text, start + 4))
    rows = raw[: len(raw) // TASK_ROW.size * TASK_ROW.size] if count is not None else b""
    return [TaskIds(*row) for row in TASK_ROW.iter_unpack(rows)], start + HEAD_BYTES


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
        if not cursor.whole:
            continue  # cut off: nothing is known of it
        if kind != EXTENSION:
            foreign_at = foreign_at or at
            foreign.append((kind, HEAD_BYTES + len(body)))
        elif extension is None:
            extension = at, body
        else:
            text = f"is the second one; the first is at byte {extension[0]}"
            cursor.report(Finding("second-extension", "EXTENSION", text, at))
    at, body = cursor.record(TAIL, TAIL_BODY.size)
    if len(body) == TAIL_BODY.size and (magic := TAIL_BODY.unpack(body)[0]) != TAIL_MAGIC:
        text = f"is 0x{magic:016x}, not 0x{TAIL_MAGIC:016x}"
        cursor.report(Finding("tail-magic", "TAIL.magic", text, at + HEAD_BYTES))
    if cursor.left:
        text = f"{cursor.left} bytes follow TAIL; nothing may"
        cursor.report(Finding("bytes-after-tail", "file", text, cursor.at))
    if foreign:
        kinds = sorted({kind for kind, _ in foreign})
        named = ", ".join(map(str, kinds[:_NAMED_KINDS])) + (" and others" if len(kinds) > _NAMED_KINDS else "")
        text = f"{len(foreign)} that nobody here knows, of type {named}; a conversion drops them"
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
    if len(body) < EXTENSION_HEAD.size:
        text = f"is {HEAD_BYTES + len(body)}: no room for version and checksum"
        cursor.report(Finding("extension-length", "EXTENSION.len", text, at + 4))
        return None
    version, checksum = EXTENSION_HEAD.unpack_from(body)
    payload = body[EXTENSION_HEAD.size :]
    if version != EXTENSION_VERSION:
        text = f"is {version}, known is {EXTENSION_VERSION}: written by another ckptree, read it with that one"
        cursor.report(Finding("extension-version", "EXTENSION.version", text, at + HEAD_BYTES))
        return None
    if zlib.crc32(payload) != checksum:
        text = f"is 0x{checksum:08x}, that of the payload is 0x{zlib.crc32(payload):08x}: the file is damaged"
        cursor.report(Finding("extension-checksum", "EXTENSION.crc", text, at + HEAD_BYTES + 4))
        return None

    def wrong(name: str, error: FormatError) -> None:
        cursor.report(Finding(name, f"EXTENSION.{error.path}", error.message, at + HEAD_BYTES + EXTENSION_HEAD.size))

    try:
        known = Fields(unpack(payload, "payload"))
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
    except FormatError as error:
        for each in list(wrongs(base, known)) or [error]:
            # That a list does not go with the base is named by the list.
            if each.path != "time_ns":  # the base knows more closely what that may be
                wrong("extension-base" if each.path in ("pids", "tasks") else "extension-field", each)
    return None


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
