# SPDX-License-Identifier: Apache-2.0
"""The noisy program beside this file, built once for each run into a folder that every user may read."""

import subprocess
import tempfile
from functools import cache
from pathlib import Path

_SOURCE = Path(__file__).with_name("noise.c")


@cache
def _folder() -> "tempfile.TemporaryDirectory[str]":
    folder = tempfile.TemporaryDirectory(prefix="ckptree-hostile-")
    Path(folder.name).chmod(0o755)
    return folder


@cache
def noise() -> Path:
    """Build noise.c; return the path of the program."""
    target = Path(_folder().name) / "noise"
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-pthread", str(_SOURCE), "-o", str(target)], check=True)
    return target
