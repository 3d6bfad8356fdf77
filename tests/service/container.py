# SPDX-License-Identifier: Apache-2.0
"""A container whose first process is systemd: a clean Debian to install into, in namespaces of its own, and
without a network unless it asks for the machine's.
"""

import os
import subprocess
from pathlib import Path
from typing import Self

from tests.service.cgroups import Cgroups
from tests.service.host import PATIENCE_S, Host, Ran
from tests.service.roots import debian

SPACES = ("--mount", "--pid", "--uts", "--ipc", "--cgroup")
# The mounts of a container's manager, without the old root.
SET_UP = """
set -e
cd "$0"
mount --bind . .
cd "$0"
mount -t proc none proc
mount -t sysfs none sys
mount -t tmpfs -o mode=755 none sys/fs/cgroup
mkdir sys/fs/cgroup/unified sys/fs/cgroup/systemd
mount -t cgroup2 none sys/fs/cgroup/unified
mount -t cgroup -o none,name=systemd,xattr none sys/fs/cgroup/systemd
mount -t tmpfs -o mode=755 none dev
for name in null zero full random urandom tty; do touch dev/$name; mount --bind /dev/$name dev/$name; done
mkdir dev/shm dev/pts
mount -t devpts -o ptmxmode=666 none dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=755 none run
mkdir old
pivot_root . old
umount -l /old
rmdir /old
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --log-target=journal --show-status=0
"""


class Container(Host):
    """A running container with the dependencies of the package, and without the package.

    Args:
        folder: for its root.
        more: packages that ours recommends.
        own_network: it has a network namespace of its own, without any connection.
    """

    ckptree = "/usr/bin/ckptree"
    python = "/usr/lib/ckptree/bin/python3"
    units = "/run/systemd/system"
    manager = "--system"
    watchdog_s = 10

    def __init__(self, folder: Path, *more: str, own_network: bool = True) -> None:
        self.root = debian(folder / "root", *more)
        self._log = folder / "container.log"
        self._network = ["--net"] if own_network else []

    def __enter__(self) -> Self:
        self._cgroups = Cgroups()
        spaces = ["unshare", *SPACES, *self._network, "--propagation", "private", "--fork", "--kill-child"]
        command = ["sh", "-c", f'{self._cgroups.join}; exec "$@"', "sh", *spaces, "sh", "-c", SET_UP, str(self.root)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._come_up(self._is_up, self._process, self._log)
        return self

    def _is_up(self) -> bool:
        return bool(self._init) and self.run("systemctl is-system-running").out.strip() in {"running", "degraded"}

    @property
    def _init(self) -> int:
        """Return the pid of its first process in our namespace; 0: not started yet."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def run(self, command: str) -> Ran:
        """Run a shell command in the container."""
        ran = subprocess.run(
            ["nsenter", f"--target={self._init}", *SPACES, "--root", "sh", "-c", f"cd /\n{command}"],
            env={"PATH": os.defpath + ":/sbin:/usr/sbin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=PATIENCE_S * 5,
        )
        return Ran(ran.returncode, ran.stdout.decode(errors="replace"), ran.stderr.decode(errors="replace"))

    def log(self) -> str:
        """Return the daemon's log."""
        return self.run("journalctl --unit=ckptree.service --output=cat --no-pager --lines=60").out

    def _end(self) -> None:
        self._cgroups.clear()
        self._process.wait(PATIENCE_S)
