# SPDX-License-Identifier: Apache-2.0
"""``make matrix``: runs cells, one after the other, and writes docs/matrix.json and docs/matrix.md.

``python -m tests.matrix [CELL]...``; without a name, all. ``--page`` writes the page from the results that there are.
"""

import json
import subprocess
import sys
from collections.abc import Iterable
from typing import Any, Final

from tests.matrix.cells import CELLS, HERE, Cell, named
from tests.matrix.inside import MARK
from tests.matrix.machine import LIMIT_S, boot
from tests.matrix.table import page
from tests.matrix.userland import CACHE, SOURCES, enter, sources, userland
from tests.service.roots import TOP

RESULTS: Final = TOP / "docs" / "matrix.json"
PAGE: Final = TOP / "docs" / "matrix.md"


def gather(lines: Iterable[str]) -> dict[str, Any]:
    """Return the results among what a host has said."""
    results: dict[str, Any] = {"facts": {}, "steps": [], "reason": "it never began"}
    for line in lines:
        mark, found, text = line.partition(MARK)
        if not found or mark.strip():
            continue
        facts = json.loads(text)
        if "step" in facts:
            results["steps"].append(facts)
        elif "done" in facts:
            del results["reason"]
        else:
            results["facts"] = facts
            results["reason"] = "it ended in the middle"
    return results


def run(cell: Cell) -> dict[str, Any]:
    """Run a cell; return its results."""
    said = CACHE / f"{cell}.console"
    said.parent.mkdir(parents=True, exist_ok=True)
    said.unlink(missing_ok=True)
    fault = ""
    try:
        if cell.kernel == HERE:
            root = userland(cell)
            sources(root)
            script = (
                f"cd /{SOURCES} && .venv/bin/python hatch_build.py && .venv/bin/python -m tests.matrix.inside {HERE}"
            )
            with said.open("wb") as out:
                command = enter(root, "sh", "-c", script)
                subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=True, timeout=LIMIT_S)
        else:
            boot(cell, said)
    except (subprocess.SubprocessError, OSError, AssertionError) as error:
        fault = str(error)[-400:]
    results = gather(said.read_text(errors="replace").splitlines() if said.exists() else ())
    if fault:
        results["reason"] = f"{results.get('reason', '')}: {fault}".lstrip(": ")
    return results


def known() -> dict[str, Any]:
    """Return the results that there are, by cell."""
    return dict(json.loads(RESULTS.read_text())) if RESULTS.exists() else {}


def main(arguments: list[str]) -> int:
    """Run what is named; 0 unless a step of a cell failed."""
    wanted = [] if arguments == ["--page"] else [named(name) for name in arguments] or list(CELLS)
    wrong = 0
    for cell in wanted:
        print(f"matrix: {cell}", file=sys.stderr)
        results = run(cell)
        wrong += sum(len(step["failed"]) for step in results["steps"])
        cells = known() | {str(cell): results}  # another run may have come to its end meanwhile
        RESULTS.write_text(json.dumps(cells, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page(known()))
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
