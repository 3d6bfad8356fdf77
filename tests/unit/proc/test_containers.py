# SPDX-License-Identifier: Apache-2.0
"""The cgroups of containers by name and ID, on folders laid out as the engines make them: see agent.proc.containers.

The engine's user is the one who runs the tests: root, or another.
"""

import json
import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.errors import HostError, NoSuchRootError, RefusedError
from agent.proc import containers
from agent.rootname import ContainerName, Engine
from tests.support.cgroupfolders import Host

WEB, DB = "ab" * 32, "cd" * 32


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Return a host with the hierarchy of version 2."""
    found = Host(tmp_path)
    found.mount("unified")
    return found


def engine_folder(root: Path, engine: Engine) -> Path:
    """Return the folder in which an engine that this user runs has its files, below a folder for all of the host's."""
    home = root / pwd.getpwuid(os.getuid()).pw_dir.lstrip("/")
    if engine == "podman":
        return root / "var/lib/containers/storage" if os.getuid() == 0 else home / ".local/share/containers/storage"
    return root / "var/lib/docker" if os.getuid() == 0 else home / ".local/share/docker"


def written(path: Path, value: object) -> None:
    """Write a value as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def in_podman(root: Path, names: dict[str, str], file: str = "overlay-containers/containers.json") -> None:
    """Write podman's list of containers: names by ID. (containers/storage, containers.go, Container)"""
    rows = [{"id": number, "names": [name], "image": "", "layer": "", "created": ""} for number, name in names.items()]
    written(engine_folder(root, "podman") / file, rows)


def in_docker(root: Path, names: dict[str, str], folder: str = "containers") -> None:
    """Write docker's files of containers: names by ID. (moby, daemon/container/container.go, Container)"""
    for number, name in names.items():
        told = {"StreamConfig": {}, "State": {"Running": True, "Pid": 1}, "ID": number, "Name": f"/{name}"}
        written(engine_folder(root, "docker") / folder / number / "config.v2.json", told)


@pytest.mark.parametrize(
    "path",
    [
        f"machine.slice/libpod-{WEB}.scope",
        f"user.slice/user-1.slice/user@1.service/user.slice/libpod-{WEB}.scope",
        f"libpod_parent/libpod-{WEB}",
        f"system.slice/web.service/libpod-payload-{WEB}",
        f"machine.slice/machine-libpod_pod_{DB}.slice/libpod-{WEB}.scope",
    ],
)
def test_a_container_of_podman_is_found_wherever_its_cgroup_is(host: Host, tmp_path: Path, path: str) -> None:
    """By its name, its ID, and the first 12 digits of that; conmon's cgroup is none of it."""
    folder = host.cgroup(host.top / "unified" / path)
    host.cgroup(host.top / f"unified/machine.slice/libpod-conmon-{WEB}.scope")
    in_podman(tmp_path, {WEB: "web", DB: "db"})

    for name in ("web", WEB, WEB[:12]):
        assert containers.find(ContainerName("podman", name), host.proc, tmp_path) == [folder]


@pytest.mark.parametrize(
    "path", [f"system.slice/docker-{WEB}.scope", f"docker/{WEB}", f"limited.slice/docker-{WEB}.scope"]
)
def test_a_container_of_docker_is_found_with_either_driver(host: Host, tmp_path: Path, path: str) -> None:
    """And with a parent of its own."""
    folder = host.cgroup(host.top / "unified" / path)
    in_docker(tmp_path, {WEB: "web", DB: "db"})

    for name in ("web", WEB, WEB[:12]):
        assert containers.find(ContainerName("docker", name), host.proc, tmp_path) == [folder]


def test_a_storage_without_fsync_has_names_too(host: Host, tmp_path: Path) -> None:
    """Podman keeps some containers in volatile-containers.json; the driver's name is part of the folder's."""
    folder = host.cgroup(host.top / f"unified/machine.slice/libpod-{WEB}.scope")
    in_podman(tmp_path, {WEB: "web"}, "vfs-containers/volatile-containers.json")

    assert containers.find(ContainerName("podman", "web"), host.proc, tmp_path) == [folder]


