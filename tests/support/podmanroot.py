# SPDX-License-Identifier: Apache-2.0
"""Debian's podman, in a root of its own (tests.support.debianroot), without network."""

from pathlib import Path
from typing import Final

from tests.support import debianroot

# The host's cgroups may be of version 1, which podman warns of, and crun does not take beside version 2; limits are lowered
# for a test may lack the right to raise them.
PODMAN: Final = "podman --storage-driver vfs --cgroup-manager cgroupfs --events-backend none --runtime runc"
RUN: Final = "--network none --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --security-opt seccomp=unconfined"
_PACKAGES: Final = (
    *("podman", "runc", "conmon", "busybox-static"),
    *("criu", "gzip", "iptables", "tar"),  # what a checkpoint runs
)


def unpacked() -> Path:
    """Return the root; fetch the packages first if it is not there.

    Raises:
        NoPackageError: they could not be fetched.
    """
    root = debianroot.unpacked("podman", _PACKAGES)
    for name in ("iptables-restore", "ip6tables-restore"):  # Debian's alternatives make them where it is installed
        if not (link := root / "usr/sbin" / name).is_symlink():
            link.symlink_to("xtables-nft-multi")
    return root
