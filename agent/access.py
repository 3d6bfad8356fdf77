# SPDX-License-Identifier: Apache-2.0
"""Credentials of clients, and the rules for the tasks that a client may see.

Rules
-----
Root, the user that the daemon runs as, and members of one group (by default ``ckptree``) see everything. Any other
client sees its *own* tasks: those whose real user id is the client's, and whose real group id is one of the client's
groups, all in the initial user namespace. The daemon shows such a client a tree if every task in it is the client's
own, and refuses it else as a whole: part of a tree is another tree.

This is ``ptrace_may_access()`` (kernel/ptrace.c) as far as the table goes, which has the real ids, but not the
effective and saved ones, and not the dumpable flag. So the starter of a set-user-id program sees of it what
``/proc/PID/stat`` shows every user: its numbers, its name, its parent. The data that ``/proc`` hides from the starter
(memory, arguments, environment, open files) is not told: for ``--with-argv`` the client reads it, with the client's
rights. Of arguments and environment the daemon keeps a hash, and on request the text; only root may ask about those,
or be told the arguments of execs.

It is no secret that a number is in use: ``kill(pid, 0)`` fails with EPERM for a used one and with ESRCH for a free one,
however /proc is mounted. So the answers differ too: "no such process", or "not permitted". Names, and the members of
another user's tree, are not told. Inode numbers of pid namespaces are a secret (``readlink /proc/PID/ns/pid`` asks
ptrace_may_access()): there both answers are "no such".
"""

from collections.abc import Callable, Collection
from typing import Final

from agent.record import record

OwnerOf = Callable[[int], int | None]


@record
class Viewer:
    """The credentials of a client.

    Attributes:
        pid: in the initial pid namespace; 0 where it has none there.
        uid, gid: effective ids when it connected, in the initial user namespace.
        groups: supplementary groups.
        privileged: True where the client may see every task.
        owner: uid of the user who owns `uid` as a sub-id (subuid(5)); None where it is no sub-id.
    """

    pid: int
    uid: int
    gid: int
    groups: Collection[int] = ()
    privileged: bool = False
    owner: int | None = None

    @property
    def account(self) -> int:
        """The uid that the daemon's time and memory are charged to: one for a user and all of the user's sub-ids."""
        return self.uid if self.owner is None else self.owner

    def sees(self, uid: int, gid: int) -> bool:
        """Return True if the client may see a task of these real ids."""
        return self.privileged or (uid == self.uid and (gid == self.gid or gid in self.groups))

    def sees_ids(self, ids: tuple[int, int]) -> bool:
        """Return True if the client may see a task of these `ids`."""
        return self.sees(*ids)

    @property
    def scope(self) -> str:
        """The tasks that the client may see, as a hello names them."""
        return "all" if self.privileged else "own"


class Policy:
    """The users who see everything.

    Args:
        own_uid: of the daemon.
        group: id of the group whose members see everything; None: there is no such group.
        owner_of: gives the uid of the owner of a sub-id; None: the uid is no sub-id.
    """

    def __init__(self, own_uid: int, group: int | None, owner_of: OwnerOf = lambda _uid: None) -> None:
        self.uids: Final = frozenset((0, own_uid))
        self.group: Final = group
        self._owner_of = owner_of

    def viewer(self, pid: int, uid: int, gid: int, groups: Collection[int]) -> Viewer:
        """Return the client with these credentials."""
        member = self.group is not None and (gid == self.group or self.group in groups)
        return Viewer(pid, uid, gid, groups, member or uid in self.uids, self._owner_of(uid))
