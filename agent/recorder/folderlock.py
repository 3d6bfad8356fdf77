# SPDX-License-Identifier: Apache-2.0
"""The lock of the folder of a recording, which its only writer holds: taking it, waiting for it, and telling its holder."""

import contextlib
import fcntl
import json
import os
import select
import socket
import time
from pathlib import Path
from typing import Final

from agent.errors import HostError

_LOCK: Final = "lock"
_PATIENCE_S: Final = 30.0
_USUAL_S: Final = 2.0  # the writer of a daemon that has ended writes its end in that time
_POLL_S: Final = 0.05
_LOCKS: Final = Path("/proc/locks")
_written: Final[set[Path]] = set()  # folders that had a writer when they were looked at


def lock(folder: Path) -> int:
    """Return the descriptor of the lock that the only writer of a folder holds, not held yet.

    Raises:
        HostError: the file cannot be made.
    """
    try:
        return os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise HostError(f"{folder}: its lock cannot be opened: {error.strerror}") from error


def hold(descriptor: int) -> bool:
    """Take a lock; return False if another process holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def holder(lock: int | Path, locks: Path = _LOCKS) -> int:
    """Return the pid of the process that has taken a lock; 0 where none has, or the kernel does not tell.

    Args:
        lock: its descriptor or its file.
        locks: the kernel's list.
    """
    return next((max(0, int(words[4])) for words in _holds(lock, locks)), 0)


def _holds(lock: int | Path, locks: Path) -> list[list[str]]:
    """Return the words of the kernel's lines about those that hold a lock alone, without having to open it.

    The kernel's lock_get_status() (fs/locks.c) prints the numbers of device and inode, and the pid in the reader's pid
    namespace. Some file systems, btrfs for one, have another device there than stat(2) tells.
    """
    try:
        facts = os.stat(lock)
        lines = locks.read_text().splitlines()
    except OSError:
        return []
    file = f"{os.major(facts.st_dev):02x}:{os.minor(facts.st_dev):02x}:{facts.st_ino}"
    words = (line.split() for line in lines)
    return [each for each in words if each[1:4] == ["FLOCK", "ADVISORY", "WRITE"] and each[5] == file]


def is_in(folder: Path, descriptor: int) -> bool:
    """Return True if a lock is that of a folder, whose file may have been removed or replaced.

    Raises:
        OSError: it has none, or cannot be looked at.
    """
    return os.path.samestat(os.fstat(descriptor), (folder / _LOCK).lstat())


def is_written(folder: Path) -> bool:
    """Return True if a writer holds the lock of a folder; in a process that may take none, if it did at the last look.

    The lock is its owner's alone: others, who may read the folder, could keep a daemon from recording.
    """
    path = folder / _LOCK
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except PermissionError:
        return bool(_holds(path, _LOCKS)) or folder in _written
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        found = False
    except PermissionError:  # agent.cli.confinement
        return folder in _written
    except OSError:
        found = True
    finally:
        os.close(descriptor)
    (_written.add if found else _written.discard)(folder)
    return found


def await_lock(folder: Path, lock: int, control: socket.socket) -> None:
    """Take the lock of a folder, which the last daemon's writer may still hold; tell the daemon meanwhile.

    Once the daemon has closed its end, the time that such a writer usually takes is all that is waited.

    Args:
        folder: of the recording.
        lock: descriptor of its lock.
        control: the socket to the daemon.

    Raises:
        HostError: another process goes on to hold it.
    """
    began = time.monotonic()
    poll = select.poll()
    poll.register(control, 0)  # the other end's close is told always
    told: list[bool] = []
    while not hold(lock):
        waited_s = time.monotonic() - began
        if waited_s > (_USUAL_S if poll.poll(0) else _PATIENCE_S):
            raise HostError(_taken(folder, lock))
        is_long = waited_s > _USUAL_S
        if is_long not in told:
            told.append(is_long)
            said = {"waits": _taken(folder, lock), "long": is_long}
            with contextlib.suppress(OSError):
                control.send(json.dumps(said).encode(), socket.MSG_DONTWAIT)
        time.sleep(_POLL_S)


def _taken(folder: Path, lock: int) -> str:
    pid = holder(lock)
    return f"{folder}: another daemon records there" + (f", its writer is process {pid}" if pid else "")
