# SPDX-License-Identifier: Apache-2.0
"""The reading of a checkpoint image; exporters.image.checkpoint has the grammar.

All faults go to the cursor: a plain cursor stops at the first error, a collecting one goes on. So the same code loads
an image and finds all its faults. Code behind a report runs only for a collecting cursor: it reads on as far as
possible and does not report the consequences of an earlier fault; comments mark such places. A plain cursor returns
sound trees only.
"""

import struct
import zlib
from collections.abc import Sequence
from itertools import accumulate

from agent.errors import FormatError
from agent.model import CKPT_PID_ROOT, Dialect, Header, PidObject, Snapshot, Tag, Task
from agent.record import NamedTuple, record
from exporters import gcpause
from exporters.content.factsreader import Base, assemble, wrongs
from exporters.content.fields import U32_MAX, Fields
from exporters.content.findings import Finding
from exporters.content.hostmap import read_header
from exporters.content.soundness import DEPTH_MAX, Fault, TaskIds, faults
from exporters.image.head import NS_PER_S, Head, as_said, read_head
from exporters.image.packed import unpack
from exporters.image.records import BUFFER, ERROR, EXTENSION, HEAD_BYTES, PIDS, TAIL, TREE, Cursor

TAIL_MAGIC = 0x002D2A0CC0DEEF00
EXTENSION_VERSION = 1

PIDS_BODY = struct.Struct("<IIII")
TREE_BODY = struct.Struct("<II")
EXTENSION_HEAD = struct.Struct("<II")
TAIL_BODY = struct.Struct("<Q")
TASK_ROW = struct.Struct("<5iI")

# A fault's name for a task's field, the image's name for it, and its byte offset in the row.
_TASK_FIELDS = {
    "pid": ("vpid", 0),
    "ppid": ("vppid", 4),
    "tgid": ("vtgid", 8),
    "pgid": ("vpgid", 12),
    "sid": ("vsid", 16),
    "depth": ("depth", 20),
}
_NAMED_KINDS = 10  # types of foreign records that a message names


class Places(NamedTuple):
    """Places of the base's rows and of their facts in the file.

    Attributes:
        pids: byte offset of each pid object that fits into the buffer.
        tasks: byte offset of the first task.
        extension: byte offset of EXTENSION's payload, or of TAIL.
    """

    pids: Sequence[int]
    tasks: int
    extension: int

    def locate(self, fault: Fault) -> Finding | None:
        """Return the finding for a fault in this file; None for a fault of a pid object that could not be read."""
        # Fields that the base does not have stand in EXTENSION.
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


@record
class Parts:
    """The results of one pass over an image.

    Attributes:
        base: the base, as far as it could be read.
        snapshot: base and facts; None if the facts could not be joined with the base.
        foreign, notes: as in checkpoint.Reading.
        places: byte offsets of the records that these were read from.
    """

    base: Base
    snapshot: Snapshot | None
    foreign: tuple[tuple[int, int], ...]
    notes: tuple[str, ...]
    places: Places


def take(cursor: Cursor) -> Parts:
    """Read an image; report faults to the cursor, which raises or goes on."""
    with gcpause.paused():
        head = read_head(cursor)
        base, places = _read_base(cursor, head)
        foreign, extension = _read_rest(cursor)
        if extension is None:
            snapshot: Snapshot | None = _bare(base, head.seconds)
        else:
            places = places._replace(extension=extension[0] + HEAD_BYTES + EXTENSION_HEAD.size)
            snapshot = _join(cursor, base, head.seconds, *extension)
        return Parts(base, snapshot, foreign, head.notes, places)


@record
class _Pids:
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
    # Without its head this buffer may be another record's.
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
            # After a report: fill in the pid objects that could not be read, because tasks may name them.
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
        # After a report: take the first tag that fits more tasks.
        end = len(pids.numbers)
        first = max((first, offset + 1), key=lambda tag: sum([tag <= task.pid < tag + end for task in tasks]))
    dialect: Dialect = "v23" if offset == first else "seed"
    for fault in faults(first, pids.numbers, tasks) if pids.numbers else ():
        # The missing tasks were reported at TREE.
        found = places.locate(fault) if fault.rule != "no-tasks" else None
        if found:
            cursor.report(found)
    return Base(head.mode, dialect, first, head.header, pids.numbers, tasks), places


def _read_rest(cursor: Cursor) -> tuple[tuple[tuple[int, int], ...], tuple[int, bytes] | None]:
    """Read from the tree to the end of the file; return the foreign records, and offset and body of EXTENSION."""
    foreign: list[tuple[int, int]] = []
    extension: tuple[int, bytes] | None = None
    foreign_at = 0
    while (kind := cursor.next()) != TAIL:
        if kind == ERROR:
            cursor.record(TAIL)
            continue
        at, body = cursor.record(kind)
        if not cursor.whole:
            continue  # cut off, so its body is not known
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
        text = f"{len(foreign)} of unknown type ({named}); a conversion drops them"
        cursor.report(Finding("foreign-records", "records", text, foreign_at))
    return tuple(foreign), extension


def _bare(base: Base, seconds: int) -> Snapshot:
    """Return the snapshot of an image without EXTENSION: the tree without facts."""
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
    """Return the snapshot of an image with EXTENSION; None if it was reported not to fit the base."""
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
        # The base has the whole seconds of the time.
        known.integer("time_ns", NS_PER_S * seconds, NS_PER_S * (seconds + 1) - 1)
    except FormatError as error:
        wrong("extension-base", error)
    if () in base.numbers:
        return None  # some pid objects could not be read, so their facts cannot be judged
    try:
        return assemble(base, known)
    except FormatError as error:
        for each in list(wrongs(base, known)) or [error]:
            # A list that does not fit the base is named by its own path.
            if each.path != "time_ns":  # compared with the base above
                wrong("extension-base" if each.path in ("pids", "tasks") else "extension-field", each)
    return None


def _whole_header(said: Header, known: Fields) -> Header:
    """Return the header, completed by the fields that did not fit the base."""
    if not known.has("header"):
        return said
    whole = read_header(known.map("header"), said)
    if as_said(whole) != said:
        raise FormatError("header", "is not that of the base")
    return whole


def _whole_ids(tasks: Sequence[TaskIds], known: Fields) -> list[TaskIds]:
    """Return the ids, completed by the root's inherited session, which the dialect v23 writes as 0."""
    whole = list(tasks)
    for index, fields in zip(range(len(whole)), known.maps("tasks"), strict=False):
        for field in ("pgid", "sid"):
            if not fields.has(field):
                continue
            tag = Tag(fields.integer(field, CKPT_PID_ROOT, CKPT_PID_ROOT))
            if getattr(tasks[index], field) not in (0, tag):
                raise FormatError(fields.at(field), f"is {tag}, but that of the base is {getattr(tasks[index], field)}")
            whole[index] = whole[index]._replace(**{field: tag})
    return whole
