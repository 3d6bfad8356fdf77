# SPDX-License-Identifier: Apache-2.0
"""The command line as a separate process."""

import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple


class Ran(NamedTuple):
    """The result of a run."""

    returncode: int
    stdout: bytes
    stderr: bytes


def ckptree(*arguments: str | Path, **options: Any) -> Ran:
    """Run the command line without a terminal."""
    given: dict[str, Any] = {"stdin": subprocess.DEVNULL, "timeout": 60} | options
    if "input" in given:
        del given["stdin"]
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | given
    ran: Any = subprocess.run([sys.executable, "-m", "agent", *arguments], check=False, **given)
    return Ran(ran.returncode, ran.stdout or b"", ran.stderr)
