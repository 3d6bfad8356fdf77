# SPDX-License-Identifier: Apache-2.0
"""The cgroups of Kubernetes' pods on this host, as the kubelet lays them out.

A pod's folder of logs has its names and its UID: ``/var/log/pods/NAMESPACE_POD_UID/CONTAINER/`` (Kubernetes:
pkg/kubelet/kuberuntime/helpers.go, BuildPodLogsDirectory). No name has an underscore in it. The kubelet links each
container's log: ``/var/log/containers/POD_NAMESPACE_CONTAINER-ID.log`` leads to ``/var/log/pods/.../CONTAINER/N.log``
(legacy.go, legacyLogSymlink; a file's name of more than 255 bytes is cut, and with it the ID).

The pod's cgroup has its UID: with the driver ``systemd`` ``...-podUID.slice``, with underscores for dashes, with
``cgroupfs`` ``podUID`` (pkg/kubelet/cm/pod_container_manager_linux.go, GetPodContainerName). In it each container has a
cgroup with its ID: ``cri-containerd-ID.scope``, ``crio-ID.scope``, ``docker-ID.scope``, or ``ID`` or ``crio-ID``. The pod's
sandbox, whose only program waits, has one too and no log: it is not among the containers.

The kubelet and its runtimes are root, so only cgroups that the owner of the topmost one has made count
(agent.proc.cgroups): a user could make others with a pod's UID, which is in the paths of all its processes.
"""

import os
import re
from pathlib import Path
from typing import Final

from agent.errors import HostError, NoSuchRootError, RefusedError
from agent.proc.cgroups import folders, hierarchies, owner, walk
from agent.proc.nearnames import offered
from agent.record import NamedTuple
from agent.rootname import PodName

_LOGS: Final = "var/log/pods"
_LINKS: Final = "var/log/containers"
_POD: Final = re.compile(r"(?:.*-)?pod([0-9a-f]{8}[0-9a-f_-]{24,28})(?:\.slice)?")
_CONTAINER: Final = re.compile(r"(?:cri-containerd-|crio-|docker-)?([0-9a-f]{64})(?:\.scope)?")
_PARTS: Final = 3
_SHORTEST: Final = 6  # digits of an ID: what the kubelet takes of a name that was cut


class Pod(NamedTuple):
    """A pod's folder of logs.

    Attributes:
        namespace, name, uid: of the pod; the UID with dashes.
        logs: the folder.
    """

    namespace: str
    name: str
    uid: str
    logs: Path


def find(name: PodName, proc: Path = Path("/proc"), host: Path = Path("/")) -> list[Path]:
    """Return the folders of the cgroups of a pod's containers, or of one of them.

    Args:
        name: of the pod and container.
        proc: mount point of procfs.
        host: the folder that the paths of this module begin in.

    Raises:
        NoSuchRootError: no such pod, or no such container in it, runs here.
        RefusedError: several pods of that name run here.
        HostError: the kubelet's folders may not be read; or no hierarchy is mounted here.
    """
    pods = _pods(host)
    named = [pod for pod in pods if (pod.namespace, pod.name) == (name.namespace, name.pod)]
    cgroups = _cgroups(proc)
    running = [(pod, folder) for pod in named for folder in cgroups.get(pod.uid, ())]
    if len(running) > 1:
        raise RefusedError(
            f"{name} is {len(running)} pods, one of which may have been replaced: name a cgroup",
            [f"cgroup:{folder}, of UID {pod.uid}" for pod, folder in running],
        )
    if not running:
        known = sorted(f"{pod.namespace}/{pod.name}" for pod in pods if pod.uid in cgroups)
        raise NoSuchRootError(
            f"{name}: no such pod runs here. {offered('pods that run', 'here', known, f'{name.namespace}/{name.pod}')}; "
            f"looked in /{_LOGS} for {name.namespace}_{name.pod}_UID, and for its cgroup podUID"
        )
    pod, cgroup = running[0]
    found = _containers(pod, cgroup, host)
    if name.container:
        if name.container not in found:
            raise NoSuchRootError(
                f"{name}: the pod has no such container that runs. "
                f"{offered('containers that run', 'in it', sorted(found), name.container)}; "
                f"looked in /{_LINKS} for links into {pod.logs}"
            )
        return found[name.container]
    return [folder for each in found.values() for folder in each] or [cgroup]


def _pods(host: Path) -> list[Pod]:
    """Return the pods that have a folder of logs.

    Raises:
        HostError: it may not be read.
    """
    logs = host / _LOGS
    try:
        names = sorted(os.listdir(logs))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise HostError(f"{logs}, which has the names of pods, cannot be read: {error.strerror}") from error
    split = [(name.split("_"), name) for name in names]
    return [Pod(parts[0], parts[1], parts[2], logs / name) for parts, name in split if len(parts) == _PARTS]


def _cgroups(proc: Path) -> dict[str, list[Path]]:
    """Return the folders of each pod's cgroups by UID, of the first hierarchy that has any."""
    for one in hierarchies(proc):
        found: dict[str, list[Path]] = {}
        top = one.root or one.mount
        for folder in walk(top, lambda each: _POD.fullmatch(each.name) is not None, owner(top)):
            match = _POD.fullmatch(folder.name)
            if match is not None:
                found.setdefault(match[1].replace("_", "-"), []).append(folder)
        if found:
            return found
    return {}


def _containers(pod: Pod, cgroup: Path, host: Path) -> dict[str, list[Path]]:
    """Return the folder of the cgroup of each container that runs, by the container's name."""
    made = folders(cgroup, owner(cgroup.parent))
    ids = {match[1]: folder for folder in made if (match := _CONTAINER.fullmatch(folder.name))}
    found: dict[str, list[Path]] = {}
    for link in _links(host):
        try:
            target = Path(os.readlink(link))
        except OSError:
            continue
        if target.parent.parent.name != pod.logs.name:
            continue
        digits = link.name.removesuffix(".log").rpartition("-")[2]
        for number, folder in ids.items():
            if len(digits) >= _SHORTEST and number.startswith(digits):
                found.setdefault(target.parent.name, []).append(folder)
    return found


def _links(host: Path) -> list[Path]:
    try:
        return sorted(Path(entry.path) for entry in os.scandir(host / _LINKS))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise HostError(f"/{_LINKS}, which has the IDs of containers, cannot be read: {error.strerror}") from error
