# SPDX-License-Identifier: Apache-2.0
"""The locks that processes hold on files: flock(2), those of a process and of an open file by fcntl(2), and leases."""

import struct
from collections.abc import Iterable, Iterator
from typing import Any, Final

from agent.restart.contents.fillprogram import About
from agent.restart.contents.holder import Holder
from agent.restart.contents.refusals import Refused

POSIX, FLOCK, OFD, LEASE = 1, 2, 4, 8
F_RDLCK, F_WRLCK, F_UNLCK = 0, 1, 2
F_SETLK, F_OFD_SETLK, F_SETLEASE = 6, 37, 1024
_BREAKING: Final = 4
LOCK_SH, LOCK_EX, LOCK_NB = 1, 2, 4
_MOST: Final = (1 << 63) - 1
_NAMES: Final = {POSIX: "fcntl", FLOCK: "flock", OFD: "open file", LEASE: "lease"}


class FileLocks:
    """The locks of a tree.

    Args:
        entries: the file_lock_entry of each.
    """

    def __init__(self, entries: Iterable[Any]) -> None:
        self._by_process: dict[int, list[Any]] = {}
        for entry in entries:
            self._by_process.setdefault(int(entry.pid), []).append(entry)

    def faults(self, pid: int, numbers: Iterable[int]) -> Iterator[Refused]:
        """Yield the reasons to refuse locks of a process with these descriptors."""
        have = set(numbers)
        for entry in self._by_process.get(pid, ()):
            if entry.flag not in _NAMES:
                yield Refused(
                    "lock", _identity(entry), "kind", f"kind {entry.flag} is not restored: end it before the dump"
                )
            elif entry.flag == LEASE and entry.type & _BREAKING:
                text = "a lease that somebody waits for is not restored: have the program give it up before the dump"
                yield Refused("lock", _identity(entry), "lease", text)
            elif entry.type not in (F_RDLCK, F_WRLCK) or int(entry.fd) not in have:
                yield Refused("lock", _identity(entry), "missing", "the images do not describe its file or type")
            elif entry.flag in (POSIX, OFD) and not 0 <= entry.start <= entry.start + max(entry.len, 0) <= _MOST:
                yield Refused("lock", _identity(entry), "range", "no file has such a range: dump it again")

    def restore(self, holder: Holder) -> None:
        """Add the operations by which a process takes its locks. Closing any descriptor of the file ends one."""
        for entry in self._by_process.get(holder.image.pid, ()):
            script = holder.leader
            script.about = About("lock", _identity(entry))
            if entry.flag == FLOCK:
                how = LOCK_SH if entry.type == F_RDLCK else LOCK_EX
                script.call("flock", int(entry.fd), how | LOCK_NB)
            elif entry.flag == LEASE:
                script.call("fcntl", int(entry.fd), F_SETLEASE, int(entry.type))
            else:
                # struct flock: type, whence (0: from the beginning), start, length, pid
                lock = struct.pack("<hh4xqqi4x", int(entry.type), 0, int(entry.start), int(entry.len), 0)
                command = F_SETLK if entry.flag == POSIX else F_OFD_SETLK
                script.call("fcntl", int(entry.fd), command, holder.program.data(lock))


def _identity(entry: Any) -> str:
    name = _NAMES.get(int(entry.flag), "unknown")
    return f"{name} {entry.start}+{entry.len} of descriptor {entry.fd}"
