# SPDX-License-Identifier: Apache-2.0
"""CRIU's own test suite, restored by CRIU and by ckptree: ``python -m tests.zdtm TREE [TEST]...`` as root.

TREE is a source tree of CRIU whose tests are built, by ``make -C test/zdtm/lib`` and ``make -C test/zdtm/static``. Each
test runs twice, once for each restorer, with a dump of its own. Progress goes to standard error, and the numbers to
standard output. ``python -m tests.zdtm --page`` writes the page from the results that are there.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from tests.live.daemons import a_daemon
from tests.support.suitepackages import SUITE, criu
from tests.zdtm import table
from tests.zdtm.suite import Trial, suite
from tests.zdtm.trials import Surroundings

RESULTS: Final = table.PAGE.with_suffix(".json")
RESTORERS: Final = ("criu", "ckptree")
_LINES: Final = 4
"""Lines of a reason, in the progress."""


def main() -> None:
    """Run the tests that the command line names, or all; write what became of them."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.zdtm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "tree", type=Path, nargs="?", help="a source tree of CRIU whose tests are built; none to run none"
    )
    parser.add_argument("tests", nargs="*", help="names of tests; all, if none is given")
    parser.add_argument("--by", choices=RESTORERS, help="restore by this one only")
    parser.add_argument("--suite", default=SUITE, help="the suite of Debian whose criu is taken (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="add to this file of JSON (default: %(default)s)")
    parser.add_argument("--keep", type=Path, help="keep the images in this folder")
    parser.add_argument("--page", action="store_true", help="write the page from the results")
    arguments = parser.parse_args()
    results = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    if arguments.tree is not None:
        _run(parser, arguments, results)
    print(table.numbers(results))
    if arguments.page:
        table.PAGE.write_text(table.page(results))


def _run(parser: argparse.ArgumentParser, arguments: argparse.Namespace, results: dict[str, Any]) -> None:
    """Run the tests, and add their outcomes to the results, after each of them also to the file."""
    found = suite(arguments.tree)
    chosen = [trial for trial in found.trials if not arguments.tests or trial.name in arguments.tests]
    unknown = set(arguments.tests) - {trial.name for trial in chosen}
    if unknown:
        parser.error("; ".join(f"{name}: {found.aside.get(name, 'no such test')}" for name in sorted(unknown)))
    run = results.setdefault(_version(arguments.suite), {"tests": {}})
    run |= {"aside": found.aside, "kernel": os.uname().release}
    with tempfile.TemporaryDirectory(prefix="ckptree-zdtm-") as folder, a_daemon(Path(folder)) as daemon:
        surroundings = Surroundings(arguments.tree, arguments.suite, daemon.socket, arguments.keep)
        for index, trial in enumerate(chosen, 1):
            _try(trial, surroundings, (arguments.by,) if arguments.by else RESTORERS, run, f"{index}/{len(chosen)}")
            arguments.results.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


def _try(trial: Trial, surroundings: Surroundings, restorers: tuple[str, ...], run: dict[str, Any], place: str) -> None:
    """Have a test restored by each of some restorers, and put the outcomes into a run."""
    for by in restorers:
        begin = time.monotonic()
        outcome = surroundings.tried(trial, by)
        took = time.monotonic() - begin
        run["tests"].setdefault(trial.name, {})[by] = list(outcome)
        text = "".join(f"\n    {line}" for line in outcome.text.splitlines()[-_LINES:])
        print(f"{place} {trial.name} {by} {took:.1f} s: {outcome.kind}{text}", file=sys.stderr, flush=True)


def _version(of: str) -> str:
    said = subprocess.run([criu(of), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"Version: (\S+)", said)
    assert found is not None, said
    return found[1]


if __name__ == "__main__":
    main()
