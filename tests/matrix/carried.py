# SPDX-License-Identifier: Apache-2.0
"""Programs that are carried from one kernel to another; their results, docs/carried.json, are a section of docs/matrix.md.

``python -m tests.matrix.carried [--to KERNEL]... [--processor NAME] [KERNEL]...`` dumps the programs under each KERNEL,
and restarts them under each of the others; without a name, all. Both machines have the user space of one distribution,
for the programs need their files. The processor is one of qemu's, for the machines that restart.
``python -m tests.matrix --page`` writes the section.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from tests.matrix.cells import Cell
from tests.matrix.inside import gather
from tests.matrix.machine import boot
from tests.matrix.table import CARRIED_KEYS
from tests.matrix.userland import CACHE
from tests.service.roots import TOP, packed, run

RESULTS: Final = TOP / "docs" / "carried.json"
USER: Final = "debian13"
KERNELS: Final = ("6.1", "6.12", "newest")
SIMPLEST: Final = "qemu64"
"""The processor that qemu emulates unless another one is asked for; it has no XSAVE."""


def known() -> list[dict[str, Any]]:
    """Return the present results."""
    return list(json.loads(RESULTS.read_text())) if RESULTS.exists() else []


def merged(earlier: list[dict[str, Any]], results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the results, in order, with those of later runs in place of earlier ones."""
    found = {tuple(each[key] for key in CARRIED_KEYS): each for each in (*earlier, *results)}
    return [found[key] for key in sorted(found)]


def _results(console: Path) -> dict[str, Any]:
    return gather(console.read_text(errors="replace").splitlines() if console.exists() else ())


def dumped(kernel: str, folder: Path) -> tuple[dict[str, Any], Path]:
    """Dump the programs under a kernel; return the results, and an archive of the dumps for another machine."""
    console = CACHE / f"carried-{kernel}.console"
    line = folder / f"{kernel}.tar.gz"
    boot(Cell(USER, kernel), console, ["tests.matrix.carrying", "dump", kernel], out=line)
    root = folder / kernel
    (root / "carried").mkdir(parents=True)
    run(["tar", "--extract", "--gzip", "--numeric-owner", "--file", line, "--directory", root / "carried"])
    return _results(console), packed(root, folder / f"{kernel}.cpio", owner="")


def restarted(
    target: str, origins: dict[str, tuple[dict[str, Any], Path]], processor: str
) -> tuple[list[dict[str, Any]], str]:
    """Restart the dumps of kernels under another one; return the results, and the reason if it did not come to its end.

    Args:
        target: the kernel.
        origins: the results and the archive of each kernel's dumps.
        processor: as qemu names it.
    """
    console = CACHE / f"carried-to-{target}.console"
    work = ["tests.matrix.carrying", "restart", *origins]
    boot(Cell(USER, target), console, work, more=[archive for _, archive in origins.values()], processor=processor)
    found = _results(console)
    results = []
    for step in found["steps"]:
        origin, _, program = step["step"].partition(" ")
        of_dump = origins[origin][0]
        not_dumped = {each["step"].removeprefix("dump "): each["fault"] for each in of_dump["steps"] if each["fault"]}
        fault = f"the dump failed: {not_dumped[program]}" if program in not_dumped else step["fault"]
        releases = of_dump["facts"]["kernel"], found["facts"]["kernel"]
        results.append(dict(zip(CARRIED_KEYS, (*releases, processor, program), strict=True)) | {"fault": fault})
    return results, found.get("reason", "")


def main(arguments: list[str]) -> int:
    """Carry the programs; return 0 if all of them have run on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", nargs="*", type=_kernel, default=[], metavar="KERNEL")
    parser.add_argument("--to", action="append", type=_kernel, default=[])
    parser.add_argument("--processor", default=SIMPLEST)
    options = parser.parse_args(arguments)
    wrong = 0
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        origins = {}
        for kernel in options.kernels or KERNELS:
            print(f"carried: dumps under {kernel}", file=sys.stderr)
            origins[kernel] = dumped(kernel, Path(name))
        for target in options.to or KERNELS:
            others = {kernel: each for kernel, each in origins.items() if kernel != target}
            if not others:
                continue
            print(f"carried: restarts under {target}", file=sys.stderr)
            results, reason = restarted(target, others, options.processor)
            if reason:
                print(f"carried: {reason}: see {CACHE}", file=sys.stderr)
            wrong += bool(reason) + sum(bool(each["fault"]) for each in results)
            RESULTS.write_text(json.dumps(merged(known(), results), indent=1, ensure_ascii=False) + "\n")
    return int(wrong > 0)


def _kernel(name: str) -> str:
    if name not in KERNELS:
        raise argparse.ArgumentTypeError(f"no kernel is called {name}; there are {' '.join(KERNELS)}")
    return name


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
