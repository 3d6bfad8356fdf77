# SPDX-License-Identifier: Apache-2.0
"""The syntax of ROOT, the name of the root of a tree.

    ROOT    = pid                          as the caller's pid namespace counts
            | "pid:[" inum "]"             the init of that pid namespace, as readlink of /proc/PID/ns/pid prints it
            | "pidns:" inum                the same, without what a shell might expand; ``pidns:[inum]`` too
            | "cgroup:" [hierarchy ":"] path
            | "unit:" name                 of systemd's system manager; a name without a suffix is a service's
            | "slurm:" job ["." step]      of Slurm; step = number ["+" component] | batch | extern | interactive
            | "podman:" name               of a container, or its ID, or the first 12 digits of that or more
            | "docker:" name               likewise
            | "pod:" namespace "/" pod ["/" container]     of Kubernetes
    hierarchy = a controller of cgroup v1, several of them with commas, or ``name=NAME``
    path    = absolute within its hierarchy, or that of a folder where the hierarchy is mounted

A daemon resolves the first three forms. The client itself resolves the others to cgroups (agent.proc.topmost), within
its own cgroup and pid namespaces and with its own rights.
"""

import re
from typing import Final, Literal, TypeAlias

from agent.errors import UsageError
from agent.record import record

_MAX_DIGITS = 10  # of a 32-bit number
_MAX_NAME = 4096  # PATH_MAX
# Patterns are compiled when a name asks for it: that takes time, and most roots are pids.
_UNIT: Final = r"[A-Za-z0-9:_.\\@-]{1,255}"
_WITH_PROCESSES: Final = ("service", "scope", "slice", "socket", "mount", "swap")
_WITHOUT: Final = ("target", "timer", "path", "device", "automount")
_JOB: Final = r"\d{1,10}|s[0-9A-HJKMNP-TV-Z]{13}"
_STEP: Final = r"\d{1,10}(\+\d{1,10})?|batch|extern|interactive"
_ARRAY: Final = r"\d+(?:_\d|_\[|\+)"
_CONTAINER: Final = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}"
_POD: Final = r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?"  # of DNS
_POD_PARTS: Final = (2, 3)

Engine: TypeAlias = Literal["podman", "docker"]
"""A program that makes containers."""

KINDS: Final = ("pidns:", "cgroup:/", "unit:", "slurm:", "podman:", "docker:", "pod:")
"""Beginnings of a ROOT that is no pid."""

_EXPECTED: Final = "cgroup:PATH, unit:NAME, slurm:JOB.STEP, podman:NAME, docker:NAME or pod:NAMESPACE/POD"


@record
class RootName:
    """A process by its pid, or the init of a pid namespace by the namespace's inode number.

    Attributes:
        namespace: True where `number` is the inode number of a pid namespace; False where it is a pid in the caller's
            pid namespace.
        number: see namespace.
    """

    namespace: bool
    number: int

    def __str__(self) -> str:
        return f"pid:[{self.number}]" if self.namespace else f"pid {self.number}"


@record
class CgroupName:
    """The topmost process of a cgroup and of the cgroups below it.

    Attributes:
        hierarchy: names of controllers, or ``name=NAME``; empty: the first hierarchy that has the path, v2's before
            v1's.
        path: absolute; no part of it is empty, ``.`` or ``..``.
    """

    hierarchy: tuple[str, ...]
    path: str

    def __str__(self) -> str:
        hierarchy = ",".join(self.hierarchy)
        return f"cgroup:{hierarchy}:{self.path}" if hierarchy else f"cgroup:{self.path}"


@record
class UnitName:
    """The topmost process of a unit of systemd.

    Attributes:
        name: with its suffix.
    """

    name: str

    def __str__(self) -> str:
        return f"unit:{self.name}"


@record
class JobName:
    """The processes that a job of Slurm has on this host, or one of its steps.

    Attributes:
        job: its number, or, as the folders of Slurm 26.05 have it, its SLUID: ``s`` and 13 digits of base 32.
        step: as Slurm prints it; empty: all steps.
    """

    job: str
    step: str = ""

    def __str__(self) -> str:
        return f"slurm:{self.job}" + (f".{self.step}" if self.step else "")


@record
class ContainerName:
    """A container of an engine.

    Attributes:
        engine: the engine.
        name: of the container; or its ID, or the first digits of it.
    """

    engine: Engine
    name: str

    def __str__(self) -> str:
        return f"{self.engine}:{self.name}"


