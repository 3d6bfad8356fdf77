# SPDX-License-Identifier: Apache-2.0
"""A restart whose root directory is no mount point."""

import os
import subprocess
import sys
from pathlib import Path

from exporters import registry
from tests.live.restartverb import TOP
from tests.support.builders import a_snapshot, a_task

# In a mount namespace where all mounts are shared, as a host's are: what spreads from the tree's would be left behind.
_SCRIPT = """
    set -e
    mount --make-rshared /
    for folder in usr etc dev "${2#/}"; do
        mkdir -p "$1/$folder"; mount --rbind "/$folder" "$1/$folder"
    done
    for link in bin lib lib64; do if [ -L /$link ]; then cp -P /$link "$1/"; fi; done
    mkdir -p "$1/proc" "$1/tmp"; mount -t proc proc "$1/proc"; cp "$3" "$1/image"
    root=$1; cd /; shift 3
    wc -l < /proc/self/mountinfo
    chroot "$root" "$@"
    wc -l < /proc/self/mountinfo
"""


def test_a_tree_comes_again_in_a_chroot(tmp_path: Path) -> None:
    """With a /proc of its own, in the root directory that it was given, and without a trace outside."""
    image = tmp_path / "image"
    image.write_bytes(registry.image(a_snapshot([(1,), (30,)], [a_task(1, 0), a_task(2, 1)], mode="container"), "ckpt"))
    root = tmp_path / "root"
    root.mkdir()
    text = "sh -c 'test $$ = 30 || sleep 0.5; test $$ = 1 || { readlink /proc/self; cat /proc/1/comm; ls -d /image; }'"
    words = [sys.executable, "-m", "agent", "restart", "/image", "--run", text]
    ran = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", _SCRIPT, "sh", root, TOP, image, *words],
        env=os.environ | {"PYTHONPATH": os.fspath(TOP)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    before, own, comm, found, after = ran.stdout.split() or [ran.stderr] * 5

    assert (ran.returncode, found) == (0, "/image"), ran.stderr
    assert int(own) < 100
    assert comm == "sh"
    assert before == after
