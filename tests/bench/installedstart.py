# SPDX-License-Identifier: Apache-2.0
"""The start of ckptree as the Debian package has it, for this checkout: measurements of whole commands begin with it.

The package's program has the same head (debian/rules): Python looks for no folder of packages by itself, and runs no
file of other packages (*.pth) at its start. What these do on a developer's machine is no part of ckptree.
"""

import argparse
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.compiledtree import compiled_tree
from tests.support.dying import die_with_parent

TOP = Path(__file__).parents[2]
INSTALLED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""The environment of the commands: a warm-up leaves the byte code that an installed package has."""
HEAD = "#!{python} -IS\nimport sys\n\nsys.path += {folders}\nfrom agent.__main__ import run\n\nrun()\n"


@contextmanager
def program(*, compiled: bool = False) -> Iterator[str]:
    """Yield the path of a program that is ckptree; it goes with the context.

    Args:
        compiled: run modules that are compiled, as the package has them; to compile them takes two minutes of a processor.
    """
    own = sysconfig.get_path("purelib")
    with TemporaryDirectory() as folder:
        tree = compiled_tree(Path(folder)) if compiled else TOP
        folders = [os.fspath(tree), own, *(each for each in sys.path if each.endswith("dist-packages"))]
        path = Path(folder) / "ckptree"
        path.write_text(HEAD.format(python=os.path.realpath(sys.executable), folders=folders))
        path.chmod(0o755)
        yield os.fspath(path)


def add_as_package(parser: argparse.ArgumentParser) -> None:
    """Add the option that measures the package's form."""
    parser.add_argument(
        "--as-package",
        action="store_true",
        help="measure compiled modules, as the Debian package has them; to compile them takes minutes of a processor",
    )


def run_compiled(module: str, arguments: Sequence[str]) -> int:
    """Run a module of this checkout where modules are compiled, with these arguments; return its exit code."""
    with TemporaryDirectory() as folder:
        tree = compiled_tree(Path(folder))
        command = (sys.executable, "-m", module, *arguments)
        with subprocess.Popen(command, cwd=tree, preexec_fn=die_with_parent) as ran:
            return ran.wait()
