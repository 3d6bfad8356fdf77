# SPDX-License-Identifier: Apache-2.0
"""Root file systems of a clean Debian for the package; later runs use them again."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

TOP = Path(__file__).parents[2]
CACHE = TOP / "build" / "roots"
SUITE = "bookworm"
# The packages of every Debian with systemd; all others must be dependencies of ours.
PACKAGES = ("systemd", "systemd-sysv", "dbus", "procps", "util-linux")
# Manuals are a fifth of the files, and no test needs them.
LEAN = ("usr/share/doc", "usr/share/locale", "usr/share/man", "usr/share/info")
STEP_S = 600.0


def run(command: Sequence[str | Path], **more: str) -> str:
    """Run a step; raise an error with its output if it fails."""
    ran = subprocess.run(
        command,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", **more},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=STEP_S,
    )
    assert ran.returncode == 0, f"{command[0]}: {ran.stdout}"
    return ran.stdout


def package() -> Path:
    """Return the newest package that `make deb` made."""
    made = sorted((TOP / "dist").glob("ckptree_*.deb"), key=lambda path: path.stat().st_mtime)
    assert made, "make deb comes first"
    return made[-1]


def depends() -> list[str]:
    """Return the packages that ours depends on, the first of each alternative."""
    said = run(["dpkg-deb", "--field", package(), "Depends"]).strip()
    return [part.split("|")[0].split("(")[0].split(":")[0].strip() for part in said.split(",")]


def base(packages: Sequence[str] = PACKAGES) -> Path:
    """Return a clean root with these packages, as a tar archive."""
    name = hashlib.blake2b(repr((SUITE, packages, LEAN)).encode(), digest_size=6).hexdigest()
    path = CACHE / f"{name}.tar"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished.tar")
        lean = [f"--dpkgopt=path-exclude=/{folder}/*" for folder in LEAN]
        run(["mmdebstrap", "--variant=minbase", *lean, f"--include={','.join(packages)}", SUITE, unfinished])
        unfinished.replace(path)
    return path


def unpacked(archive: Path, folder: Path) -> Path:
    """Unpack a root on this machine's disk, where it can be changed."""
    folder.mkdir()
    run(["tar", "--extract", "--file", archive, "--directory", folder, "--exclude=./dev/*"])
    return folder


def debian(folder: Path, *more: str) -> Path:
    """Make a root with all dependencies of the package, and without the package.

    Args:
        folder: the folder of the root.
        more: packages that ours does not ask for.
    """
    return unpacked(base((*PACKAGES, *depends(), *more)), folder)


def install(root: Path, deb: Path) -> None:
    """Install the package into a root without running processes."""
    shutil.copy(deb, root / "package.deb")
    enter = (
        'mount --rbind /dev "$0/dev" && mount -t proc none "$0/proc" && exec chroot "$0" dpkg --install /package.deb'
    )
    run(["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "sh", "-c", enter, root])


def upgrade(deb: Path, folder: Path) -> Path:
    """Return the same package with a higher version."""
    tree = folder / "upgrade"
    run(["dpkg-deb", "--raw-extract", deb, tree])
    control = tree / "DEBIAN" / "control"
    control.write_text(control.read_text().replace("\nVersion: ", "\nVersion: 1:"))
    path = folder / "upgrade.deb"
    run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, path])
    shutil.rmtree(tree)
    return path


def packed(root: Path, path: Path, owner: str = "+0:+0") -> Path:
    """Return a folder as an archive that a kernel unpacks at boot; with an empty owner each file keeps its own."""
    unfinished = path.with_suffix(".unfinished.cpio")
    names = sorted(os.fspath(found.relative_to(root)) for found in root.rglob("*"))
    with unfinished.open("wb") as out:
        subprocess.run(
            ["cpio", "--quiet", "--null", "--create", "--format=newc", *([f"--owner={owner}"] if owner else [])],
            cwd=root,
            input="\0".join(names).encode(errors="surrogateescape"),
            stdout=out,
            check=True,
        )
    unfinished.replace(path)
    return path


def kernel() -> Path:
    """Return the kernel of that suite."""
    path = CACHE / "vmlinuz"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        said = run(["apt-cache", "depends", "--important", "linux-image-cloud-amd64"])
        (name,) = (line.split()[1] for line in said.splitlines() if line.strip().startswith("Depends:"))
        folder = CACHE / "kernel"
        folder.mkdir(exist_ok=True)
        run(["sh", "-c", f"cd {folder} && apt-get download {name} && dpkg-deb --extract {name}_*.deb ."])
        (found,) = folder.glob("boot/vmlinuz-*")
        found.replace(path)
        shutil.rmtree(folder)
    return path
