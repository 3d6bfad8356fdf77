# SPDX-License-Identifier: Apache-2.0
"""The path of a program between the check of its file and exec(): which other users could lead it elsewhere meanwhile.

A task verifies the file at the path just before it calls exec(), which follows the path once more. Where only root and
the caller can write to a folder on the way, both find the same file. Elsewhere the task executes the file that it has
open: then the kernel names the task after that file from Linux 6.14 on, and before after the number of the descriptor.
Where it cannot, the task's own user may write there if the task has nothing beyond that user's rights.
"""

import contextlib
import functools
import grp
import os
import pwd
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Final, NoReturn

from agent.record import NamedTuple
from agent.restart.rebuild.coordinator import HELPER

_MOST_LINKS: Final = 40  # the kernel's bound, MAXSYMLINKS
_NAME_BYTES: Final = 15  # TASK_COMM_LEN without its NUL


class ProgramWay(NamedTuple):
    """The way to a program.

    Attributes:
        path: of the program.
        changeable_at: the folder in which a user may put another entry who would gain rights by that; empty: none.
        opened: True where the task executes the file that it has open, and not what the path leads to by then.
    """

    path: bytes
    changeable_at: str
    opened: bool


def way(exe: bytes, called: bytes | None, plain_user: int | None) -> ProgramWay:
    """Choose the path by which a process called its program, if it still leads to the same file; else the file's path.

    The last part of the path becomes the name of the process, and a program may depend on it: a link named ``ls`` to
    busybox. A path that other users can change is taken for such a name only.

    Args:
        exe: path of the program's file.
        called: the path that the process called; None: not known.
        plain_user: the user of a process that has nothing beyond that user's rights; None: it has more.
    """
    caller = {os.geteuid()}
    gaining_nothing = caller if plain_user is None else caller | {plain_user}
    for path in (exe,) if called is None else (called, exe):
        try:
            sure = not changeable_at(path, caller)
            where = changeable_at(path, gaining_nothing)
            same = os.path.samefile(path, exe)
        except OSError:
            continue
        named = os.path.basename(path) != os.path.basename(exe)
        if same and (named or sure):
            return ProgramWay(path, where, opened=False)
    try:
        where = changeable_at(exe, gaining_nothing)
    except OSError:  # the caller looks again
        return ProgramWay(exe, "", opened=False)
    return ProgramWay(exe, where, not is_script(exe) and named_by_file())


def written_by(path: bytes, plain_user: int | None) -> str:
    """Return the name of the users who can write over a program and would gain rights by that; empty: none."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    if status.st_uid not in (0, os.geteuid(), plain_user):
        return f"user {status.st_uid}"
    if status.st_mode & stat.S_IWOTH:
        return "any user"
    return f"group {status.st_gid}" if status.st_mode & stat.S_IWGRP and status.st_gid else ""


def folder_id(path: bytes | None) -> tuple[int, int] | None:
    """Return device and inode of a folder; None if there is none."""
    try:
        status = os.stat(path or b"")
    except OSError:
        return None
    return status.st_dev, status.st_ino


def groups_of(uid: int) -> set[int]:
    """Return the groups that a user has at a login; of a user without a name, the group of the same number, if unnamed."""
    try:
        entry = pwd.getpwuid(uid)
        return {entry.pw_gid, *os.getgrouplist(entry.pw_name, entry.pw_gid)}
    except KeyError:
        pass
    try:
        grp.getgrgid(uid)
    except KeyError:
        return {uid}
    return set()


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
        written = folder.st_mode & stat.S_IWOTH or (
            folder.st_mode & stat.S_IWGRP and not _is_of_one(folder.st_gid, trusted, at)
        )
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


def _is_of_one(group: int, users: Collection[int], folder: bytes) -> bool:
    """Return True if a group that may write to a folder is the private group of one of the users, as Debian makes it.

    With an access list the bits of the group are a mask for others, too.
    """
    try:
        entry = grp.getgrgid(group)
        owner = pwd.getpwnam(entry.gr_name)
        return (
            owner.pw_uid in users
            and owner.pw_gid == group
            and {*entry.gr_mem} <= {entry.gr_name}
            and "system.posix_acl_access" not in os.listxattr(folder)
        )
    except (KeyError, OSError):
        return False


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
