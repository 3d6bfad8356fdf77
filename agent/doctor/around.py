# SPDX-License-Identifier: Apache-2.0
"""Findings about the unit, and about programs and packages that some formats need. None decides the verdict."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agent import picture
from agent.doctor.diagnosis import Diagnosis
from agent.doctor.rebuilding import a_tree
from agent.errors import CkptreeError, in_words
from exporters import registry

_UNITS: Final = ("ckptree.socket", "ckptree-private.socket", "ckptree.service")
_BOOTED: Final = Path("/run/systemd/system")  # sd_booted(3)
_PATIENCE_S: Final = 10


def examine() -> Iterator[Diagnosis]:
    """Yield all of these findings."""
    yield _unit()
    yield _graphviz()
    yield _criu()


def _unit() -> Diagnosis:
    """Check the units: any of them is enough, for a socket starts the service, and the service starts both sockets."""
    if not _BOOTED.is_dir():
        return Diagnosis("warn", "unit", "systemd does not run here", "let your init start `ckptree daemon` at boot")
    try:
        states = {unit: _enabled(unit) for unit in _UNITS}
    except (OSError, subprocess.TimeoutExpired) as error:
        return Diagnosis("warn", "unit", f"systemctl does not answer: {in_words(error)}")
    found = ", ".join(f"{unit} is {state}" for unit, state in states.items())
    if "enabled" in states.values():
        return Diagnosis("ok", "unit", found)
    mend = f"systemctl enable --now {' '.join(_UNITS)}"
    if set(states.values()) == {"not-found"}:
        return Diagnosis("warn", "unit", found, f"install the package, or what is in the folder systemd; then {mend}")
    return Diagnosis("warn", "unit", f"{found}: no daemon runs after the next boot", mend)


def _enabled(unit: str) -> str:
    ran = subprocess.run(
        ["systemctl", "is-enabled", unit],  # noqa: S607 - where it is differs between distributions
        capture_output=True, text=True, check=False, timeout=_PATIENCE_S,
    )  # fmt: skip
    return ran.stdout.strip() or "not-found"


def _graphviz() -> Diagnosis:
    try:
        picture.svg(b"digraph { a -> b }", _PATIENCE_S)
    except CkptreeError as error:
        return Diagnosis("warn", "format svg", str(error), "apt-get install graphviz")
    return Diagnosis("ok", "format svg", "graphviz draws")


def _criu() -> Diagnosis:
    try:
        registry.dump(a_tree(1), "criu")
    except CkptreeError as error:
        return Diagnosis("warn", "format criu", str(error), "apt-get install python3-protobuf")
    if not shutil.which("crit"):
        return Diagnosis("ok", "format criu", "can be written; crit, which shows it, is not here")
    return Diagnosis("ok", "format criu", "can be written, and crit is here to show it")
