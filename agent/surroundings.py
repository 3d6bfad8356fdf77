# SPDX-License-Identifier: Apache-2.0
"""Where a process lives: the root directory and the mounts that its paths go through, and the user namespace of its ids.

Theory
------
Two processes *share* a view of files where they have the same root directory and the same mounts below it, in the same
order over each other and with the same rights; a procfs on /proc does not count, for it shows a pid namespace and no
files. A mount namespace of one's own does not make another view: it begins as a copy.

All that tells one view from another are numbers that the kernel gives out anew at each boot: devices, inodes, namespaces.
So views are compared within one boot alone. An image of another boot or machine says in `apart` what a process did not
share with the one that captured it, and a restart takes its own place for that one's. The number of a namespace is given
to another one as soon as it is free; where the kernel tells an id that is not, two that have the same number and another id
are two.

A view is a digest that nobody can have two of. Of each mount it has what decides which file a path leads to, and what may
be done with that: device, root within the file system, mount point, the options of the mount, the type, and the mount that
it lies on, which has the same of its own. Ids of mounts, and the order of those that lie beside each other, differ from
copy to copy, and are left out; so are propagation, the source's name and when times of access are written.
"""

import fcntl
import os
import sys
from hashlib import blake2b
from pathlib import Path
from typing import Final, NamedTuple

from agent.model import Surroundings

_DIGEST_BYTES: Final = 16
# The options of a mount that change what a path may be used for; see show_mnt_opts() in the kernel's fs/proc_namespace.c.
_RIGHTS: Final = frozenset((b"ro", b"nosuid", b"nodev", b"noexec", b"nosymfollow", b"idmapped"))
# Of the kernel's include/uapi/linux/nsfs.h: the id of a mount namespace, and since Linux 6.18 that of any namespace.
_NS_GET_MNTNS_ID, _NS_GET_ID = 0x8008B705, 0x8008B70D
_ROOT_RIGHTS: Final = os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC


class Reader:
    """Tells of processes where they live, seen from this one.

    Args:
        proc: where procfs is mounted.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._views: dict[tuple[_Namespace, tuple[int, ...]], str | None] = {}
        self._own: Surroundings | None = None
        try:
            own = os.open(proc / "self", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            self._own = self._read(own)
        finally:
            os.close(own)

    @property
    def own(self) -> Surroundings:
        """Those of this process."""
        return self._own or Surroundings()

    def of(self, process: int) -> Surroundings:
        """Those of a process, by its opened directory of procfs."""
        found = self._read(process)
        own = self.own
        if None in (found.root_id, found.view, found.user_namespace, own.root_id):
            return found
        apart = []
        if found.root_id != own.root_id:
            apart.append("root")
        if not _same_mounts(found, own) and found.view != own.view:
            apart.append("mounts")
        if not _same_user(found, own):
            apart.append("user")
        return found._replace(apart=tuple(apart))

    def _read(self, process: int) -> Surroundings:
        mounts, user = (_namespace(process, name) for name in ("mnt", "user"))
        try:
            root = os.readlink(b"root", dir_fd=process)
            opened = os.open("root/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=process)
        except OSError:
            return Surroundings()
        try:
            status = os.fstat(opened)
            root_id = status.st_dev, status.st_ino
            view = self._view(process, mounts, root_id, opened)
        finally:
            os.close(opened)
        return Surroundings(
            root=root,
            root_id=root_id,
            mount_namespace=mounts.number,
            user_namespace=user.number,
            own_ids=_has_own_ids(process),
            view=view,
            mount_namespace_id=mounts.id,
            user_namespace_id=user.id,
        )

    def _view(self, process: int, mounts: "_Namespace", root_id: tuple[int, ...], root: int) -> str | None:
        """The digest of what a process sees below its root directory; None where that may not be read."""
        if mounts.number is None:
            return None
        if (mounts, root_id) not in self._views:
            data = _file(process, "mountinfo")
            # A root that is no mount point lies in a mount that mountinfo does not show.
            found = None if data is None else view_of(data, os.fstatvfs(root).f_flag & _ROOT_RIGHTS)
            if _namespace(process, "mnt") != mounts:
                return None  # it has moved meanwhile
            self._views[mounts, root_id] = found
        return self._views[mounts, root_id]


class _Namespace(NamedTuple):
    """A namespace; None: not told."""

    number: int | None
    id: int | None


def _namespace(process: int, name: str) -> _Namespace:
    try:
        opened = os.open(f"ns/{name}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)
    except OSError:
        return _Namespace(None, None)
    try:
        word = bytearray(8)
        fcntl.ioctl(opened, _NS_GET_MNTNS_ID if name == "mnt" else _NS_GET_ID, word)
        return _Namespace(os.fstat(opened).st_ino, int.from_bytes(word, sys.byteorder))
    except OSError:
        return _Namespace(os.fstat(opened).st_ino, None)
    finally:
        os.close(opened)


def _is_same(one: _Namespace, other: _Namespace) -> bool:
    return one.number == other.number and (None in (one.id, other.id) or one.id == other.id)


def _same_mounts(one: Surroundings, other: Surroundings) -> bool:
    """Return True if both are of one mount namespace, whatever has been mounted in it meanwhile."""
    return _is_same(
        _Namespace(one.mount_namespace, one.mount_namespace_id),
        _Namespace(other.mount_namespace, other.mount_namespace_id),
    )


def _same_user(one: Surroundings, other: Surroundings) -> bool:
    return _is_same(
        _Namespace(one.user_namespace, one.user_namespace_id), _Namespace(other.user_namespace, other.user_namespace_id)
    )


def _file(process: int, name: str) -> bytes | None:
    try:
        with open(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=process), "rb") as file:
            return file.read()
    except OSError:
        return None


class _Mount(NamedTuple):
    """A line of mountinfo: what counts of it."""

    parent: bytes
    point: bytes
    is_procfs: bool
    counts: bytes


def view_of(mountinfo: bytes, root_rights: int = 0) -> str | None:
    """The digest of a mountinfo.

    Args:
        mountinfo: as proc_pid_mountinfo(5) has it.
        root_rights: flags of statvfs(3) for the root directory.

    Returns:
        None where it is none.
    """
    mounts: dict[bytes, _Mount] = {}
    for line in mountinfo.splitlines():
        fields, _, behind = line.partition(b" - ")
        words, kind = fields.split(b" "), behind.split(b" ")[0]
        if len(words) < 6 or not kind:
            return None
        number, parent, device, root, point, options = words[:6]
        rights = b",".join(sorted(_RIGHTS & set(options.split(b","))))
        counts = b" ".join((device, root, point, rights, kind))
        mounts[number] = _Mount(parent, point, kind == b"proc" and _is_proc(point), counts)
    beside: dict[tuple[bytes, bytes], int] = {}
    places = {}
    for number, mount in mounts.items():
        # Where two lie on one mount at one point, the order in which they were laid there decides.
        place = places[number] = beside.get((mount.parent, mount.point), 0)
        beside[mount.parent, mount.point] = place + 1
    digests: dict[bytes, bytes] = {}
    for number in mounts:
        chain = []
        while number in mounts and number not in digests:
            chain.append(number)
            digests[number] = b""  # of what lies on itself
            number = mounts[number].parent
        for each in reversed(chain):
            mount = mounts[each]
            below = digests.get(mount.parent, b"") if mount.parent != each else b""
            digests[each] = below if mount.is_procfs else _digest(mount.counts, b"%d" % places[each], below)
    counted = sorted(digest for number, digest in digests.items() if not mounts[number].is_procfs)
    return _digest(b"%d" % root_rights, *counted).hex()


def _digest(*parts: bytes) -> bytes:
    made = blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        made.update(b"%d:" % len(part) + part)
    return made.digest()


def _is_proc(point: bytes) -> bool:
    return point == b"/proc" or point.startswith(b"/proc/")


def _has_own_ids(process: int) -> bool | None:
    """Return True if ids mean something else in its user namespace, or it has a capability there and only there."""
    status, maps = _file(process, "status"), [_file(process, name) for name in ("uid_map", "gid_map")]
    if status is None or None in maps:
        return None
    permitted = status.partition(b"\nCapPrm:")[2].split()[:1]
    rows = [line.split() for each in maps for line in (each or b"").splitlines()]
    return any(inside != outside for inside, outside, *_ in rows) or any(int(word, 16) for word in permitted)


def strange(there: Surroundings, here: Surroundings, *, same_boot: bool, ids_made: bool = False) -> tuple[str, ...]:
    """What a process lived in that a program started here would not: as ``apart`` has it, empty where there is nothing.

    Args:
        there: as captured.
        here: of the process that starts it.
        same_boot: it was captured since this host was booted: else numbers mean something else now.
        ids_made: the program gets a user namespace that has the caller's ids and no others, under their own numbers.

    Returns:
        ``mounts-unknown`` too: an image of an earlier version does not tell enough of them.
    """
    # Where ids are what they are outside, and nothing may be done with them, one user namespace is as good as another.
    same_ids = ids_made and there.own_ids is False
    if not same_boot or there.root_id is None:
        return tuple(each for each in there.apart or () if each != "user" or not same_ids)
    found = []
    if there.root_id != here.root_id:
        found.append("root")
    if not _same_mounts(there, here):
        if there.view is None and there.mounts is not None:
            found.append("mounts-unknown")
        elif there.view is None or there.view != here.view:
            found.append("mounts")
    if not _same_user(there, here) and not same_ids:
        found.append("user")
    return tuple(found)
