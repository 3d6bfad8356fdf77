# SPDX-License-Identifier: Apache-2.0
"""The place of a cgroup, by hierarchy, mount and unit, on folders that imitate mounts."""

import os
from pathlib import Path

import pytest

from agent.errors import HostError, NoSuchRootError, UsageError
from agent.proc.cgroups import find, hierarchies, processes
from agent.rootname import CgroupName, UnitName
from tests.support.cgroupfolders import Host


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Return a host without mounts."""
    return Host(tmp_path)


def test_version_2_comes_first_and_a_mount_may_have_a_blank_in_its_name(host: Host) -> None:
    """A line of mountinfo has optional fields before its dash."""
    host.mount("cpu,cpuacct", "cpu,cpuacct")
    host.mount("uni fied")

    assert [(one.options, one.mount.name) for one in hierarchies(host.proc)] == [
        (None, "uni fied"),
        (frozenset({"rw", "cpu", "cpuacct"}), "cpu,cpuacct"),
    ]


def test_where_no_hierarchy_is_mounted_the_host_cannot(host: Host) -> None:
    """The message has the command that mounts one."""
    with pytest.raises(HostError, match="mount -t cgroup2"):
        find(CgroupName((), "/a"), host.proc)


def test_a_path_is_that_within_the_hierarchy_or_that_of_the_folder(host: Host) -> None:
    """/proc/PID/cgroup has the first form, and a shell completes the second."""
    folder = host.cgroup(host.mount("unified") / "a/b")

    assert find(CgroupName((), "/a/b"), host.proc) == folder
    assert find(CgroupName((), os.fspath(folder)), host.proc) == folder
    with pytest.raises(NoSuchRootError, match="no such cgroup: cgroup:/a/c"):
        find(CgroupName((), "/a/c"), host.proc)


def test_a_folder_may_be_reached_through_a_link(host: Host) -> None:
    """``/sys/fs/cgroup/cpu`` is a link on many hosts."""
    folder = host.cgroup(host.mount("cpu,cpuacct", "cpu,cpuacct") / "a")
    (host.top / "cpu").symlink_to("cpu,cpuacct")

    assert find(CgroupName((), os.fspath(host.top / "cpu/a")), host.proc) == folder
    assert find(CgroupName(("cpu",), "/a"), host.proc) == folder


def test_a_mount_that_shows_a_part_of_the_hierarchy_has_the_paths_below_it(host: Host) -> None:
    """An example is a container without a cgroup namespace."""
    folder = host.cgroup(host.mount("pids", "pids", "/docker/1") / "a")

    assert find(CgroupName(("pids",), "/docker/1/a"), host.proc) == folder
    assert find(CgroupName(("pids",), "/docker/1"), host.proc) == folder.parent
    for path in ("/a", "/docker/12", "/docker"):
        with pytest.raises(NoSuchRootError):
            find(CgroupName(("pids",), path), host.proc)


def test_in_a_cgroup_namespace_a_path_is_that_below_its_root(host: Host) -> None:
    """A mount from outside begins above the root, by as many levels as there are `..`; its name is unknown, its
    processes are not.
    """
    top = host.mount("unified", shown="/../..")
    host.mount("pids", "pids")
    own = host.cgroup(top / "docker/1")
    for other in ("docker", "docker/2", "docker/2/a", "user", "user/1"):
        host.cgroup(top / other, 1)
    init = host.cgroup(own / "init", os.getpid())
    (host.proc / "self/cgroup").write_text("5:pids:/\n0::/init\n")

    assert find(CgroupName((), "/"), host.proc) == own
    assert find(CgroupName((), "/init"), host.proc) == init
    assert find(CgroupName(("pids",), "/"), host.proc) == host.top / "pids"
    assert find(CgroupName((), os.fspath(top / "user")), host.proc) == top / "user"
    with pytest.raises(NoSuchRootError):
        find(CgroupName((), "/user"), host.proc)


def test_who_has_left_the_root_of_its_cgroup_namespace_cannot_tell_it_from_its_siblings(host: Host) -> None:
    """All siblings have this process one level up."""
    top = host.mount("unified", shown="/../..")
    host.cgroup(top / "docker", os.getpid())
    own = host.cgroup(top / "docker/1")
    (host.proc / "self/cgroup").write_text("0::/..\n")

    assert find(CgroupName((), "/"), host.proc).samefile(own)
    host.cgroup(top / "docker/2")
    with pytest.raises(NoSuchRootError):
        find(CgroupName((), "/"), host.proc)


def test_units_are_those_below_the_root_of_the_cgroup_namespace(host: Host) -> None:
    """A systemd in a container has its slices there; the host's slices are not meant."""
    top = host.mount("unified", shown="/..")
    for folder in ("machine", "machine/system.slice", "system.slice", "system.slice/web.service"):
        host.cgroup(top / folder)
    unit = host.cgroup(top / "machine/system.slice/web.service")
    host.cgroup(top / "machine/init.scope", os.getpid())
    (host.proc / "self/cgroup").write_text("0::/init.scope\n")

    assert find(UnitName("web.service"), host.proc) == unit
    assert find(UnitName("-.slice"), host.proc) == top / "machine"


