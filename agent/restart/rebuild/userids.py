# SPDX-License-Identifier: Apache-2.0
"""The user and group ids of tasks: those that an image has, that a task can have here, and that /proc shows.

An image that was captured has ids of the initial user namespace. A rebuild takes them as numbers of the caller's user
namespace. /proc/PID/status has the numbers of its reader's, and a tree that gets a user namespace of its own has the
caller's ids alone, under the same numbers. So all are compared as numbers.
"""

import os
from typing import TYPE_CHECKING, Final

from agent.errors import RefusedError
from agent.model import Capabilities, Task
from agent.record import NamedTuple
from agent.restart.rebuild import taskanswers
from agent.restart.rebuild.helperabi import Program, Rights

if TYPE_CHECKING:
    from agent.restart.rebuild.rights import Host

FIELDS: Final = b"\nUid:", b"\nGid:"
"""The beginnings of the lines of a status that have the ids; the second one follows the first."""
BEHIND: Final = b"\nGroups:"
"""The beginning of the line behind them."""
NO_CAPABILITIES: Final = Capabilities(0, 0, 0, 0, 0)

Four = tuple[int, int, int, int]
"""Real, effective and saved id, and the one by which the kernel decides on access to files."""


class UserIds(NamedTuple):
    """The user ids and group ids of a task."""

    users: Four
    groups: Four

    def lines(self) -> bytes:
        """Return the lines that a status with these ids has, between two ends of lines."""
        return b"\nUid:\t%d\t%d\t%d\t%d\nGid:\t%d\t%d\t%d\t%d\n" % (*self.users, *self.groups)


def of_image(task: Task) -> UserIds | None:
    """Return the ids that an image has of a task, the real ones for all where it has no others; None if it has none."""
    if task.uid is None or task.gid is None:
        return None
    details = task.details
    users = details.uids if details is not None else None
    groups = details.gids if details is not None else None
    return UserIds(_four(users, task.uid), _four(groups, task.gid))


def _four(ids: tuple[int, ...] | None, real: int) -> Four:
    if ids is None or len(ids) != len(FIELDS) * 2:
        return real, real, real, real
    one, two, three, four = ids
    return one, two, three, four


def to_take(ids: UserIds, host: "Host") -> UserIds | None:
    """Return the ids that a task is to take, None if it has them as a task of this process.

    Raises:
        RefusedError: it cannot have them here; the message names the ids.
    """
    if ids == own():
        return None
    strange = [f"user {one}" for one in sorted({*ids.users}) if not any(one in each for each in host.uids)]
    strange += [f"group {one}" for one in sorted({*ids.groups}) if not any(one in each for each in host.gids)]
    if strange or host.groups is not None:
        raise RefusedError(", ".join(strange) or "its ids")
    return ids


def own() -> UserIds:
    """Return the ids of this process, whose ids for files are the effective ones."""
    uid, euid, suid = os.getresuid()
    gid, egid, sgid = os.getresgid()
    return UserIds((uid, euid, suid, euid), (gid, egid, sgid, egid))


def held(task: Task, host: "Host") -> Program | None:
    """Return the entry of a task that runs no program, with its own ids; the saved ones become the effective ones.

    Returns:
        None if the task has the ids of this process, or the image has none.

    Raises:
        RefusedError: the task cannot have its ids here; the message names the ids.
    """
    known = of_image(task)
    if known is None:
        return None
    (uid, euid, *_), (gid, egid, *_) = known
    groups = task.details.groups if task.details is not None else None
    ids = to_take(UserIds((uid, euid, euid, euid), (gid, egid, egid, egid)), host)
    if ids is None and (groups is None or host.groups is not None or {*groups} == {*os.getgroups()}):
        return None
    those = [one for one in groups or () if any(one in each for each in host.gids)]
    rights = Rights(uid, euid, gid, egid, tuple(those), NO_CAPABILITIES, no_new_privs=False, umask=0, ids_only=True)
    return Program(b"", (), (), None, rights)


def of_entry(rights: Rights) -> UserIds:
    """Return the ids of a task with the entry that held() returns."""
    uid, euid, gid, egid = rights.uid, rights.euid, rights.gid, rights.egid
    return UserIds((uid, euid, euid, euid), (gid, egid, egid, egid))


def difference(status: bytes, ids: UserIds) -> str:
    """Return the difference of a task's ids from those that it must have; empty if there is none.

    Args:
        status: at least to the line of its groups.
        ids: those that it must have.
    """
    if ids.lines() in status:
        return ""
    texts = []
    for what, name, wanted in zip(("user", "group"), FIELDS, ids, strict=True):
        found = tuple(map(int, status.partition(name)[2].partition(b"\n")[0].split(b":")[-1].split()))
        if found != wanted:
            texts.append(f"the {what} ids {_list(found)} instead of {_list(wanted)}")
    return " and ".join(texts) or "no ids that can be read"


def read_difference(pid: int, ids: UserIds) -> str:
    """Return the difference of the ids that /proc has of a task; empty, too, if it is gone."""
    status = taskanswers.read(f"{taskanswers.PROC}/{pid}/status", BEHIND)
    return "" if status is None else difference(status, ids)


def _list(ids: tuple[int, ...]) -> str:
    """Return the ids as a text: one number where all are the same."""
    return "/".join(map(str, ids if len({*ids}) > 1 else ids[:1]))