@record
class PodName:
    """The containers of a pod of Kubernetes, or one of them.

    Attributes:
        namespace, pod: names of the pod.
        container: name of the container; empty: all of them.
    """

    namespace: str
    pod: str
    container: str = ""

    def __str__(self) -> str:
        return f"pod:{self.namespace}/{self.pod}" + (f"/{self.container}" if self.container else "")


CgroupsName: TypeAlias = CgroupName | UnitName | JobName | ContainerName | PodName
"""A name that stands for one cgroup or several."""

Target: TypeAlias = RootName | CgroupsName


def parse(text: str) -> RootName:
    """Read a ROOT that names a process or a namespace.

    Raises:
        UsageError: the text names neither.
    """
    kind, _, digits = text.rpartition(":")
    if kind in ("pid", "pidns") and digits.startswith("[") and digits.endswith("]"):
        kind, digits = "pidns", digits[1:-1]
    if kind not in ("", "pidns") or not (digits.isascii() and digits.isdecimal()) or len(digits) > _MAX_DIGITS:
        raise UsageError(
            f"ROOT {_shown(text)!r}: expected a pid, or pid:[INUM] as readlink /proc/PID/ns/pid prints it, or pidns:INUM"
        )
    return RootName(kind == "pidns", int(digits))


def parse_target(text: str) -> Target:
    """Read a ROOT of any kind.

    Raises:
        UsageError: the text is no ROOT.
    """
    kind, _, rest = text.partition(":")
    if kind == "cgroup":
        return _cgroup(text, rest)
    if kind == "unit":
        return _unit(text, rest)
    if kind == "slurm":
        return _job(text, rest)
    if kind in ("podman", "docker"):
        return _container(text, "podman" if kind == "podman" else "docker", rest)
    if kind == "pod":
        return _pod(text, rest)
    try:
        return parse(text)
    except UsageError as error:
        raise UsageError(f"{error}, {_EXPECTED}") from error


def _cgroup(text: str, rest: str) -> CgroupName:
    hierarchy, _, path = ("", "", rest) if rest.startswith("/") else rest.partition(":")
    parts = [part for part in path.split("/") if part]
    if not path.startswith("/") or len(path) > _MAX_NAME or {".", ".."} & set(parts) or "\0" in path:
        raise UsageError(
            f"ROOT {_shown(text)!r}: expected cgroup:PATH or, of cgroup v1, cgroup:CONTROLLER:PATH; PATH is absolute, as "
            "in /proc/PID/cgroup, and has no parts . and .."
        )
    return CgroupName(tuple(name for name in hierarchy.split(",") if name), "/" + "/".join(parts))


def _unit(text: str, name: str) -> UnitName:
    if not re.fullmatch(_UNIT, name, re.ASCII):
        raise UsageError(f"ROOT {_shown(text)!r}: expected unit:NAME, the name of a unit of systemd")
    suffix = name.rpartition(".")[2]
    if "." in name and suffix in _WITHOUT:
        raise UsageError(f"ROOT {text!r}: a unit of the kind .{suffix} has no processes of its own")
    return UnitName(name if "." in name and suffix in _WITH_PROCESSES else f"{name}.service")


def _job(text: str, name: str) -> JobName:
    if re.match(_ARRAY, name, re.ASCII):
        raise UsageError(
            f"ROOT {_shown(text)!r}: a task of a job array, or a component of a heterogeneous job, has a job number of its "
            f"own, which `scontrol show job {_shown(name)}` prints as JobId: name it by that"
        )
    job, dot, step = name.partition(".")
    if not re.fullmatch(_JOB, job, re.ASCII) or (dot and not re.fullmatch(_STEP, step, re.ASCII)):
        raise UsageError(
            f"ROOT {_shown(text)!r}: expected slurm:JOB or slurm:JOB.STEP, as 4711, 4711.0, 4711.batch or 4711.extern"
        )
    return JobName(job.lstrip("0") or "0", step)


def _container(text: str, engine: Engine, name: str) -> ContainerName:
    if not re.fullmatch(_CONTAINER, name, re.ASCII):
        raise UsageError(
            f"ROOT {_shown(text)!r}: expected {engine}:NAME, the name of a container as `{engine} ps` prints it"
        )
    return ContainerName(engine, name)


def _pod(text: str, name: str) -> PodName:
    parts = name.split("/")
    if len(parts) not in _POD_PARTS or not all(re.fullmatch(_POD, part, re.ASCII) for part in parts):
        raise UsageError(f"ROOT {_shown(text)!r}: expected pod:NAMESPACE/POD or pod:NAMESPACE/POD/CONTAINER")
    return PodName(*parts)


def _shown(text: str) -> str:
    return text if len(text) < 60 else text[:60] + "..."