def test_docker_with_mapped_users_has_a_folder_for_the_mapping(host: Host, tmp_path: Path) -> None:
    """userns-remap: the folder has the first ids in its name."""
    folder = host.cgroup(host.top / f"unified/docker/{WEB}")
    in_docker(tmp_path, {WEB: "web"}, "100000.100000/containers")

    assert containers.find(ContainerName("docker", "web"), host.proc, tmp_path) == [folder]


def test_only_containers_that_run_are_offered_for_a_name_that_none_has(host: Host, tmp_path: Path) -> None:
    """The engine's files have ended ones too; they are no roots."""
    host.cgroup(host.top / f"unified/machine.slice/libpod-{WEB}.scope")
    in_podman(tmp_path, {WEB: "web", DB: "db"})

    with pytest.raises(
        NoSuchRootError, match=r"podman:db: no such .* The containers of podman that run here: web; looked"
    ):
        containers.find(ContainerName("podman", "db"), host.proc, tmp_path)
    with pytest.raises(
        NoSuchRootError, match="There are no containers of docker that run here; looked for cgroups named"
    ):
        containers.find(ContainerName("docker", "web"), host.proc, tmp_path)


def test_a_beginning_that_two_ids_have_is_refused_with_both(host: Host, tmp_path: Path) -> None:
    """Twelve digits are hardly ever the same by chance."""
    for number in (WEB, WEB[:-1] + "0"):
        host.cgroup(host.top / f"unified/machine.slice/libpod-{number}.scope")

    with pytest.raises(RefusedError, match="podman:abababababab is 2 containers") as caught:
        containers.find(ContainerName("podman", WEB[:12]), host.proc, tmp_path)
    assert len(caught.value.leaks) == 2


