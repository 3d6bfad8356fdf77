# SPDX-License-Identifier: Apache-2.0
"""The kernel's answers about one task, from /proc."""

import os
from typing import Final

from agent.record import NamedTuple

PROC: Final = "/proc"
LAST_FIELD: Final = b"\nNSsid:"
_EXIT_SIGNAL: Final = 38 - 3  # field 38 of stat; the first one after comm is field 3
_AT_ONCE: Final = 4096


class Status(NamedTuple):
    """The fields of /proc/PID/status; tuples have one number for each namespace, from the procfs's inward."""

    tgid: int
    ppid: int
    state: str
    pid: tuple[int, ...]
    pgid: tuple[int, ...]
    sid: tuple[int, ...]


def read_status(pid: int, proc: str = PROC) -> Status | None:
    """Return the status of a process or thread; None if there is none.

    The six fields alone are looked for: a tree has thousands of tasks, and each is asked twice. No name of a task holds
    the end of a line here: the kernel writes that as an escape sequence.
    """
    data = read(f"{proc}/{pid}/status", LAST_FIELD)
    return None if data is None else parsed(data)


def parsed(data: bytes) -> Status:
    """Return the fields of a status."""
    several = (tuple(map(int, _value(data, name).split())) for name in (b"\nNSpid:", b"\nNSpgid:", LAST_FIELD))
    state = _value(data, b"\nState:").split()[0].decode()
    return Status(int(_value(data, b"\nTgid:")), int(_value(data, b"\nPPid:")), state, *several)


def read(path: str, last: bytes) -> bytes | None:
    """Return a file of procfs at least to the line that begins with `last`, or to its end; None if it cannot be read."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        data = os.read(file, _AT_ONCE)
        while b"\n" not in data.partition(last)[2]:  # a task may be in many groups
            more = os.read(file, _AT_ONCE)
            if not more:
                break
            data += more
    except OSError:
        return None
    finally:
        os.close(file)
    return data


def _value(data: bytes, name: bytes) -> bytes:
    at = data.index(name) + len(name)
    return data[at : data.index(b"\n", at)]


def link(pid: int, name: str) -> str | None:
    """Return the target of a link to a namespace; empty if that has no init yet, None if the link cannot be read."""
    try:
        return os.readlink(f"{PROC}/{pid}/ns/{name}")
    except FileNotFoundError:
        return "" if os.path.exists(f"{PROC}/{pid}/ns") else None
    except OSError:
        return None


def exit_signal(pid: int) -> int:
    """Return the signal that the parent of a process gets at its exit; 0 if it cannot be read."""
    try:
        return int(fields(pid)[_EXIT_SIGNAL])
    except (ValueError, IndexError):
        return 0


def fields(pid: int) -> list[bytes]:
    """Return the fields of /proc/PID/stat from the state on; none if it cannot be read."""
    return (read(f"{PROC}/{pid}/stat", b") ") or b"").rpartition(b")")[2].split()
