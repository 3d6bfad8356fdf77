# SPDX-License-Identifier: Apache-2.0
"""The records of bpf/events.h, and their decoding: a pure function of the bytes.

The header is the definition; tests/unit/table/test_wire.py compiles it and compares every offset, size and constant
with those of this module. One precompiled Struct unpacks a record, and a handler unpacks only the fields that it needs:
the others are skipped as padding, for speed.
"""

import struct
from enum import IntEnum
from typing import Final, Literal, NamedTuple

from agent.model import WaitStatus


class Kind(IntEnum):
    """Kinds of records: enum record_kind."""

    FORK = 1
    EXEC = 2
    EXIT = 3
    SESSION = 4
    GROUP = 5
    SUBREAPER = 6
    STATE = 7
    GONE = 8
    FREE = 9
    RELEASE = 10
    WAITED = 11
    REGROUPED = 12
    MARKER = 13
    STRINGS = 14


MAX_LEVELS: Final = 33
LOST_NUMBERS: Final = 512
STRINGS_BYTES: Final = 8192
KEPT_BYTES: Final = 4096
KEEP_ARGUMENTS: Final = 1
KEEP_ENVIRONMENT: Final = 2
KEEP_TIME: Final = 4
STRINGS_BLOCK: Final = 64

# (field, struct code), in the order of the header.
RECORD: Final = (("seq", "Q"), ("kind", "I"), ("argument", "I"), ("time_ns", "Q"))
RECORD_TASK: Final = (
    *RECORD,
    ("task", "Q"),
    ("start_ns", "Q"),
    ("parent", "Q"),
    ("leader", "Q"),
    ("pid", "Q"),
    ("tgid", "Q"),
    ("pgid", "Q"),
    ("sid", "Q"),
    ("tid", "I"),
    ("parent_tid", "I"),
    ("flags", "I"),
    ("exit_code", "I"),
    ("exit_signal", "i"),
    ("uid", "I"),
    ("gid", "I"),
    ("by_tid", "I"),
    ("by", "Q"),
    ("levels", "4s"),
    ("child_inum", "I"),
    ("child_ns_id", "Q"),
    ("comm", "16s"),
)
RECORD_END: Final = (*RECORD, ("task", "Q"), ("start_ns", "Q"), ("tid", "I"), ("exit_code", "I"))
RECORD_CALL: Final = (*RECORD, ("task", "Q"), ("tid", "I"), ("value", "I"))
_AREA: Final = (("address", "Q"), ("size", "Q"), ("first_hash", "Q"), ("second_hash", "Q"))
RECORD_STRINGS: Final = (*RECORD, ("task", "Q"), ("start_ns", "Q"), ("tid", "I"), ("kept", "I"), *_AREA)
SWEEP_ROW: Final = (
    ("task", "Q"),
    ("start_ns", "Q"),
    ("parent", "Q"),
    ("pid", "Q"),
    ("pgid", "Q"),
    ("sid", "Q"),
    ("tid", "I"),
    ("flags", "I"),
    ("uid", "I"),
    ("gid", "I"),
    ("comm", "16s"),
    ("ties", "Q"),
)
TERMINAL_ROW: Final = (
    ("task", "Q"),
    ("start_ns", "Q"),
    ("terminal", "Q"),
    ("pgrp", "Q"),
    ("old_pgrp", "Q"),
    ("tid", "I"),
    ("levels", "2s"),
    ("hung_up", "B"),
    ("pad", "B"),
    ("name", "64s"),
)
OWNER_ROW: Final = (
    ("start_ns", "Q"),
    ("files", "Q"),
    ("owner", "Q"),
    ("tid", "I"),
    ("fd", "I"),
    ("pid_type", "I"),
    ("levels", "I"),
)
SHARING_ROW: Final = (
    ("start_ns", "Q"),
    ("vm", "Q"),
    ("fs", "Q"),
    ("files", "Q"),
    ("tid", "I"),
    ("pad", "I"),
)
PID_NUMBER: Final = (("nr", "I"), ("inum", "I"), ("ns_id", "Q"))
ALLOWANCE: Final = (("spent_until_ns", "Q"), ("withheld", "Q"))
QUESTION: Final = (("task", "Q"), ("start_ns", "Q"))
PAGE: Final[tuple[tuple[str, str], ...]] = (  # its type is said for mypyc, which reads another module before
    ("seq", "Q"),
    ("lost", "Q"),
    ("nested", "Q"),
    ("withheld", "Q"),
    ("reserved", "32s"),
    ("lost_seq", f"{8 * LOST_NUMBERS}s"),
)

