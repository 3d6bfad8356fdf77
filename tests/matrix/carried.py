# SPDX-License-Identifier: Apache-2.0
"""Programs that are carried from one kernel to another: docs/carried.json, and a section of docs/matrix.md.

``python -m tests.matrix.carried [--to KERNEL]... [--processor NAME] [KERNEL]...`` dumps the programs under each KERNEL,
and restarts them under each of the others; without a name, all. Both machines have the user space of one distribution,
for the programs need their files. A processor is one of qemu's, for the machines that restart.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from tests.matrix.cells import Cell
from tests.matrix.inside import gather
from tests.matrix.machine import boot
from tests.matrix.userland import CACHE
from tests.service.roots import TOP, packed, run

RESULTS: Final = TOP / "docs" / "carried.json"
USER: Final = "debian13"
KERNELS: Final = ("6.1", "6.12", "newest")


def _results(console: Path) -> dict[str, Any]:
    return gather(console.read_text(errors="replace").splitlines() if console.exists() else ())


def dumped(kernel: str, folder: Path) -> tuple[dict[str, Any], Path]:
    """Dump the programs under a kernel; return the results, and an archive of the dumps for another machine."""
    console = CACHE / f"carried-{kernel}.console"
    line = folder / f"{kernel}.tar.gz"
    boot(Cell(USER, kernel), console, ["tests.matrix.carrying", "dump", kernel], out=line)
    root = folder / kernel
    (root / "carried").mkdir(parents=True)
    run(["tar", "--extract", "--gzip", "--file", line, "--directory", root / "carried"])
    return _results(console), packed(root, folder / f"{kernel}.cpio")


def main(arguments: list[str]) -> int:
    """Carry the programs; return 0 if all of them have run on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", nargs="*", choices=[*KERNELS, []], default=[], metavar="KERNEL")
    parser.add_argument("--to", action="append", choices=KERNELS, default=[])
    parser.add_argument("--processor", default="")
    options = parser.parse_args(arguments)
    found: list[dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    wrong = 0
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        origins = {kernel: dumped(kernel, Path(name)) for kernel in options.kernels or KERNELS}
        for target in options.to or KERNELS:
            sources = [kernel for kernel in origins if kernel != target]
            console = CACHE / f"carried-to-{target}.console"
            work = ["tests.matrix.carrying", "restart", *sources]
            more = [origins[kernel][1] for kernel in sources]
            boot(Cell(USER, target), console, work, more=more, processor=options.processor)
            print(_results(console))
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
