# SPDX-License-Identifier: Apache-2.0
"""Where a process lives: the root directory and the mounts that its paths go through, and the user namespace of its ids.

Two processes *share* a view of files where they have the same root directory and the same mounts below it; that of /proc
does not count, for it shows a pid namespace and no files. A mount namespace of one's own does not make another view.
"""

import os
import zlib
from pathlib import Path

from agent.model import Surroundings


class Reader:
    """Tells of processes where they live, seen from this one.

    Args:
        proc: where procfs is mounted.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._sums: dict[tuple[int | None, tuple[int, ...] | None], int | None] = {}
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
        if None in (found.root_id, found.mounts, found.user_namespace, own.root_id):
            return found
        apart = []
        if found.root_id != own.root_id:
            apart.append("root")
        if found.mount_namespace != own.mount_namespace and found.mounts != own.mounts:
            apart.append("mounts")
        if found.user_namespace != own.user_namespace and found.own_ids:
            apart.append("user")
        return found._replace(apart=tuple(apart))

    def _read(self, process: int) -> Surroundings:
        try:
            root = os.readlink(b"root", dir_fd=process)
            status = os.stat(b"root/", dir_fd=process)
        except OSError:
            return Surroundings()
        root_id = status.st_dev, status.st_ino
        mounts, user = (_namespace(process, name) for name in ("mnt", "user"))
        key = mounts, root_id
        if key not in self._sums:
            self._sums[key] = _sum(process)
        return Surroundings(root, root_id, self._sums[key], mounts, user, _has_own_ids(process))


def _namespace(process: int, name: str) -> int | None:
    try:
        return int(os.readlink(f"ns/{name}", dir_fd=process).partition("[")[2].rstrip("]"))
    except (OSError, ValueError):
        return None


def _file(process: int, name: str) -> bytes | None:
    try:
        with open(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=process), "rb") as file:
            return file.read()
    except OSError:
        return None


def _sum(process: int) -> int | None:
    """A check sum of mountinfo: device, root within it, and mount point of each; see proc_pid_mountinfo(5)."""
    data = _file(process, "mountinfo")
    if data is None:
        return None
    rows = sorted(line.split()[2:5] for line in data.splitlines())
    return zlib.crc32(b"\n".join(b" ".join(row) for row in rows if not _is_proc(row[-1])))


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


def strange(there: Surroundings, here: Surroundings, *, same_boot: bool) -> tuple[str, ...]:
    """What a process lived in that a program started here would not: as ``apart`` has it, empty where there is nothing.

    Args:
        there: as captured.
        here: of the process that starts it.
        same_boot: it was captured since this host was booted: else numbers mean something else now.
    """
    if not same_boot or there.root_id is None:
        return there.apart or ()
    found = []
    if there.root_id != here.root_id:
        found.append("root")
    if there.mount_namespace != here.mount_namespace and there.mounts != here.mounts:
        found.append("mounts")
    if there.user_namespace != here.user_namespace and there.own_ids:
        found.append("user")
    return tuple(found)
