# SPDX-License-Identifier: Apache-2.0
"""The cgroups of Slurm's jobs, on folders laid out as Slurm's plugins make them: see agent.proc.slurmjobs for sources."""

import os
from pathlib import Path

import pytest

from agent.errors import HostError, NoSuchRootError
from agent.proc.slurmjobs import find
from agent.rootname import JobName
from tests.support.cgroupfolders import Host

SLUID = "sEKNKTV3WPV500"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Return a host without mounts."""
    return Host(tmp_path)


def unified(host: Host, job: str, *steps: str, scope: str = "system.slice/slurmstepd.scope") -> Path:
    """Add a job to a hierarchy of version 2, mounted if it is not, as cgroup/v2 does."""
    top = host.top / "unified"
    top = top if top.exists() else host.mount("unified")
    for step in steps:
        for below in ("slurm", "user", "user/task_0"):
            host.cgroup(top / scope / job / step / below)
    host.cgroup(top / scope / "system")
    return top / scope / job


def test_a_step_of_version_2_is_the_cgroup_of_its_tasks(host: Host) -> None:
    """Not that of slurmstepd beside it. A job is all of its steps; another job's are none of it."""
    job = unified(host, "job_42", "step_0", "step_batch", "step_extern")
    unified(host, "job_421", "step_0")

    assert find(JobName("42", "0"), host.proc) == [job / "step_0/user"]
    assert find(JobName("42", "batch"), host.proc) == [job / "step_batch/user"]
    assert find(JobName("42"), host.proc) == [job / f"{step}/user" for step in ("step_0", "step_batch", "step_extern")]


def test_the_scope_is_found_below_any_slice(host: Host) -> None:
    """CgroupSlice of cgroup.conf names it, and several slurmd on a host have a scope each, with a part of the job."""
    jobs = [unified(host, "job_7", "step_1", scope=f"hpc.slice/{node}_slurmstepd.scope") for node in ("n1", "n2")]

    assert find(JobName("7", "1"), host.proc) == [job / "step_1/user" for job in jobs]


def test_a_heterogeneous_step_is_all_of_its_components_or_one(host: Host) -> None:
    """The folder of each has the component behind a plus sign."""
    job = unified(host, "job_42", "step_0+0", "step_0+1", "step_1")

    assert find(JobName("42", "0"), host.proc) == [job / "step_0+0/user", job / "step_0+1/user"]
    assert find(JobName("42", "0+1"), host.proc) == [job / "step_0+1/user"]


def test_a_step_of_version_1_is_in_the_hierarchy_that_tracks_processes(host: Host) -> None:
    """cpuset and memory have the job, too, with other processes at its levels."""
    for options in ("cpu,cpuacct", "memory", "freezer", "cpuset"):
        top = host.mount(options.replace(",", "-"), options)
        host.cgroup(top / "slurm/uid_1000/job_42/step_0/task_0")
        host.cgroup(top / "slurm/uid_1000/job_42/step_batch")
    host.mount("unified")

    assert find(JobName("42", "0"), host.proc) == [host.top / "freezer/slurm/uid_1000/job_42/step_0"]
    assert len(find(JobName("42"), host.proc)) == 2


def test_each_of_several_slurmd_has_a_folder_of_version_1(host: Host) -> None:
    """Debian's is compiled so that its folder has the node's name."""
    top = host.mount("freezer", "freezer")
    for node in ("slurm_n1", "slurm_n2", "slurmish"):
        host.cgroup(top / node / "uid_0/job_3/step_0")

    assert find(JobName("3", "0"), host.proc) == [top / f"slurm_n{number}/uid_0/job_3/step_0" for number in (1, 2)]


def test_a_folder_named_by_sluid_is_found_by_the_number_in_its_tasks_environment(host: Host) -> None:
    """The environment must have the folder's SLUID, too: that of another job, kept by a program, does not count."""
    job = unified(host, SLUID, "step_0")
    other = unified(host, "sEKNKTV3WPV501", "step_0")
    host.cgroup(job / "step_0/user/task_0", 100, 101)
    host.cgroup(other / "step_0/user/task_0", 102)
    host.environ(100, SLURM_JOB_ID="9", SLURM_JOB_SLUID="sEKNKTV3WPV509")
    host.environ(101, SLURM_JOB_ID="42", SLURM_JOB_SLUID=SLUID)
    host.environ(102, SLURM_JOB_ID="43", SLURM_JOB_SLUID="sEKNKTV3WPV501")

    assert find(JobName("42", "0"), host.proc) == [job / "step_0/user"]
    assert find(JobName(SLUID, "0"), host.proc) == [job / "step_0/user"]
    with pytest.raises(
        NoSuchRootError, match=r"slurm:9\.0: no such job here\. The jobs here: 42, 43; looked for job_9"
    ):
        find(JobName("9", "0"), host.proc)


def test_a_number_in_environments_that_are_not_to_be_read_is_no_missing_job(host: Host) -> None:
    """Nobody knows if the job is here: the message says who would."""
    host.cgroup(unified(host, SLUID, "step_0") / "step_0/user/task_0", 100)

    with pytest.raises(HostError, match="named by SLUID"):
        find(JobName("42"), host.proc)


def test_a_missing_step_is_answered_with_the_jobs_steps(host: Host) -> None:
    """And a job on a host without any is answered so."""
    unified(host, "job_42", "step_0", "step_extern")

    with pytest.raises(NoSuchRootError, match=r"the job has no such step here\. The steps here: 0, extern"):
        find(JobName("42", "1"), host.proc)
    with pytest.raises(NoSuchRootError, match=r"no such job here\. The jobs here: 42"):
        find(JobName("4"), host.proc)


def test_a_host_without_slurm_says_so(host: Host) -> None:
    """The message names what was looked for."""
    host.mount("unified")

    with pytest.raises(NoSuchRootError, match=r"There are no jobs here; looked for job_4 below slurm\* and slurm"):
        find(JobName("4"), host.proc)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives folders away")
@pytest.mark.parametrize("given", ["user.slice", "user.slice/slurmstepd.scope", "user.slice/slurmstepd.scope/job_42"])
def test_a_users_cgroup_with_a_jobs_number_is_no_job(host: Host, given: str) -> None:
    """A user may make any below a cgroup that was delegated to him."""
    unified(host, "job_7", "step_0")
    job = unified(host, "job_42", "step_0", scope="user.slice/slurmstepd.scope")
    top = host.top / "unified"
    for each in (top / given, *sorted((top / given).rglob("*"))):
        if each.is_dir():
            os.chown(each, 65534, 65534)

    with pytest.raises(NoSuchRootError, match=r"The jobs here: 7|no such step here"):
        find(JobName("42", "0"), host.proc)
    assert job.is_dir()
    assert find(JobName("7", "0"), host.proc)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives folders away")
def test_a_users_cgroup_is_no_job_of_version_1_either(host: Host) -> None:
    """Below a controller that was delegated."""
    top = host.mount("freezer", "freezer")
    host.cgroup(top / "slurm_node/uid_1000/job_42/step_0")
    os.chown(top / "slurm_node", 65534, 65534)

    with pytest.raises(NoSuchRootError, match="no such job here"):
        find(JobName("42", "0"), host.proc)
