# SPDX-License-Identifier: Apache-2.0
"""The modules that the Debian package has compiled by mypyc hold to the same facts."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.compiledtree import TOP, compiled_tree

pytestmark = pytest.mark.slow

_ROOMS = ("table", "capture", "selection", "daemon", "events", "recorder", "restart", "exporters")
_BUILT = "import agent.table.rules as rules; print(rules.__file__)"
_COMPILED = ("table", "events", "selection")
# They count the lines that the interpreter runs, or put other values in the place of the modules' own.
_INTERPRETED = ("events/test_work_bounds.py", "events/test_packed_once.py", "restart/test_plan_work.py")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the compiled modules."""
    return compiled_tree(tmp_path_factory.mktemp("compiled"), optimized=False)


@pytest.mark.timeout(1800)
def test_the_compiled_modules_come_before_their_sources(tree: Path) -> None:
    """Python takes an extension module where both are there; another Python takes the source."""
    ran = subprocess.run((sys.executable, "-c", _BUILT), cwd=tree, capture_output=True, text=True, check=True)

    assert ran.stdout.strip().endswith(".so")
    for room in _COMPILED:
        assert {path.stem.partition(".")[0] for path in (tree / "agent" / room).glob("*.so")} == {
            path.stem for path in (tree / "agent" / room).glob("*.py")
        }


def test_a_checkout_has_no_compiled_modules() -> None:
    """They would be run in the place of what one has just changed."""
    assert [*TOP.glob("agent/**/*.so"), *TOP.glob("exporters/**/*.so"), *TOP.glob("*.so")] == []


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("room", _ROOMS)
def test_the_tests_of_the_rooms_that_use_them_pass(tree: Path, room: str) -> None:
    """They are those of the checkout."""
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not live and not slow")
    ran = subprocess.run(
        (
            *command,
            *(f"--ignore=tests/unit/{name}" for name in _INTERPRETED),
            f"tests/unit/{room}",
        ),
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout[-8000:]