@pytest.mark.parametrize("shown", ["/..", "/../other", "/docker/1"])
def test_a_root_that_no_mount_shows_is_not_that_of_another_hierarchy(host: Host, shown: str) -> None:
    """The hierarchies of version 1 have a root too, possibly the whole host's."""
    host.mount("unified", shown=shown)
    host.mount("pids", "pids")
    (host.proc / "self/cgroup").write_text("5:pids:/\n0::/\n")

    with pytest.raises(NoSuchRootError, match=r"cgroup:/: .* does not show the root"):
        find(CgroupName((), "/"), host.proc)


def test_version_2_wins_over_version_1(host: Host) -> None:
    """If both are mounted, processes are managed in one tree."""
    host.cgroup(host.mount("pids", "pids") / "a", 1)
    unified = host.cgroup(host.mount("unified") / "a", 2)

    assert find(CgroupName((), "/a"), host.proc) == unified
    assert find(CgroupName(("pids",), "/a"), host.proc) == host.top / "pids/a"


def test_a_path_with_other_processes_in_other_hierarchies_has_to_be_named(host: Host) -> None:
    """If each hierarchy has the same processes there, the choice does not matter."""
    host.cgroup(host.mount("pids", "pids") / "a", 1, 2)
    host.cgroup(host.mount("cpu", "cpu") / "a", 2, 1)
    host.cgroup(host.top / "pids/b", 1)
    host.cgroup(host.top / "cpu/b", 2)

    assert find(CgroupName((), "/a"), host.proc).name == "a"
    with pytest.raises(UsageError, match="is another cgroup in each of several hierarchies"):
        find(CgroupName((), "/b"), host.proc)
    with pytest.raises(NoSuchRootError, match="no hierarchy of these controllers"):
        find(CgroupName(("memory",), "/a"), host.proc)


def test_a_unit_is_found_in_the_slices_and_nowhere_else(host: Host) -> None:
    """The same name in a container, or of a user's manager, is another unit."""
    top = host.mount("unified")
    unit = host.cgroup(top / "system.slice/system-web.slice/web.service")
    for other in ("system.slice/docker-1.scope/system.slice", "user.slice/user-1.slice/user@1.service/app.slice"):
        host.cgroup(top / other / "own.service")
    for folder in list(top.rglob("*")):
        host.cgroup(folder) if folder.is_dir() and not (folder / "cgroup.procs").exists() else None

    assert find(UnitName("web.service"), host.proc) == unit
    assert find(UnitName("system-web.slice"), host.proc) == unit.parent
    assert find(UnitName("-.slice"), host.proc) == top
    with pytest.raises(NoSuchRootError, match=r"unit:own\.service: no cgroup of that name"):
        find(UnitName("own.service"), host.proc)


def test_a_unit_called_as_a_file_of_the_kernels_has_an_underscore(host: Host) -> None:
    """``cpu.service`` could be a file of the controller cpu."""
    unit = host.cgroup(host.mount("systemd", "xattr,name=systemd") / "system.slice/_cpu.service")
    host.cgroup(unit.parent)

    assert find(UnitName("cpu.service"), host.proc) == unit


def test_units_are_not_looked_for_in_the_hierarchies_of_controllers(host: Host) -> None:
    """systemd has its own hierarchy, or version 2's."""
    host.cgroup(host.mount("pids", "pids") / "system.slice/a.service")

    with pytest.raises(NoSuchRootError):
        find(UnitName("a.service"), host.proc)


def test_the_processes_of_a_cgroup_are_those_below_it_too(host: Host) -> None:
    """A container may have cgroups of its own."""
    folder = host.cgroup(host.mount("unified") / "a", 10)
    host.cgroup(folder / "b/c", 12, 13)
    host.cgroup(folder / "b", 11)

    assert processes(folder) == {10, 11, 12, 13}


def test_a_cgroup_that_has_gone_is_no_such_root(host: Host) -> None:
    """The cgroup vanishes between the search and the reading."""
    with pytest.raises(NoSuchRootError, match="is gone"):
        processes(host.mount("unified") / "a")
