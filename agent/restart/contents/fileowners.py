# SPDX-License-Identifier: Apache-2.0
"""The flags of an open file that open(2) does not take, and its owner: the task that gets its signals."""

import struct
from collections.abc import Mapping
from typing import Any, Final

from agent.restart.contents.fillprogram import FillScript, ProcessProgram
from exporters.criu.filemessages import FILE_FIELDS, FILE_TYPES

O_APPEND, O_NONBLOCK, O_ASYNC, O_DIRECT, O_NOATIME = 0o2000, 0o4000, 0o20000, 0o40000, 0o1000000
F_SETFL, F_SETSIG, F_SETOWN_EX = 4, 10, 15
_SETTABLE: Final = O_APPEND | O_NONBLOCK | O_ASYNC | O_DIRECT | O_NOATIME
_OPENED_BY_PATH: Final = {1, 3, 11}
"""The kinds of which open() takes all flags but O_ASYNC."""


def described(entry: Any) -> Any:
    """Return the part of a file_entry that describes its kind."""
    return getattr(entry, FILE_FIELDS[FILE_TYPES[int(entry.type)]])


def is_described(entry: Any) -> bool:
    """Return True if a file_entry has the part of its kind."""
    return bool(entry.HasField(FILE_FIELDS[FILE_TYPES[int(entry.type)]])) if entry.type in FILE_TYPES else False


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
    other = bool(fown.uid or fown.euid)
    if other:  # the ids with which signals are sent are those of the caller
        script.call("setresuid", int(fown.uid), int(fown.euid), 0)
    owner = struct.pack("<Ii", int(fown.pid_type), numbers[int(fown.pid)])
    script.call("fcntl", number, F_SETOWN_EX, program.data(owner))
    if other:
        script.call("setresuid", 0, 0, 0)
