# SPDX-License-Identifier: Apache-2.0
"""Containers of docker and of Kubernetes as roots: real processes in the kernel's cgroups, and files as the engines write
them, at their places in a mount namespace.

Debian's docker.io cannot run within every machine that the tests run on, and a kubelet is not to be had: their sources are
named in agent.proc.containers and agent.proc.pods.
"""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from agent.proc.cgroups import hierarchies
from exporters import registry
from tests.live.daemons import Ran, ckptree
from tests.live.livecgroups import SLEEPER, a_cgroup, running

HIERARCHY = hierarchies()[0]
WEB, SIDE, PAUSE = (digit * 64 for digit in "abc")
UID = "0d3ac4e6-9b9f-4a52-8d3f-2a3c0f1f7b11"
AT_PLACE = 'mount --make-rprivate / && mount --bind "$0/lib" /var/lib && mount --bind "$0/log" /var/log && exec "$@"'


@contextmanager
def in_cgroups(*names: str) -> Iterator[None]:
    """Run a shell with a child in each of these cgroups."""
    with ExitStack() as stack:
        for name in names:
            folder = stack.enter_context(a_cgroup(HIERARCHY, name))
            stack.enter_context(running(folder, f"{SLEEPER}; wait"))
        yield


def asked(files: Path, *words: str, socket: Path) -> Ran:
    """Run the command line where the engines' files are at their places."""
    for name in ("lib", "log"):
        (files / name).mkdir(parents=True, exist_ok=True)
    before = ["unshare", "--mount", "sh", "-c", AT_PLACE, str(files)]
    return ckptree(*words, "--socket", socket, before=before)


def test_a_container_of_docker_is_captured_by_its_name(daemon_socket: Path, tmp_path: Path) -> None:
    """With the driver cgroupfs, or below the parent that it was given."""
    file = tmp_path / f"lib/docker/containers/{WEB}/config.v2.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"ID": WEB, "Name": "/web", "State": {"Running": True}}))
    with in_cgroups(f"ckptree-{os.getpid()}/docker/{WEB}"):
        taken = asked(tmp_path, "snapshot", "docker:web", "-f", "json", "--no-plan", socket=daemon_socket)
        other = asked(tmp_path, "tree", "docker:wbe", socket=daemon_socket)

    assert taken.code == 0, taken.err
    assert [task.comm for task in registry.load(taken.out).tasks] == [b"sh", b"sleep"]
    assert (other.code, "The containers of docker that run here: web;" in other.err) == (4, True), other.err


def test_the_containers_of_a_pod_are_shown_and_each_is_captured(daemon_socket: Path, tmp_path: Path) -> None:
    """The sandbox is none of them. A pod of several containers has no image of its own."""
    pod = f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID.replace('-', '_')}.slice"
    (tmp_path / "log/containers").mkdir(parents=True)
    for name, number in (("app", WEB), ("side", SIDE)):
        (tmp_path / f"log/pods/default_web-0_{UID}/{name}").mkdir(parents=True)
        link = tmp_path / f"log/containers/web-0_default_{name}-{number}.log"
        link.symlink_to(f"/var/log/pods/default_web-0_{UID}/{name}/0.log")
    scopes = [f"ckptree-{os.getpid()}/{pod}/cri-containerd-{number}.scope" for number in (WEB, SIDE, PAUSE)]
    with in_cgroups(*scopes):
        shown = asked(tmp_path, "tree", "pod:default/web-0", "--json", socket=daemon_socket)
        taken = asked(tmp_path, "snapshot", "pod:default/web-0/app", "-f", "json", "--no-plan", socket=daemon_socket)
        whole = asked(tmp_path, "snapshot", "pod:default/web-0", "-f", "json", socket=daemon_socket)

    assert (shown.code, taken.code) == (0, 0), shown.err + taken.err
    assert [[task["comm"] for task in each["tasks"]] for each in json.loads(shown.out)] == [["sh", "sleep"]] * 2
    assert [task.comm for task in registry.load(taken.out).tasks] == [b"sh", b"sleep"]
    assert (whole.code, whole.out) == (7, b"")
    assert "pod:default/web-0 has 2 topmost processes" in whole.err
