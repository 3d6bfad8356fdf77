# SPDX-License-Identifier: Apache-2.0
"""An emulated machine with a cell's kernel, and its user space as the initial file system; it runs a command, as that for
the steps, and ends.
"""

import lzma
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.matrix.cells import KERNELS, MACHINES, SETTINGS, Cell
from tests.matrix.userland import CACHE, SOURCES, archive, keyring, sources, tools
from tests.service.roots import packed, run

MEMORY: Final = "6G"
LIMIT_S: Final = 5400
_MACHINE: Final = {
    "amd64": ("qemu-system-x86_64", "-machine", "pc"),
    "arm64": ("qemu-system-aarch64", "-machine", "virt", "-cpu", "cortex-a72"),
}
# Names of the kernel for clouds in other distributions than Debian.
_FOR_CLOUDS: Final = {"jammy": "virtual"}
_CONSOLE: Final = {"amd64": "ttyS0", "arm64": "ttyAMA0"}
# Modules that criu needs for a dump, and those that they need.
_MODULES: Final = (
    *("nf_tables", "unix_diag", "inet_diag", "tcp_diag", "udp_diag", "raw_diag", "af_packet_diag", "netlink_diag"),
)
# The first process: it mounts an init's file systems, inherits orphans, and switches the machine off.
_INIT: Final = f"""#!/bin/bash
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mkdir -p /dev/pts /dev/shm /run /tmp
mount -t devpts -o ptmxmode=666 none /dev/pts
mount -t tmpfs none /dev/shm
mount -t tmpfs none /run
mount -t tmpfs none /tmp
mount -t cgroup2 none /sys/fs/cgroup
exec </dev/console >/dev/console 2>&1
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 USER=root
for setting in SETTINGS; do
    echo "${{setting#*=}}" >/proc/sys/"$(echo "${{setting%%=*}}" | tr . /)"
done
cd /{SOURCES}
.venv/bin/python hatch_build.py
.venv/bin/python -m tests.matrix.prepared
.venv/bin/python -m WORK </dev/null
sync
echo o >/proc/sysrq-trigger
while :; do sleep 1; done
"""


def kernel(cell: Cell) -> tuple[Path, Path]:
    """Return the kernel of a cell, which is its distribution's for clouds, and a folder of modules in their order."""
    path = CACHE / f"vmlinuz-{cell.kernel}-{cell.machine}"
    modules = CACHE / f"modules-{cell.kernel}-{cell.machine}"
    if not (path.exists() and modules.exists()):
        folder = CACHE / f"kernel-{cell.kernel}-{cell.machine}"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(modules, ignore_errors=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        command = ["mmdebstrap", "--variant=extract", f"--arch={cell.machine}"]
        suite = KERNELS[cell.kernel]
        name = f"--include=linux-image-{_FOR_CLOUDS.get(suite, f'cloud-{cell.machine}')}"
        # An old release's list of security updates may name missing files; the release's own kernel is enough.
        older = '--setup-hook=sed -i /security/d "$1/etc/apt/sources.list"'
        run([*command, '--aptopt=Acquire::Check-Valid-Until "false"', older, name, *keyring(suite), suite, folder])
        # From Linux 7 on Debian has the kernel beside its modules.
        (found,) = [*folder.glob("boot/vmlinuz-*"), *folder.glob("usr/lib/modules/*/vmlinuz")]
        found.replace(path)
        _take_modules(folder, modules)
        shutil.rmtree(folder)
    return path, modules


def _take_modules(tree: Path, folder: Path) -> None:
    """Copy the modules that are wanted, and those that they need, out of a kernel's tree; their names begin with a number.

    The package has no list of dependencies, but each module names the ones that it needs.
    """
    places = {path.name.partition(".")[0].replace("-", "_"): path for path in tree.rglob("*.ko*")}
    taken: dict[str, bytes] = {}

    def take(name: str) -> None:
        if name in taken or name not in places:  # a kernel may have it built in
            return
        data = places[name].read_bytes()
        data = lzma.decompress(data) if places[name].suffix == ".xz" else data
        needs = re.search(rb"\0depends=([^\0]*)\0", data)
        for need in needs[1].decode().split(",") if needs else ():
            take(need.replace("-", "_"))
        taken[name] = data

    for name in _MODULES:
        take(name)
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    for number, (name, data) in enumerate(taken.items()):
        (unfinished / f"{number:02}-{name}.ko").write_bytes(data)
    unfinished.rename(folder)


def initial(cell: Cell, work: Sequence[str], more: Sequence[Path]) -> Path:
    """Return the initial file system: the user space, followed by this checkout, the first process, and more archives."""
    path = CACHE / f"{cell}.cpio"
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        folder = Path(name)
        sources(folder)
        tools(cell, folder)
        shutil.copytree(kernel(cell)[1], folder / "modules")
        settings = SETTINGS.get(cell.kernel, ())[:1]
        script = _INIT.replace("WORK", shlex.join(work)).replace("SETTINGS", shlex.join(settings))
        (folder / "init").write_text(script)
        (folder / "init").chmod(0o755)
        own = packed(folder, CACHE / f"{cell}.own.cpio")
    with path.open("wb") as out:
        for part in (archive(cell), own, *more):
            with part.open("rb") as data:
                shutil.copyfileobj(data, out, 1 << 22)
            out.write(bytes(-out.tell() % 512))
    own.unlink()
    return path


def boot(
    cell: Cell,
    console: Path,
    work: Sequence[str],
    *,
    more: Sequence[Path] = (),
    out: Path = Path(os.devnull),
    processor: str = "",
) -> None:
    """Boot a cell's machine and wait until it is off.

    Args:
        cell: the host.
        console: takes all output of the machine.
        work: the module of Python that runs in it, with its arguments.
        more: archives of cpio to unpack over its file system.
        out: takes what is written to the second serial line.
        processor: as qemu names it; empty: its simplest one.
    """
    system = initial(cell, work, more)
    same = MACHINES[cell.machine] == platform.machine()
    # A machine that is emulated beside other work may see too few ticks for the kernel's test of its timer.
    command = [
        *("nice", "-n", "10", *_MACHINE[cell.machine], "-accel", "tcg,thread=multi", "-smp", "2", "-m", MEMORY),
        *("-display", "none", "-monitor", "none", "-no-reboot", "-nic", "none"),
        *("-kernel", os.fspath(kernel(cell)[0]), "-initrd", os.fspath(system)),
        *("-append", f"console={_CONSOLE[cell.machine]} rdinit=/init panic=-1 loglevel=4 no_timer_check"),
        *("-serial", f"file:{console}", "-serial", f"file:{out}"),
        *(("-cpu", processor) if processor else ()),
    ]
    try:
        subprocess.run(command, stdin=subprocess.DEVNULL, check=True, timeout=LIMIT_S if same else 2 * LIMIT_S)
    finally:
        system.unlink()
