# SPDX-License-Identifier: Apache-2.0
"""Cgroups of both versions, as this process sees them mounted: the folder of each, and the processes in it.

A hierarchy of version 1 is known by its controllers or by ``name=NAME``; that of version 2 has no name. A mount shows a
hierarchy from some cgroup downwards (the fourth field of its line in mountinfo), mostly from its root, or from the root
of the reader's cgroup namespace.

Paths are those that /proc shows this process: within a cgroup namespace they begin at its root. A mount that was made
outside begins above that root, and its fourth field is ``/..``, one part for each level, without the levels' names. So
the root is searched for: at that depth below the mount it is the cgroup below which this process's own path leads to
this process.

Jobs, containers and pods are cgroups, too, with names that programs choose: agent.proc.slurmjobs, agent.proc.containers
and agent.proc.pods find them. A user to whom a cgroup was delegated chooses names below it as well. A new folder belongs to
its maker, who needs the right to write the folder that it is in. So what is in a folder of root's was made by root, and
nothing else counts as Slurm's or the kubelet's. The folder itself may have been given away: a runtime gives a container's
cgroup to the container's root.
"""

import errno
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from agent.errors import CkptreeError, HostError, NoSuchRootError, UsageError
from agent.record import NamedTuple
from agent.rootname import CgroupName, UnitName

_ESCAPED: Final = re.compile(r"\\([0-7]{3})")
_GONE: Final = (errno.ENOENT, errno.ENODEV)  # ENODEV: the cgroup was removed between open and read
_FIELDS_BEFORE_DASH: Final = 6
_SYSTEMD_V1: Final = "name=systemd"
_ABOVE: Final = re.compile(r"(/\.\.)+")


class Hierarchy(NamedTuple):
    """A mount of a hierarchy.

    Attributes:
        options: of its superblock; in version 1 the controllers and the name are among them; None: version 2.
        shown: path within the hierarchy of the cgroup that the mount shows as its root.
        mount: mount point.
        root: folder of the root of this process's cgroup namespace; None: it is not below this mount.
    """

    options: frozenset[str] | None
    shown: str
    mount: Path
    root: Path | None

    def folder(self, path: str) -> Path | None:
        """Return the folder that a cgroup of this hierarchy would have; None: the mount does not show it."""
        if self.root is not None:
            return self.root / path.lstrip("/")
        top = self.shown.rstrip("/")
        if path != top and not path.startswith(top + "/"):
            return None
        return self.mount / path[len(top) :].lstrip("/")

    def __str__(self) -> str:
        return f"{self.mount}"


def hierarchies(proc: Path = Path("/proc")) -> list[Hierarchy]:
    """Return all mounted hierarchies, version 2 first.

    Raises:
        HostError: no hierarchy is mounted, or /proc does not tell.
    """
    try:
        text = (proc / "self/mountinfo").read_text(errors="surrogateescape")
    except OSError as error:
        raise HostError(f"{proc}/self/mountinfo cannot be read: {error.strerror}") from error
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, (kind, *rest) = before.split(" "), after.split(" ")
        if kind in ("cgroup", "cgroup2") and len(fields) >= _FIELDS_BEFORE_DASH:
            options = frozenset(rest[-1].split(",")) if kind == "cgroup" else None
            shown, mount = _unescaped(fields[3]), Path(_unescaped(fields[4]))
            found.append(Hierarchy(options, shown, mount, _root(options, shown, mount, proc)))
    if not found:
        raise HostError("no cgroup hierarchy is mounted here: mount -t cgroup2 none /sys/fs/cgroup")
    return sorted(found, key=lambda one: one.options is not None)


def _root(options: frozenset[str] | None, shown: str, mount: Path, proc: Path) -> Path | None:
    """Find the root of this process's cgroup namespace below a mount."""
    if shown == "/":
        return mount
    own = _own_path(options, proc) if _ABOVE.fullmatch(shown) else None
    if own is None:
        return None
    candidates = [mount]
    for _ in range(shown.count("/")):
        candidates = [below for folder in candidates for below in folders(folder)]
    found = [folder for folder in candidates if _is_own(folder / own)]
    return (
        found[0] if len(found) == 1 else None
    )  # a process outside its namespace's root has a path with `..`, which fits below several cgroups


def _own_path(options: frozenset[str] | None, proc: Path) -> str | None:
    """Return this process's cgroup in a hierarchy, as its cgroup namespace has it, without the leading slash."""
    try:
        lines = (proc / "self/cgroup").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers if options is None else controllers and set(controllers.split(",")) <= options:
            return path.removesuffix(" (deleted)").lstrip("/")
    return None


def own(hierarchy: Hierarchy, proc: Path = Path("/proc")) -> Path | None:
    """Return the folder of this process's own cgroup; None: the mount does not show it."""
    path = _own_path(hierarchy.options, proc)
    return None if path is None else hierarchy.folder("/" + path)


def _is_own(folder: Path) -> bool:
    try:
        return os.getpid() in _listed(folder)
    except OSError:
        return False


def owner(folder: Path) -> int | None:
    """Return the uid of a folder's owner; None: the folder is gone."""
    try:
        return folder.stat().st_uid
    except OSError:
        return None


def folders(folder: Path, maker: int | None = None) -> list[Path]:
    """Return the folders in a folder, in order of their names; none where they cannot be read, or it is gone.

    Args:
        folder: the folder.
        maker: uid of the user who must have made what is returned; None: any.
    """
    if maker is not None and owner(folder) != maker:
        return []
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []


def walk(top: Path, until: Callable[[Path], bool], maker: int | None = None) -> Iterator[Path]:
    """Yield the folders below a folder for which `until` holds; nothing below these is looked at.

    Args:
        top: where to begin.
        until: the condition.
        maker: uid of the user who must have made the folder, and all above it; None: any.
    """
    waiting = [top]
    while waiting:
        for folder in folders(waiting.pop(), maker):
            if until(folder):
                yield folder
            else:
                waiting.append(folder)


def _unescaped(field: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), field)


def find(name: CgroupName | UnitName, proc: Path = Path("/proc")) -> Path:
    """Return the folder of a cgroup, or that of a unit.

    Raises:
        NoSuchRootError: there is no such cgroup or unit.
        UsageError: several hierarchies of version 1 have that path, with different processes in each.
        HostError: no hierarchy is mounted here.
    """
    mounted = hierarchies(proc)
    return _unit(name, mounted) if isinstance(name, UnitName) else _cgroup(name, mounted)


def _cgroup(name: CgroupName, mounted: list[Hierarchy]) -> Path:
    wanted = [one for one in mounted if not name.hierarchy or (one.options and set(name.hierarchy) <= one.options)]
    if not wanted:
        raise NoSuchRootError(f"{name}: no hierarchy of these controllers is mounted; see /proc/self/cgroup")
    if not name.hierarchy:
        path = Path(os.path.realpath(name.path))  # /sys/fs/cgroup/cpu may be a link to cpu,cpuacct
        if any(path == one.mount or one.mount in path.parents for one in mounted) and _is_cgroup(path):
            return path
    hidden = [one for one in wanted if one.options is None and name.path == "/" and one.folder("/") is None]
    if hidden and len(hidden) == sum(one.options is None for one in wanted):
        raise NoSuchRootError(
            f"{name}: {hidden[0]} does not show the root of this process's cgroup namespace: name a folder"
        )
    found = [folder for one in wanted if (folder := one.folder(name.path)) is not None and _is_cgroup(folder)]
    unified = [one.folder(name.path) for one in wanted if one.options is None]
    if not found:
        raise NoSuchRootError(f"no such cgroup: {name}; {', '.join(str(one) for one in wanted[:12])} do not have it")
    if len(found) == 1 or found[0] in unified:
        return found[0]
    # Several hierarchies of version 1 usually have the same path, mostly with the same processes in each.
    if len({frozenset(processes(folder)) for folder in found}) > 1:
        listed = ", ".join(map(str, found))
        raise UsageError(f"{name} is another cgroup in each of several hierarchies: name one of {listed}")
    return found[0]


def _unit(name: UnitName, mounted: list[Hierarchy]) -> Path:
    """Return a unit's cgroup: it is below those of the unit's slices, and below no other cgroup.

    So a unit of a user's manager, or of another systemd within a container, does not count as one of this host's.
    """
    for one in mounted:
        if one.options is None or _SYSTEMD_V1 in one.options:
            top = one.root or one.mount
            if name.name == "-.slice":
                return top
            for folder in _slices(top):
                # systemd escapes a name that a file of the kernel could have with an underscore.
                for spelled in (name.name, "_" + name.name):
                    if _is_cgroup(folder / spelled):
                        return folder / spelled
    raise NoSuchRootError(f"{name}: no cgroup of that name in any slice: the unit is not active, or has no processes")


def _slices(folder: Path) -> Iterator[Path]:
    yield folder
    try:
        with os.scandir(folder) as entries:
            below = sorted(entry.name for entry in entries if entry.name.endswith(".slice") and entry.is_dir())
    except OSError:
        return
    for name in below:
        yield from _slices(folder / name)


def _is_cgroup(folder: Path) -> bool:
    return (folder / "cgroup.procs").exists()


def processes(folder: Path) -> set[int]:
    """Return the processes in a cgroup and in those below it, by their numbers in this process's pid namespace.

    The kernel lists a process that this namespace does not see as 0 in version 2; in version 1 it leaves it out.

    Raises:
        NoSuchRootError: the cgroup is gone.
        UsageError: the cgroup is threaded: it has threads and no processes.
        HostError: the caller may not read its list of processes.
    """
    try:
        found = _listed(folder)
    except OSError as error:
        if error.errno in _GONE:
            raise NoSuchRootError(f"the cgroup {folder} is gone") from error
        if error.errno == errno.EOPNOTSUPP:
            raise UsageError(
                f"the cgroup {folder} is threaded: it has no processes; name its domain, above it"
            ) from error
        if isinstance(error, PermissionError):
            raise HostError(f"{folder}/cgroup.procs cannot be read: {error.strerror}") from error
        raise CkptreeError(f"{folder}/cgroup.procs cannot be read: {error.strerror}") from error
    for below, folders, _ in os.walk(folder):
        for name in folders:
            try:
                found |= _listed(Path(below, name))
            except OSError as error:
                if error.errno not in (*_GONE, errno.EOPNOTSUPP):  # the domain lists the processes of a threaded one
                    raise HostError(f"{below}/{name}/cgroup.procs cannot be read: {error.strerror}") from error
    return found


def _listed(folder: Path) -> set[int]:
    return {int(word) for word in (folder / "cgroup.procs").read_bytes().split()}
