# SPDX-License-Identifier: Apache-2.0
"""The cgroups of pods, on folders laid out as the kubelet and its runtimes make them: see agent.proc.pods."""

import os
from pathlib import Path
from typing import Final

import pytest

from agent.errors import NoSuchRootError, RefusedError
from agent.proc import pods
from agent.rootname import PodName
from tests.support.cgroupfolders import Host

UID: Final = "0d3ac4e6-9b9f-4a52-8d3f-2a3c0f1f7b11"
STATIC: Final = "33d556edd3ae8ef21980288cef77ae8b"  # of a static pod: a hash
APP, SIDE, PAUSE, OLD = "1a" * 32, "2b" * 32, "3c" * 32, "4d" * 32
SYSTEMD: Final = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice"


class Node(Host):
    """A host of Kubernetes.

    Args:
        folder: of it.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.root = folder
        self.unified = self.mount("unified")

    def logs(self, pod: str, container: str, number: str, *, restarts: int = 0) -> None:
        """Add a container's folder of logs, and the link to it."""
        namespace, name, _ = pod.split("_")
        file = f"/var/log/pods/{pod}/{container}/{restarts}.log"
        (self.root / file.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        links = self.root / "var/log/containers"
        links.mkdir(parents=True, exist_ok=True)
        (links / f"{f'{name}_{namespace}_{container}-{number}'[:251]}.log").symlink_to(file)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """Return a node without pods."""
    return Node(tmp_path)


def a_pod(node: Node, pod: str, scope: str = "cri-containerd-{}.scope") -> Path:
    """Add a pod of two containers and a sandbox, with the driver systemd."""
    folder = node.unified / SYSTEMD.format(pod.split("_")[2].replace("-", "_"))
    for number in (APP, SIDE, PAUSE):
        node.cgroup(folder / scope.format(number))
    node.cgroup(folder)
    node.logs(pod, "app", OLD)
    node.logs(pod, "app", APP, restarts=1)
    node.logs(pod, "side-car", SIDE)
    return folder


@pytest.mark.parametrize("scope", ["cri-containerd-{}.scope", "crio-{}.scope", "docker-{}.scope"])
def test_a_pod_is_its_containers_and_not_its_sandbox(node: Node, scope: str) -> None:
    """A container that was restarted is the one that runs."""
    folder = a_pod(node, f"default_web-0_{UID}", scope)
    node.cgroup(folder / f"crio-conmon-{APP}.scope")
    app, side = ([folder / scope.format(number)] for number in (APP, SIDE))

    assert pods.find(PodName("default", "web-0"), node.proc, node.root) == [*app, *side]
    assert pods.find(PodName("default", "web-0", "app"), node.proc, node.root) == app
    assert pods.find(PodName("default", "web-0", "side-car"), node.proc, node.root) == side


@pytest.mark.parametrize("name", ["{}", "crio-{}"])
def test_the_driver_cgroupfs_has_plain_names(node: Node, name: str) -> None:
    """Dashes stay dashes."""
    folder = node.unified / f"kubepods/besteffort/pod{UID}"
    node.cgroup(folder / name.format(APP))
    node.cgroup(folder)
    node.logs(f"default_web_{UID}", "app", APP)

    assert pods.find(PodName("default", "web", "app"), node.proc, node.root) == [folder / name.format(APP)]


def test_a_static_pod_has_a_hash_for_a_uid(node: Node) -> None:
    """And no class, where its resources are guaranteed; kind puts a node's pods below a slice of its own."""
    folder = node.unified / f"kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{STATIC}.slice"
    node.cgroup(folder / f"cri-containerd-{APP}.scope")
    node.cgroup(folder)
    node.logs(f"kube-system_etcd-node_{STATIC}", "etcd", APP)

    found = pods.find(PodName("kube-system", "etcd-node", "etcd"), node.proc, node.root)
    assert found == [folder / f"cri-containerd-{APP}.scope"]


def test_an_id_that_was_cut_from_a_long_name_is_enough(node: Node) -> None:
    """The kubelet cuts the link's name at 255 bytes."""
    pod, container = "p" * 150, "c" * 50
    folder = a_pod(node, f"default_web_{UID}")
    node.logs(f"default_{pod}_{STATIC}", container, "5e" * 32)
    other = node.cgroup(node.unified / SYSTEMD.format(STATIC))
    wanted = node.cgroup(other / f"cri-containerd-{'5e' * 32}.scope")

    assert folder.exists()
    assert pods.find(PodName("default", pod, container), node.proc, node.root) == [wanted]


def test_logs_of_a_pod_that_is_gone_do_not_count(node: Node) -> None:
    """The kubelet keeps them for a while, of a pod that was replaced under its name."""
    folder = a_pod(node, f"default_web-0_{UID}")
    node.logs(f"default_web-0_{STATIC}", "app", "6f" * 32)

    assert len(pods.find(PodName("default", "web-0"), node.proc, node.root)) == 2
    assert folder.exists()


def test_a_pod_without_links_is_all_of_its_cgroup(node: Node) -> None:
    """The sandbox is in it then: nothing tells it from the others."""
    folder = a_pod(node, f"default_web_{UID}")
    for link in (node.root / "var/log/containers").iterdir():
        link.unlink()

    assert pods.find(PodName("default", "web"), node.proc, node.root) == [folder]


def test_two_pods_of_one_name_are_refused_with_both(node: Node) -> None:
    """One that was deleted by force may still run."""
    a_pod(node, f"default_web_{UID}")
    node.logs(f"default_web_{STATIC}", "app", "6f" * 32)
    node.cgroup(node.unified / SYSTEMD.format(STATIC))

    with pytest.raises(RefusedError, match="pod:default/web is 2 pods") as caught:
        pods.find(PodName("default", "web"), node.proc, node.root)
    assert [UID in line or STATIC in line for line in caught.value.leaks] == [True, True]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            PodName("default", "wbe"),
            "no such pod runs here. The pods that run here: default/web; looked in /var/log/pods",
        ),
        (PodName("other", "web"), "no such pod runs here. The pods that run here: default/web; looked"),
        (
            PodName("default", "web", "ap"),
            "no such container that runs. The containers that run in it: app, side-car;",
        ),
    ],
)
def test_a_missing_name_is_answered_with_those_there_are(node: Node, name: PodName, said: str) -> None:
    """A pod of another namespace is another pod."""
    a_pod(node, f"default_web_{UID}")

    with pytest.raises(NoSuchRootError) as caught:
        pods.find(name, node.proc, node.root)
    assert said in str(caught.value)


