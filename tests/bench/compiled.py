# SPDX-License-Identifier: Apache-2.0
"""The C programs beside this file, built once for each run into a temporary directory."""

import subprocess
import tempfile
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent


@cache
def _directory() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="ckptree-bench-")


@cache
def compiled(name: str, *options: str) -> Path:
    """Build ``name``.c with gcc and these options; return the path of the program."""
    target = Path(_directory().name) / name
    command = ["gcc", "-O2", "-Wall", "-Wextra", "-pthread", *options, str(HERE / f"{name}.c"), "-o", str(target)]
    subprocess.run(command, check=True)
    return target
