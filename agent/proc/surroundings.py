# SPDX-License-Identifier: Apache-2.0
"""The surroundings of a process: the root directory and mounts of its paths, and the user namespace of its ids.

Theory
------
Two processes *share* a view of files where they have the same root directory and the same mounts below it, in the same
order over each other and with the same rights; a procfs on /proc does not count, for it shows a pid namespace and no
files. A separate mount namespace does not make another view: it begins as a copy.

A view is identified by numbers that the kernel gives anew at each boot: devices, inodes, namespaces. So views are
compared within one boot alone. An image of another boot or machine names in `apart` the surroundings that a process did
not share with the capturing process, and a restart puts its own surroundings in place of that process's. The kernel
gives the number of a namespace to another one as soon as it is free, but an id never twice: where it tells ids, two
namespaces with one number and different ids differ.

A view is a digest without known collisions. For each mount it covers the facts that decide which file a path leads to
and what may be done with the file: device, root within the file system, mount point, options, type, and the same facts
of the mount below. Ids of mounts, and the order of mounts beside each other, differ from copy to copy and are left out;
so are propagation, the source's name and the options about access times.
"""

import fcntl
import os
import sys
from pathlib import Path
from typing import Final

from agent.model import Surroundings
from agent.record import NamedTuple

_DIGEST_BYTES: Final = 16
# The options of a mount that change what a path may be used for; see show_mnt_opts() in the kernel's
# fs/proc_namespace.c.
_RIGHTS: Final = frozenset((b"ro", b"nosuid", b"nodev", b"noexec", b"nosymfollow", b"idmapped"))
# Of the kernel's include/uapi/linux/nsfs.h: the id of a mount namespace, and since Linux 6.18 that of any namespace.
_NS_GET_MNTNS_ID, _NS_GET_ID = 0x8008B705, 0x8008B70D
_ROOT_RIGHTS: Final = os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC


class SurroundingsReader:
    """The reader of processes' surroundings, compared with those of this process.

    Args:
        proc: mount point of procfs.
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
        """Surroundings of this process."""
        return self._own or Surroundings()

    def of(self, process: int) -> Surroundings:
        """Read the surroundings of a process, by its opened directory of procfs."""
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
        """Return the digest of a process's mounts below its root directory; None where they may not be read."""
        if mounts.number is None:
            return None
        if (mounts, root_id) not in self._views:
            data = _file(process, "mountinfo")
            # A root that is no mount point lies in a mount that mountinfo does not show.
            found = None if data is None else view_of(data, os.fstatvfs(root).f_flag & _ROOT_RIGHTS)
            if _namespace(process, "mnt") != mounts:
                return None  # the process has changed its mount namespace meanwhile
            self._views[mounts, root_id] = found
        return self._views[mounts, root_id]


class _Namespace(NamedTuple):
    """A namespace: inode number and id; None where the kernel does not tell."""

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
    """Return True if both have one mount namespace, even where its mounts have changed meanwhile."""
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
    """The facts of a line of mountinfo that count."""

    parent: bytes
    point: bytes
    is_procfs: bool
    counts: bytes


def view_of(mountinfo: bytes, root_rights: int = 0) -> str | None:
    """Return the digest of a mountinfo.

    Args:
        mountinfo: as proc_pid_mountinfo(5) has it.
        root_rights: flags of statvfs(3) for the root directory.

    Returns:
        None where the bytes are no mountinfo.
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
        # Of two mounts on one mount at one point, the later one lies over the other.
        place = places[number] = beside.get((mount.parent, mount.point), 0)
        beside[mount.parent, mount.point] = place + 1
    digests: dict[bytes, bytes] = {}
    for number in mounts:
        chain = []
        while number in mounts and number not in digests:
            chain.append(number)
            digests[number] = b""  # for a mount whose parent is itself
            number = mounts[number].parent
        for each in reversed(chain):
            mount = mounts[each]
            below = digests.get(mount.parent, b"") if mount.parent != each else b""
            digests[each] = below if mount.is_procfs else _digest(mount.counts, b"%d" % places[each], below)
    counted = sorted(digest for number, digest in digests.items() if not mounts[number].is_procfs)
    return _digest(b"%d" % root_rights, *counted).hex()


def _digest(*parts: bytes) -> bytes:
    from hashlib import blake2b  # loads all of OpenSSL

    made = blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        made.update(b"%d:" % len(part) + part)
    return made.digest()


def _is_proc(point: bytes) -> bool:
    return point == b"/proc" or point.startswith(b"/proc/")


def _has_own_ids(process: int) -> bool | None:
    """Return True if its user namespace maps ids otherwise, or gives it capabilities that count only there."""
    status, maps = _file(process, "status"), [_file(process, name) for name in ("uid_map", "gid_map")]
    if status is None or None in maps:
        return None
    permitted = status.partition(b"\nCapPrm:")[2].split()[:1]
    rows = [line.split() for each in maps for line in (each or b"").splitlines()]
    return any(inside != outside for inside, outside, *_ in rows) or any(int(word, 16) for word in permitted)


def strange(there: Surroundings, here: Surroundings, *, same_boot: bool, ids_made: bool = False) -> tuple[str, ...]:
    """Return the surroundings of a process that a program started here would not have, by the names of ``apart``.

    Args:
        there: as captured.
        here: of the process that starts the program.
        same_boot: True where it was captured in this boot; else its numbers have no meaning now.
        ids_made: the program gets a user namespace that has the caller's ids and no others, under their own numbers.

    Returns:
        The names; ``mounts-unknown`` where an image of an earlier version does not tell enough of the mounts.
    """
    # A user namespace that maps ids to themselves and gives no capabilities does not differ from another such one.
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
