# SPDX-License-Identifier: Apache-2.0
"""Who asks, and what they may see.

Rules
-----
Root, the user that the daemon runs as, and members of one group (by default ``ckptree``) see everything. Everybody else
sees the tasks that are *theirs*: real user id and real group id, in the initial user namespace, are the asker's own; of
groups, any of the asker's will do. A tree is shown to them if every task in it is theirs, and else refused as a whole:
part of a tree is another tree.

This is ``ptrace_may_access()`` (kernel/ptrace.c) as far as the table goes, which has the real ids and neither effective
nor saved ones nor whether the task is dumpable. So a set-user-id program shows its starter what ``/proc/PID/stat`` shows
everybody: its numbers, its name, its parent. What ``/proc`` keeps from them (memory, arguments, environment, open files)
is not in the table; ``--with-argv`` is read by the client, with the client's rights.

That a number is somebody's is no secret: ``kill(pid, 0)`` tells it apart from a free one (EPERM, ESRCH), however /proc is
mounted. So the answers differ too: "no such process", or "not permitted". Names, and who is in whose tree, are not told.
Inode numbers of pid namespaces are a secret (``readlink /proc/PID/ns/pid`` asks ptrace_may_access()): there both answers
are "no such".
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

OwnerOf = Callable[[int], int | None]


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who asks.

    Attributes:
        pid: in the initial pid namespace; 0 where it has none there.
        uid, gid: effective ids when it connected, in the initial user namespace.
        groups: supplementary ones.
        privileged: sees everything.
        owner: whose sub-id that uid is (subuid(5)); None: nobody's.
    """

    pid: int
    uid: int
    gid: int
    groups: Collection[int] = ()
    privileged: bool = False
    owner: int | None = None

    @property
    def account(self) -> int:
        """Whom the daemon's time and memory are charged to: a user and all of the user's sub-ids are one."""
        return self.uid if self.owner is None else self.owner

    def sees(self, uid: int, gid: int) -> bool:
        """Whether a task of these real ids is theirs."""
        return self.privileged or (uid == self.uid and (gid == self.gid or gid in self.groups))

    def sees_ids(self, ids: tuple[int, int]) -> bool:
        """The same of a task's `ids`."""
        return self.sees(*ids)

    @property
    def scope(self) -> str:
        """What they see, for a hello."""
        return "all" if self.privileged else "own"


class Policy:
    """Who sees everything.

    Args:
        own_uid: of the daemon.
        group: id of the group whose members do; None: there is no such group.
        owner_of: gives whose sub-id a uid is; None: nobody's.
    """

    def __init__(self, own_uid: int, group: int | None, owner_of: OwnerOf = lambda _uid: None) -> None:
        self.uids: Final = frozenset((0, own_uid))
        self.group: Final = group
        self._owner_of = owner_of

    def viewer(self, pid: int, uid: int, gid: int, groups: Collection[int]) -> Viewer:
        """The one with these credentials."""
        member = self.group is not None and (gid == self.group or self.group in groups)
        return Viewer(pid, uid, gid, groups, member or uid in self.uids, self._owner_of(uid))