ROW_SIGNAL_SHIFT: Final = 24  # in the flags of a row of a sweep: the low byte of the exit signal
TIES_OWNED: Final = 1
TIES_SHARED: Final = 2

Tie = Literal["terminals", "owners", "sharing"]
Fields = tuple[tuple[str, str], ...]


def reader(fields: Fields, *wanted: str) -> struct.Struct:
    """Return a Struct that yields the wanted fields, all of them if none is named, in the header's order.

    Raises:
        ValueError: a name is no field. Structs are made when a module is imported, so a wrong name fails there.
    """
    if unknown := set(wanted) - {name for name, _ in fields}:
        raise ValueError(f"no such fields: {sorted(unknown)}")
    codes = [code if not wanted or name in wanted else f"{struct.calcsize('=' + code)}x" for name, code in fields]
    return struct.Struct("=" + "".join(codes))


HEAD: Final = reader(RECORD)
TASK: Final = reader(RECORD_TASK)
TASK_BYTES: Final = TASK.size
LEVELS_AT: Final = struct.calcsize(
    "=" + "".join(code for _, code in RECORD_TASK[: [n for n, _ in RECORD_TASK].index("levels")])
)
END: Final = reader(RECORD_END)
CALL: Final = reader(RECORD_CALL)
STRINGS: Final = reader(RECORD_STRINGS)
AREA: Final = reader(_AREA)  # the end of a record of strings, before the text
STRING_KEY: Final = struct.Struct(f"={4 * STRINGS_BYTES // 8}Q")  # struct string_key
_KEPT: Final = reader(RECORD_STRINGS, "kept").unpack_from
ROW: Final = reader(SWEEP_ROW)
TERMINAL: Final = reader(TERMINAL_ROW, "start_ns", "terminal", "pgrp", "old_pgrp", "tid", "levels", "hung_up", "name")
OWNER: Final = reader(OWNER_ROW)
SHARING: Final = reader(SHARING_ROW, "start_ns", "vm", "fs", "files", "tid")
NUMBER: Final = reader(PID_NUMBER)

# One Struct for each depth: all numbers of a pid object in one go.
_NUMBERS: Final = tuple(struct.Struct("=" + "IIQ" * levels) for levels in range(MAX_LEVELS + 1))


class PidState(NamedTuple):
    """A pid object in a record, level 0 first.

    Attributes:
        numbers: its numbers.
        inums: inode numbers of its namespaces.
        ns_ids: identities of its namespaces.
    """

    numbers: tuple[int, ...]
    inums: tuple[int, ...]
    ns_ids: tuple[int, ...]


class TaskRecord(NamedTuple):
    """All fields of a record_task, by name; handlers of frequent records unpack only those that they need."""

    seq: int
    kind: int
    argument: int
    time_ns: int
    task: int
    start_ns: int
    parent: int
    leader: int
    pid: int
    tgid: int
    pgid: int
    sid: int
    tid: int
    parent_tid: int
    flags: int
    exit_code: WaitStatus
    exit_signal: int
    uid: int
    gid: int
    by_tid: int
    by: int
    levels: bytes
    child_inum: int
    child_ns_id: int
    comm: bytes


def pid_state(data: memoryview | bytes, at: int, role: int) -> PidState | None:
    """Read the numbers of one pid object of a record_task.

    Args:
        data: the buffer that holds the record.
        at: offset of the record in it.
        role: 0 pid, 1 tgid, 2 pgid, 3 sid.

    Returns:
        None where the record has none for this role, because an earlier role has the same object.
    """
    levels = data[at + LEVELS_AT : at + LEVELS_AT + 4]
    own = levels[role]
    if not own:
        return None
    return numbers(data, at + TASK_BYTES + 16 * sum(levels[:role]), own)


def numbers(data: memoryview | bytes, at: int, levels: int) -> PidState:
    """Read the struct pid_number of `levels` levels from an offset on."""
    flat = _NUMBERS[min(levels, MAX_LEVELS)].unpack_from(data, at)
    return PidState(flat[0::3], flat[1::3], flat[2::3])


def record_bytes(data: memoryview | bytes, at: int, kind: int) -> int:
    """Return the length of the record of a kind that starts at an offset, bytes."""
    if kind <= Kind.STATE:
        return TASK_BYTES + 16 * sum(data[at + LEVELS_AT : at + LEVELS_AT + 4])
    if kind == Kind.MARKER:
        return HEAD.size
    if kind == Kind.STRINGS:
        return STRINGS.size + int(_KEPT(data, at)[0])
    return CALL.size if kind in (Kind.WAITED, Kind.REGROUPED) else END.size
