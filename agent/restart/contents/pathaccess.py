# SPDX-License-Identifier: Apache-2.0
"""Access to files by their paths, with rights that no user gains by.

A restart has root's rights until its tasks take their own. A user who may change a folder on the way to a file could
lead the path to another one meanwhile: to one that root may open, make or remove, and the user may not. So where other
users could change the path, a task of a user follows it with that user's rights, and the kernel decides. No task opens a
file there by a symbolic link: the kernel has told CRIU the path of each open file, and that has none.
"""

import os
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

from agent.record import NamedTuple
from agent.restart.contents import credentials
from agent.restart.contents.holder import AT_FDCWD, O_CLOEXEC, Holder, keep_high, open_high
from agent.restart.contents.images import ProcessImage
from agent.restart.contents.refusals import Refused
from agent.restart.rebuild.programpath import changeable_at

O_DIRECTORY, O_NOFOLLOW, O_PATH = 0o200000, 0o400000, 0o10000000
_WITH_O_PATH: Final = O_DIRECTORY | O_NOFOLLOW | O_PATH | O_CLOEXEC
_RESOLVE_NO_SYMLINKS: Final = 4
_HOW: Final = struct.Struct("<3Q")
_CAP_DAC_OVERRIDE: Final = 1
_WRITTEN_BY_OTHERS: Final = 0o022
_OF_PROCESS: Final = re.compile(rb"/proc/([0-9]+)(?=/|$)")


class FileUser(NamedTuple):
    """The ids by which the kernel decides whether a task may open a file."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def user_of(image: ProcessImage) -> FileUser | None:
    """Return the user of a process; None for root, and for one that may open any file."""
    core = image.cores.get(image.pid)
    if core is None:
        return None
    creds = core.thread_core.creds
    if not creds.fsuid or credentials.mask(creds.cap_eff) >> _CAP_DAC_OVERRIDE & 1:
        return None
    return FileUser(int(creds.fsuid), int(creds.fsgid), tuple(map(int, creds.groups)))


def process_of(path: bytes) -> int | None:
    """Return the number of the process whose file in /proc a path names; None for all other paths."""
    found = _OF_PROCESS.match(path)
    return int(found[1]) if found else None


def ways_of_others(process: ProcessImage, files: Mapping[int, Any]) -> Iterator[Refused]:
    """Yield the files of a user's process in the /proc folder of another one: its number may be another user's by now.

    Args:
        process: the process.
        files: the file_entry of each open file.
    """
    for identity in sorted({int(info.id) for info in process.fds}) if user_of(process) is not None else ():
        entry = files.get(identity)
        path = bytes(entry.reg.name) if entry is not None and entry.HasField("reg") else b""
        if process_of(path) not in (None, process.pid):
            text = f"{os.fsdecode(path)} is a file of another process, whose number may be one of another user by now"
            yield Refused("file", str(identity), "other-process", text)


@cache
def changeable_folder(path: bytes) -> bytes:
    """Return the first folder on a path in which a user beside root could lead it elsewhere; empty: there is none.

    The first answer for a path is kept: only root could make it untrue. Where the caller is no root there is nothing to
    gain, so the answer is empty, too.
    """
    if os.geteuid():
        return b""
    try:
        return os.fsencode(changeable_at(path, ()))
    except OSError:  # the last part may be missing yet
        pass
    folder = os.path.dirname(path)
    try:
        found, status = os.fsencode(changeable_at(folder, ())), os.stat(folder)
    except OSError:
        return b"/"
    return found or (folder if status.st_uid or status.st_mode & _WRITTEN_BY_OTHERS else b"")


@contextmanager
def following(holder: Holder, path: bytes) -> Iterator[None]:
    """Have a process take the operations of the context with its user's rights, where other users could change a path."""
    user = user_of(holder.image) if changeable_folder(path) else None
    if user is not None:
        script = holder.leader
        groups = struct.pack(f"<{len(user.groups)}I", *user.groups)
        script.call("setgroups", len(user.groups), holder.program.data(groups))  # root needs none of its own
        credentials.set_file_ids(script, user.uid, user.gid)
    yield
    if user is not None:
        credentials.set_file_ids(holder.leader, 0, 0)


def open_path(holder: Holder, path: bytes, flags: int) -> int:
    """Open a file of the images at a high number, and return the number."""
    if process_of(path) == holder.image.pid:
        path = _OF_PROCESS.sub(b"/proc/self", path)  # this /proc may count in another pid namespace
    elif folder := changeable_folder(path):
        return _open_strictly(holder, path, folder, flags | O_CLOEXEC)
    return open_high(holder, path, flags)


def go_to(holder: Holder, folder: bytes) -> None:
    """Have a process go to a folder."""
    holder.leader.call("fchdir", open_path(holder, folder, O_PATH | O_DIRECTORY))


def enter(holder: Holder, root: bytes, folder: bytes) -> None:
    """Have a process go to its folder, and get its root."""
    script, first = holder.leader, holder.next_number
    there = open_path(holder, folder, O_PATH | O_DIRECTORY)
    if root != b"/":
        go_to(holder, root)
        script.call("chroot", holder.program.data(b".\0"))
    script.call("fchdir", there)
    script.call("close_range", first, holder.next_number - 1, 0)


def _open_strictly(holder: Holder, path: bytes, folder: bytes, flags: int) -> int:
    """Open a file: up to a folder that a user can change with the rights of the restart, and from there on with the user's.

    A task may have been started in a folder that its user cannot reach.
    """
    flags = flags & _WITH_O_PATH if flags & O_PATH else flags
    program, script = holder.program, holder.leader
    how = program.data(_HOW.pack(flags, 0, _RESOLVE_NO_SYMLINKS))
    start, rest = AT_FDCWD, path
    if path.startswith(folder + b"/"):
        start, rest = open_high(holder, folder, O_PATH | O_DIRECTORY), path[len(folder) + 1 :]
    with following(holder, path):
        made = script.kept("openat2", start, program.data(rest + b"\0"), how, _HOW.size)
    return keep_high(holder, made)
