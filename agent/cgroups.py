# SPDX-License-Identifier: Apache-2.0
"""Cgroups as this process sees them mounted, of both versions: where one is, and which processes are in it.

A hierarchy of version 1 is known by its controllers or by ``name=NAME``; that of version 2 has no name. A mount shows a
hierarchy from some cgroup downwards (the fourth field of its line in mountinfo), mostly from its root, or from the root of
the reader's cgroup namespace.

Paths are those that /proc tells this process: within a cgroup namespace they begin at its root. A mount that was made
outside begins above that, and its fourth field is ``/..``, a part for each level: what those levels are called is not
told, so the root is looked for, as the cgroup so deep below the mount in which this process is where it says it is.

Container engines have no word of their own here: a container is a cgroup whose path they choose. With the driver
``systemd``: docker ``/system.slice/docker-ID.scope``, podman ``/machine.slice/libpod-ID.scope`` (of root; the init is in
``container`` below it), containerd under Kubernetes ``.../kubepods-POD.slice/cri-containerd-ID.scope``; with ``cgroupfs``:
``/docker/ID``, ``/libpod_parent/libpod-ID``, ``/default/ID``.
"""

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from agent.errors import CkptreeError, HostError, NoSuchRootError, UsageError
from agent.rootname import CgroupName, UnitName

_ESCAPED: Final = re.compile(r"\\([0-7]{3})")
_GONE: Final = (errno.ENOENT, errno.ENODEV)  # the second: it was removed between open and read
_FIELDS_BEFORE_DASH: Final = 6
_SYSTEMD_V1: Final = "name=systemd"
_ABOVE: Final = re.compile(r"(/\.\.)+")


class Hierarchy(NamedTuple):
    """One mount of one hierarchy.

    Attributes:
        options: of its superblock: of version 1, its controllers and its name are among them; None: it is version 2's.
        shown: path within the hierarchy of the cgroup that the mount shows as its root.
        mount: where.
        root: where the root of this process's cgroup namespace is; None: not below this mount.
    """

    options: frozenset[str] | None
    shown: str
    mount: Path
    root: Path | None

    def folder(self, path: str) -> Path | None:
        """Where a cgroup of this hierarchy would be; None: the mount does not show it."""
        if self.root is not None:
            return self.root / path.lstrip("/")
        top = self.shown.rstrip("/")
        if path != top and not path.startswith(top + "/"):
            return None
        return self.mount / path[len(top) :].lstrip("/")

    def __str__(self) -> str:
        return f"{self.mount}"


def hierarchies(proc: Path = Path("/proc")) -> list[Hierarchy]:
    """All that are mounted here, version 2 first.

    Raises:
        HostError: none is, or /proc does not tell.
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
        candidates = [below for folder in candidates for below in _folders(folder)]
    found = [folder for folder in candidates if _is_own(folder / own)]
    return (
        found[0] if len(found) == 1 else None
    )  # who has left the namespace's own is at `..`, as seen from any sibling


def _own_path(options: frozenset[str] | None, proc: Path) -> str | None:
    """The cgroup of this process in a hierarchy, as its cgroup namespace has it, without the slash."""
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


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []


def _unescaped(field: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), field)


def find(name: CgroupName | UnitName, proc: Path = Path("/proc")) -> Path:
    """The folder of a cgroup, or that of a unit.

    Raises:
        NoSuchRootError: there is none.
        UsageError: of version 1, several hierarchies have that path, with other processes in each.
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
    # The same path in several hierarchies of version 1 is the rule, mostly with the same processes in each.
    if len({frozenset(processes(folder)) for folder in found}) > 1:
        listed = ", ".join(map(str, found))
        raise UsageError(f"{name} is another cgroup in each of several hierarchies: name one of {listed}")
    return found[0]


def _unit(name: UnitName, mounted: list[Hierarchy]) -> Path:
    """A unit's cgroup is below those of the slices it is in, and below nothing else: that is how it is found.

    So a unit of a user's manager, or of another systemd within a container, is not taken for one of this host's.
    """
    for one in mounted:
        if one.options is None or _SYSTEMD_V1 in one.options:
            top = one.root or one.mount
            if name.name == "-.slice":
                return top
            for folder in _slices(top):
                # A name that the kernel's own files could have is escaped with an underscore.
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
    """The processes in a cgroup and in those below it, as this process's pid namespace counts.

    Of version 2, a process that this namespace does not see is listed by the kernel as 0; version 1 leaves it out.

    Raises:
        NoSuchRootError: the cgroup is gone.
        UsageError: it is a threaded one, which has threads and no processes.
        HostError: not permitted.
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
                if error.errno not in (*_GONE, errno.EOPNOTSUPP):  # a threaded one's processes are its domain's
                    raise HostError(f"{below}/{name}/cgroup.procs cannot be read: {error.strerror}") from error
    return found


def _listed(folder: Path) -> set[int]:
    return {int(word) for word in (folder / "cgroup.procs").read_bytes().split()}