def test_a_name_that_is_the_beginning_of_another_containers_id_means_neither(host: Host, tmp_path: Path) -> None:
    """Else the ID would win, which another user can choose."""
    for number in (WEB, DB):
        host.cgroup(host.top / f"unified/machine.slice/libpod-{number}.scope")
    in_podman(tmp_path, {WEB: DB[:12], DB: "db"})

    with pytest.raises(RefusedError, match="podman:cdcdcdcdcdcd is 2 containers") as caught:
        containers.find(ContainerName("podman", DB[:12]), host.proc, tmp_path)
    assert [WEB in caught.value.leaks[0], DB in caught.value.leaks[1]] == [True, True]
    assert [one.name for one in containers.find(ContainerName("podman", DB), host.proc, tmp_path)] == [
        f"libpod-{DB}.scope"
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives folders away")
@pytest.mark.parametrize("before", [True, False], ids=["before", "behind"])
def test_a_users_cgroup_with_the_id_of_roots_container_is_none(host: Host, tmp_path: Path, *, before: bool) -> None:
    """Neither by its ID nor by its name."""
    wanted = host.cgroup(host.top / f"unified/machine.slice/libpod-{WEB}.scope")
    own = host.cgroup(host.top / "unified" / ("a.slice" if before else "z.slice"))
    host.cgroup(own / f"libpod-{WEB}.scope", 666)
    os.chown(own, 65534, 65534)
    in_podman(tmp_path, {WEB: "web"})

    for name in (WEB, WEB[:12], "web"):
        assert containers.find(ContainerName("podman", name), host.proc, tmp_path) == [wanted]


def test_version_1_has_a_container_in_each_hierarchy_of_which_one_is_taken(tmp_path: Path) -> None:
    """All have the same processes."""
    host = Host(tmp_path)
    for options in ("memory", "pids"):
        host.cgroup(host.mount(options, options) / f"docker/{WEB}")
    in_docker(tmp_path, {WEB: "web"})

    assert len(containers.find(ContainerName("docker", "web"), host.proc, tmp_path)) == 1


def _linked(path: Path) -> None:
    kept = path.with_name("kept")
    path.rename(kept)
    path.symlink_to(kept)


def _piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "spoil",
    [
        _linked,
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_text("no JSON"),
        lambda path: path.write_text('{"id": 1}'),
        _piped,
        lambda path: path.unlink(),
    ],
    ids=["link", "deep", "text", "object", "fifo", "gone"],
)
def test_a_file_that_is_not_as_podman_writes_it_has_no_names(
    host: Host, tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    """A user's file may be anything; root who reads it neither waits nor follows a link."""
    host.cgroup(host.top / f"unified/machine.slice/libpod-{WEB}.scope")
    in_podman(tmp_path, {WEB: "web"})
    spoil(engine_folder(tmp_path, "podman") / "overlay-containers/containers.json")

    with pytest.raises(NoSuchRootError):
        containers.find(ContainerName("podman", "web"), host.proc, tmp_path)


def test_a_file_is_believed_about_its_owners_containers_alone(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a user could give a name to the processes of another one."""
    host.cgroup(host.top / f"unified/machine.slice/libpod-{WEB}.scope")
    in_podman(tmp_path, {WEB: "web"})
    descriptors = os.fstat

    def owned_by_another(descriptor: int) -> os.stat_result:
        fields = list(descriptors(descriptor))
        fields[4] = os.getuid() + 1
        return os.stat_result(fields)

    assert containers.find(ContainerName("podman", "web"), host.proc, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", owned_by_another)
        with pytest.raises(NoSuchRootError):
            containers.find(ContainerName("podman", "web"), host.proc, tmp_path)


@pytest.mark.parametrize("engine", ["podman", "docker"])
def test_files_that_may_not_be_read_are_no_missing_container(
    host: Host, tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says that an ID needs no file."""
    host.cgroup(host.top / f"unified/x.slice/{'libpod' if engine == 'podman' else 'docker'}-{WEB}.scope")
    (in_podman if engine == "podman" else in_docker)(tmp_path, {WEB: "web"})

    folder = engine_folder(tmp_path, engine)
    call = "scandir" if engine == "podman" else "open"
    original = getattr(os, call)

    def refused(path: str | Path, *arguments: int) -> object:
        if Path(path).is_relative_to(folder):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return original(path, *arguments)

    monkeypatch.setattr(os, call, refused)
    with pytest.raises(HostError, match=rf"cannot be read: Permission denied\. .* 12 digits suffice: {engine}:ID"):
        containers.find(ContainerName(engine, "web"), host.proc, tmp_path)


@pytest.mark.skipif(os.getuid() != 0, reason="root's files may be elsewhere, by the host's configuration")
def test_the_hosts_configuration_may_move_the_files(host: Host, tmp_path: Path) -> None:
    """storage.conf and daemon.json say where they are."""
    web = host.cgroup(host.top / f"unified/machine.slice/libpod-{WEB}.scope")
    db = host.cgroup(host.top / f"unified/docker/{DB}")
    for path, text in (
        ("etc/containers/storage.conf", '[storage]\ndriver = "overlay"\ngraphroot = "/big/storage"\n'),
        ("etc/docker/daemon.json", '{"data-root": "/big/docker"}'),
    ):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
    in_podman(tmp_path, {WEB: "web"})
    in_docker(tmp_path, {DB: "db"})
    (tmp_path / "big").mkdir()
    engine_folder(tmp_path, "podman").rename(tmp_path / "big/storage")
    engine_folder(tmp_path, "docker").rename(tmp_path / "big/docker")

    assert containers.find(ContainerName("podman", "web"), host.proc, tmp_path) == [web]
    assert containers.find(ContainerName("docker", "db"), host.proc, tmp_path) == [db]
