# SPDX-License-Identifier: Apache-2.0
"""The cgroups of Slurm's jobs on this host.

``slurmd`` makes a cgroup for each step of a job. Below it are the processes that the job's user runs, its tasks. Slurm's
own ``slurmstepd``, the parent of the tasks, is not among them: it is root's.

================  ==========================================================================================
cgroup/v1         ``HIERARCHY/slurm*/uid_UID/job_JOB/step_STEP``; ``slurmstepd`` is in ``job_JOB`` itself.
                  (Slurm: src/plugins/cgroup/v1/xcgroup.c, xcgroup_create_hierarchy; Debian's begins with
                  ``slurm_NODE``, for it is compiled with MULTIPLE_SLURMD.)
cgroup/v2         ``SLICE/[NODE_]slurmstepd.scope/JOB/step_STEP/user``, and ``slurmstepd`` is in ``slurm``
                  beside ``user``. JOB is ``job_NUMBER``; from Slurm 26.05 on it is the job's SLUID unless
                  cgroup.conf has CgroupJobIdPaths. (src/plugins/cgroup/v2/cgroup_v2.c, _set_int_cg_ns and
                  cgroup_p_step_create)
================  ==========================================================================================

STEP is a number, a number and the component of a heterogeneous step (``0+1``), or ``batch``, ``extern`` or
``interactive`` (src/common/log.c, log_build_step_id_str). The number of a job whose folder has its SLUID is in the
environment of its tasks, as SLURM_JOB_ID beside SLURM_JOB_SLUID (src/common/env.c).

Of version 1, ``proctrack/cgroup`` uses the hierarchy ``freezer``, the others serve limits and accounts and have their
processes at other levels.

``slurmd`` is root, so only cgroups that the owner of the topmost one has made count (agent.proc.cgroups): a user could
make others with a job's number.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agent.errors import HostError, NoSuchRootError
from agent.proc.cgroups import Hierarchy, folders, hierarchies, owner, processes, walk
from agent.proc.nearnames import offered
from agent.rootname import JobName

_PREFERRED: Final = ("freezer", "cpuset", "memory", "cpuacct", "devices")
_SLUID: Final = re.compile(r"s[0-9A-HJKMNP-TV-Z]{13}", re.ASCII)
_SCOPE: Final = "slurmstepd.scope"
_SLURM: Final = re.compile(r"slurm(_.*)?")
_MOST_ENVIRON: Final = 1 << 20  # bytes


def find(name: JobName, proc: Path = Path("/proc")) -> list[Path]:
    """Return the folders of the cgroups that have a job's, or a step's, tasks.

    Raises:
        NoSuchRootError: Slurm has no cgroup for it here.
        HostError: no hierarchy is mounted here, or the number of a job is in an environment that is not to be read.
    """
    jobs: dict[str, list[Path]] = {}
    hidden = False
    for folder in _jobs(hierarchies(proc)):
        number: str | None = folder.name.removeprefix("job_")
        if _SLUID.fullmatch(folder.name) and folder.name != name.job:
            number = _number(folder, proc)
            hidden |= number is None
        jobs.setdefault(number or folder.name, []).append(folder)
    if name.job not in jobs:
        if hidden:
            raise HostError(
                f"{name}: Slurm's cgroups here are named by SLUID, and a job's number is in the environment of its tasks, "
                "which only their user and root may read: ask as root, or give the SLUID that `squeue -O SLUID` prints"
            )
        raise NoSuchRootError(
            f"{name}: no such job here. {offered('jobs', 'here', sorted(jobs), name.job)}; looked for job_{name.job} "
            f"below slurm* and {_SCOPE} in the cgroups; `scontrol show job {name.job}` names a job's hosts"
        )
    all_steps = [step for folder in jobs[name.job] for step in _steps(folder)]
    chosen = [step for step in all_steps if _is_meant(step, name.step)]
    if not chosen:
        steps = sorted({step.name.removeprefix("step_") for step in all_steps})
        known = offered("steps", "here", steps, name.step)
        raise NoSuchRootError(f"{name}: the job has no such step here. {known}")
    return [user if (user := step / "user").is_dir() else step for step in chosen]


def _jobs(mounted: list[Hierarchy]) -> list[Path]:
    """Return the folder of each job, of the first hierarchy that has any."""
    order = {name: place for place, name in enumerate(_PREFERRED)}
    later = [
        (min((order[option] for option in one.options if option in order), default=len(order)), place, one)
        for place, one in enumerate(mounted)
        if one.options is not None
    ]
    for one in [*(one for one in mounted if one.options is None), *(one for _, _, one in sorted(later))]:
        top = one.root or one.mount
        found = list(_unified(top) if one.options is None else _of_version_1(top))
        if found:
            return found
    return []


def _unified(top: Path) -> Iterator[Path]:
    root = owner(top)
    for scope in walk(top, lambda each: each.name.endswith(_SCOPE), root):
        yield from (each for each in folders(scope, root) if _is_job(each))


def _of_version_1(top: Path) -> Iterator[Path]:
    root = owner(top)
    for slurm in folders(top, root):
        if _SLURM.fullmatch(slurm.name):
            for user in folders(slurm, root):
                yield from (each for each in folders(user, root) if _is_job(each))


def _is_job(folder: Path) -> bool:
    return folder.name.startswith("job_") or bool(_SLUID.fullmatch(folder.name))


def _steps(folder: Path) -> list[Path]:
    return [each for each in folders(folder, owner(folder.parent)) if each.name.startswith("step_")]


def _is_meant(step: Path, wanted: str) -> bool:
    name = step.name.removeprefix("step_")
    return not wanted or name == wanted or name.partition("+")[0] == wanted


def _number(folder: Path, proc: Path) -> str | None:
    """Return the number of the job whose folder has its SLUID; None: no task's environment tells, or may be read."""
    for step in _steps(folder):
        for pid in sorted(processes(step / "user")) if (step / "user").is_dir() else ():
            try:
                with (proc / str(pid) / "environ").open("rb") as file:
                    words = dict(word.partition(b"=")[::2] for word in file.read(_MOST_ENVIRON).split(b"\0"))
            except OSError:
                continue
            if words.get(b"SLURM_JOB_SLUID") == folder.name.encode():
                return words.get(b"SLURM_JOB_ID", b"").decode("ascii", "replace") or None
    return None
