# SPDX-License-Identifier: Apache-2.0
"""Containers of a real podman as roots, by name and by ID. Debian's podman runs in a root of its own, without network."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from exporters import registry
from tests.live.daemons import PATIENCE_S, Ran, ckptree
from tests.support import debianroot, podmanroot
from tests.support.podmanroot import PODMAN, RUN

SCRIPT = r"""
mkdir -p /tmp/rootfs/bin
cp /bin/busybox /tmp/rootfs/bin/sh
cp /bin/busybox /tmp/rootfs/bin/sleep
for name in web db over; do
    {podman} run -d --name $name --cgroup-parent /{parent} {run} \
        --rootfs /tmp/rootfs /bin/sh -c 'sleep 1000 & sleep 1001; :'
done
{podman} rename db store
{podman} stop --time 0 over
echo ready
exec sleep 1000
"""


class Engine(NamedTuple):
    """A podman that runs two containers, web and store; a third one, over, has ended.

    Attributes:
        before: words that run a program where podman's files are at their places.
        outer: see debianroot.running.
    """

    before: list[str]
    outer: int

    def ask(self, *words: str) -> str:
        """Return what podman itself prints."""
        ran = subprocess.run(
            debianroot.inside(self.outer, *PODMAN.split(), *words),
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return ran.stdout

    def snapshot(self, root: str, socket: Path) -> Ran:
        """Take a snapshot of a root by the command line."""
        return ckptree("snapshot", root, "-f", "json", "--no-plan", "--socket", socket, before=self.before)


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Start podman's containers."""
    root = podmanroot.unpacked()
    scratch = debianroot.prepared(tmp_path_factory.mktemp("podman") / "scratch")
    parent = f"ckptree-{os.getpid()}"
    script = SCRIPT.format(podman=PODMAN, run=RUN, parent=parent)
    with debianroot.running(root, scratch, script, (parent,)) as outer:
        deadline = time.monotonic() + PATIENCE_S
        while "ready\n" not in (log := (scratch / "log").read_text()):
            assert time.monotonic() < deadline, log
            time.sleep(0.05)
        enter = 'mount --make-rprivate / && mount --bind "$0" /var/lib && exec "$@"'
        yield Engine(["unshare", "--mount", "sh", "-c", enter, str(scratch / "var/lib")], outer)


def test_a_container_is_captured_by_its_name_and_by_its_id(podman: Engine, daemon_socket: Path) -> None:
    """Its init is the root, and the pid namespace is whole. A renamed container has its new name."""
    (told,) = json.loads(podman.ask("inspect", "web"))
    named, numbered = (podman.snapshot(f"podman:{name}", daemon_socket) for name in ("web", told["Id"][:12]))
    renamed = podman.snapshot("podman:store", daemon_socket)

    assert [ran.code for ran in (named, numbered, renamed)] == [0, 0, 0], named.err + numbered.err + renamed.err
    for ran in (named, numbered, renamed):
        assert [task.comm for task in registry.load(ran.out).tasks] == [b"sh", b"sleep", b"sleep"]
    assert json.loads(named.out)["mode"] == "container"
    assert json.loads(named.out)["tasks"][0]["start_ns"] == json.loads(numbered.out)["tasks"][0]["start_ns"]
    assert json.loads(named.out)["tasks"][0]["start_ns"] != json.loads(renamed.out)["tasks"][0]["start_ns"]


def test_a_name_that_no_container_has_is_answered_with_those_there_are(podman: Engine, daemon_socket: Path) -> None:
    """A container's former name is no name of it."""
    gone = podman.snapshot("podman:db", daemon_socket)

    assert gone.code == 4
    assert (
        "podman:db: no such container runs here. The containers of podman that run here: store, web; looked for"
        in gone.err
    )


def test_a_container_that_has_ended_is_no_root(podman: Engine, daemon_socket: Path) -> None:
    """Podman still has its name."""
    ended = podman.snapshot("podman:over", daemon_socket)

    assert "over" in podman.ask("ps", "--all", "--format", "{{.Names}}")
    assert (ended.code, "no such container runs here" in ended.err) == (4, True), ended.err