def test_a_host_without_a_kubelet_says_so(node: Node) -> None:
    """The message names what was looked for."""
    with pytest.raises(NoSuchRootError, match="There are no pods that run here; looked in /var/log/pods for default"):
        pods.find(PodName("default", "web"), node.proc, node.root)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives folders away")
@pytest.mark.parametrize("before", [True, False], ids=["before", "behind"])
def test_a_users_cgroup_with_a_pods_uid_is_no_pod(node: Node, *, before: bool) -> None:
    """A user may make any below a cgroup that was delegated to him, at whatever place of the order."""
    folder = a_pod(node, f"default_web_{UID}")
    own = node.cgroup(node.unified / ("a.slice" if before else "z.slice"))
    os.chown(own, 65534, 65534)
    node.cgroup(own / f"pod{UID}" / APP, 666)
    os.chown(own / f"pod{UID}", 65534, 65534)

    assert pods.find(PodName("default", "web", "app"), node.proc, node.root) == [folder / f"cri-containerd-{APP}.scope"]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives folders away")
def test_a_container_whose_root_owns_its_cgroup_is_of_the_pod(node: Node) -> None:
    """With users of its own a container gets its cgroup; what its root makes in it is no other pod's container."""
    folder = a_pod(node, f"default_web_{UID}")
    given = folder / f"cri-containerd-{APP}.scope"
    node.cgroup(given / f"pod{STATIC}" / SIDE)
    node.logs(f"default_other_{STATIC}", "app", SIDE)
    for each in (given, given / f"pod{STATIC}"):
        os.chown(each, 100_000, 100_000)

    assert pods.find(PodName("default", "web", "app"), node.proc, node.root) == [given]
    with pytest.raises(NoSuchRootError):
        pods.find(PodName("default", "other"), node.proc, node.root)


def test_two_cgroups_of_one_pod_are_refused_with_both(node: Node) -> None:
    """Nothing tells which of them the kubelet means."""
    folder = a_pod(node, f"default_web_{UID}")
    other = node.cgroup(node.unified / f"z.slice/pod{UID}")

    with pytest.raises(RefusedError, match="pod:default/web is 2 pods") as caught:
        pods.find(PodName("default", "web"), node.proc, node.root)
    assert [f"cgroup:{each}, of UID {UID}" for each in (folder, other)] == sorted(caught.value.leaks)
