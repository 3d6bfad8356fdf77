# SPDX-License-Identifier: Apache-2.0
"""Clean roots of distributions in which ``make setup`` has run; later runs use them again."""

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Final

from tests.matrix.cells import MACHINES, USERS, Cell
from tests.service.roots import LEAN, TOP, packed, run
from tests.support.suitepackages import criu, dumped_folder, postgres

CACHE: Final = TOP / "build" / "matrix"
SOURCES: Final = "ckptree"
"""The path of the checkout in a root."""
_KEYS: Final = Path("usr/share/keyrings")
_SETUP_S: Final = 7200
# A Debian package has the keys of a suite that is not Debian's.
_UBUNTU: Final = ("jammy", "noble")
_KEYRING: Final = ("trixie", "ubuntu-archive-keyring")
# A mirror's lists may have expired.
_OPTIONS: Final = (
    '--aptopt=Acquire::Check-Valid-Until "false"',
    *(f"--dpkgopt=path-exclude=/{name}/*" for name in LEAN),
)
# Large, and of no use in a machine.
_LEFT_BEHIND: Final = (
    *("var/cache", "var/lib/apt/lists", "usr/share/fonts", "usr/share/icons", "usr/share/X11", "usr/share/mime"),
    *("usr/lib/gcc-cross", "usr/share/perl", "root/.cache", "boot", "usr/src"),
)
# As for a container, but with this host's processes, because they are the watched ones.
ENTER: Final = """
set -e
mount --bind "$0" "$0"
cd "$0"
mount --rbind /dev dev
mount --rbind /sys sys
mount -t proc none proc
mkdir -p old
pivot_root . old
umount -l /old
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 "$@"
"""


def enter(root: Path, *command: str) -> list[str]:
    """Return a command that runs another in a root, with this host's /dev, /sys and processes."""
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", ENTER, os.fspath(root), *command]


def sources(root: Path) -> None:
    """Copy this checkout into a root."""
    names = run(["git", "-C", TOP, "ls-files", "--cached", "--others", "--exclude-standard", "-z"]).split("\0")
    for name in filter(None, names):
        target = root / SOURCES / name
        if (TOP / name).is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(TOP / name, target)


def tools(cell: Cell, root: Path) -> None:
    """Copy the criu that dumps, and what it dumps, into a root where the sources are; a machine has no network.

    A machine of another processor gets none.
    """
    if MACHINES[cell.machine] == platform.machine():
        for folder in (criu().parent, dumped_folder(), postgres()):
            target = root / SOURCES / folder.relative_to(TOP)
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(folder, target, symlinks=True)


def keyring(suite: str) -> list[str]:
    """Return the option of mmdebstrap that names a suite's keyring; empty for Debian."""
    if suite not in _UBUNTU:
        return []
    origin, package = _KEYRING
    folder = CACHE / package
    if not folder.exists():
        run(["mmdebstrap", "--variant=extract", _OPTIONS[0], f"--include={package}", origin, folder])
    return [f"--keyring={folder / _KEYS}"]


def userland(cell: Cell) -> Path:
    """Return the root of a cell's user space.

    It is the smallest that its distribution has, with make and the packages that ``make setup`` installs.
    """
    root = CACHE / f"{cell.user}-{cell.machine}"
    ready = root / "ready"
    if not ready.exists():
        shutil.rmtree(root, ignore_errors=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        suite = USERS[cell.user]
        components = ["--components=main,universe"] if suite in _UBUNTU else []
        command = ["mmdebstrap", "--variant=minbase", f"--arch={cell.machine}", "--include=apt,make,ca-certificates"]
        command += [*_OPTIONS, *components, *keyring(suite), suite, os.fspath(root)]
        # In mounts of its own, so that an interrupted run leaves none. Another processor is emulated, and slow.
        private = ["unshare", "--mount", "--propagation", "private"]
        with (CACHE / f"{root.name}.log").open("wb") as log:
            whole = [*private, *command]
            subprocess.run(whole, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True, timeout=_SETUP_S)
        # This host may reach registries through a proxy that only this host's certificates trust.
        for path in ("etc/resolv.conf", "etc/ssl/certs/ca-certificates.crt"):
            shutil.copy(Path("/", path), root / path)
        sources(root)
        with (CACHE / f"{root.name}.log").open("ab") as log:
            setup = enter(root, "make", "-C", f"/{SOURCES}", "setup")
            subprocess.run(setup, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True, timeout=_SETUP_S)
        ready.touch()
    return root


def archive(cell: Cell) -> Path:
    """Return the user space as a kernel's initial file system, without the sources."""
    root = userland(cell)
    path = CACHE / f"{root.name}.cpio"
    if not path.exists():
        lean = CACHE / f"{root.name}.lean"
        shutil.rmtree(lean, ignore_errors=True)
        run(["cp", "--archive", "--link", root, lean])
        for name in _LEFT_BEHIND:
            shutil.rmtree(lean / name, ignore_errors=True)
        packed(lean, path)
        shutil.rmtree(lean)
    return path
