# SPDX-License-Identifier: Apache-2.0
"""The destination of an output: the object under its name, and the check that no other user has laid it there.

A link decides where the output goes, and a pipe or device decides what reads it. Where another user could lay one under
the name, it is followed or written only if it belongs to this user or to root. A file or folder is replaced, so nothing
of its owner gets the output. The kernel's rules (fs.protected_symlinks, fs.protected_fifos) hold in sticky folders alone,
not for a name that was resolved first, and for pipes only of an open with O_CREAT.
"""

import errno
import os
import re
import stat
from pathlib import Path
from typing import Final

from agent.errors import CkptreeError
from agent.record import record

_LINKS: Final = 40
"""Most links that are followed, as MAXSYMLINKS of the kernel."""
_DESCRIPTORS: Final = r"/proc/\d+(/task/\d+)?/fd"
_KINDS: Final = {stat.S_IFLNK: "link", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}


@record
class Destination:
    """The place of an output.

    Attributes:
        path: links are followed, so a link stays and its target is written.
        special: status of the pipe or device there, which is to be opened; None: a new file or folder takes the place.
        is_descriptor: True where the path is an open descriptor of a process, as /dev/stdout, which may have no name.
    """

    path: Path
    special: os.stat_result | None = None
    is_descriptor: bool = False

    def open(self, flags: int = 0) -> int:
        """Open the pipe or device for writing, with further flags of open(2); return the descriptor.

        Raises:
            CkptreeError: another object has taken the place since it was looked at.
            OSError: it cannot be opened.
        """
        follow = 0 if self.is_descriptor else os.O_NOFOLLOW
        fd = os.open(self.path, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC | follow | flags)
        if self.special is None or not os.path.samestat(os.fstat(fd), self.special):
            os.close(fd)
            raise CkptreeError(f"cannot write {self.path}: it has become another file meanwhile")
        return fd


def find(path: Path) -> Destination:
    """Return the place of an output.

    Raises:
        CkptreeError: another user may have laid the link, pipe or device there.
        OSError: the folder cannot be looked at, or links lead in a circle.
    """
    named = path
    for _ in range(_LINKS + 1):
        folder = path.parent.resolve()
        place = folder / path.name
        try:
            found = os.lstat(place)
        except FileNotFoundError:
            return Destination(place)
        if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
            return Destination(place)
        _refuse_others(named, place, found)
        if not stat.S_ISLNK(found.st_mode):
            return Destination(place, found)
        if re.fullmatch(_DESCRIPTORS, os.fspath(folder)):
            opened = os.stat(place)
            if not (stat.S_ISREG(opened.st_mode) or stat.S_ISDIR(opened.st_mode)):
                return Destination(place, opened, is_descriptor=True)
        path = folder / os.readlink(place)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _refuse_others(named: Path, place: Path, found: os.stat_result) -> None:
    """Refuse a link, pipe or device that another user may have laid.

    Args:
        named: the output, as the user names it.
        place: the object, which is the output or one that its links lead to.
        found: its status.
    """
    if found.st_uid in (os.geteuid(), 0) or _is_closed(place.parent):
        return
    kind = _KINDS.get(stat.S_IFMT(found.st_mode), "device")
    which = "it" if place == named.parent.resolve() / named.name else f"its link leads to {place}, which"
    raise CkptreeError(
        f"cannot write {named}: {which} is a {kind} of user {found.st_uid} in a folder that another user may change: "
        "name another file, or remove it"
    )


def _is_closed(folder: Path) -> bool:
    """Return True if only this user and root may change a folder. The owner of / counts as root, whose id a user
    namespace may not have."""
    status = folder.stat()
    trusted = (os.geteuid(), 0, os.stat("/").st_uid)
    return status.st_uid in trusted and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
