# SPDX-License-Identifier: Apache-2.0
"""A copy of the checkout in which modules are compiled, as they are in the Debian package."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

TOP: Final = Path(__file__).parents[2]
_COPIED: Final = ("agent", "bpf", "exporters", "manual", "systemd", "tests", "docs", "debian", "pyproject.toml")


def compiled_tree(folder: Path, *, optimized: bool = True) -> Path:
    """Copy the checkout into a folder, and put beside its modules what the build of a wheel has compiled; return the copy.

    Args:
        folder: takes the copy, and the wheel.
        optimized: False for what is not measured: gcc then takes a fraction of its time.

    Raises:
        subprocess.CalledProcessError: the build failed; what it said is on stderr.
    """
    tree = folder / "tree"
    without = shutil.ignore_patterns("__pycache__", "*.so")
    for name in _COPIED:
        if (TOP / name).is_dir():
            shutil.copytree(TOP / name, tree / name, ignore=without)
        else:
            shutil.copy(TOP / name, tree / name)
    for name in (
        "hatch_build.py",
        "README.md",
        "SECURITY.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "LICENSE",
        "Makefile",
    ):
        shutil.copy(TOP / name, tree / name)
    if not optimized:
        settings = tree / "pyproject.toml"
        settings.write_text(settings.read_text().replace('opt_level = "3"', 'opt_level = "0"'))
    wheel = (
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        folder,
    )
    environment = os.environ | {"HATCH_BUILD_HOOK_ENABLE_MYPYC": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    subprocess.run((*wheel, "."), cwd=tree, env=environment, check=True, stdout=sys.stderr)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as made:
        for name in made.namelist():
            if name.endswith(".so"):
                made.extract(name, tree)
    return tree
