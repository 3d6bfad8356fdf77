# SPDX-License-Identifier: Apache-2.0
"""The cgroups of containers that podman or docker run on this host.

The cgroup's name has the container's ID, 64 digits; the folder above it depends on drivers and options, so it is
searched for:

========  ===================================================  =====================================================
engine    name of the cgroup                                   from the engine's source
========  ===================================================  =====================================================
podman    ``libpod-ID.scope``, ``libpod-ID``,                  libpod/container_internal_linux.go, getOCICgroupPath
          ``libpod-payload-ID``
docker    ``docker-ID.scope``, ``ID``                          daemon/oci_linux.go, withCgroups
========  ===================================================  =====================================================

The names of containers are in files of the engine:

* podman, ``GRAPHROOT/DRIVER-containers/containers.json`` (or ``volatile-containers.json``): a list of objects with ``id``
  and ``names`` (containers/storage, containers.go; libpod/storage.go gives each container its name there, and
  libpod/runtime_ctr.go on ``podman rename``). GRAPHROOT is ``/var/lib/containers/storage``, or what storage.conf says; of
  another user it is ``~/.local/share/containers/storage``.
* docker, ``ROOT/containers/ID/config.v2.json``: an object with ``ID`` and ``Name``, with a slash before it
  (daemon/container/container.go). ROOT is ``/var/lib/docker``, or ``data-root`` of ``/etc/docker/daemon.json``; of another
  user it is ``~/.local/share/docker``.

A file is believed about cgroups of its owner alone: a container belongs to the user who owns the folder of its cgroup's
parent, root or another, for that user has made the cgroup. So no user can give the name of a container to processes of
somebody else. Files of a user are read to a bound, and no link is followed.

A user can make a cgroup with any ID. Of two with one ID root's is the container: no engine gives an ID twice. A word that
is the name of one container and the beginning of another one's ID means neither.
"""

import json
import os
import pwd
import re
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from agent.errors import HostError, NoSuchRootError, RefusedError
from agent.proc.cgroups import hierarchies, owner, walk
from agent.proc.nearnames import offered
from agent.record import NamedTuple
from agent.rootname import ContainerName, Engine

_CGROUP: Final[dict[Engine, re.Pattern[str]]] = {
    "podman": re.compile(r"libpod-(?:payload-)?([0-9a-f]{64})(?:\.scope)?"),
    "docker": re.compile(r"(?:docker-([0-9a-f]{64})\.scope|([0-9a-f]{64}))"),
}
_ID: Final = re.compile(r"[0-9a-f]{12,64}")
_MOST: Final = 64 << 20  # bytes of a file


class Running(NamedTuple):
    """A container that has a cgroup.

    Attributes:
        number: its ID.
        uid: of the user who runs it.
        folder: of its cgroup.
    """

    number: str
    uid: int
    folder: Path


def find(name: ContainerName, proc: Path = Path("/proc"), host: Path = Path("/")) -> list[Path]:
    """Return the folder of a container's cgroup.

    Args:
        name: of the container.
        proc: mount point of procfs.
        host: the folder that the paths of this module begin in.

    Raises:
        NoSuchRootError: no container of that name or ID runs here.
        RefusedError: several do, of several users.
        HostError: the engine's files may not be read; or no hierarchy is mounted here.
    """
    running = _without_impostors(list(_running(name.engine, proc)))
    by_number = [one for one in running if _ID.fullmatch(name.name) and one.number.startswith(name.name)]
    named: list[tuple[Running, str]] = []
    unread: list[OSError] = []
    for uid in sorted({one.uid for one in running}):
        theirs = {one.number: one for one in running if one.uid == uid}
        try:
            named += [(theirs[number], known) for number, known in _names(name.engine, uid, theirs, host)]
        except OSError as error:
            unread.append(error)
    found = [(one, known) for one, known in named if known == name.name]
    found += [(one, "") for one in by_number if all(one != other for other, _ in found)]
    if found:
        return [_only(name, found)]
    if unread:
        raise HostError(
            f"{name}: the names of containers are in {unread[0].filename}, which cannot be read: {unread[0].strerror}. Ask "
            f"as its owner, or give the container's ID, of which 12 digits suffice: {name.engine}:ID"
        )
    raise NoSuchRootError(
        f"{name}: no such container runs here. "
        + offered(f"containers of {name.engine} that run", "here", sorted(known for _, known in named), name.name)
        + f"; looked for cgroups named {_SHOWN[name.engine]}"
    )


