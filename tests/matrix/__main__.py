# SPDX-License-Identifier: Apache-2.0
"""``make matrix``: a run of cells, one after the other, that writes docs/matrix.json and docs/matrix.md.

``python -m tests.matrix [--step STEP]... [CELL]...``; without a name, all. A step that is run alone takes the place of
its earlier result. ``--page`` writes the page from the present results.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final

from tests.matrix import carried
from tests.matrix.cells import CELLS, HERE, STEPS, Cell, named
from tests.matrix.inside import gather
from tests.matrix.machine import LIMIT_S, boot
from tests.matrix.table import page
from tests.matrix.userland import CACHE, SOURCES, enter, sources, tools, userland
from tests.service.roots import TOP

RESULTS: Final = TOP / "docs" / "matrix.json"
PAGE: Final = TOP / "docs" / "matrix.md"


def run(cell: Cell, steps: Sequence[str] = ()) -> dict[str, Any]:
    """Run a cell; return its results."""
    said = CACHE / f"{cell}.console"
    said.parent.mkdir(parents=True, exist_ok=True)
    said.unlink(missing_ok=True)
    fault = ""
    try:
        if cell.kernel == HERE:
            root = userland(cell)
            sources(root)
            tools(cell, root)
            inside = f"-m tests.matrix.inside {HERE} {shlex.join(steps)}"
            script = f"cd /{SOURCES} && .venv/bin/python hatch_build.py && .venv/bin/python {inside}"
            with said.open("wb") as out:
                command = enter(root, "sh", "-c", script)
                subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=True, timeout=LIMIT_S)
        else:
            boot(cell, said, ["tests.matrix.inside", "emulated", *steps])
    except (subprocess.SubprocessError, OSError, AssertionError) as error:
        fault = str(error)[-400:]
    results = gather(said.read_text(errors="replace").splitlines() if said.exists() else ())
    if fault:
        results["reason"] = f"{results.get('reason', '')}: {fault}".lstrip(": ")
    return results


def known() -> dict[str, Any]:
    """Return the present results, by cell."""
    return dict(json.loads(RESULTS.read_text())) if RESULTS.exists() else {}


def merged(earlier: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    """Return the results with those of later runs in place of earlier ones."""
    found = {each["step"]: each for each in (*earlier.get("steps", ()), *results["steps"])}
    return results | {"steps": [found[step.name] for step in STEPS if step.name in found]}


def main(arguments: list[str]) -> int:
    """Run the named cells; return 0 unless a step of a cell failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", type=named, default=[], metavar="CELL")
    parser.add_argument("--step", action="append", default=[], choices=[step.name for step in STEPS])
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args(arguments)
    wrong = 0
    for cell in () if options.page else options.cells or CELLS:
        print(f"matrix: {cell}", file=sys.stderr)
        results = run(cell, options.step)
        wrong += sum(len(step["failed"]) for step in results["steps"])
        cells = known()  # another run may have ended meanwhile
        cells[str(cell)] = merged(cells.get(str(cell), {}), results) if options.step else results
        RESULTS.write_text(json.dumps(cells, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page(known(), carried.known()))
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
