# SPDX-License-Identifier: Apache-2.0
"""A run of the steps of a cell on its host; it prints their results on stdout, one marked line each.

``python -m tests.matrix.inside WHERE [STEP]...``, of the checkout in the current folder; WHERE is ``here`` or
``emulated``.
"""

import json
import os
import platform
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.matrix.cells import HERE, STEPS, Step

MARK = "matrix: "
"""The mark of a line of results; a console has other lines."""
REASON_LENGTH = 400
_HOOKS = """
import json
from agent.config import Config
from agent.capture.probes import Probes
from agent.capture.watch import Watch
watch = Watch.begin(Probes(Config().ring_bytes))
print(json.dumps({"hooks": watch.probes.hooks, "tried": watch.probes.tried, "missing": watch.probes.missing}))
watch.close()
"""
_BCC = "import bcc; print(bcc.__version__)"


def say(**facts: Any) -> None:
    """Print a line of results."""
    sys.stdout.write("\n" + MARK + json.dumps(facts) + "\n")
    sys.stdout.flush()


def gather(lines: Iterable[str]) -> dict[str, Any]:
    """Return the results among the output of a host."""
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


def _asked(program: str, seconds: float = 200, without: tuple[str, ...] = ()) -> tuple[str, str]:
    """Run a few lines of Python; return their output, and the last line of their standard error."""
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"CKPTREE_WITHOUT": " ".join(without)},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    complaint = (ran.stderr.strip().splitlines() or [""])[-1]
    return ran.stdout.strip(), "" if ran.returncode == 0 else complaint


def read(report: Path) -> dict[str, Any]:
    """Return the results in a JUnit report of pytest: the number of passed tests, and the failed ones with their
    messages.
    """
    passed, failed = 0, []
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - our own pytest's
        faults = [*case.findall("failure"), *case.findall("error")]
        passed += not faults and case.find("skipped") is None
        failed += [f"{case.get('name')}: {fault.get('message') or ''}"[:REASON_LENGTH] for fault in faults[:1]]
    return {"passed": passed, "failed": failed}


def perform(step: Step, *, emulated: bool) -> dict[str, Any]:
    """Run a step; return its results."""
    began = time.monotonic()
    hooks: dict[str, Any] = {}
    try:
        said, complaint = _asked(_HOOKS, step.seconds, step.without)
        if complaint:
            return {"step": step.name, "passed": 0, "failed": [], "reason": complaint[: 2 * REASON_LENGTH]}
        hooks = json.loads(said)
        report = Path(f"/tmp/{os.getpid()}.xml")  # noqa: S108 - the machine or the root serves this run alone
        report.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        ran = subprocess.run(
            [*command, "--tb=short", *(step.emulated if emulated and step.emulated else step.arguments)],
            env=os.environ | {"CKPTREE_WITHOUT": " ".join(step.without)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=step.seconds,
        )
        print(ran.stdout)
        results = (
            read(report) if report.exists() else {"passed": 0, "failed": [], "reason": ran.stdout[-REASON_LENGTH:]}
        )
    except subprocess.TimeoutExpired as error:
        doing = "its tests" if hooks else "compiling and loading"
        results = {"passed": 0, "failed": [], "reason": f"{doing}: not done within {error.timeout:g} s"}
    return {"step": step.name, **hooks, **results, "seconds": round(time.monotonic() - began)}


def main(where: str, names: list[str]) -> None:
    """Run the named steps, or all if none is named."""
    bcc, fault = _asked(_BCC)
    say(kernel=platform.release(), python=platform.python_version(), bcc=bcc or fault, machine=platform.machine())
    for step in STEPS:
        if not names or step.name in names:
            say(**perform(step, emulated=where != HERE))
    say(done=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
