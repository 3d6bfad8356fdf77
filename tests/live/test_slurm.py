# SPDX-License-Identifier: Apache-2.0
"""Jobs of a real Slurm as roots, and the hosts of a job."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from agent.errors import HostError, NoSuchRootError
from agent.proc.slurmhosts import hosts_of_job
from agent.rootname import JobName
from exporters import registry
from tests.live.daemons import ckptree
from tests.live.slurmjob import a_job, commands, settled, tree
from tests.support.slurmcluster import Cluster, cluster, versions


@pytest.fixture(scope="module", params=versions(), ids="cgroup v{}".format)
def slurm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Start a cluster, with each version of cgroups that this host has."""
    with cluster(tmp_path_factory.mktemp("slurm"), request.param) as found:
        yield found


def test_a_step_is_the_tree_of_its_task(slurm: Cluster, daemon_socket: Path) -> None:
    """Without the programs that Slurm runs for it; and the whole job has all of its steps."""
    script = "srun -n1 sh -c 'sleep 1000; :'; :"
    with a_job(slurm, script=script, steps=1) as job:
        settled(f"slurm:{job}.0", daemon_socket, [["sh", "sleep"]])
        taken = ckptree("snapshot", f"slurm:{job}.0", "-f", "json", "--no-plan", "--socket", daemon_socket)
        batch = tree(f"slurm:{job}.batch", daemon_socket)
        whole = tree(f"slurm:{job}", daemon_socket)

    assert taken.code == 0, taken.err
    assert [task.comm for task in registry.load(taken.out).tasks] == [b"sh", b"sleep"]
    assert commands(batch)[0][0] == "slurm_script"
    assert sorted(each[0] for each in commands(whole)) == ["sh", "slurm_script"]


def test_a_step_of_several_tasks_shows_each_and_is_captured_from_their_slurmstepd_on(
    slurm: Cluster, daemon_socket: Path
) -> None:
    """Which is the parent of all tasks of the step that one node has."""
    with a_job(slurm, "-n3", "-N1", script="srun -n3 sleep 1000; :", steps=1) as job:
        settled(f"slurm:{job}.0", daemon_socket, [["sleep"]] * 3)
        taken = ckptree("snapshot", f"slurm:{job}.0", "-f", "json", "--no-plan", "--socket", daemon_socket)
        whole = ckptree("snapshot", f"slurm:{job}", "-f", "json", "--socket", daemon_socket)

    assert taken.code == 0, taken.err
    leaders = [task["comm"] for task in json.loads(taken.out)["tasks"] if task["pid"] == task["tgid"]]
    assert (leaders[0].startswith("slurmstepd"), leaders[1:]) == (True, ["sleep"] * 3)
    assert (whole.code, whole.out) == (7, b"")
    assert f"slurm:{job} has 4 topmost processes" in whole.err


def test_a_job_that_is_not_here_is_answered_with_those_that_are(slurm: Cluster, daemon_socket: Path) -> None:
    """And a step likewise."""
    with a_job(slurm, script="srun -n1 sleep 1000; :", steps=1) as job:
        settled(f"slurm:{job}.0", daemon_socket, [["sleep"]])
        other, step = (tree(root, daemon_socket) for root in ("slurm:4000000000", f"slurm:{job}.7"))

    assert (other.code, step.code) == (4, 4)
    assert re.search(rf"slurm:4000000000: no such job here. The jobs here: .*\b{job}\b", other.err), other.err
    assert f"slurm:{job}.7: the job has no such step here. The steps here: 0, batch" in step.err


def test_the_hosts_of_a_job_and_of_a_step_are_those_that_slurm_says(slurm: Cluster, tmp_path: Path) -> None:
    """A step may have fewer hosts than its job. The program on PATH is asked."""
    scontrol = tmp_path / "scontrol"
    words = " ".join(slurm.words("scontrol"))
    scontrol.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    scontrol.chmod(0o755)
    count = len(slurm.nodes)
    script = f"srun --overlap -N1 -n1 sleep 1000 & srun --overlap -N{count} -n{count} sleep 1000; :"
    with a_job(slurm, f"-N{count}", script=script, steps=2) as job:
        steps = dict(line.split() for line in slurm.ask("squeue", "-h", "--steps", "--format=%i %N").splitlines())
        whole = hosts_of_job(JobName(job), str(scontrol))
        each = [hosts_of_job(JobName(job, number), str(scontrol)) for number in ("0", "1")]
    with pytest.raises(NoSuchRootError, match="Invalid job id"):
        hosts_of_job(JobName("4000000000"), str(scontrol))
    slurm.wait("CANCELLED", "scontrol", "show", "job", job)
    with pytest.raises(NoSuchRootError, match=f"slurm:{job} is over: Slurm says CANCELLED"):
        hosts_of_job(JobName(job), str(scontrol))

    assert whole == list(slurm.nodes)
    assert sorted(map(len, each)) == [1, count]
    for number, hosts in enumerate(each):
        assert (steps[f"{job}.{number}"] == hosts[0]) == (len(hosts) == 1), "as squeue has them, n[1-2] for several"


def test_without_scontrol_nobody_knows_the_hosts(tmp_path: Path) -> None:
    """The message says what to do."""
    with pytest.raises(HostError, match=r"there is no .*scontrol here, which knows the hosts of a job: name the hosts"):
        hosts_of_job(JobName("1"), str(tmp_path / "scontrol"))


def test_the_tasks_of_a_step_are_the_children_of_slurms_own_process(slurm: Cluster, daemon_socket: Path) -> None:
    """As the kernel says: the root of the step's tree has slurmstepd as its parent, which is not in the tree."""
    with a_job(slurm, script="srun -n1 sleep 1000; :", steps=1) as job:
        settled(f"slurm:{job}.0", daemon_socket, [["sleep"]])
        watched = subprocess.run(
            ["pgrep", "--full", rf"slurmstepd.*\[{job}\.0\]"], capture_output=True, text=True, check=True
        ).stdout.split()
        children = [child.name() for pid in watched for child in psutil.Process(int(pid)).children()]

    assert children == ["sleep"]
