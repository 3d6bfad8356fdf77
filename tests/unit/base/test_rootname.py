# SPDX-License-Identifier: Apache-2.0
"""ROOT as text: the meaning of each spelling, and invalid spellings."""

import pytest

from agent.errors import UsageError
from agent.rootname import CgroupName, ContainerName, JobName, PodName, RootName, Target, UnitName, parse, parse_target


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("4711", RootName(namespace=False, number=4711)),
        ("pidns:4026531836", RootName(namespace=True, number=4026531836)),
        ("pidns:[4026531836]", RootName(namespace=True, number=4026531836)),
        ("pid:[4026531836]", RootName(namespace=True, number=4026531836)),
        ("cgroup:/", CgroupName((), "/")),
        ("cgroup:/a//b/", CgroupName((), "/a/b")),
        ("cgroup:/system.slice:docker:1", CgroupName((), "/system.slice:docker:1")),
        ("cgroup:pids:/a", CgroupName(("pids",), "/a")),
        ("cgroup:cpu,cpuacct:/a", CgroupName(("cpu", "cpuacct"), "/a")),
        ("cgroup:name=systemd:/a", CgroupName(("name=systemd",), "/a")),
        ("cgroup::/a", CgroupName((), "/a")),
        ("unit:ssh", UnitName("ssh.service")),
        ("unit:ssh.service", UnitName("ssh.service")),
        ("unit:getty@tty1", UnitName("getty@tty1.service")),
        ("unit:org.example", UnitName("org.example.service")),
        ("unit:user-1000.slice", UnitName("user-1000.slice")),
        ("unit:session-2.scope", UnitName("session-2.scope")),
        ("unit:-.slice", UnitName("-.slice")),
        ("slurm:4711", JobName("4711")),
        ("slurm:4711.0", JobName("4711", "0")),
        ("slurm:4711.0+1", JobName("4711", "0+1")),
        ("slurm:4711.batch", JobName("4711", "batch")),
        ("slurm:sEKNKTV3WPV500.extern", JobName("sEKNKTV3WPV500", "extern")),
        ("podman:web", ContainerName("podman", "web")),
        ("docker:my_app-web.1", ContainerName("docker", "my_app-web.1")),
        ("pod:default/web-0", PodName("default", "web-0")),
        ("pod:kube-system/etcd.node/etcd", PodName("kube-system", "etcd.node", "etcd")),
    ],
)
def test_each_spelling_has_one_meaning(text: str, meant: Target) -> None:
    """The printed form of a root can be given again."""
    assert parse_target(text) == meant
    assert parse_target(str(meant).removeprefix("pid ")) == meant


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a pid"),
        ("-1", "expected a pid"),
        ("cgroup", "expected cgroup:PATH"),
        ("pidns:", "cgroup:PATH, unit:NAME, slurm:JOB.STEP"),
        ("pid:4711", "expected a pid"),
        ("[4711]", "expected a pid"),
        ("pid:[]", "expected a pid"),
        ("cgroup:", "expected cgroup:PATH"),
        ("cgroup:a/b", "expected cgroup:PATH"),
        ("cgroup:/a/../b", "has no parts . and .."),
        ("cgroup:/a\0b", "expected cgroup:PATH"),
        ("cgroup:/" + "x" * 5000, "expected cgroup:PATH"),
        ("unit:", "expected unit:NAME"),
        ("unit:a/b", "expected unit:NAME"),
        ("unit:ä", "expected unit:NAME"),
        ("unit:multi-user.target", "the kind .target has no processes"),
        ("Unit:ssh", "expected a pid"),
        ("slurm:", "expected slurm:JOB"),
        ("slurm:1.", "expected slurm:JOB"),
        ("slurm:1.2.3", "expected slurm:JOB"),
        ("slurm:1/../2", "expected slurm:JOB"),
        ("slurm:12_3", "has a job number of its own"),
        ("slurm:12+1", "has a job number of its own"),
        ("slurm:12345678901", "expected slurm:JOB"),
        ("podman:", "expected podman:NAME"),
        ("podman:../x", "expected podman:NAME"),
        ("docker:a/b", "expected docker:NAME"),
        ("pod:web", "expected pod:NAMESPACE/POD"),
        ("pod:a/b/c/d", "expected pod:NAMESPACE/POD"),
        ("pod:a/../c", "expected pod:NAMESPACE/POD"),
        ("pod:a/B", "expected pod:NAMESPACE/POD"),
        ("container:1", "expected a pid"),
    ],
)
def test_what_is_no_root_is_a_usage_error(text: str, said: str) -> None:
    """The message does not repeat a long text in full."""
    with pytest.raises(UsageError) as caught:
        parse_target(text)

    assert said in str(caught.value)
    assert len(str(caught.value)) < 250


def test_a_namespace_is_named_as_readlink_prints_it() -> None:
    """A user can paste the output of `readlink /proc/PID/ns/pid`, and compare it with printed roots."""
    assert str(parse("pidns:4026531836")) == "pid:[4026531836]"


@pytest.mark.parametrize("text", ["cgroup:/a", "unit:ssh"])
def test_a_daemon_is_asked_for_no_cgroup(text: str) -> None:
    """The caller reads the processes of the cgroup."""
    with pytest.raises(UsageError, match=r"expected a pid, or pid:\[INUM\]"):
        parse(text)
