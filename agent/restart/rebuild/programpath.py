# SPDX-License-Identifier: Apache-2.0
"""The path of a program between the check of its file and exec(): which other users could lead it elsewhere meanwhile.

A task verifies the file at the path just before it calls exec(), which follows the path once more. Where no other user
can write to a folder on the way, both find the same file. Elsewhere the task executes the file that it has open: then
the kernel names the task after that file from Linux 6.14 on, and before after the number of the descriptor.
"""

import contextlib
import functools
import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Final, NoReturn

from agent.restart.rebuild.coordinator import HELPER

_MOST_LINKS: Final = 40  # the kernel's bound, MAXSYMLINKS
_NAME_BYTES: Final = 15  # TASK_COMM_LEN without its NUL


def changeable_at(path: bytes, users: Collection[int]) -> str:
    """Return the first folder on a path in which a further user may put another entry; empty if there is none.

    Args:
        path: an absolute one.
        users: who may; root may always.

    Raises:
        OSError: the path leads nowhere.
    """
    trusted = {0, *users}
    at = b"/"
    links = 0
    names = [name for name in reversed(path.split(b"/")) if name not in (b"", b".")]
    while names:
        name = names.pop()
        if name == b"..":
            at = os.path.dirname(at)
            continue
        entry = os.path.join(at, name)
        folder, status = os.lstat(at), os.lstat(entry)
        written = folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        # In a sticky folder an entry is its owner's.
        kept = folder.st_mode & stat.S_ISVTX and status.st_uid in trusted
        if folder.st_uid not in trusted or (written and not kept):
            return os.fsdecode(at)
        if not stat.S_ISLNK(status.st_mode):
            at = entry
            continue
        links += 1
        if links > _MOST_LINKS:
            return os.fsdecode(entry)
        target = os.readlink(entry)
        names += [part for part in reversed(target.split(b"/")) if part not in (b"", b".")]
        at = b"/" if target.startswith(b"/") else at
    return ""


def is_script(path: bytes) -> bool:
    """Return True if a file begins as a script, whose interpreter needs a path; also where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return True


@functools.cache
def named_by_file(program: Path = HELPER) -> bool:
    """Return True if this kernel names a process after its file where exec() gets a descriptor.

    Args:
        program: one that ends by itself when it has no descriptor but the standard streams.
    """
    child = 0
    try:
        file = os.open(program, os.O_PATH | os.O_CLOEXEC)
        child = os.fork()
        if not child:
            _become(file, program.name)
        os.close(file)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        return Path(f"/proc/{child}/comm").read_text().rstrip("\n") == program.name[:_NAME_BYTES]
    except OSError:  # there is no such program, or children are not to be waited for here: the caller warns
        return False
    finally:
        with contextlib.suppress(OSError):
            if child:
                os.waitpid(child, 0)


def _become(file: int, name: str) -> NoReturn:
    try:
        os.closerange(3, file)
        os.closerange(file + 1, os.sysconf("SC_OPEN_MAX"))
        os.execve(file, [name], {})  # noqa: S606 - a program of this project
    finally:
        os._exit(127)
