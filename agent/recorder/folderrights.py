# SPDX-License-Identifier: Apache-2.0
"""The rights to the folder of a recording: its owner's alone, or to read also a group's.

A folder that any other user may write to is refused: whoever may write there can remove a recording, or lay another one
in its place. The mode of a folder is set only where all that is in it is a recording's: it may be one that others need,
/var/lib for example.
"""

import os
import stat
from pathlib import Path
from typing import Final

from agent.errors import HostError
from agent.recorder import folder

_OURS: Final = frozenset(("idle", "lock", "position", "lost+found"))  # the last one: of a file system of its own
_MOST_NAMED: Final = 3
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def refuse_writers(place: Path) -> None:
    """Refuse a folder that others may write to. The owner of / counts as root, whose id a user namespace may not have.

    Raises:
        HostError: its owner is another user, or it has other writers.
    """
    me = os.geteuid()
    try:
        found = place.stat()
    except OSError as error:
        raise HostError(f"{place}: no folder for the recording is there: {error.strerror}") from error
    if found.st_uid not in (me, 0, os.stat("/").st_uid):
        raise HostError(
            f"{place}: it belongs to user {found.st_uid}, who could remove or forge what is recorded: "
            f"have user {me} own it, or name another folder"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise HostError(
            f"{place}: users other than its owner may write there, its mode is {stat.S_IMODE(found.st_mode):04o}: they "
            "could remove or forge what is recorded: take that right away, as `chmod go-w` does, or name another folder"
        )


def foreign_names(place: Path | int) -> list[str]:
    """Return the names in a folder that are not a recording's.

    Raises:
        OSError: it cannot be read.
    """
    return sorted(name for name in os.listdir(place) if name not in _OURS and not folder.is_segment(name))


def some_of(names: list[str]) -> str:
    """Return a few of some names, for a message."""
    return ", ".join(map(repr, names[:_MOST_NAMED]))


def admit(place: Path, group: int | None) -> None:
    """Let the owner alone, or the members of a group, too, read a folder and the segments that it has.

    Args:
        place: the folder.
        group: number of the group; None: none.

    Raises:
        HostError: it cannot be closed, or be given to that group.
    """
    follow = 0 if group is None else os.O_NOFOLLOW
    try:
        opened = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | follow)
    except OSError as error:
        raise _unreadable(place, group, error) from error
    try:
        foreign = foreign_names(opened)
        if foreign and group is not None:
            raise HostError(
                f"{place}: its readers cannot be group {group}: there are files of others, as {some_of(foreign)}: "
                "name a folder of its own"
            )
        if not foreign:
            permit(opened, group, 0o700 if group is None else 0o750)
        for each in folder.stored(place):
            _admit_to(each.path, group)
    except OSError as error:
        raise _unreadable(place, group, error) from error
    finally:
        os.close(opened)


def permit(descriptor: int, group: int | None, mode: int) -> None:
    """Set the group and the mode of an open file or folder, where they are others.

    Raises:
        OSError: this process is no member of the group, or does not own it.
    """
    found = os.fstat(descriptor)
    if group is not None and found.st_gid != group:
        os.fchown(descriptor, -1, group)
    if stat.S_IMODE(found.st_mode) != mode:
        os.fchmod(descriptor, mode)


def _admit_to(path: Path, group: int | None) -> None:
    """Set the rights to a segment; one that is private stays so, whoever owns it."""
    found = path.lstat()
    if group is None and not found.st_mode & _OTHERS:
        return
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        permit(opened, group, 0o600 if group is None else 0o640)
    finally:
        os.close(opened)


def _unreadable(place: Path, group: int | None, error: OSError) -> HostError:
    if group is None:
        return HostError(
            f"{place}: it cannot be closed to other users: {error.strerror}: have user {os.geteuid()} own it"
        )
    return HostError(
        f"{place}: its readers cannot be group {group}: {error.strerror}: have the daemon run with that group"
    )