_SHOWN: Final[dict[Engine, str]] = {
    "podman": "libpod-ID.scope or libpod-ID",
    "docker": "docker-ID.scope or ID",
}


def _running(engine: Engine, proc: Path) -> Iterator[Running]:
    """Yield the containers, of the first hierarchy that has any."""
    pattern = _CGROUP[engine]
    for one in hierarchies(proc):
        found = list(walk(one.root or one.mount, lambda folder: pattern.fullmatch(folder.name) is not None))
        for folder in found:
            match = pattern.fullmatch(folder.name)
            uid = owner(folder.parent)
            if match is not None and uid is not None:
                yield Running(next(group for group in match.groups() if group), uid, folder)
        if found:
            return


def _without_impostors(running: list[Running]) -> list[Running]:
    """Leave out users' cgroups that have the ID of one of root's."""
    of_root = {one.number for one in running if not one.uid}
    return [one for one in running if not one.uid or one.number not in of_root]


def _only(name: ContainerName, found: list[tuple[Running, str]]) -> Path:
    if len(found) > 1:
        raise RefusedError(
            f"{name} is {len(found)} containers: name one by more of its ID",
            [f"{name.engine}:{one.number} {known}".rstrip() + f", of uid {one.uid}" for one, known in found],
        )
    return found[0][0].folder


def _names(engine: Engine, uid: int, running: dict[str, Running], host: Path) -> Iterator[tuple[str, str]]:
    """Yield ID and name of a user's containers that run.

    Raises:
        OSError: a file may not be read.
    """
    home = None
    if uid:
        try:
            home = host / pwd.getpwuid(uid).pw_dir.lstrip("/")
        except KeyError:
            return
    if engine == "docker":
        root = _docker_root(home, host)
        for folder in (root, *root.glob("[0-9]*.[0-9]*")):  # userns-remap: one for each mapping
            yield from _docker_names(folder / "containers", uid, running)
        return
    try:
        with os.scandir(_storage(home, host)) as entries:
            found = sorted(Path(entry.path) for entry in entries if entry.name.endswith("-containers"))
    except FileNotFoundError:
        return
    for folder in found:
        for file in ("containers.json", "volatile-containers.json"):
            for each in _objects(_json(folder / file, uid)):
                number, names = each.get("id"), each.get("names")
                if number in running and isinstance(names, list):
                    yield from ((number, known) for known in names if isinstance(known, str))


def _docker_names(containers: Path, uid: int, running: dict[str, Running]) -> Iterator[tuple[str, str]]:
    for number in running:
        for each in _objects([_json(containers / number / "config.v2.json", uid)]):
            known = each.get("Name")
            if isinstance(known, str):
                yield number, known.removeprefix("/")


def _objects(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _storage(home: Path | None, host: Path) -> Path:
    """Return podman's storage, of a user or of root."""
    if home is not None:
        return home / ".local/share/containers/storage"
    for place in ("etc/containers/storage.conf", "usr/share/containers/storage.conf"):
        try:
            told = tomllib.loads((host / place).read_text()).get("storage", {})
        except (OSError, ValueError):
            continue
        if isinstance(told, dict) and isinstance(root := told.get("graphroot"), str) and root:
            return host / root.lstrip("/")
    return host / "var/lib/containers/storage"


def _docker_root(home: Path | None, host: Path) -> Path:
    """Return docker's folder, of a user or of root."""
    if home is not None:
        return home / ".local/share/docker"
    told = _json(host / "etc/docker/daemon.json", 0) or {}
    root = told.get("data-root", told.get("graph")) if isinstance(told, dict) else None
    return host / (root.lstrip("/") if isinstance(root, str) else "var/lib/docker")


def _json(path: Path, uid: int) -> Any:
    """Read a file of a user's; return None where there is none, or it is another thing, or another user's.

    Raises:
        PermissionError: this process may not read it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:
        raise
    except OSError:
        return None
    with open(descriptor, "rb") as file:
        kept = os.fstat(descriptor)
        if not stat.S_ISREG(kept.st_mode) or kept.st_uid != uid or kept.st_size > _MOST:
            return None
        try:
            return json.loads(file.read(_MOST))
        except (ValueError, RecursionError):
            return None
