# SPDX-License-Identifier: Apache-2.0
"""Programs of Debian that need their own paths: servers and engines, in a folder that is their root.

The packages are unpacked into a folder below build (tests.support.suitepackages), and nothing is installed. A program
runs there in mount and pid namespaces of its own, with the host's network and cgroups. What it writes (``/etc``,
``/run``, ``/tmp``, ``/var``) is in a scratch folder, so that a test can read it, and the packages stay as they are. The
end of the first process ends all.
"""

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support import suitepackages

_CACHE: Final = Path(__file__).parents[2] / "build" / "roots"
_BASE: Final = ("coreutils", "dash", "mount", "util-linux")
_MERGED: Final = ("bin", "lib", "lib64", "sbin")
_WRITTEN: Final = ("etc", "run", "tmp", "var")
_ENTER: Final = """
set -eu
root=$1 scratch=$2
shift 2
mount --make-rprivate /
mount --bind "$root" "$root"
for name in %s; do
    mount --bind "$scratch/$name" "$root/$name"
done
for name in dev sys; do
    mount --rbind "/$name" "$root/$name"
done
mount -t proc proc "$root/proc"
exec env -i HOME=/root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot "$root" "$@"
""" % " ".join(_WRITTEN)


def unpacked(name: str, packages: Sequence[str], suite: str = suitepackages.SUITE) -> Path:
    """Return a folder with these packages and all that they depend on; fetch them first if it is not there.

    Raises:
        NoPackageError: they could not be fetched.
    """
    root = suitepackages.unpacked((*_BASE, *packages), suite, _CACHE / f"{suite}-{name}")
    for link in _MERGED:
        if not os.path.lexists(root / link) and (root / "usr" / link).is_dir():
            (root / link).symlink_to(f"usr/{link}")
    if not os.path.lexists(root / "usr/bin/sh"):
        (root / "usr/bin/sh").symlink_to("dash")
    for folder in (*_WRITTEN, "dev", "proc", "root", "sys"):
        (root / folder).mkdir(exist_ok=True)
    return root


def prepared(scratch: Path) -> Path:
    """Make the folders that programs write to, with the accounts of root and nobody."""
    for name in (*_WRITTEN, "var/lib", "var/log", "var/spool", "var/tmp"):
        (scratch / name).mkdir(parents=True)
    (scratch / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
    (scratch / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (scratch / "etc/hosts").write_text(f"127.0.0.1 localhost {os.uname().nodename}\n")
    return scratch


@contextmanager
def running(root: Path, scratch: Path, script: str) -> Iterator[int]:
    """Run a shell's script in a root, for the time of the block; yield the pid of its first process.

    All of it is gone at the end.
    """
    words = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _ENTER, "sh", root, scratch]
    with (scratch / "log").open("wb") as log:
        # The words of unshare are those of a child of it, once that has forked.
        outer = subprocess.Popen(
            [*words, "sh", "-c", script], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield outer.pid
    finally:
        outer.send_signal(signal.SIGTERM)  # --kill-child
        outer.wait(20)


def inside(first: int, root: Path, *words: str) -> list[str]:
    """Return the words that run a program beside those that run in a root.

    Args:
        first: from `running`.
        root: of these programs.
        words: the program and its arguments.
    """
    (init,) = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    entered = ["nsenter", f"--target={init}", "--mount", "--pid", f"--root=/proc/{init}/root", "--wd=/"]
    return [*entered, "env", "-i", "HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *words]
