# SPDX-License-Identifier: Apache-2.0
"""The tests of CRIU's own suite in a built source tree of CRIU: ``test/zdtm/static``.

Each test is a program that is started, prepares some state, and waits for a signal. After the signal it looks at its state
again and writes PASS or FAIL. A file of its name that ends in ``.desc`` says what CRIU's runner needs to know of it.
"""

import ast
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

_PLACE: Final = Path("test/zdtm/static")
_OF_NAMESPACES: Final = re.compile(r"cgroup|mnt|netns|net_lock_|timens_|mount")
_CHECK_S: Final = 20.0


class Trial(NamedTuple):
    """A test of the suite.

    Attributes:
        name: of its program.
        folder: that it runs in.
        dump_options: of criu's dump.
        restore_options: of criu's restore.
        may_fail: CRIU's runner expects that it is not dumped, or not restored.
    """

    name: str
    folder: Path
    dump_options: tuple[str, ...]
    restore_options: tuple[str, ...]
    may_fail: bool

    def hook(self, point: str, **environment: str) -> None:
        """Run the script that prepares the surroundings of the test at a point of its life, if it has one.

        Raises:
            CalledProcessError: the script fails.
        """
        script = self.folder / f"{self.name}.hook"
        if script.exists():
            subprocess.run(
                [script, f"--{point}"],
                cwd=self.folder.parents[1],
                env={**os.environ, "PATH": f"/usr/bin:{os.environ['PATH']}", **environment},
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr,
                check=True,
            )


class Suite(NamedTuple):
    """The suite of a tree.

    Attributes:
        trials: the tests to run.
        aside: the reason of each test that is left out.
    """

    trials: list[Trial]
    aside: dict[str, str]


def suite(tree: Path) -> Suite:
    """Return the tests that a built tree of CRIU has for programs of the host, sorted by name."""
    trials, aside = [], {}
    folder = tree.absolute() / _PLACE
    for name in _programs(folder):
        reason = _aside(name, folder, _description(folder / f"{name}.desc"))
        if reason:
            aside[name] = reason
        else:
            trials.append(trial(tree, name))
    return Suite(trials, aside)


def trial(tree: Path, name: str) -> Trial:
    """Return a test by its name."""
    folder = tree.absolute() / _PLACE
    description = _description(folder / f"{name}.desc")
    both = shlex.split(description.get("opts", ""))
    if "crlib" in description.get("flags", "").split():
        both += ["--libdir", os.fspath(folder / "lib")]
    return Trial(
        name,
        folder,
        (*both, *shlex.split(description.get("dopts", ""))),
        (*both, *shlex.split(description.get("ropts", ""))),
        "crfail" in description.get("flags", "").split(),
    )


def _programs(folder: Path) -> Iterator[str]:
    """Yield the programs that are built, which are all that have a source and can run."""
    for source in sorted(folder.glob("*.c")):
        if os.access(source.with_suffix(""), os.X_OK):
            yield source.stem


def _description(path: Path) -> Mapping[str, Any]:
    """Read a description; a test without one has nothing to say, and one that is computed is for CRIU's runner alone."""
    try:
        found = ast.literal_eval(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        return {"flavor": "ns"}
    assert isinstance(found, dict), path
    return found


def _aside(name: str, folder: Path, description: Mapping[str, Any]) -> str:
    """Return the reason to leave a test out; empty if it runs."""
    if "h" not in description.get("flavor", "h ns uns").split():
        return "runs in namespaces of its own only"
    if _OF_NAMESPACES.match(name):
        return "is about mounts, networks, control groups or clocks of a namespace"
    if "noauto" in description.get("flags", "").split():
        return "is left out by CRIU's own runner, too"
    if platform.machine() not in description.get("arch", platform.machine()).split():
        return "is for another processor"
    skip = folder / f"{name}.checkskip"
    if skip.exists():
        ran = subprocess.run(
            [skip], cwd=folder.parents[1], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_CHECK_S
        )
        if ran.returncode:
            return "cannot run on this machine, says its own check"
    return ""
