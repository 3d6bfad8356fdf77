# SPDX-License-Identifier: Apache-2.0
"""The flags of an open file that open(2) does not take, and its owner: the task that gets its signals."""

import os
import struct
from collections.abc import Mapping
from typing import Any, Final

from agent.restart.contents.fillprogram import FillScript, ProcessProgram
from agent.restart.contents.refusals import Refused
from exporters.criu.filemessages import FILE_FIELDS, FILE_TYPES

O_APPEND, O_NONBLOCK, O_ASYNC, O_DIRECT, O_NOATIME = 0o2000, 0o4000, 0o20000, 0o40000, 0o1000000
F_SETFL, F_SETSIG, F_SETOWN_EX = 4, 10, 15
_SETTABLE: Final = O_APPEND | O_NONBLOCK | O_ASYNC | O_DIRECT | O_NOATIME
_OPENED_BY_PATH: Final = {1, 3, 11}
"""The kinds of which open() takes all flags but O_ASYNC."""
_WITHOUT_BUFFER: Final = {*_OPENED_BY_PATH, 2, 18}
"""The kinds that may have O_DIRECT: files, terminals, FIFOs, pipes, memfds."""
O_PATH: Final = 0o10000000
VALID_FLAGS: Final = 0o37777703
"""The flags that the kernel knows: VALID_OPEN_FLAGS of its include/linux/fcntl.h. openat2(2) refuses all others."""
_SIGNALS: Final = 64
_OWNER_TYPES: Final = (0, 1, 2)
"""F_OWNER_TID, F_OWNER_PID, F_OWNER_PGRP."""


def described(entry: Any) -> Any:
    """Return the part of a file_entry that describes its kind."""
    return getattr(entry, FILE_FIELDS[FILE_TYPES[int(entry.type)]])


def is_described(entry: Any) -> bool:
    """Return True if a file_entry has the part of its kind."""
    return bool(entry.HasField(FILE_FIELDS[FILE_TYPES[int(entry.type)]])) if entry.type in FILE_TYPES else False


def check(entry: Any, kind: str) -> None:
    """Refuse flags, a signal and an owner of an open file that the kernel takes of no program.

    Args:
        entry: its file_entry.
        kind: the name of its kind.

    Raises:
        Refused: the reason.
    """
    part = described(entry)
    names = {field.name for field in part.DESCRIPTOR.fields}
    flags = int(part.flags) if "flags" in names else 0
    rule = text = ""
    if flags & ~VALID_FLAGS or (flags & O_DIRECT and entry.type not in _WITHOUT_BUFFER):
        rule, text = "flags", f"its flags {flags:#o} are none of such a file"
    if "fown" in names:
        fown = part.fown
        if fown.signum > _SIGNALS:
            rule, text = "signal", f"it sends its owner signal {fown.signum}, and {_SIGNALS} is the last one"
        elif fown.pid and fown.pid_type not in _OWNER_TYPES:
            rule, text = "owner", f"its owner {fown.pid} is of type {fown.pid_type}, which is no type of an owner"
        elif (fown.signum or fown.pid or flags & O_ASYNC) and flags & O_PATH and entry.type in _OPENED_BY_PATH:
            rule, text = "owner", "it has an owner, or sends signals, and is open for its path alone"
    if rule:
        raise Refused(kind, str(entry.id), rule, f"{text}: dump it again")


def users(entry: Any) -> tuple[int, ...]:
    """Return the user ids with which an open file signals its owner; none: it has no owner."""
    part = described(entry)
    if "fown" not in {field.name for field in part.DESCRIPTOR.fields} or not part.fown.pid:
        return ()
    return int(part.fown.uid), int(part.fown.euid)


def restore(
    script: FillScript,
    program: ProcessProgram,
    entry: Any,
    number: int,
    numbers: Mapping[int, int],
) -> None:
    """Set flags, signal and owner of an open file.

    Args:
        script: of the process that has it.
        program: of that process.
        entry: its file_entry.
        number: its descriptor.
        numbers: of each task, as that process sees it, by its number in the root's namespace.
    """
    part = described(entry)
    names = {field.name for field in part.DESCRIPTOR.fields}
    if "fown" in names:
        _restore_owner(script, program, part.fown, number, numbers)
    if "flags" not in names:
        return
    flags = int(part.flags) & _SETTABLE
    if flags and (entry.type not in _OPENED_BY_PATH or flags & O_ASYNC):
        script.call("fcntl", number, F_SETFL, flags)


def _restore_owner(
    script: FillScript, program: ProcessProgram, fown: Any, number: int, numbers: Mapping[int, int]
) -> None:
    if fown.signum:
        script.call("fcntl", number, F_SETSIG, int(fown.signum))
    if not fown.pid or int(fown.pid) not in numbers:
        return
    own = os.geteuid()  # until they take their own, tasks have the caller's ids, under the same numbers
    other = {int(fown.uid), int(fown.euid)} != {own}
    if other:  # the ids with which signals are sent are those of the process that sets the owner
        script.call("setresuid", int(fown.uid), int(fown.euid), own)
    owner = struct.pack("<Ii", int(fown.pid_type), numbers[int(fown.pid)])
    script.call("fcntl", number, F_SETOWN_EX, program.data(owner))
    if other:
        script.call("setresuid", own, own, own)
