# SPDX-License-Identifier: Apache-2.0
"""Programs of Debian that need their own paths: servers and engines, in a folder that is their root.

The packages are unpacked into a folder below build (tests.support.suitepackages), and nothing is installed. A program
runs there in mount and pid namespaces of its own, with the host's network and cgroups; the host's files are at
``/host``. What it writes (``/etc``, ``/run``, ``/tmp``, ``/var``) is in a scratch folder, so that a test can read it, and
the packages stay as they are. The end of the first process ends all.
"""

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from agent.proc import cgroups
from tests.support import suitepackages

_CACHE: Final = Path(__file__).parents[2] / "build" / "roots"
_BASE: Final = ("coreutils", "dash", "mount", "util-linux")
_MERGED: Final = ("bin", "lib", "lib64", "sbin")
_WRITTEN: Final = ("etc", "run", "tmp", "var")
_ENTERED_S: Final = 20.0
_REMOVED_S: Final = 20.0
_ENTER: Final = """
set -eu
root=$1 scratch=$2 own=$3
shift 3
[ -z "$own" ] || echo 0 > "$own/cgroup.procs"
mount --make-rprivate /
mount --rbind / "$root/host"
mount -t proc proc "$root/host/proc"
mount --rbind "$root" "$root"
for name in etc run tmp var; do
    mount --bind "$scratch/$name" "$root/$name"
done
for name in dev sys; do
    mount --rbind "/$name" "$root/$name"
done
mount -t proc proc "$root/proc"
cd "$root"
pivot_root . .
umount -l .
set -- env -i HOME=/root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
[ -n "$own" ] || exec "$@"
exec unshare --cgroup sh -c 'umount -R "$0" && mount -t cgroup2 none "$0" && exec "$@"' /sys/fs/cgroup "$@"
"""


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
    for folder in (*_WRITTEN, "dev", "host", "proc", "root", "sys"):
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
def running(root: Path, scratch: Path, script: str, made: Sequence[str] = (), own: Path | None = None) -> Iterator[int]:
    """Run a shell's script in a root, for the time of the block; yield the pid of its first process's parent.

    All of it is gone at the end.

    Args:
        root: from `unpacked`.
        scratch: from `prepared`; what the script prints is in its file ``log``.
        script: of a shell.
        made: names of the cgroups, at the top of hierarchies, that the script makes.
        own: a new cgroup of version 2 for the script, which sees it as the root of the only hierarchy; None: the script
            sees those of the host.
    """
    words = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _ENTER, "sh", str(root), str(scratch)]
    words.append(str(own or ""))
    if own is not None:
        own.mkdir()
    with (scratch / "log").open("wb") as log:
        words += ["sh", "-c", f": >/run/entered\n{script}"]
        outer = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + _ENTERED_S
    try:
        while not (scratch / "run/entered").exists():
            assert time.monotonic() < deadline, (scratch / "log").read_text()
            assert outer.poll() is None, (scratch / "log").read_text()
            time.sleep(0.02)
        yield outer.pid
    finally:
        outer.kill()  # unshare waits with SIGTERM blocked; --kill-child ends its child with it
        outer.wait(20)
        for folder in [one.mount / name for one in cgroups.hierarchies() for name in made] + ([own] if own else []):
            _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a cgroup and those below it, once their processes, which were killed, are gone."""
    for below in cgroups.folders(folder):
        _remove(below)
    deadline = time.monotonic() + _REMOVED_S
    while folder.exists():
        try:
            folder.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def inside(outer: int, *words: str) -> list[str]:
    """Return the words that run a program beside those that run in a root.

    Args:
        outer: from `running`.
        words: the program and its arguments.
    """
    (init,) = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
    entered = ["nsenter", f"--target={init}", "--mount", "--pid", "--root", "--wd"]
    return [*entered, "env", "-i", "HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *words]
