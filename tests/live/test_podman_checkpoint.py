# SPDX-License-Identifier: Apache-2.0
"""``ckptree hook criu`` below a real podman, which calls runc, which calls CRIU."""

import os
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from agent.errors import RefusedError
from exporters import registry
from tests.live.criutrees import dumped_tree, snapshot_tree
from tests.live.daemons import PATIENCE_S, ckptree
from tests.live.dumps import HOOK
from tests.support import debianroot, podmanroot
from tests.support.podmanroot import PODMAN, RUN

# A child in a session of its own, a zombie, and a count. The hook runs among the host's files, and finds the images there.
SCRIPT = r"""
mkdir -p /tmp/rootfs/bin /etc/criu
cp /bin/busybox /tmp/rootfs/bin/sh
for name in setsid sleep; do ln /tmp/rootfs/bin/sh /tmp/rootfs/bin/$name; done
mount --bind /var/lib /host/var/lib
cat >/etc/hook <<END
#!/bin/sh
exec env CKPTREE_SOCKET={socket} chroot /host {hook}
END
chmod +x /etc/hook
echo 'action-script /etc/hook' >/etc/criu/runc.conf
{podman} run -d --name web --cgroup-parent /{parent} {run} --rootfs /tmp/rootfs /bin/sh -c '
    setsid sleep 1000 &
    (sleep 0.1 & exec sleep 1001) &
    i=0; while :; do i=$((i+1)); echo $i >/part; mv /part /count; sleep 0.1; done'
echo ready
exec sleep 1000
"""


class Engine(NamedTuple):
    """A podman that runs a container, web.

    Attributes:
        scratch: see debianroot.running.
        outer: see debianroot.running.
    """

    scratch: Path
    outer: int

    def ask(self, *words: str) -> None:
        """Call podman."""
        command = debianroot.inside(self.outer, *PODMAN.split(), *words)
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
        assert ran.returncode == 0, ran.stderr

    def counted(self) -> int:
        """Return how far the container's program has come."""
        path = self.scratch / "tmp/rootfs/count"
        return int(path.read_text()) if path.exists() else 0

    def wait_for_more(self) -> None:
        """Wait until the program has gone on."""
        before, deadline = self.counted(), time.monotonic() + PATIENCE_S
        while self.counted() < before + 3:
            assert time.monotonic() < deadline, (self.scratch / "log").read_text()
            time.sleep(0.05)


@pytest.fixture
def podman(tmp_path: Path, daemon_socket: Path) -> Iterator[Engine]:
    """Start the container."""
    scratch = debianroot.prepared(tmp_path / "scratch")
    parent = f"ckptree-checkpoint-{os.getpid()}"
    script = SCRIPT.format(podman=PODMAN, run=RUN, parent=parent, socket=daemon_socket, hook=HOOK)
    with debianroot.running(podmanroot.unpacked(), scratch, script, (parent,)) as outer:
        engine = Engine(scratch, outer)
        engine.wait_for_more()
        yield engine


def test_a_checkpoint_of_podman_has_the_tree_beside_the_images(podman: Engine) -> None:
    """Podman restores the container from the same folder, the program goes on, and an archive has the tree, too."""
    podman.ask("container", "checkpoint", "--keep", "web")
    before = podman.counted()
    (images,) = (podman.scratch / "var/lib/containers/storage/vfs-containers").glob("*/userdata/checkpoint")
    assert (tree := dumped_tree(images)) == snapshot_tree(registry.load((images / "tree.ckpt").read_bytes()))
    restart = ckptree("restart", f"criu:{images}")
    podman.ask("container", "restore", "--keep", "web")
    podman.wait_for_more()
    podman.ask("container", "checkpoint", "--compress", "gzip", "--export", "/var/web.tar.gz", "web")
    with tarfile.open(podman.scratch / "var/web.tar.gz") as archive:
        names = archive.getnames()

    assert "checkpoint/tree.ckpt" in names
    assert len(tree) in (4, 5)  # the sleep between two counts may have ended just then
    assert podman.counted() > before
    assert restart.code == RefusedError.exit_code
    for name in ("mnt", "net", "uts"):
        assert f"it was in a {name} namespace of its own" in restart.err
